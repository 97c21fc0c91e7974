"""Which of several engines runs a call, when rows arrive one after the other.

Helium (arXiv 2603.16104) cuts the rows of an operator into equal ranges. Here work is counted in token steps: a call
goes where it would be done first, given what waits there and what its prompt shares there. The later calls of a row
go where its first went, as that engine holds their beginning, unless it has fallen far behind.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from spark_helium.trt.call_tree import CallKey, CallTree
from spark_helium.trt.templates import TOKEN_BYTES, Tokens

Row = Hashable
PATIENCE = 4.0  # a row stays where it is until another engine is ahead by this many calls like the one to place


@dataclass(slots=True)
class _Placed:
    worker: int
    usage: float


class Placement:
    """Spreads rows over engines.

    Parameters
    ----------
    trees: one per engine; asked what a prompt shares there, and not changed.
    alphas: time of a token step on each engine; all 1 if not given.
    """

    def __init__(self, trees: Sequence[CallTree], alphas: Sequence[float] | None = None) -> None:
        if not trees:
            raise ValueError("there is no engine to place calls on")
        self._trees = tuple(trees)
        self._alphas = tuple(alphas) if alphas is not None else (1.0,) * len(self._trees)
        if len(self._alphas) != len(self._trees):
            raise ValueError(f"{len(self._alphas)} alphas are given for {len(self._trees)} engines")
        self._load = [0.0] * len(self._trees)
        self._open = [0] * len(self._trees)  # calls placed and not finished
        self._placed: dict[CallKey, _Placed] = {}
        self._home: dict[Row, int] = {}

    @property
    def loads(self) -> tuple[float, ...]:
        """Expected time of the calls that each engine has not finished."""
        return tuple(self._load)

    def place(self, call: CallKey, row: Row, tokens: Tokens, output_tokens: float) -> int:
        """The engine for a call, which counts as its load from now on. O(engines x log calls).

        Raises
        ------
        ValueError
            The call is placed already.
        """
        if call in self._placed:
            raise ValueError(f"call {call!r} is placed already; finish it first")
        prompt = len(tokens) // TOKEN_BYTES
        usages = [
            alpha * output_tokens * (prompt - tree.shared_tokens(tokens) + (output_tokens + 1) / 2)
            for tree, alpha in zip(self._trees, self._alphas, strict=True)
        ]
        worker = min(range(len(self._trees)), key=lambda w: self._load[w] + usages[w])
        home = self._home.get(row)
        if home is not None:
            whole = self._alphas[home] * output_tokens * (prompt + (output_tokens + 1) / 2)
            if self._load[home] <= self._load[worker] + PATIENCE * whole:
                worker = home
        self._home[row] = worker
        self._placed[call] = _Placed(worker, usages[worker])
        self._open[worker] += 1
        self._load[worker] += usages[worker]
        return worker

    def finish(self, call: CallKey) -> None:
        """A placed call is done or given up. O(1).

        Raises
        ------
        KeyError
            The call is not placed.
        """
        placed = self._placed.pop(call)
        # Exactly nothing when nothing is left, whatever rounding there was.
        self._open[placed.worker] -= 1
        self._load[placed.worker] = self._load[placed.worker] - placed.usage if self._open[placed.worker] else 0.0

    def forget(self, row: Row) -> None:
        """A row has no more calls. O(1)."""
        self._home.pop(row, None)

    def check_integrity(self) -> None:
        """Assert that loads are the sums of what is placed, up to rounding. O(calls)."""
        loads = [0.0] * len(self._load)
        for placed in self._placed.values():
            loads[placed.worker] += placed.usage
        for ours, sum_ in zip(self._load, loads, strict=True):
            assert abs(ours - sum_) <= 1e-6 * max(1.0, sum_), "an engine's load is not that of its calls"
