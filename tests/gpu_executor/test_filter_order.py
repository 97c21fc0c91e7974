from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_conditions import And, Condition, Equal, evaluate
from spark_helium.call_graph import Call, CallGraph, CallRef, InputRef, Message, Sampling
from spark_helium.gpu_executor.call_template import Cells
from spark_helium.gpu_executor.engines.base import EngineResult
from spark_helium.gpu_executor.filter_order import LEAST_OBSERVED, FilterOrder, planned_order
from spark_helium.gpu_executor.stream import Answers, CallGroup, Stream


def call(index: int, *parts: Any, guard: Condition | None = None) -> Call:
    return Call(index, "m", (Message("user", (f"call {index} ", InputRef(0), *parts)),), Sampling(16), guard=guard)


def yes(k: int) -> Condition:
    return Equal((CallRef(k),), ("yes",))


TWO = CallGraph((call(0), call(1, guard=yes(0))), 1, (yes(0), yes(1)))


def row(*answers: str | None) -> Cells:
    return Cells([["x"]], [[answer] for answer in answers], 0)


def observe(order: FilterOrder, tokens: list[int], passes: list[float], rows: int = 100) -> None:
    for k, each in enumerate(tokens):
        order.observe_calls(k, rows)
        order.observe_tokens(k, rows * each)
    for i in range(rows):
        order.observe_row(row(*("yes" if i < rows * share else "no" for share in passes)))


class TestPlanned:
    def test_follows_the_guards(self):
        planned = planned_order(TWO)
        assert planned.filters == (0, 1)
        assert planned.guards == (None, yes(0))
        assert planned.dependencies == ((), (0,))
        assert planned.readers == ((1,), ())

    def test_the_guards_say_the_order_of_conditions(self):
        graph = CallGraph((call(0), call(1, guard=yes(0))), 1, (yes(1), yes(0)))
        assert planned_order(graph).filters == (1, 0)


class TestRevise:
    def test_the_condition_that_drops_more_goes_first(self):
        order = FilterOrder(TWO)
        observe(order, [10, 10], [0.9, 0.1])
        assert order.revise()
        assert order.current.filters == (1, 0)
        assert order.current.guards == (yes(1), None)
        assert order.current.dependencies == ((1,), ())
        assert not order.revise()

    def test_the_cheaper_one_goes_first(self):
        order = FilterOrder(TWO)
        observe(order, [100, 10], [0.5, 0.5])
        assert order.revise()
        assert order.current.filters == (1, 0)

    def test_not_on_a_whim(self):
        order = FilterOrder(TWO)
        observe(order, [100, 10], [0.5, 0.5], rows=LEAST_OBSERVED - 1)
        assert not order.revise()
        nearly_equal = FilterOrder(TWO)
        observe(nearly_equal, [10, 10], [0.5, 0.48])
        assert not nearly_equal.revise()

    def test_a_condition_that_needs_no_more_calls_is_free(self):
        more = Equal((CallRef(0),), ("no",))
        order = FilterOrder(CallGraph((call(0), call(1, guard=And((yes(0), more)))), 1, (yes(0), more, yes(1))))
        observe(order, [10, 100], [0.9, 0.1])
        order.revise()
        assert order.current.filters[-1] == 2

    def test_what_a_prompt_reads_comes_before_it(self):
        graph = CallGraph((call(0), call(1, CallRef(0)), call(2)), 1, (yes(1), yes(2)))
        order = FilterOrder(graph)
        observe(order, [10, 10, 10], [0.5, 0.5, 0.1])
        assert order.revise()
        assert order.current.guards == (yes(2), yes(2), None)
        assert order.current.dependencies == ((2,), (0, 2), ())

    def test_a_guard_of_the_query_stays(self):
        own = Equal((InputRef(0),), ("x",))
        order = FilterOrder(CallGraph((call(0, guard=own), call(1, guard=And((yes(0), own)))), 1, (yes(0), yes(1))))
        observe(order, [100, 10], [0.5, 0.5])
        assert order.revise()
        assert order.current.guards == (And((yes(1), own)), own)

    def test_only_answers_that_are_there_count(self):
        order = FilterOrder(TWO)
        for _ in range(100):
            order.observe_row(row("no", None))
        assert order._evaluated == [100, 0]

    def test_a_condition_that_was_not_looked_at_stays_behind_the_others(self):
        calls = (call(0), call(1, guard=yes(0)), call(2, guard=And((yes(0), yes(1)))))
        order = FilterOrder(CallGraph(calls, 1, (yes(0), yes(1), yes(2))))
        for k, asked in enumerate([100, 100, 0]):
            order.observe_calls(k, asked)
            order.observe_tokens(k, 10 * asked)
        for _ in range(100):
            order.observe_row(row("yes", "no", None))
        assert order.revise()
        assert order.current.filters == (1, 0, 2)

    def test_one_condition_leaves_nothing_to_order(self):
        assert not FilterOrder(CallGraph((call(0),), 1, (yes(0),))).is_free


def run(graph: CallGraph, revised: bool, rows: list[tuple[str, ...]]) -> list[list[str | None]]:
    """The answers of every row, with call ``k`` of row ``i`` answered ``rows[i][k]``."""
    found: dict[int, list[str | None]] = {}

    def deliver(answers: Any) -> None:
        assert isinstance(answers, Answers)
        for position, number in enumerate(answers.rows):
            assert number not in found
            found[number] = [texts[position] for texts in answers.texts]

    stream = Stream(graph, deliver)
    if revised:
        stream.state.filters = Revised(graph)
    left: list[CallGroup] = stream.arrive([[str(i) for i in range(len(rows))]], len(rows))
    while left or stream.has_backlog:
        if not left:
            left = stream.more()
            continue
        group = left.pop()
        for i in group.rows:
            stream.state.answered(group.call, EngineResult(0, "", 10, 0, 3))
            left += stream.settle(group.batch, group.call, i, rows[i][group.call])
    stream.publish()
    assert sorted(found) == list(range(len(rows)))
    return [found[i] for i in range(len(rows))]


class Revised(FilterOrder):
    """Takes another order at every chance."""

    def __init__(self, graph: CallGraph) -> None:
        super().__init__(graph)
        self._turn = 0

    def revise(self) -> bool:
        self._turn += 1
        orders = list(permutations(range(len(self._graph.filters))))
        self.current = self._order_of(orders[self._turn % len(orders)])
        return True


@given(st.data())
def test_every_order_keeps_the_same_rows_with_the_same_answers(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4))
    reads = [data.draw(st.sets(st.integers(0, k - 1), max_size=1)) if k else set() for k in range(count)]
    filters = tuple(yes(k) for k in range(count) if data.draw(st.booleans()) or k == 0)
    calls = tuple(call(k, *(CallRef(r) for r in reads[k])) for k in range(count))
    graph = CallGraph(calls, 1, filters)
    answers = st.tuples(*[st.sampled_from(["yes", "no"])] * count)
    rows = data.draw(st.lists(answers, min_size=40, max_size=120))

    def kept(answered: list[list[str | None]]) -> dict[int, list[str | None]]:
        passing = {}
        for i, texts in enumerate(answered):
            cells = Cells([["x"]], [[text] for text in texts], 0)
            if all(evaluate(f, cells) is True for f in filters):
                passing[i] = texts
        return passing

    planned, revised = run(graph, False, rows), run(graph, True, rows)
    assert kept(planned) == kept(revised)
    assert {
        i for i, texts in enumerate(rows) if all(texts[k] == "yes" for k in range(count) if yes(k) in filters)
    } == set(kept(planned))
