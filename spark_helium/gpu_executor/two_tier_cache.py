"""The node's prompt cache: a tier in memory, and below it one on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.prompt_cache import Answer, CacheKey, PromptCache


class AnswerCache(Protocol):
    """What keeps answers for the dispatcher. It stores what it is given: that an answer is deterministic and not a
    failure is the caller's care.
    """

    def get_many(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Answer]:
        """The answers that are there, by key, found by one lookup in bulk."""

    def put(self, key: CacheKey, text: str, truncated: bool) -> None:
        """Keep an answer as the most recent one."""


class TwoTierCache:
    """Answers in memory and, where ``disk`` is given, on disk.

    An answer enters both tiers. What only the disk has enters memory when it is found. Only the dispatcher's thread
    uses it.

    Attributes
    ----------
    memory_hits, disk_hits: keys answered by each tier; a key that repeats in one lookup comes from memory.
    """

    def __init__(self, memory: PromptCache, disk: DiskTier | None = None) -> None:
        self.memory = memory
        self.disk = disk
        self.memory_hits = 0
        self.disk_hits = 0

    def get_many(self, keys: Sequence[CacheKey]) -> dict[CacheKey, Answer]:
        """The answers that are there, by key. Each that is found becomes the most recent one."""
        found = self.memory.get_many(keys)
        from_disk = 0
        if self.disk is not None:
            for key in found:
                self.disk.touch(key)
            missing = dict.fromkeys([key for key in keys if key not in found] if found else keys)
            if missing:
                below = self.disk.get_many(missing)
                from_disk = len(below)
                for key, (text, truncated) in below.items():
                    self.memory.put(key, text, truncated)
                found |= below
        if found:
            self.disk_hits += from_disk
            self.memory_hits += sum(key in found for key in keys) - from_disk
        return found

    def put(self, key: CacheKey, text: str, truncated: bool) -> None:
        """Keep an answer in both tiers."""
        self.memory.put(key, text, truncated)
        if self.disk is not None:
            self.disk.put(key, text, truncated)

    def turn(self) -> None:
        """To be called several times a second: answers go to disk some at a time."""
        if self.disk is not None:
            self.disk.turn()

    def clear(self) -> threading.Event:
        """Forget everything. The event is set when the disk's tier has done so, too."""
        self.memory.clear()
        self.memory_hits = self.disk_hits = 0
        if self.disk is not None:
            return self.disk.clear()
        done = threading.Event()
        done.set()
        return done

    def close(self) -> None:
        """Write to disk what is not there yet."""
        if self.disk is not None:
            self.disk.close()
