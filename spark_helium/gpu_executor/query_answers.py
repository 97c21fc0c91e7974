"""What the calls of each running query answered, for queries that do not use the prompt cache.

Switching the cache off says that no answer may come from an earlier query. Equal calls of one query are still
made once: a query's tasks, stages and branches ask the same again and again, and exact semantics need one answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from spark_helium.gpu_executor.prompt_cache import PromptCache

# A query has no stream open between two stages; it is over when none was for this long.
KEEP_SECONDS = 60.0


class QueryAnswers:
    """A prompt cache per running query, each bounded by ``limit`` bytes, forgotten when its query is over.

    Those of queries without a stream are forgotten earlier, the longest unused first, where all of them take more.

    Only the dispatcher's thread uses it. A query is known by its name (application and SQL execution).
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._caches: dict[str, PromptCache] = {}
        self._open: dict[str, int] = {}
        self._last_use: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._caches)

    def opened(self, query: str) -> None:
        """A stream of the query began."""
        self._open[query] = self._open.get(query, 0) + 1

    def closed(self, query: str) -> None:
        """A stream of the query ended."""
        self._open[query] -= 1
        if not self._open[query]:
            del self._open[query]
        self._last_use[query] = self._clock()

    def of(self, query: str) -> PromptCache:
        """The answers of a query that has a stream open."""
        if query not in self._caches:
            self._caches[query] = PromptCache(self._limit)
        return self._caches[query]

    def forget_finished(self) -> None:
        """Drop the answers of queries without a stream for :data:`KEEP_SECONDS`, or that there is no room for."""
        now = self._clock()
        held = sum(cache.bytes for cache in self._caches.values())
        closed = [(last, query) for query, last in self._last_use.items() if query not in self._open]
        for last, query in sorted(closed):
            if now - last > KEEP_SECONDS or held > self._limit:
                del self._last_use[query]
                cache = self._caches.pop(query, None)
                held -= 0 if cache is None else cache.bytes
