"""A case, and what a system is to the harness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
from pyspark.sql import Column, DataFrame

from benchmarks.jobs import Job
from benchmarks.measure import Outcome

Frames = Mapping[str, pd.DataFrame]
Views = Mapping[str, DataFrame]


class Ask(Protocol):
    """``llm`` of spark_helium, or a pandas UDF in its place. ``fields`` are columns for the prompt, as JSON."""

    def __call__(
        self,
        template: str,
        /,
        *,
        system: str,
        max_tokens: int,
        choices: list[str] | None = None,
        fields: list[str] | None = None,
        **columns: Any,
    ) -> Column: ...


@dataclass(frozen=True)
class Case:
    """A query to measure.

    Attributes
    ----------
    name, title: for files, for people.
    query: DataFrame code from the tables to the result; ``ask`` stands for ``llm``.
    frames: the tables.
    job: the same calls for systems without Spark.
    rows: the rows of the job: the relational part done as a user of such a system would.
    finish: the query's result from the job's rows with their answers.
    any_rows: where the query wants any so many of the rows that ``finish`` gives.
    apart: the same case with other first words, for a second run on an engine that has not forgotten the first.
    score: how good a result is, where there is a truth to compare with.
    """

    name: str
    title: str
    query: Callable[[Views, Ask], DataFrame]
    frames: Frames
    job: Job
    rows: pd.DataFrame
    finish: Callable[[pd.DataFrame], pd.DataFrame]
    notes: dict[str, Any] = field(default_factory=dict)
    score: Callable[[pd.DataFrame], float] | None = None
    any_rows: int | None = None
    apart: Callable[[], Case] | None = None


class System(ABC):
    """Runs cases. ``why_not`` says why it cannot run one; then it is listed with the reason."""

    name: str

    def why_not(self, case: Case) -> str | None:
        return None

    def prepare(self, case: Case) -> None:  # noqa: B027
        """What is not timed: tables into Spark, files onto the disk."""

    @abstractmethod
    def run(self, case: Case) -> Outcome:
        """Run the case once, with a clock around it."""


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Values as texts, missing ones as None, so that tables of different systems compare."""
    return table.astype(object).map(lambda value: None if value is None or value != value else str(value))
