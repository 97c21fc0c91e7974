"""Daft's ``prompt`` against a server, through its provider for OpenAI-compatible endpoints.

Settings, and where they come from:

* "Prompting with vLLM Online Serving" (``docs/ai-functions/providers.md``): the ``openai`` provider with the server's
  address, and ``use_chat_completions=True``.
* Choices go into ``extra_body`` as ``structured_outputs`` ("Guided Choice", ``docs/ai-functions/prompt.md``).
* ``concurrency``, which becomes ``max_concurrency`` of the class behind ``prompt``: "for async methods, this controls
  the number of concurrent coroutines" (``daft.cls``). Each step has its own; a job with several has more calls open.

``prompt`` knows a constant system message and one user message. Where a job's conversation is longer, or its system
message reads columns, a provider of our own gives each message its role; the rest is Daft's class.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
import peer_job as jobs

os.environ["DAFT_ANALYTICS_ENABLED"] = os.environ["DO_NOT_TRACK"] = "0"
os.environ["DAFT_PROGRESS_BAR"] = "0"

import daft
from conversation import ConversationProvider
from daft import Expression, col
from daft.ai.openai.provider import OpenAIProvider
from daft.functions import prompt
from daft_frames import text, with_step


def asked(job: jobs.Job, step: jobs.Step) -> Expression:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": step.max_tokens, "use_chat_completions": True}
    options |= {"model": job.model, "concurrency": job.concurrency, "max_retries": 0}
    if step.extra_body:
        options["extra_body"] = step.extra_body
    server = {"base_url": job.server, "api_key": "none", "timeout": 3600.0}
    turns = job.turns(step)
    if step.history is None and not jobs.slots(step.system):
        system = None if step.system is None else jobs.render(step.system, {})
        return prompt(text(step.user), system_message=system, provider=OpenAIProvider(**server), **options)
    provider = ConversationProvider([role for role, _ in turns], **server)
    return prompt([message(role, of) for role, of in turns], provider=provider, **options)


def message(role: str, of: jobs.Step) -> Expression:
    if role == "assistant":
        return col(of.name)
    return text(of.user if role == "user" else of.system or "")


def run(job: jobs.Job, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # A batch's calls all go out at once, and ``concurrency`` counts batches: with one row each it counts calls, and
    # rows go on to their next step without waiting for the others.
    frame = daft.from_pylist(rows).into_batches(1)
    for step in job.steps:
        frame = with_step(job, frame, step, asked(job, step))
    return frame.select("row", *job.outputs).to_pylist()


def main(folder: Path) -> None:
    job, rows = jobs.read(folder)
    hello = jobs.Step("hello", "Hello", max_tokens=1)
    warm = jobs.Job(job.server, job.model, 1, (hello,), ("hello",), None, ())
    run(warm, [{"row": 0}])
    begun = time.perf_counter()
    answers = run(job, rows)
    seconds = time.perf_counter() - begun
    jobs.write(folder, job, answers, seconds, ("daft", "openai"), warm_up_calls=1)


if __name__ == "__main__":
    main(jobs.folder_of_job())
