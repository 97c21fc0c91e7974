from __future__ import annotations

from spark_helium.gpu_executor.retries import LONGEST_WAIT, SPREAD, Backoff


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waits(attempts: int, first: float, at_least: float = 0.0) -> float:
    backoff: Backoff[str] = Backoff(Clock())
    backoff.wait("call", attempts, first, at_least)
    seconds = backoff.seconds_to_next()
    assert seconds is not None
    return seconds


def test_the_wait_doubles_up_to_a_limit() -> None:
    for attempts, expected in [(1, 0.5), (2, 1), (3, 2), (8, LONGEST_WAIT), (2000, LONGEST_WAIT)]:
        assert expected * (1 - SPREAD) - 1e-9 <= waits(attempts, 0.5) <= expected * (1 + SPREAD) + 1e-9


def test_what_the_endpoint_asks_for_counts() -> None:
    assert waits(1, 0.5, at_least=90) == 90
    assert waits(5, 0.5, at_least=0.1) > 1


def test_calls_come_out_when_they_are_due() -> None:
    clock = Clock()
    backoff: Backoff[str] = Backoff(clock)
    assert (backoff.due(), backoff.seconds_to_next(), len(backoff)) == ([], None, 0)
    backoff.wait("late", 1, 0, at_least=5)
    backoff.wait("soon", 1, 0, at_least=2)
    backoff.wait("now", 1, 0)
    assert backoff.due() == ["now"]
    assert backoff.seconds_to_next() == 2
    clock.now += 7
    assert backoff.seconds_to_next() == 0
    assert backoff.due() == ["soon", "late"]
    assert len(backoff) == 0
