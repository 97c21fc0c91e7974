"""The simulator's KV cache: which blocks of tokens it still knows, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Tokens, token_count


class PrefixCache:
    """Blocks of ``block_size`` tokens, at most ``blocks`` of them.

    A block's key covers everything before it, so a block is only found behind the same prefix, as in vLLM.
    Within one prompt the head counts as used after the tail, so a prefix loses its last block first.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a prefix cache needs at least one block of one token, not {blocks} of {block_size}")
        self._capacity = blocks
        self._block_size = block_size
        self._block_bytes = block_size * TOKEN_BYTES
        self._used: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def enter(self, tokens: Tokens) -> int:
        """Take ``tokens`` in as a prompt; how many leading tokens of it were there already.

        Whole blocks only, and never the whole prompt: the last token must run to give an answer.
        """
        keys = self._keys(tokens)
        used = self._used
        limit = (token_count(tokens) - 1) // self._block_size
        hits = 0
        for key in keys[:limit]:
            if key not in used:
                break
            hits += 1
        self._touch(keys)
        return hits * self._block_size

    def extend(self, tokens: Tokens) -> None:
        """Take in the full blocks of ``tokens``, a prompt followed by its answer."""
        self._touch(self._keys(tokens))

    def _keys(self, tokens: Tokens) -> list[int]:
        size = self._block_bytes
        key = 0
        keys = []
        for end in range(size, len(tokens) + 1, size):
            # 64 bits over all content so far: a collision would only miscount cached tokens.
            key = hash((key, tokens[end - size : end]))
            keys.append(key)
        return keys

    def _touch(self, keys: list[int]) -> None:
        used = self._used
        for key in reversed(keys):
            if key in used:
                used.move_to_end(key)
            else:
                used[key] = None
                if len(used) > self._capacity:
                    used.popitem(last=False)
