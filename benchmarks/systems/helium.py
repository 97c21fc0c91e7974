"""spark_helium: the case's query as it stands."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from pyspark.sql import SparkSession

import spark_helium
from benchmarks.measure import Counts, Outcome
from benchmarks.systems.base import Case, System, shown
from benchmarks.systems.spark import SparkTables
from spark_helium.functions import llm

# vLLM decodes greedily below 1e-5, and spark_helium neither merges nor joins a call with a temperature.
UNMERGED_TEMPERATURE = 1e-6
OURS = "spark_helium"


class Helium(System):
    """``settings`` are changed in the session while the case runs, for variants with a rule switched off.

    With ``merged=False`` equal calls are made as often as they are written. A variant runs the case with other first
    words where there is one, so that it does not find in the KV cache what spark_helium has just computed.
    """

    def __init__(
        self,
        tables: SparkTables,
        name: str = OURS,
        settings: Mapping[str, str] | None = None,
        *,
        merged: bool = True,
    ) -> None:
        self.name = name
        self._tables = tables
        self._settings = dict(settings or {})
        self._ask = llm if merged else partial(llm, temperature=UNMERGED_TEMPERATURE)

    def prepare(self, case: Case) -> None:
        with changed(self._tables.spark, self._settings):
            self._tables.plan(case.query(self._tables.of(case), self._ask))

    def run(self, case: Case) -> Outcome:
        views = self._tables.of(case)
        if self.name != OURS and case.apart is not None:
            case = case.apart()
        spark = self._tables.spark
        with changed(spark, self._settings), spark_helium.measure(spark) as usage:
            began = time.perf_counter()
            query = case.query(views, self._ask)
            built = time.perf_counter() - began
            result = query.toPandas()
            seconds = time.perf_counter() - began
        counts = Counts(
            calls=usage.calls_sent,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_prompt_tokens,
            output_tokens=usage.output_tokens,
        )
        return Outcome(
            seconds, counts, shown(result), {"calls_requested": usage.calls_requested, "build_seconds": built}
        )


@contextmanager
def changed(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Settings of a session while the block runs."""
    before = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, value)
