"""Means that are learned while a query runs: output lengths, lengths of columns, selectivities of guards.

An estimate starts as a guess that counts like ``weight`` observations (the posterior mean under a conjugate prior)
and, once it has seen ``memory`` of them, forgets the oldest exponentially, so that it follows data that drifts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RunningMean:
    """A mean of what was observed and what was expected before.

    Attributes
    ----------
    mean: the estimate.
    weight: how many observations it stands for, the guess included.
    memory: most that ``weight`` may be.
    """

    mean: float
    weight: float = 4.0
    memory: float = 256.0

    def observe(self, total: float, count: float = 1.0) -> None:
        """Take in ``count`` observations with sum ``total``. O(1).

        Raises
        ------
        ValueError
            ``count`` is negative.
        """
        if count < 0:
            raise ValueError(f"{count} observations cannot be taken in")
        if count == 0:
            return
        self.mean += (total - count * self.mean) / (self.weight + count)
        self.weight = min(self.weight + count, self.memory)
