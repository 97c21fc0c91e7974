from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spark_helium.gpu_executor.engines.base import pack_tokens
from spark_helium.trt import call_tree
from spark_helium.trt.call_tree import CallTree
from spark_helium.trt.templates import TOKEN_BYTES
from spark_helium.trt.tree import OperatorId

OP = OperatorId("q", 0)


def add(tree: CallTree, *prompts: str, operator: OperatorId = OP) -> None:
    """Calls named and prompted by letters, a token per letter."""
    for text in prompts:
        tree.add(text, pack_tokens(map(ord, text)), operator)
        tree.check_integrity()


def test_the_longest_shared_prefix_goes_next() -> None:
    tree = CallTree(2)
    add(tree, "system question one", "other", "system task one", "system question two", "system task two")
    order = tree.pop(5)
    assert order == [
        "other",  # nothing went before: the first in lexical order
        "system question one",
        "system question two",
        "system task one",
        "system task two",
    ]
    tree.check_integrity()


def test_what_comes_later_is_taken_near_the_last_one() -> None:
    tree = CallTree(2)
    add(tree, "mmmm1", "aaaa1", "zzzz1")
    assert tree.pop() == ["aaaa1"]
    add(tree, "zzzz2", "aaaa2")
    assert tree.pop(2) == ["aaaa2", "mmmm1"]
    add(tree, "aaaa3", "mmmm0")
    assert tree.pop() == ["mmmm0"]
    assert tree.pop(10) == ["zzzz1", "zzzz2", "aaaa3"]
    tree.check_integrity()


def test_less_than_a_block_does_not_count() -> None:
    tree = CallTree(4)
    add(tree, "abcd-mm")
    assert tree.pop() == ["abcd-mm"]
    add(tree, "abcd-ma", "abcd-zz")  # the first shares six tokens, the second five: a block both
    assert tree.pop() == ["abcd-zz"]


def test_prefixes_go_before_ranks_unless_told_otherwise() -> None:
    tree = CallTree(1)
    first, second = OperatorId("q", 0), OperatorId("q", 1)
    tree.set_order({first: 1, second: 0})
    add(tree, "aa", "ab", operator=first)
    add(tree, "ac", "x", operator=second)
    assert tree.pop() == ["ac"]  # nothing is shared yet: the lower rank
    assert tree.pop(3) == ["ab", "aa", "x"]  # of the two that share one token with "ac" the one beside it


def test_ranks_go_before_prefixes_and_can_change() -> None:
    tree = CallTree(1)
    first, second = OperatorId("q", 0), OperatorId("q", 1)
    tree.set_order({first: 0, second: 1}, prefix_first=False)
    add(tree, "aa", "ab", "b", operator=first)
    add(tree, "aax", "bx", operator=second)
    assert tree.pop(2) == ["aa", "ab"]
    tree.set_order({first: 1, second: 0}, prefix_first=False)
    tree.check_integrity()
    assert tree.pop(2) == ["aax", "bx"]
    assert tree.pop(2) == ["b"]
    add(tree, "aay", operator=second)
    add(tree, "c", operator=first)
    tree.set_order({})  # one rank for both: row by row
    assert tree.pop(2) == ["c", "aay"]


def test_shared_tokens_are_those_in_flight_and_recent_in_whole_blocks() -> None:
    tree = CallTree(4, recent_tokens=12)
    prompt = pack_tokens(range(10))
    assert tree.shared_tokens(prompt) == 0
    tree.add("waits", prompt, OP)
    assert tree.shared_tokens(prompt) == 0
    assert tree.pop() == ["waits"]
    assert tree.shared_tokens(prompt) == 8
    assert tree.shared_tokens(pack_tokens([*range(7), 99, 100])) == 4
    assert tree.shared_tokens(pack_tokens([99, *range(7)])) == 0
    tree.finish("waits")
    assert tree.shared_tokens(prompt) == 8
    tree.add("next", pack_tokens(range(50, 53)), OP)
    tree.pop()
    tree.finish("next")  # the two have 13 tokens together
    assert tree.shared_tokens(prompt) == 0
    tree.check_integrity()


def test_calls_are_forgotten_wherever_they_are() -> None:
    tree = CallTree(1)
    add(tree, "a", "b", "c")
    tree.pop()
    assert tree.discard("b")
    assert not tree.discard("b")
    assert (len(tree), tree.in_flight) == (1, 1)
    assert "a" in tree
    assert tree.discard("a")
    assert not tree.discard("a")
    assert "a" not in tree
    tree.check_integrity()


