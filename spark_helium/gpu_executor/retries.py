"""Calls whose failure may pass, and when they are tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Generic, TypeVar

LONGEST_WAIT = 60.0  # seconds between two attempts, unless the endpoint asks for more
SPREAD = 0.25  # waits differ by this share, so that calls that failed together do not come back together

C = TypeVar("C")


class Backoff(Generic[C]):
    """Calls that wait to be tried again. Only the dispatcher's thread uses it.

    Parameters
    ----------
    clock: time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, C]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, call: C, attempts: int, first: float, at_least: float = 0.0) -> None:
        """Take in a call that failed ``attempts`` times.

        Parameters
        ----------
        first: seconds to wait after the first failure; they double with each further one.
        at_least: seconds that the endpoint asks to wait.
        """
        pause = min(LONGEST_WAIT, first * 2.0 ** min(attempts - 1, 30)) * random.uniform(1 - SPREAD, 1 + SPREAD)
        self._sequence += 1
        heappush(self._waiting, (self._clock() + max(pause, at_least), self._sequence, call))

    def due(self) -> list[C]:
        """Take out the calls whose time has come."""
        now = self._clock()
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(heappop(self._waiting)[2])
        return found

    def seconds_to_next(self) -> float | None:
        """How long until the next call is due; None where none waits."""
        return max(0.0, self._waiting[0][0] - self._clock()) if self._waiting else None
