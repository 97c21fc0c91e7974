"""A call of a query, written once for DataFrame code and for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column

from benchmarks.jobs import Step, When
from benchmarks.systems.base import Ask

YES_NO = ("yes", "no")
SENTIMENTS = ("positive", "negative")


@dataclass(frozen=True)
class Question:
    """A template, and what goes with it. The first words of ``system`` should be :func:`run`'s."""

    template: str
    system: str
    max_tokens: int
    choices: tuple[str, ...] | None = None

    def of(self, ask: Ask, *, fields: Sequence[str] | None = None, **columns: str) -> Column:
        """The call as a column; ``columns`` are named by placeholders."""
        more: dict[str, Any] = {} if fields is None else {"fields": list(fields)}
        choices = list(self.choices) if self.choices else None
        return ask(
            self.template, **columns, system=self.system, max_tokens=self.max_tokens, choices=choices, **more
        )  # fmt: skip

    def step(self, name: str, when: When | None = None) -> Step:
        """The call as the step of a job."""
        return Step(name, self.template, self.system, None, self.max_tokens, self.choices, when)


def run(round_: int, name: str) -> str:
    """First words that differ from round to round and case to case: none begins in the KV cache of another."""
    return f"Run {round_}, {name}. "
