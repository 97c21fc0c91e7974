from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.base import Prefix, pack_tokens
from spark_helium.gpu_executor.engines.prefix_cache import PrefixCache


class NaiveCache:
    """The same, written as a list of whole prefixes in order of last use."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self.prefixes: list[tuple[int, ...]] = []

    def enter(self, tokens: list[int]) -> int:
        size = self.block_size
        hits = 0
        while (hits + 1) * size < len(tokens) and tuple(tokens[: (hits + 1) * size]) in self.prefixes:
            hits += 1
        self.extend(tokens)
        return hits * size

    def extend(self, tokens: list[int]) -> None:
        for count in range(len(tokens) // self.block_size, 0, -1):
            prefix = tuple(tokens[: count * self.block_size])
            if prefix in self.prefixes:
                self.prefixes.remove(prefix)
            self.prefixes.append(prefix)
            self.prefixes = self.prefixes[-self.blocks :]


# Few different tokens and short prompts, so that prefixes meet, fork and are evicted.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)


@given(
    blocks=st.integers(1, 8),
    block_size=st.integers(1, 3),
    operations=st.lists(st.tuples(st.booleans(), prompts), max_size=40),
)
def test_agrees_with_a_naive_model(blocks: int, block_size: int, operations: list[tuple[bool, list[int]]]) -> None:
    cache, naive = PrefixCache(blocks, block_size), NaiveCache(blocks, block_size)
    for is_prompt, tokens in operations:
        if is_prompt:
            assert cache.enter(pack_tokens(tokens)) == naive.enter(tokens)
        else:
            cache.extend(pack_tokens(tokens))
            naive.extend(tokens)
        assert len(cache) == len(naive.prefixes) <= blocks


def test_never_counts_the_whole_prompt_as_cached() -> None:
    cache = PrefixCache(blocks=100, block_size=4)
    prompt = pack_tokens(range(12))
    assert cache.enter(prompt) == 0
    assert cache.enter(prompt) == 8
    assert cache.enter(pack_tokens(range(13))) == 12


def test_an_equal_block_behind_another_prefix_is_no_hit() -> None:
    cache = PrefixCache(blocks=100, block_size=2)
    cache.enter(pack_tokens([1, 1, 5, 5, 0]))
    assert cache.enter(pack_tokens([2, 2, 5, 5, 0])) == 0


def test_a_pinned_prefix_survives_what_evicts_all_else() -> None:
    cache = PrefixCache(blocks=8, block_size=2, pin_budget=4)
    prefix, question = [1] * 6, [9, 9]
    cache.pin([Prefix(pack_tokens(prefix))])
    assert cache.enter(pack_tokens(prefix + question)) == 0
    for i in range(10, 20):
        assert cache.enter(pack_tokens([i] * 10)) == 0
    assert cache.enter(pack_tokens(prefix + question)) == 6
    cache.pin([])
    for i in range(20, 30):
        cache.enter(pack_tokens([i] * 10))
    assert cache.enter(pack_tokens(prefix + question)) == 0


@given(
    block_size=st.integers(1, 3),
    room=st.integers(14, 20),
    pinned=st.lists(prompts, max_size=3),
    operations=st.lists(st.tuples(st.integers(0, 9), prompts), max_size=40),
)
def test_pins_are_never_evicted_and_leave_the_others_their_room(
    block_size: int, room: int, pinned: list[list[int]], operations: list[tuple[int, list[int]]]
) -> None:
    budget = sum(len(tokens) // block_size for tokens in pinned)
    cache = PrefixCache(room + budget, block_size, budget)
    cache.pin([Prefix(pack_tokens(tokens)) for tokens in pinned])
    seen: set[tuple[int, ...]] = set()
    heads = {tuple(tokens[:end]) for tokens in pinned for end in range(block_size, len(tokens) + 1, block_size)}
    for number, tokens in operations:
        prompt = [*tokens, number]  # ten ways to go on evict a lot
        expected = 0
        while tuple(prompt[: expected + block_size]) in heads & seen and expected + block_size < len(prompt):
            expected += block_size
        assert cache.enter(pack_tokens(prompt)) >= expected
        assert len(cache) <= room + budget
        cache.pins.check_integrity()
        seen |= {tuple(prompt[:end]) for end in range(block_size, len(prompt) + 1, block_size)}
    assert cache.pins.blocks == len(heads & seen)


@pytest.mark.parametrize(("blocks", "block_size"), [(0, 16), (16, 0)])
def test_refuses_a_cache_without_room(blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least one block"):
        PrefixCache(blocks, block_size)


def test_a_salt_has_blocks_and_pins_of_its_own() -> None:
    cache = PrefixCache(blocks=12, block_size=2, pin_budget=3)
    prompt = pack_tokens([1, 2, 3, 4, 5, 6, 7])
    cache.pin([Prefix(prompt[:24], "a")])
    assert [cache.enter(prompt, salt) for salt in ("", "a", "b")] == [0, 0, 0]
    assert [cache.known(prompt, salt) for salt in ("", "a", "b", "c")] == [6, 6, 6, 0]
    cache.extend(pack_tokens(range(1, 11)), "b")
    assert [cache.known(pack_tokens(range(1, 11)), salt) for salt in ("a", "b")] == [6, 10]
    for i in range(20, 40):
        cache.enter(pack_tokens([i] * 10))
    assert [cache.enter(prompt, salt) for salt in ("a", "b", "")] == [6, 0, 0]
