from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.rate_limit import RateLimit


class Time:
    """Moves when somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + 1e-9  # so that rounding makes no sleep too short


def passed(limit: RateLimit, time: Time, sizes: list[float]) -> list[float]:
    async def all_() -> list[float]:
        times = []
        for size in sizes:
            await limit.take(size)
            times.append(time.now)
        return times

    return asyncio.run(all_())


def test_a_minutes_worth_passes_at_once_and_the_rest_at_the_rate() -> None:
    time = Time()
    assert [round(t, 3) for t in passed(RateLimit(6, time.clock, time.sleep), time, [1] * 9)] == [0] * 6 + [10, 20, 30]


def test_without_a_limit_nobody_waits() -> None:
    time = Time()
    assert passed(RateLimit(0, time.clock, time.sleep), time, [1e9] * 3) == [0, 0, 0]


def test_what_is_larger_than_the_limit_passes_alone() -> None:
    time = Time()
    assert [round(t, 3) for t in passed(RateLimit(60, time.clock, time.sleep), time, [500, 500])] == [0, 60]


def test_a_reply_gives_back_what_was_not_used_and_takes_what_was() -> None:
    time = Time()
    limit = RateLimit(60, time.clock, time.sleep)
    assert passed(limit, time, [60]) == [0]
    limit.correct(60, 20)
    assert [round(t, 3) for t in passed(limit, time, [40, 10])] == [0, 10]
    limit.correct(10, 40)
    assert round(passed(limit, time, [1])[0], 3) == 41


def test_a_stop_holds_everybody_also_without_a_limit() -> None:
    time = Time()
    limit = RateLimit(0, time.clock, time.sleep)
    limit.stop_for(7)
    limit.stop_for(3)
    assert [round(t, 3) for t in passed(limit, time, [1, 1])] == [7, 7]


@given(st.integers(1, 1000), st.lists(st.integers(1, 2000), min_size=1, max_size=40))
def test_no_window_has_more_than_its_share(per_minute: int, sizes: list[int]) -> None:
    """In any window of w seconds at most a minute's worth and what flows in w seconds passes, sizes cut to a minute."""
    time = Time()
    times = passed(RateLimit(per_minute, time.clock, time.sleep), time, list(map(float, sizes)))
    for first in range(len(sizes)):
        for last in range(first, len(sizes)):
            amount = sum(min(size, per_minute) for size in sizes[first : last + 1])
            window = times[last] - times[first]
            assert amount <= per_minute + window * per_minute / 60 + 1e-3
