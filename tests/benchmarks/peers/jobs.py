"""A job that asks everything of a peer, and its answers computed in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.peers.fake_vllm.replies import reply_to
from tests.gpu_executor.chat_endpoint import Reply, completion

COLUMNS = ("product", "review")
STEPS: list[dict[str, Any]] = [
    {"name": "kind", "system": "You sort {product}.", "user": "Sort: {review}", "choices": ["good", "bad"]},
    {"name": "praise", "system": "You praise.", "user": "What of {product} {{is}} liked in {review}?"},
    {"name": "blame", "user": "What is wrong in {review}?", "when": {"step": "kind", "equals": "bad"}},
    {"name": "more", "history": "praise", "user": "Say more, as it was {kind}."},
    {"name": "verdict", "user": "{praise} & {more} & {kind}"},
    {"name": "reply", "history": "blame", "user": "Answer the customer."},
]
OUTPUTS = [step["name"] for step in STEPS]


def rows(count: int) -> list[dict[str, Any]]:
    made = []
    for row in range(count):
        review = f"review {row} " + ("works {fine}" if row % 3 else "broke")
        # Not in order, and with texts that a template must not read a second time.
        made.append({"row": 100 - row, "product": f"product {row % 4}", "review": review})
    return made


def said(server: str, concurrency: int = 4, **engine: Any) -> dict[str, Any]:
    defaults = {"system": None, "history": None, "choices": None, "when": None, "max_tokens": 5}
    steps = [{**defaults, **step} for step in STEPS]
    told: dict[str, Any] = {"server": server, "model": "m", "concurrency": concurrency}
    return {**told, "steps": steps, "outputs": OUTPUTS, **engine}


def write(folder: Path, server: str, table: list[dict[str, Any]], concurrency: int = 4, **engine: Any) -> None:
    (folder / "job.json").write_text(json.dumps(said(server, concurrency, **engine)))
    columns: dict[str, Any] = {"row": pa.array([row["row"] for row in table], pa.int64())}
    columns |= {name: pa.array([row[name] for row in table], pa.string()) for name in COLUMNS}
    pq.write_table(pa.table(columns), folder / "rows.parquet")


def text_of(message: dict[str, Any]) -> str:
    """Clients may send a text as it is or as a list of parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def model(messages: list[dict[str, str]], choices: list[str] | None) -> str:
    """An answer that depends on every text of the conversation, and on its roles."""
    return reply_to("|".join(f"{message['role']}:{message['content']}" for message in messages), choices)


def answer(request: dict[str, Any]) -> Reply:
    """The fake server's side of ``model``."""
    messages = [{"role": message["role"], "content": text_of(message)} for message in request["messages"]]
    reply = completion(model(messages, (request.get("structured_outputs") or {}).get("choice")))
    reply.delay = 0.02
    return reply


def expected(row: dict[str, Any]) -> dict[str, Any]:
    """The answers of a row, written out by hand rather than by the code under test."""

    def user(text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    product, review = row["product"], row["review"]
    system = {"role": "system", "content": f"You sort {product}."}
    kind = model([system, user(f"Sort: {review}")], ["good", "bad"])
    praised = [{"role": "system", "content": "You praise."}, user(f"What of {product} {{is}} liked in {review}?")]
    praise = model(praised, None)
    blamed = [user(f"What is wrong in {review}?")]
    blame = model(blamed, None) if kind == "bad" else None
    more = model([*praised, {"role": "assistant", "content": praise}, user(f"Say more, as it was {kind}.")], None)
    verdict = model([user(f"{praise} & {more} & {kind}")], None)
    reply = None
    if blame is not None:
        reply = model([*blamed, {"role": "assistant", "content": blame}, user("Answer the customer.")], None)
    named = {"kind": kind, "praise": praise, "blame": blame, "more": more, "verdict": verdict, "reply": reply}
    return {"row": row["row"], **named}
