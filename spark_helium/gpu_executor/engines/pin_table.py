"""Which blocks of a KV cache pins hold, and which pin goes first when the engine needs blocks.

Every engine that pins keeps one of these beside its block pool. A pin is a prefix, written as its chain of block
hashes, where a hash stands for the block and everything before it. Pins take blocks as they find them in the cache,
head first, so that the first live call over a prefix computes it for its pin as well::

    chain of pin P    a b c        blocks     a b c d e
    chain of pin Q    a b d e      holders    2 2 1 1 1        Q released: d and e go back, e first
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Block = TypeVar("Block")


@dataclass(slots=True)
class _Pin:
    """``held``: how many blocks the pin holds, from the head of its chain on."""

    chain: Sequence[Hashable]
    held: int = 0


@dataclass(slots=True)
class _Holding(Generic[Block]):
    block: Block
    pins: int


class PinTable(Generic[Block]):
    """Pins over blocks; one reference per block, however many pins hold it.

    Parameters
    ----------
    budget: most blocks that all pins hold together.
    take: the cached block of a hash, with one reference more than before; None where the cache has none.
    give_back: takes a reference off each of the blocks, the one to be evicted first in front.
    """

    def __init__(
        self, budget: int, take: Callable[[Hashable], Block | None], give_back: Callable[[list[Block]], None]
    ) -> None:
        self.budget = budget
        self.released = 0  # times that a pin lost its blocks to a call
        self._take = take
        self._give_back = give_back
        self._pins: dict[Hashable, _Pin] = {}  # the most valuable first
        self._holdings: dict[Hashable, _Holding[Block]] = {}

    def __len__(self) -> int:
        return len(self._pins)

    @property
    def blocks(self) -> int:
        """Blocks held."""
        return len(self._holdings)

    @property
    def pinned(self) -> int:
        """Pins that hold all of their blocks."""
        return sum(pin.held == len(pin.chain) for pin in self._pins.values())

    @property
    def growing(self) -> bool:
        """Whether a pin lacks blocks."""
        return any(pin.held < len(pin.chain) for pin in self._pins.values())

    def holds(self, key: Hashable) -> bool:
        """Whether a pin holds the block of this hash."""
        return key in self._holdings

    def put(self, pins: Mapping[Hashable, Sequence[Hashable]]) -> None:
        """Make these chains by name the pins, the most valuable first. Pins of other names give their blocks back."""
        for name in [name for name in self._pins if name not in pins]:
            self._let_go(self._pins.pop(name))
        self._pins = {name: self._pins.get(name) or _Pin(chain) for name, chain in pins.items()}
        self.grow()

    def grow(self) -> None:
        """Take the blocks that pins lack and the cache has, the most valuable pin first.

        At the budget a less valuable pin gives up its blocks.
        """
        for pin in list(self._pins.values()):
            while pin.held < len(pin.chain):
                key = pin.chain[pin.held]
                holding = self._holdings.get(key)
                if holding is not None:
                    holding.pins += 1
                else:
                    block = self._take(key)
                    if block is None:
                        break
                    if len(self._holdings) >= self.budget and not self._release_up_to(pin, lambda _: True):
                        self._give_back([block])
                        break
                    self._holdings[key] = _Holding(block, 1)
                pin.held += 1

    def release(self, helps: Callable[[Block], bool]) -> bool:
        """Have the least valuable pins give a block back for which ``helps`` holds, with all else that they hold.

        They are as few as that takes: one pin, or those that hold the block together. They stay known, and take
        their blocks again with :meth:`grow` as long as the cache has them. Returns False when no pin can help.
        """
        return self._release_up_to(None, helps)

    def clear(self) -> None:
        """Give all blocks back. The pins stay known."""
        for pin in reversed(self._pins.values()):
            self._let_go(pin)

    def check_integrity(self) -> None:
        """Assert that the books balance."""
        counted: dict[Hashable, int] = {}
        for pin in self._pins.values():
            for key in pin.chain[: pin.held]:
                counted[key] = counted.get(key, 0) + 1
        assert counted == {key: h.pins for key, h in self._holdings.items()}, "pins and the blocks they hold disagree"
        assert len(self._holdings) <= max(0, self.budget), "pins hold more blocks than their budget"

    def _release_up_to(self, end: _Pin | None, helps: Callable[[Block], bool]) -> bool:
        """:meth:`release` with the pins of less value than ``end``; with all of them when it is None."""
        passed: dict[Hashable, list[_Pin]] = {}
        for pin in reversed(self._pins.values()):
            if pin is end:
                return False
            for key in reversed(pin.chain[: pin.held]):  # the tail first: fewer pins share it
                holders = passed.setdefault(key, [])
                holders.append(pin)
                holding = self._holdings[key]
                if len(holders) == holding.pins and helps(holding.block):
                    for holder in holders:
                        self._let_go(holder)
                    return True
        return False

    def _let_go(self, pin: _Pin) -> None:
        gone = []
        for key in reversed(pin.chain[: pin.held]):  # a prefix without its head is of no use: the tail goes first
            holding = self._holdings[key]
            holding.pins -= 1
            if not holding.pins:
                gone.append(holding.block)
                del self._holdings[key]
        pin.held = 0
        self._give_back(gone)
