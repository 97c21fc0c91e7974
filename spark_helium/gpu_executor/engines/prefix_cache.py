"""Which blocks of tokens a KV cache still knows, least recently used out first.

The simulator's cache, and what the daemon expects of any engine's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Prefix, Tokens, token_count
from spark_helium.gpu_executor.engines.pin_table import PinTable


def block_keys(tokens: Tokens, block_size: int, salt: str = "") -> list[int]:
    """A key for each full block of ``tokens`` that covers everything before it as well, and the salt."""
    size = block_size * TOKEN_BYTES
    key = hash(salt) if salt else 0
    keys = []
    for end in range(size, len(tokens) + 1, size):
        # 64 bits over all content so far: a collision would only miscount cached tokens.
        key = hash((key, tokens[end - size : end]))
        keys.append(key)
    return keys


class PrefixCache:
    """Blocks of ``block_size`` tokens, at most ``blocks`` of them.

    A block's key covers everything before it, so a block is only found behind the same prefix and salt, as in vLLM.
    Within one prompt the head counts as used after the tail, so a prefix loses its last block first. Blocks that a
    pin holds are not evicted; pins are to leave room for the longest prompt, which the engine sees to.
    """

    def __init__(self, blocks: int, block_size: int, pin_budget: int = 0) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a prefix cache needs at least one block of one token, not {blocks} of {block_size}")
        self._capacity = blocks
        self._block_size = block_size
        self._used: OrderedDict[int, None] = OrderedDict()
        self._pinned: set[int] = set()
        self.pins: PinTable[int] = PinTable(pin_budget, self._hold, self._give_back)

    def __len__(self) -> int:
        return len(self._used) + len(self._pinned)

    def pin(self, prefixes: Sequence[Prefix]) -> None:
        """Pin the full blocks of these prefixes, the most valuable first, instead of those pinned so far."""
        self.pins.put({prefix: block_keys(prefix.tokens, self._block_size, prefix.salt) for prefix in prefixes})

    def enter(self, tokens: Tokens, salt: str = "") -> int:
        """Take ``tokens`` in as a prompt; how many leading tokens of it were there already.

        Whole blocks only, and never the whole prompt: the last token must run to give an answer.
        """
        keys = block_keys(tokens, self._block_size, salt)
        hits = self._hits(keys[: (token_count(tokens) - 1) // self._block_size])
        self._touch(keys)
        return hits * self._block_size

    def known(self, tokens: Tokens, salt: str = "") -> int:
        """How many leading tokens of ``tokens`` are there, in whole blocks; changes nothing."""
        return self._hits(block_keys(tokens, self._block_size, salt)) * self._block_size

    def extend(self, tokens: Tokens, salt: str = "") -> None:
        """Take in the full blocks of ``tokens``, a prompt followed by its answer."""
        self._touch(block_keys(tokens, self._block_size, salt))

    def _hits(self, keys: list[int]) -> int:
        used, pinned = self._used, self._pinned
        hits = 0
        for key in keys:
            if key not in used and key not in pinned:
                break
            hits += 1
        return hits

    def _touch(self, keys: list[int]) -> None:
        used, pinned = self._used, self._pinned
        for key in reversed(keys):
            if key in used:
                used.move_to_end(key)
            elif key not in pinned:
                used[key] = None
                if len(used) + len(pinned) > self._capacity:
                    used.popitem(last=False)
        if self.pins.growing:
            self.pins.grow()

    def _hold(self, key: Hashable) -> int | None:
        if key not in self._used:
            return None
        assert isinstance(key, int), "a pin asks for a block that is not of this cache"
        del self._used[key]
        self._pinned.add(key)
        return key

    def _give_back(self, keys: list[int]) -> None:
        self._pinned.difference_update(keys)
        self._used.update(dict.fromkeys(keys))
