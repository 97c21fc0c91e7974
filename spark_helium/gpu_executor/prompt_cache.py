"""Answers of earlier calls, by what was asked: the keys, and the tier in memory.

See :mod:`.two_tier_cache` for the node's prompt cache as a whole.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import astuple
from hashlib import blake2b
from typing import NewType

from spark_helium.call_graph import Constraint, Sampling

CacheKey = NewType("CacheKey", bytes)
Answer = tuple[str, bool]  # the text as the engine gave it, and whether it was cut off

# What kind of result an entry holds, as part of its key. The SQL type of a completion is made from its text in the
# Spark worker, so that llm() as a STRING and as a STRUCT share an entry. What is something else for the same prompt,
# such as an embedding, has the name of its task here.
COMPLETION = "completion"

# What an entry costs besides its text: the key, the dictionary's slot and links, the tuple.
ENTRY_OVERHEAD = 320


class CallKeys:
    """Makes the cache keys of calls that share engine, sampling, constraint and kind of result, within one scope.

    A key is a digest, not the tokens: prompts are long and the cache holds many. 20 bytes keep an accidental
    collision out of reach of any number of calls a node can make.
    """

    def __init__(
        self,
        fingerprint: str,
        sampling: Sampling,
        constraint: Constraint | None,
        scope: str = "",
        kind: str = COMPLETION,
    ) -> None:
        what = [kind, scope, fingerprint, astuple(sampling), None if constraint is None else astuple(constraint)]
        self._prefix = blake2b(json.dumps(what).encode() + b"\0", digest_size=20)

    def key(self, tokens: bytes) -> CacheKey:
        """The key of one prompt, whose tokens are given as bytes of fixed width per token."""
        digest = self._prefix.copy()
        digest.update(tokens)
        return CacheKey(digest.digest())


class PromptCache:
    """Answers by key, at most ``limit`` bytes of them.

    Only the dispatcher's thread uses it. It stores what it is given: that an answer is deterministic and not
    a failure is the caller's care.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._answers: OrderedDict[CacheKey, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: CacheKey) -> Answer | None:
        """The answer, or None. A hit makes the entry the most recent one."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def get_many(self, keys: Iterable[CacheKey]) -> dict[CacheKey, Answer]:
        """The answers that are there, by key, each as with :meth:`get`."""
        answers, found = self._answers, {}
        for key in keys:
            answer = answers.get(key)
            if answer is not None:
                answers.move_to_end(key)
                found[key] = answer
        return found

    def put(self, key: CacheKey, text: str, truncated: bool) -> None:
        """Keep an answer as the most recent one, and drop the least recent ones that no longer fit."""
        old = self._answers.pop(key, None)
        if old is not None:
            self.bytes -= entry_size(old[0])
        size = entry_size(text)
        if size > self.limit:
            return
        self._answers[key] = (text, truncated)
        self.bytes += size
        while self.bytes > self.limit:
            _, (dropped, _) = self._answers.popitem(last=False)
            self.bytes -= entry_size(dropped)

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()
        self.bytes = 0

    def check_integrity(self) -> None:
        """Assert that the books balance."""
        total = sum(entry_size(text) for text, _ in self._answers.values())
        assert total == self.bytes, f"prompt cache counts {self.bytes} bytes but holds {total}"
        assert self.bytes <= self.limit or not self._answers, "prompt cache holds more than its limit"


def entry_size(text: str) -> int:
    """Bytes that an entry with this text is counted for."""
    return ENTRY_OVERHEAD + (len(text) if text.isascii() else 4 * len(text))
