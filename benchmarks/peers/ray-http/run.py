"""Ray Data LLM against a server: ``HttpRequestProcessorConfig``.

Steps that do not need each other are rows of one dataset, so that their calls run together; each level of the job is
one run of the processor. Settings, and where they come from:

* "Working with LLMs", section on OpenAI-compatible endpoints: a payload per row, ``qps=None`` for no limit. The
  requests of a batch go out one after another, so that what runs at a time is the number of batches.
* ``batch_size=1`` and ``RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY=N`` (a variable that Ray Data reads, 4 by
  default) keep N requests open in one actor. The documented ``concurrency=N`` would start N processes of some 200 MB,
  and wait for them in every level.
* ``session_factory`` sends the body of a row as text. Ray Data would make one Arrow type of all payloads, which fails
  where some have choices and others have not. It also waits longer than aiohttp's five minutes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
import peer_job as jobs


def payload(job: jobs.Job, step: jobs.Step, messages: jobs.Messages) -> str:
    body = {"model": job.model, "messages": messages, "temperature": 0.0, "max_tokens": step.max_tokens}
    return json.dumps({**body, **step.extra_body})


class Session:
    """What the processor uses of ``aiohttp.ClientSession``."""

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3600))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def post(self, url: str, headers: dict[str, str], data: str) -> Any:
        return self._session.post(url, headers=headers, data=json.loads(data)["body"])


def main(folder: Path) -> None:
    job, rows = jobs.read(folder)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes more than the usual minute
    os.environ["RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY"] = str(job.concurrency)
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=512 << 20)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"payload": {"body": row["payload"]}}

    def postprocess(row: dict[str, Any]) -> dict[str, Any]:
        if "choices" not in row["http_response"]:
            raise RuntimeError(f"the server answered {row['http_response']}")
        return {"call": row["call"], "text": row["http_response"]["choices"][0]["message"]["content"]}

    config = HttpRequestProcessorConfig(
        url=f"{job.server}/chat/completions",
        headers={"Authorization": "Bearer none"},
        qps=None,
        batch_size=1,
        concurrency=1,
        session_factory=Session,
    )
    processor = build_processor(config, preprocess=preprocess, postprocess=postprocess)

    def ask(payloads: list[str]) -> dict[int, str]:
        items = [{"call": call, "payload": body} for call, body in enumerate(payloads)]
        # One block: an actor takes its blocks one after another, and would wait for the last call of each.
        answered = processor(ray.data.from_items(items, override_num_blocks=1)).take_all()
        return {row["call"]: row["text"] for row in answered}

    hello = jobs.Step("hello", "Hello", max_tokens=1)
    ask([payload(job, hello, [{"role": "user", "content": "Hello"}])])
    begun = time.perf_counter()
    for level in job.levels():
        asked = jobs.calls(job, level, rows)
        if asked:
            answers = ask([payload(job, step, messages) for _, step, messages in asked])
            for call, (place, step, _) in enumerate(asked):
                rows[place][step.name] = answers[call]
    seconds = time.perf_counter() - begun
    jobs.write(folder, job, rows, seconds, ("ray", "aiohttp"), warm_up_calls=1)
    ray.shutdown()


if __name__ == "__main__":
    main(jobs.folder_of_job())
