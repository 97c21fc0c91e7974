"""Count what the LLM calls of a block of queries used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from spark_helium import cascade_counts
from spark_helium.cascade_counts import CascadeCounts

_COUNTERS = (
    "calls_requested",
    "calls_sent",
    "answers_from_cache",
    "calls_failed",
    "prompt_tokens",
    "cached_prompt_tokens",
    "output_tokens",
    "calls_retried",
    *cascade_counts.COUNTERS,
)


class Measurement:
    """What the LLM calls of a session used since the block began, counted by the node daemons.

    The numbers move while the block runs and stand still after it.

    Attributes
    ----------
    calls_requested : int
        Calls that the text of the queries asks for: one per row and call whose arguments are not NULL. A cascade may
        send two for one.
    calls_sent : int
        Calls that reached an engine.
    answers_from_cache : int
        Calls answered by the prompt cache, or by an equal call of the same query, finished or on its way.
    calls_failed : int
        Calls that ended in an error.
    calls_retried : int
        Attempts that failed and were made again, as the failure could pass.
    prompt_tokens, cached_prompt_tokens, output_tokens : int
        Of the calls sent; cached ones of the prompt were in the engine's KV cache.
    cascade : CascadeCounts or None
        What cascades did, their precision and recall on samples among it; None where there was none.
    wall_seconds : float
        Length of the block.
    """

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._before = self._read()
        self._began = time.monotonic()
        self._after: dict[str, int] | None = None
        self._ended: float | None = None

    def _read(self) -> dict[str, int]:
        row = self._spark.sql("SELECT inline(array(helium_usage()))").collect()[0]
        return {name: int(row[name]) for name in _COUNTERS}

    def _finish(self) -> None:
        self._ended = time.monotonic()
        self._after = self._read()

    def _counts(self) -> dict[str, int]:
        after = self._after if self._after is not None else self._read()
        return {name: after[name] - before for name, before in self._before.items()}

    def _count(self, name: str) -> int:
        return self._counts()[name]

    @property
    def calls_requested(self) -> int:
        return self._count("calls_requested")

    @property
    def calls_sent(self) -> int:
        return self._count("calls_sent")

    @property
    def answers_from_cache(self) -> int:
        return self._count("answers_from_cache")

    @property
    def calls_failed(self) -> int:
        return self._count("calls_failed")

    @property
    def calls_retried(self) -> int:
        return self._count("calls_retried")

    @property
    def prompt_tokens(self) -> int:
        return self._count("prompt_tokens")

    @property
    def cached_prompt_tokens(self) -> int:
        return self._count("cached_prompt_tokens")

    @property
    def output_tokens(self) -> int:
        return self._count("output_tokens")

    @property
    def cascade(self) -> CascadeCounts | None:
        return CascadeCounts.of(self._counts())

    @property
    def wall_seconds(self) -> float:
        return (self._ended or time.monotonic()) - self._began

    def __repr__(self) -> str:
        n = self._counts()
        lines = [
            f"{n['calls_requested']:>9,} calls requested",
            f"{n['calls_sent']:>9,} sent to the engine",
            f"{n['answers_from_cache']:>9,} answered from the cache",
        ]
        if n["calls_failed"]:
            lines.append(f"{n['calls_failed']:>9,} failed")
        if n["calls_retried"]:
            lines.append(f"{n['calls_retried']:>9,} attempts made again")
        lines += [
            f"{n['prompt_tokens']:>9,} prompt tokens, {n['cached_prompt_tokens']:,} of them in the KV cache",
            f"{n['output_tokens']:>9,} output tokens",
            f"{self.wall_seconds:>9,.1f} seconds",
        ]
        if (cascade := CascadeCounts.of(n)) is not None:
            lines += [f"  cascade: {line}" for line in cascade.lines()]
        return "\n".join(lines)


@contextmanager
def measure(spark: SparkSession) -> Iterator[Measurement]:
    """Measure the actions of a block.

    The counters belong to the session, so that queries which other threads run in the same session
    at the same time are counted too.

    Parameters
    ----------
    spark
        A session with spark_helium, classic or Connect.

    Yields
    ------
    Measurement
        Numbers of the block so far; final when the block has ended, also by an exception.

    Examples
    --------
    >>> with measure(spark) as run:  # doctest: +SKIP
    ...     df.collect()
    >>> run.calls_sent  # doctest: +SKIP
    """
    run = Measurement(spark)
    try:
        yield run
    finally:
        run._finish()
