"""How much may be asked of an endpoint per minute.

A bucket of our own and no library's, because an endpoint's limit needs what those lack: a request pays an estimate
before it is sent and the difference when its real size is known, and Retry-After stops everybody for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

MINUTE = 60.0
MOMENT = 0.1


class RateLimit:
    """A token bucket (as in RFC 2697): ``per_minute`` units flow in evenly, and a minute's worth at most waits there.

    For one event loop. Requests pass in the order in which they came.

    Parameters
    ----------
    per_minute: units per minute; 0: no limit.
    clock, sleep: time in seconds, and waiting for it; given by tests.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rate = per_minute / MINUTE
        self._most = float(per_minute)
        self._clock = clock
        self._sleep = sleep
        self._level = self._most
        self._at = clock()
        self._stopped_until = self._at
        self._turn = asyncio.Lock()

    async def take(self, units: float) -> None:
        """Wait until ``units`` are there, and take them. More than a minute's worth counts as a minute's worth."""
        units = min(units, self._most)
        async with self._turn:  # a large request is not passed by small ones for ever
            while (wait := self._wait_for(units)) > 0:
                await self._sleep(min(wait, MOMENT))  # a reply may give something back meanwhile
            self._level -= units

    def correct(self, taken: float, used: float) -> None:
        """A request that took ``taken`` turned out to use ``used``."""
        self._fill()
        self._level = min(self._most, self._level + min(taken, self._most) - used)

    def stop_for(self, seconds: float) -> None:
        """Let nobody pass for so long."""
        self._stopped_until = max(self._stopped_until, self._clock() + seconds)

    def _wait_for(self, units: float) -> float:
        self._fill()
        stopped = self._stopped_until - self._at
        missing = (units - self._level) / self._rate if self._rate else 0.0
        return max(stopped, missing, 0.0)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
