from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.trt.estimates import RunningMean


@given(st.lists(st.floats(0, 1000), max_size=40), st.floats(0, 1000))
def test_it_is_the_mean_of_guess_and_observations(values: list[float], guess: float) -> None:
    mean = RunningMean(guess, weight=4, memory=1000)
    for value in values:
        mean.observe(value)
    assert mean.mean == pytest.approx((4 * guess + sum(values)) / (4 + len(values)))
    together = RunningMean(guess, weight=4, memory=1000)
    together.observe(sum(values), len(values))
    assert together.mean == pytest.approx(mean.mean)
    assert together.weight == mean.weight == 4 + len(values)


def test_it_follows_data_that_drifts() -> None:
    mean = RunningMean(100, memory=64)
    for _ in range(1000):
        mean.observe(100)
    for _ in range(200):
        mean.observe(10)
    assert mean.mean < 15
    assert mean.weight == 64


def test_a_share_stays_between_nothing_and_all() -> None:
    share = RunningMean(0.5)
    share.observe(0, 1000)
    assert 0 < share.mean < 0.01
    share.observe(1000, 1000)
    assert share.mean <= 1


def test_nothing_observed_changes_nothing() -> None:
    mean = RunningMean(3)
    mean.observe(0, 0)
    assert (mean.mean, mean.weight) == (3, 4)
    with pytest.raises(ValueError, match="-1 observations"):
        mean.observe(1, -1)
