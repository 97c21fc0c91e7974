"""What Spark users write today: the case's query with a pandas UDF in place of ``llm``, on the server.

The same DataFrame code, so that Spark's own optimizer helps as far as it can. A batch of Arrow rows is sent with so
many threads per task; Spark runs two tasks.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from pyspark.sql import Column
from pyspark.sql import functions as F

from benchmarks.engines import Server
from benchmarks.jobs import as_json, fill
from benchmarks.measure import Outcome
from benchmarks.systems.base import Case, System, shown
from benchmarks.systems.spark import SparkTables


class PandasUdf(System):
    """``threads`` of 1 is the sequential UDF."""

    def __init__(self, tables: SparkTables, server: Server, model: str, threads: int) -> None:
        self.name = f"pandas UDF, {threads} threads" if threads > 1 else "pandas UDF, sequential"
        self._tables = tables
        self._server = server
        self._model = model
        self._threads = threads

    def why_not(self, case: Case) -> str | None:
        return case.notes.get("why no pandas UDF")

    def prepare(self, case: Case) -> None:
        self._tables.plan(case.query(self._tables.of(case), self._ask))

    def run(self, case: Case) -> Outcome:
        views = self._tables.of(case)
        self._server.forget()
        before = self._server.counts()
        began = time.perf_counter()
        result = case.query(views, self._ask).toPandas()
        seconds = time.perf_counter() - began
        return Outcome(seconds, self._server.counts() - before, shown(result))

    def _ask(
        self,
        template: str,
        /,
        *,
        system: str,
        max_tokens: int,
        choices: list[str] | None = None,
        fields: list[str] | None = None,
        **columns: Any,
    ) -> Column:
        columns |= {name: name for name in fields or ()}
        names, url, model, threads = list(columns), self._server.base_url, self._model, self._threads

        @F.pandas_udf("string")
        def ask(*texts: pd.Series) -> pd.Series:
            from openai import OpenAI

            client = OpenAI(base_url=url, api_key="none", timeout=3600, max_retries=0)
            extra = {"structured_outputs": {"choice": choices}} if choices else None

            def one(values: tuple[Any, ...]) -> str | None:
                row = dict(zip(names, values, strict=True))
                if fields:
                    row = {**row, "fields": as_json({name: row[name] for name in fields})}
                elif any(value is None for value in values):
                    return None
                content = fill(template, row)
                messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": content}]
                answer = client.chat.completions.create(
                    model=model, messages=messages, max_tokens=max_tokens, temperature=0.0, extra_body=extra
                )
                return answer.choices[0].message.content or ""

            rows = list(zip(*texts, strict=True))
            if threads == 1:
                return pd.Series([one(row) for row in rows], dtype=object)
            with ThreadPoolExecutor(threads) as pool:
                return pd.Series(list(pool.map(one, rows)), dtype=object)

        return ask(*[F.col(c) if isinstance(c, str) else c for c in columns.values()])
