"""Answers come as they finish; rows leave in the order in which they came."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_helium.gpu_executor.arrays import int64_array, int64_values


class RowOrder:
    """Puts batches of answers into row order.

    Rows are numbered from 0 in the first column of a batch. ``next_row`` is the first that was not taken yet.
    """

    def __init__(self) -> None:
        self.next_row = 0
        self.received = 0
        self._waiting: list[pa.RecordBatch] = []
        self._here = np.zeros(4096, dtype=bool)  # by row - next_row: whether its answer arrived
        self._ready = 0  # how many of them are here from the start on

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in answers, in any order."""
        if batch.num_rows == 0:
            return
        places = int64_values(batch.column(0)) - self.next_row
        highest = int(places.max())
        if highest >= len(self._here):
            self._here = np.concatenate([self._here, np.zeros(highest + 1, dtype=bool)])
        self._here[places] = True
        self._waiting.append(batch)
        self.received += batch.num_rows
        while self._ready < len(self._here) and self._here[self._ready]:
            gap = self._here[self._ready :].argmin()
            self._ready += int(gap) or len(self._here) - self._ready

    @property
    def ready(self) -> int:
        """How many rows :meth:`take` would give."""
        return self._ready

    def take(self) -> pa.RecordBatch:
        """All rows from ``next_row`` on that are here without a gap, in order; at least one must be."""
        count = self._ready
        assert count, "no row is ready"
        whole = self._waiting[0] if len(self._waiting) == 1 else pa.concat_batches(self._waiting)
        places = int64_values(whole.column(0)) - self.next_row
        if np.array_equal(places, np.arange(count)):
            out, rest = whole, None  # the usual case when answers are fast: nothing to sort
        else:
            now = np.flatnonzero(places < count)
            out = whole.take(int64_array(now[np.argsort(places[now])]))
            later = np.flatnonzero(places >= count)
            rest = whole.take(int64_array(later)) if len(later) else None
        self._waiting = [] if rest is None else [rest]
        self._here[: len(self._here) - count] = self._here[count:]
        self._here[len(self._here) - count :] = False
        self._ready = 0
        self.next_row += count
        return out