def test_what_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="block_size is 0"):
        CallTree(0)
    tree = CallTree(1)
    add(tree, "a")
    with pytest.raises(ValueError, match="'a' is in the tree already"):
        tree.add("a", b"", OP)
    tree.pop()
    with pytest.raises(ValueError, match="'a' is in the tree already"):
        tree.add("a", b"", OP)
    with pytest.raises(ValueError, match="3 bytes"):
        tree.add("b", b"123", OP)
    with pytest.raises(KeyError):
        tree.finish("b")
    tree.check_integrity()


def test_many_calls_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_tree, "CHUNK", 2)
    rng = random.Random(1)
    tree = CallTree(1)
    prompts = {k: pack_tokens(rng.choices(range(3), k=rng.randrange(6))) for k in range(300)}
    for k, tokens in prompts.items():
        tree.add(k, tokens, OP)
    tree.check_integrity()
    assert [prompts[k] for k in tree.pop(300)] == sorted(prompts.values())
    tree.check_integrity()


class CallsAgainstAList(RuleBasedStateMachine):
    """The tree against a list of calls that is looked through from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = CallTree(2, recent_tokens=12)
        self.waiting: list[tuple[int, bytes, OperatorId]] = []
        self.in_flight: dict[int, bytes] = {}
        self.recent: list[bytes] = []
        self.ranks: dict[OperatorId, int] = {}
        self.prefix_first = True
        self.at: bytes = b""
        self.next = 0

    operators = st.builds(OperatorId, st.integers(0, 1), st.integers(0, 1))

    @rule(tokens=st.lists(st.integers(0, 2), max_size=7).map(pack_tokens), operator=operators)
    def add(self, tokens: bytes, operator: OperatorId) -> None:
        self.tree.add(self.next, tokens, operator)
        self.waiting.append((self.next, tokens, operator))
        self.next += 1

    @rule(limit=st.integers(0, 4))
    def pop(self, limit: int) -> None:
        calls = self.tree.pop(limit)
        assert len(calls) == min(limit, len(self.waiting))
        for call in calls:
            (its,) = (waiting for waiting in self.waiting if waiting[0] == call)

            def key(waiting: tuple[int, bytes, OperatorId]) -> tuple[int, int]:
                rank, shared = self.ranks.get(waiting[2], 0), -blocks(self.at, waiting[1])
                return (shared, rank) if self.prefix_first else (rank, shared)

            assert key(its) == min(map(key, self.waiting))
            self.waiting.remove(its)
            self.in_flight[call] = self.at = its[1]

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), finish=st.booleans())
    def finish(self, data: st.DataObject, finish: bool) -> None:
        call = data.draw(st.sampled_from(sorted(self.in_flight)))
        if finish:
            self.tree.finish(call)
        else:
            assert self.tree.discard(call)
        self.recent.append(self.in_flight.pop(call))
        while sum(map(len, self.recent)) > 12 * TOKEN_BYTES:
            self.recent.pop(0)

    @rule(call=st.integers(0, 30))
    def discard(self, call: int) -> None:
        known = [waiting for waiting in self.waiting if waiting[0] == call]
        if call not in self.in_flight:
            assert self.tree.discard(call) == bool(known)
            self.waiting = [waiting for waiting in self.waiting if waiting[0] != call]

    @rule(ranks=st.dictionaries(operators, st.integers(-1, 2)), prefix_first=st.booleans())
    def set_order(self, ranks: dict[OperatorId, int], prefix_first: bool) -> None:
        self.tree.set_order(ranks, prefix_first)
        self.ranks, self.prefix_first = ranks, prefix_first

    @rule(tokens=st.lists(st.integers(0, 2), max_size=7).map(pack_tokens))
    def ask(self, tokens: bytes) -> None:
        resident = [*self.in_flight.values(), *self.recent]
        assert self.tree.shared_tokens(tokens) == 2 * max((blocks(tokens, its) for its in resident), default=0)

    @invariant()
    def is_sound(self) -> None:
        self.tree.check_integrity()
        assert len(self.tree) == len(self.waiting)
        assert self.tree.in_flight == len(self.in_flight)


def blocks(one: bytes, other: bytes, size: int = 2 * TOKEN_BYTES) -> int:
    count = 0
    while min(len(one), len(other)) >= (count + 1) * size and one[: (count + 1) * size] == other[: (count + 1) * size]:
        count += 1
    return count


TestCallsAgainstAList = CallsAgainstAList.TestCase
TestCallsAgainstAList.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
