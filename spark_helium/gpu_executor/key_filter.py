"""Which keys are surely not in a store: a Bloom filter (B. H. Bloom, CACM 13(7), 1970, method 2) over cache keys.

A query over new prompts asks the disk for as many keys as it makes calls, and finds none. The filter spares it that.
A batch of some hundred keys is spared only if none of its keys passes by accident, hence the many bits. The places of
a key are h1 + i h2, as in A. Kirsch and M. Mitzenmacher, Less Hashing, Same Performance (ESA 2006), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spark_helium.gpu_executor.prompt_cache import CacheKey

PREFIX_BYTES = 8  # of a key, which is a digest: they are as random as its bits
PLACES = 4  # bits that are set for a key
BITS_PER_KEY = 48  # when it is full, 4 of 100,000 absent keys pass, and at least one key of 2 % of batches of 512
SLICE = (
    120  # keys at once: for more than 500 places numpy lets go of Python's lock at each step, and waits to get it back
)
SMALLEST, LARGEST = 1 << 22, 1 << 29  # bits

_STEPS = np.arange(PLACES, dtype=np.uint64)[:, np.newaxis]
_BITS = np.left_shift(1, np.arange(8)).astype(np.uint8)

Prefixes = npt.NDArray[np.uint64]


def prefixes(keys: Sequence[CacheKey]) -> Prefixes:
    """The first :data:`PREFIX_BYTES` of each key as a number; shape (len(keys),). All keys have one length."""
    data = np.frombuffer(b"".join(keys), dtype=np.uint8)
    return from_bytes(data.reshape(len(keys), -1)[:, :PREFIX_BYTES].tobytes() if keys else b"")


def from_bytes(data: bytes) -> Prefixes:
    """Prefixes that stand back to back in ``data``."""
    return np.frombuffer(data, dtype=">u8").astype(np.uint64)


class KeyFilter:
    """Grows with the keys that are added; none can be taken out."""

    def __init__(self, smallest: int = SMALLEST, largest: int = LARGEST) -> None:
        self._smallest = smallest
        self._largest = largest
        self._added = 0
        self._bits = np.zeros(smallest // 8, dtype=np.uint8)

    @property
    def full(self) -> bool:
        """Whether so many keys were added that it lets too many pass: begin anew with :meth:`reset`."""
        return self._added * BITS_PER_KEY > 8 * len(self._bits) < self._largest

    def reset(self, expected: int = 0) -> None:
        """Forget all keys, and make room for ``expected`` ones and as many again."""
        size = self._smallest
        while size < min(self._largest, 2 * expected * BITS_PER_KEY):
            size *= 2
        self._added = 0
        self._bits = np.zeros(size // 8, dtype=np.uint8)

    @property
    def added(self) -> int:
        """Keys that were added since the last :meth:`reset`, repeated ones included."""
        return self._added

    def add(self, keys: Prefixes) -> None:
        """Let these pass from now on."""
        np.bitwise_or.at(self._bits, *self._places(keys))
        self._added += len(keys)

    def may_hold(self, keys: Sequence[CacheKey]) -> list[CacheKey]:
        """Those of the keys that were added, and few others, in the given order."""
        passing = []
        for start in range(0, len(keys), SLICE):
            part = keys[start : start + SLICE]
            place, bit = self._places(prefixes(part))
            passes = (self._bits[place] & bit).all(axis=0)
            if passes.any():
                passing += [part[i] for i in np.flatnonzero(passes)]
        return passing

    def _places(self, keys: Prefixes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Bytes and the bit in each; shapes (PLACES, len(keys))."""
        h1, h2 = keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32) | np.uint64(1)
        places = h1 + _STEPS * h2 & np.uint64(8 * len(self._bits) - 1)
        return (places >> np.uint64(3)).view(np.int64), _BITS[(places & np.uint64(7)).view(np.int64)]
