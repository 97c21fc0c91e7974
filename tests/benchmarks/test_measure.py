from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.h100 import AS_THEY_COME, BY_PREFIX, Node, simulate
from benchmarks.measure import Counts, Spread, agreement, equal_share, in_turn, ratios


def test_every_system_begins_in_turn():
    firsts = {in_turn("abc", round_)[0] for round_ in range(6)}
    assert firsts == {"a", "b", "c"}
    assert all(sorted(in_turn("abc", round_)) == ["a", "b", "c"] for round_ in range(6))


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [
        (["a", "b"], ["b", "a"], 1.0),
        (["a", "a"], ["a"], 0.5),
        ([None], [None], 1.0),
        ([], [], 1.0),
        (["a"], ["b"], 0.0),
    ],
)
def test_equal_share(left: list[str | None], right: list[str | None], share: float):
    assert equal_share(pd.DataFrame({"x": left}), pd.DataFrame({"x": right})) == share


def test_ratios_are_within_rounds():
    rounds = [{"a": {"seconds": 2.0}, "b": {"seconds": 6.0}}, {"a": {"seconds": 4.0}, "b": {"seconds": 4.0}}, {"a": {}}]
    assert ratios(rounds, "a", "b") == [3.0, 1.0]
    assert Spread.of([3.0, 1.0]) == Spread(2.0, 1.0, 3.0)


def test_counts_are_differences():
    assert Counts(5, 40, 10, 3) - Counts(1, 10, 4, 1) == Counts(4, 30, 6, 2)


def test_modelled_nodes():
    one = simulate(20_000, 1, BY_PREFIX, 0.0)
    # 200 + 400 products * 250 + 20,000 * 80 tokens of 530 each: every product is computed once.
    assert one.hit_rate == pytest.approx(1 - (200 + 400 * 250 + 20_000 * 80) / (20_000 * 530), abs=0.002)
    assert simulate(20_000, 4, BY_PREFIX, 0.0).seconds < one.seconds / 3
    crowded = [simulate(1_000_000, 1, policy, 0.0) for policy in (BY_PREFIX, AS_THEY_COME)]
    assert crowded[0].hit_rate > crowded[1].hit_rate
    assert simulate(20_000, 1, BY_PREFIX, 1.0).bound == "daemon"
    # 80 GB * 0.9 less 16.4 GB of weights and 4 GB for the rest, at 147,456 bytes a token.
    assert Node().kv_tokens == 349_934


def test_any_rows_of_a_result_agree():
    everything = pd.DataFrame({"a": ["1", "2", "3"]})
    assert agreement(everything.iloc[[2, 0]], everything, 2) == 1.0
    assert agreement(everything, pd.DataFrame({"a": ["3", "4"]}), 2) == 0.5
    assert agreement(everything.iloc[:1], everything, 2) == 0.5, "one row too few"
    assert agreement(everything.iloc[:2], everything.iloc[1:], 2) is None
    assert agreement(everything, everything, 5) == 1.0
    assert agreement(everything.iloc[:0], everything.iloc[:0], 5) == 1.0
