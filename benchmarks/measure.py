"""What is measured, and how: systems take turns, in another order each round; medians and ranges, never one figure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Counts:
    """What an engine did. ``cached_tokens`` of the ``prompt_tokens`` were in its KV cache."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(**{name: value - getattr(other, name) for name, value in asdict(self).items()})


@dataclass
class Outcome:
    """One run of one system: seconds on the clock, what the engine did, and the table that came out."""

    seconds: float
    counts: Counts
    result: pd.DataFrame
    notes: dict[str, Any] = field(default_factory=dict)


def in_turn(names: Sequence[str], round_: int) -> list[str]:
    """The systems in the order of a round: each begins in turn, and every other round runs backwards.

    >>> in_turn(["a", "b", "c"], 0), in_turn(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['a', 'c', 'b'])
    """
    if not names:
        return []
    shift = (round_ + 1) // 2 % len(names)
    turned = [*names[shift:], *names[:shift]]
    return turned if round_ % 2 == 0 else turned[::-1]


def equal_share(left: pd.DataFrame, right: pd.DataFrame) -> float:
    """The share of rows that two tables have in common, as bags; 1.0 for two empty ones."""
    bags = [
        Counter(table.astype(object).where(table.notna(), None).itertuples(index=False, name=None))
        for table in (left, right)
    ]
    most = max(sum(bag.values()) for bag in bags)
    return sum((bags[0] & bags[1]).values()) / most if most else 1.0


def agreement(left: pd.DataFrame, right: pd.DataFrame, any_rows: int | None = None) -> float | None:
    """:func:`equal_share`; where a query wants ``any_rows``, the share of these that the longer table has.

    None for two tables of as many rows as were wanted: both may be right.
    """
    if any_rows is None:
        return equal_share(left, right)
    short, long = sorted((left, right), key=len)
    if len(short) == len(long) == any_rows:
        return None
    bags = [Counter(table.itertuples(index=False, name=None)) for table in (short, long)]
    wanted = min(any_rows, len(long))
    return min(sum((bags[0] & bags[1]).values()), wanted) / wanted if wanted else 1.0


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        found = sorted(values)
        return Spread(statistics.median(found), found[0], found[-1])


def ratios(rounds: Sequence[Mapping[str, Any]], system: str, base: str, key: str = "seconds") -> list[float]:
    """``base`` over ``system``, round by round: how many times faster ``system`` was."""
    both = [r for r in rounds if system in r and base in r and r[system][key]]
    return [r[base][key] / r[system][key] for r in both]


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return statistics.geometric_mean(values)
