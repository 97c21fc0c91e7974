"""The practical floor: vLLM's offline ``LLM.generate``, once per level of the job, distinct prompts in the best order.

Prompts are rendered and tokenised before the clock starts, equal ones are asked once, and sorted by their tokens, so
that what begins alike stands together. What a level needs of the one before is rendered between two clocks.
"""

from __future__ import annotations

import pandas as pd

from benchmarks.measure import Counts, Outcome
from benchmarks.offline_vllm import OfflineVllm
from benchmarks.systems.base import Case, System, shown


class Floor(System):
    """Only for the real engine: the simulator has no offline side."""

    name = "LLM.generate (floor)"

    def __init__(self, offline: OfflineVllm) -> None:
        self._offline = offline

    def run(self, case: Case) -> Outcome:
        self._offline.forget()
        job = case.job
        rows = [dict(row) for row in case.rows.to_dict("records")]
        seconds, calls, totals = 0.0, 0, [0, 0, 0]
        for level in job.levels():
            asked: dict[str, tuple[list[dict[str, str]], int, list[str] | None]] = {}
            places: list[tuple[dict[str, str | None], str, str]] = []
            for step in level:
                for values in rows:
                    values[step.name] = None
                    if job.runs(step, values):
                        messages = job.messages(step, values)
                        choices = list(step.choices) if step.choices else None
                        key = repr((messages, step.max_tokens, choices))
                        asked.setdefault(key, (messages, step.max_tokens, choices))
                        places.append((values, step.name, key))
            if not asked:
                continue
            said = self._offline.ask(list(asked.values()))
            answers = dict(zip(asked, said["texts"], strict=True))
            for values, name, key in places:
                values[name] = answers[key]
            seconds += said["seconds"]
            calls += len(asked)
            for k, count in enumerate(("prompt_tokens", "cached_prompt_tokens", "output_tokens")):
                totals[k] += said[count]
        table = pd.DataFrame(rows, columns=[*case.rows.columns, *job.outputs], dtype=object)
        return Outcome(seconds, Counts(calls, *totals), shown(case.finish(table)))
