"""Loops over rows and calls that people write around a chat client: query-wise and operator-wise.

Both ask the server through ``AsyncOpenAI`` with as many requests open at most as the engine runs at once.

* *query-wise*: one row after the other; the steps of a row that can run together do.
* *operator-wise*: one step after the other, each for all rows at once.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from typing import Any

import pandas as pd

from benchmarks.engines import Server
from benchmarks.jobs import Job, Step
from benchmarks.measure import Outcome
from benchmarks.systems.base import Case, System, shown

Values = dict[str, str | None]


class Loop(System):
    """What both have in common: a client, and answers by row."""

    def __init__(self, server: Server, model: str, concurrency: int = 64) -> None:
        self._server = server
        self._model = model
        self._concurrency = concurrency

    def run(self, case: Case) -> Outcome:
        self._server.forget()
        before = self._server.counts()
        began = time.perf_counter()
        answers = asyncio.run(self._work(case))
        table = pd.DataFrame(answers, columns=list(case.job.outputs), dtype=object)
        rows = pd.concat([case.rows.reset_index(drop=True), table], axis=1)
        result = case.finish(rows)
        seconds = time.perf_counter() - began
        return Outcome(seconds, self._server.counts() - before, shown(result))

    async def _work(self, case: Case) -> list[Values]:
        from openai import AsyncOpenAI

        gate = asyncio.Semaphore(self._concurrency)
        rows: list[Values] = [dict(row) for row in case.rows.to_dict("records")]
        async with AsyncOpenAI(base_url=self._server.base_url, api_key="none", timeout=3600, max_retries=0) as client:

            async def ask(step: Step, values: Values) -> None:
                values[step.name] = None
                if not case.job.runs(step, values):
                    return
                messages: Any = case.job.messages(step, values)
                extra = {"structured_outputs": {"choice": list(step.choices)}} if step.choices else None
                async with gate:
                    answer = await client.chat.completions.create(
                        model=self._model, messages=messages, max_tokens=step.max_tokens, temperature=0.0,
                        extra_body=extra,
                    )  # fmt: skip
                values[step.name] = answer.choices[0].message.content or ""

            await self._order(case.job, rows, ask)
        return [{name: values[name] for name in case.job.outputs} for values in rows]

    @abstractmethod
    async def _order(self, job: Job, rows: list[Values], ask: Any) -> None:
        """Ask for every step of every row, in the order of the loop."""


class QueryWise(Loop):
    """One row after the other."""

    name = "query-wise"

    async def _order(self, job: Job, rows: list[Values], ask: Any) -> None:
        for values in rows:
            for level in job.levels():
                await asyncio.gather(*(ask(step, values) for step in level))


class OperatorWise(Loop):
    """One step after the other, each for all rows."""

    name = "operator-wise"

    async def _order(self, job: Job, rows: list[Values], ask: Any) -> None:
        for step in job.steps:
            await asyncio.gather(*(ask(step, values) for values in rows))
