from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.base import EngineInfo
from spark_helium.gpu_executor.ready_queue import RUN_OF_A_QUERY, SPARE_CALLS, EngineLoad, ReadyQueue
from spark_helium.trt.ranking import DispatchOrder
from spark_helium.trt.tree import OperatorId

FIRST = OperatorId("q", 0)


@dataclass(eq=False)
class Waiting:
    tokens: bytes
    account: str = "q"
    operator: OperatorId = FIRST
    cost: float = 1.0


def prompt(text: str) -> bytes:
    return b"".join(bytes([ord(c), 0, 0, 0]) for c in text)


def texts(calls: list[Waiting]) -> list[str]:
    return [call.tokens[::4].decode() for call in calls]


def taken(queue: ReadyQueue[Waiting], most: int = 10**6) -> list[Waiting]:
    left = [most]

    def enter(call: Waiting) -> float:
        left[0] -= 1
        return call.cost

    return queue.take(lambda: left[0], enter)


def add(queue: ReadyQueue[Waiting], *calls: str, account: str = "q", number: int = 0, cost: float = 1.0) -> None:
    for text in calls:
        queue.add(Waiting(prompt(text), account, OperatorId(account, number), cost))


def filled(*calls: str, account: str = "q", cost: float = 1.0) -> ReadyQueue[Waiting]:
    queue: ReadyQueue[Waiting] = ReadyQueue(1)
    add(queue, *calls, account=account, cost=cost)
    return queue


def test_equal_prefixes_meet():
    queue = filled("b1", "a1", "c1", "a2", "b2", "a3")
    assert len(queue) == 6
    assert "".join(text[0] for text in texts(taken(queue))) == "aaabbc"
    assert len(queue) == 0
    queue.check_integrity()


def test_what_shares_most_with_the_last_one_goes_next():
    queue = filled("a1", "b1", "c1", "d1")
    assert texts(taken(queue, 2)) == ["a1", "b1"]
    add(queue, "a2", "b2", "c0")
    assert texts(taken(queue, 1)) == ["b2"]
    assert texts(taken(queue, 2)) == ["c0", "c1"]


@pytest.mark.parametrize(("prefix_first", "pairs"), [(True, ["x1x2", "y1y2"]), (False, ["x2y2", "x1y1"])])
def test_ranks_decide_among_equals_or_before_prefixes(prefix_first: bool, pairs: list[str]) -> None:
    queue: ReadyQueue[Waiting] = ReadyQueue(1)
    queue.set_order(DispatchOrder({OperatorId("q", 0): 1, OperatorId("q", 1): 0}, prefix_first))
    add(queue, "x1", "y1")
    add(queue, "x2", "y2", number=1)
    got = texts(taken(queue))
    assert ["".join(sorted(got[:2])), "".join(sorted(got[2:]))] == pairs


def test_an_order_that_changes_holds_for_what_waits():
    queue: ReadyQueue[Waiting] = ReadyQueue(1)
    add(queue, "x1", "x3")
    add(queue, "y2", number=1)
    queue.set_order(DispatchOrder({OperatorId("q", 0): 1, OperatorId("q", 1): 0}, prefix_first=False))
    assert texts(taken(queue, 1)) == ["y2"]


def test_what_is_fresh_goes_first_the_latest_before_all():
    queue = filled("b", "a")
    queue.add(Waiting(prompt("x")), fresh=True)
    queue.add(Waiting(prompt("w")), fresh=True)
    assert texts(taken(queue)) == ["w", "x", "a", "b"]


def test_queries_share_by_tokens():
    queue = filled(*(f"a{i:04}" for i in range(1000)), account="long prompts", cost=30.0)
    add(queue, *(f"b{i:04}" for i in range(1000)), account="short prompts", cost=10.0)
    sent: list[str] = []
    while len(sent) < 800:
        sent += [text[0] for text in texts(taken(queue, 7))]
    assert sent.count("b") == pytest.approx(3 * sent.count("a"), rel=0.2)


