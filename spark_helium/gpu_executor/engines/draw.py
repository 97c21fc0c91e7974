"""A deterministic stream of choices for the simulator's answers."""

from __future__ import annotations

_MASK = (1 << 64) - 1

_ONSETS = ("ba", "ce", "di", "fo", "ga", "he", "ji", "ko", "lu", "me", "ni", "po", "ra", "su", "ti", "vo")
_CODAS = ("l", "mar", "nes", "r", "s", "tin", "vel", "x", "dor", "lan", "mo", "rik", "sa", "ten", "u", "zel")

# Made-up words, so that nobody takes a simulated answer for a real one.
WORDS = tuple(onset + coda for coda in _CODAS for onset in _ONSETS)


class Draw:
    """Choices drawn from one seed, by the SplitMix64 generator.

    Not :class:`random.Random`: its set-up costs more than a whole simulated answer.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, bound: int) -> int:
        """A number from 0 up to but not including ``bound``, which may have any size."""
        value = self._next()
        for _ in range((bound.bit_length() - 1) // 64):
            value = value << 64 | self._next()
        return value % bound

    def between(self, low: int, high: int) -> int:
        """A number from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def word(self) -> str:
        return WORDS[self.below(len(WORDS))]

    def _next(self) -> int:
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        return state ^ (state >> 31)