def test_a_query_that_comes_late_neither_waits_nor_catches_up():
    queue = filled(*(f"a{i:04}" for i in range(1000)), account="first")
    taken(queue, 400)
    add(queue, *(f"b{i:04}" for i in range(400)), account="second")
    kinds = [text[0] for text in texts(taken(queue, 10 * RUN_OF_A_QUERY))]
    assert "b" in kinds[: 2 * RUN_OF_A_QUERY]
    assert kinds.count("a") == pytest.approx(kinds.count("b"), abs=RUN_OF_A_QUERY)


def test_a_query_cannot_jump_the_queue_by_being_empty_again_and_again():
    queue = filled(*(f"a{i:04}" for i in range(500)), account="patient")
    served = 0
    for i in range(200):
        add(queue, f"b{i:04}", account="nervous")
        served += texts(taken(queue, 1))[0][0] == "b"
    assert 80 <= served <= 120


@given(st.data())
def test_every_call_is_taken_once(data: st.DataObject) -> None:
    queue: ReadyQueue[Waiting] = ReadyQueue(1)
    names = st.sampled_from(["p", "q", "r"])
    inside: list[Waiting] = []
    out: list[Waiting] = []
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["add", "take", "discard", "order"]))
        if action == "add":
            account, number, fresh = data.draw(names), data.draw(st.integers(0, 2)), data.draw(st.booleans())
            for text in data.draw(st.lists(st.text("abc", max_size=3), max_size=8)):
                inside.append(Waiting(prompt(text), account, OperatorId(account, number)))
                queue.add(inside[-1], fresh=fresh)
        elif action == "take":
            most = data.draw(st.integers(0, 10))
            got = taken(queue, most)
            assert len(got) == min(most, len(inside))
            out += got
            inside = [call for call in inside if call not in got]
        elif action == "order":
            ranks = {OperatorId(q, n): data.draw(st.integers(0, 2)) for q in "pqr" for n in range(3)}
            queue.set_order(DispatchOrder(ranks, data.draw(st.booleans())))
        elif inside:
            victim = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
            queue.discard(victim)
        assert len(queue) == len(inside)
        queue.check_integrity()
        assert {name for name in "pqr" if queue.holds(name)} == {call.account for call in inside}
    out += taken(queue)
    assert len(set(map(id, out))) == len(out)
    assert not queue


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1))
def test_each_prefix_is_entered_once(prompts: list[str]) -> None:
    """What is read is the tokens of the radix tree. No order reads fewer."""
    read = 0
    before = ""
    for text in texts(taken(filled(*prompts))):
        pairs = zip(before, text, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(text)))
        read += len(text) - common
        before = text
    assert read == len({text[:i] for text in prompts for i in range(1, len(text) + 1)})


class TestEngineLoad:
    @staticmethod
    def load(places: int, blocks: int = 100) -> EngineLoad:
        return EngineLoad(EngineInfo("e", "m", "f", 1000, 16, blocks, "1", max_num_seqs=places))

    def test_places_and_a_few_spare(self):
        load = self.load(4)
        assert load.room() == SPARE_CALLS  # nobody knows yet how long the calls are
        for left in range(3 + SPARE_CALLS, -1, -1):
            load.enter(10)
            assert load.room() == left
        load.leave(10)
        assert load.room() == 1

    def test_kv_and_a_few_spare(self):
        load = self.load(64)
        load.enter(400)
        assert load.room() == 3 + SPARE_CALLS
        for left in range(2 + SPARE_CALLS, -1, -1):
            load.enter(400)
            assert load.room() == left

    def test_an_idle_engine_takes_what_is_too_long_for_it(self):
        load = self.load(4, blocks=1)
        load.enter(10**6)
        assert load.room() == SPARE_CALLS
        load.leave(10**6)
        assert load.room() > 0


def test_unordered_calls_keep_the_order_of_their_arrival():
    queue: ReadyQueue[Waiting] = ReadyQueue(1)
    calls = [Waiting(prompt(text)) for text in ("b1", "a1", "b2", "a2")]
    for call in calls:
        queue.add(call, fresh=True, ordered=False)
    queue.check_integrity()
    queue.discard(calls[1])
    assert texts(taken(queue, 2)) == ["b1", "b2"]
    queue.check_integrity()
    queue.share(calls[3], "another query")
    queue.add(Waiting(prompt("a0"), "another query"), ordered=False)
    assert texts(taken(queue)) == ["a2", "a0"]
    assert len(queue) == 0
