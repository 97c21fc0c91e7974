from __future__ import annotations

import pytest

from spark_helium.gpu_executor.engines.base import pack_tokens
from spark_helium.trt import orders, ranking
from spark_helium.trt.ranking import DispatchOrder, Ranking
from spark_helium.trt.templates import Placeholder, Template, answer, column, known
from spark_helium.trt.token_steps import Worker
from spark_helium.trt.tree import Operator, OperatorId, TemplatedRadixTree

WORKERS = [Worker("w0", 10_000)]


def op(
    *symbols: int | Placeholder, output: float = 50, reads: tuple[int, ...] = (), selectivity: float = 1.0
) -> Operator:
    """An operator whose runs of tokens are given by their length; equal lengths are equal tokens."""
    runs = [s if isinstance(s, Placeholder) else pack_tokens([s] * s) for s in symbols]
    return Operator(Template(runs), output, reads, selectivity)


def q(query: str = "q", tokens: float = 100) -> Placeholder:
    return column(query, 0, tokens)


def tree_of(*operators: Operator, rows: float = 1, block_size: int = 16) -> TemplatedRadixTree:
    tree = TemplatedRadixTree(block_size)
    tree.add("q", list(operators), rows)
    return tree


def ranks(order: DispatchOrder) -> list[int]:
    return [order.ranks[id_] for id_ in sorted(order.ranks)]


def test_the_operator_with_most_token_steps_behind_it_comes_first() -> None:
    # Three short hops against one long answer: by hops it would be the other way round.
    tree = tree_of(
        op(20, q(), output=1),
        op(30, answer("q", 0, 1), output=1, reads=(0,)),
        op(31, answer("q", 1, 1), output=1, reads=(1,)),
        op(40, q(), output=200),
        op(50, answer("q", 3, 200), output=200, reads=(3,)),
    )
    planned = Ranking(tree, WORKERS)
    assert planned.revise()
    order = ranks(planned.order)
    assert order[3] < order[0]
    assert order[3] < order[4]


def test_the_sample_is_the_query() -> None:
    tree = tree_of(
        op(20, known("document", 300), q(), output=10),
        op(30, answer("q", 0, 10), output=20, reads=(0,), selectivity=0.5),
        rows=3,
    )
    workload = Ranking(tree, WORKERS).sample()
    by_id = {(call.id.operator, call.id.row): call for call in workload.calls}
    assert set(by_id) == {("0", 0), ("0", 1), ("0", 2), ("1", 0), ("1", 1)}
    assert [segment.tokens for segment in by_id["0", 0].prompt] == [20, 300, 100]
    # Everything but the column is the same text in every row.
    shared = [a.key == b.key for a, b in zip(by_id["0", 0].prompt, by_id["0", 1].prompt, strict=True)]
    assert shared == [True, True, False]
    assert by_id["1", 1].reads == (("0", 1),)
    assert by_id["1", 1].output_tokens == 15  # half of three rows have one of 20
    assert workload.workers[0].kv_capacity == 10_000


def test_few_rows_of_the_sample_stand_for_all() -> None:
    tree = tree_of(op(20, q()), op(30, q()), rows=1000)
    workload = Ranking(tree, WORKERS).sample()
    assert len(workload) == ranking.SAMPLE_CALLS
    assert workload.workers[0].kv_capacity == 10_000 * ranking.SAMPLE_CALLS // 2000


def test_answers_that_turn_out_long_change_the_order() -> None:
    tree = tree_of(
        op(20, q(), output=10),
        op(30, answer("q", 0, 10), output=10, reads=(0,)),
        op(40, q(), output=20),
        op(50, answer("q", 2, 20), output=20, reads=(2,)),
    )
    planned = Ranking(tree, WORKERS)
    planned.revise()
    before = ranks(planned.order)
    assert before[2] < before[0]
    assert not planned.is_stale
    planned.observe(OperatorId("q", 0), prompt_tokens=100 * 120, output_tokens=100 * 400, calls=100)
    assert planned.is_stale
    assert planned.revise()
    after = ranks(planned.order)
    assert after[0] < after[2]
    assert not planned.is_stale
    assert not planned.revise()  # nothing was observed since
    # What reads the answer has a longer prompt now.
    sample = planned.sample()
    (reader,) = (call for call in sample.calls if call.id.operator == "1")
    assert reader.prompt_tokens == pytest.approx(30 + 400, rel=0.05)


def test_what_was_expected_makes_no_order_stale() -> None:
    tree = tree_of(op(20, q(tokens=100), output=10), op(30, q(), answer("q", 0, 10), reads=(0,), selectivity=0.5))
    planned = Ranking(tree, WORKERS)
    planned.revise()
    planned.observe(OperatorId("q", 0), prompt_tokens=50 * 121, output_tokens=50 * 11, calls=50)
    planned.observe_guard(OperatorId("q", 1), 26, 50)
    assert not planned.is_stale
    tree.expect("q", 30)
    assert planned.is_stale


def test_guards_that_drop_nearly_all_rows_change_the_order() -> None:
    tree = tree_of(
        op(20, q(), output=50),
        op(30, answer("q", 0, 50), output=50, reads=(0,), selectivity=1.0),
        op(31, answer("q", 1, 50), output=50, reads=(1,)),
        op(40, q(), output=40),
        op(50, answer("q", 3, 40), output=40, reads=(3,)),
    )
    planned = Ranking(tree, WORKERS)
    planned.revise()
    assert ranks(planned.order)[0] < ranks(planned.order)[3]
    planned.observe_guard(OperatorId("q", 1), passed=2, total=1000)
    assert planned.revise()
    assert ranks(planned.order)[3] < ranks(planned.order)[0]


def test_columns_learn_their_length_and_answers_do_not() -> None:
    tree = tree_of(op(20, q(tokens=100), column("q", 1, 300)), op(30, q(), answer("q", 0, 50), reads=(0,)))
    planned = Ranking(tree, WORKERS)
    planned.observe(OperatorId("q", 0), prompt_tokens=1000 * (20 + 800), output_tokens=1000 * 50, calls=1000)
    prompts = {call.id.operator: [s.tokens for s in call.prompt] for call in planned.sample().calls}
    assert prompts["0"] == [20, pytest.approx(200, rel=0.01), pytest.approx(600, rel=0.01)]
    assert prompts["1"] == [30, pytest.approx(200, rel=0.01), 50]


def test_queries_come_and_go() -> None:
    tree = tree_of(op(20, q()))
    planned = Ranking(tree, WORKERS)
    assert planned.is_stale
    assert planned.revise()
    assert not planned.revise()
    tree.add("late", [op(20, q("late")), op(30, answer("late", 0, 50), reads=(0,))])
    assert planned.is_stale
    assert planned.revise()
    assert set(planned.order.ranks) == {OperatorId("q", 0), OperatorId("late", 0), OperatorId("late", 1)}
    planned.observe(OperatorId("late", 0), 100, 70)
    tree.remove("late")
    assert planned.is_stale
    assert planned.revise()
    assert set(planned.order.ranks) == {OperatorId("q", 0)}
    tree.remove("q")
    assert planned.revise()
    assert planned.order == DispatchOrder({})


def test_what_cannot_have_been_observed() -> None:
    planned = Ranking(tree_of(op(20, q())), WORKERS)
    with pytest.raises(ValueError, match="3 of 2 rows"):
        planned.observe_guard(OperatorId("q", 0), 3, 2)
    with pytest.raises(KeyError):
        planned.observe(OperatorId("x", 0), 1, 1)
    planned.observe(OperatorId("q", 0), 0, 0, calls=0)
    assert planned.sample().calls[0].output_tokens == 50


def test_the_order_is_not_behind_the_longest_shared_prefix_on_the_sample_that_decides() -> None:
    for seed in range(6):
        operators = [op(20 + k, q(tokens=50 * (seed + 1)), output=10 + 37 * (k * seed % 5)) for k in range(4)]
        operators += [op(60 + k, q(), answer("q", k, 10), output=20 + 11 * seed * k % 90, reads=(k,)) for k in range(4)]
        tree = tree_of(*operators, rows=3)
        planned = Ranking(tree, [Worker("w0", 500 * seed), Worker("w1", 500 * seed)])
        planned.revise()
        workload = planned.sample()
        by_call = [planned.order.ranks[OperatorId("q", int(call.id.operator))] for call in workload.calls]

        def chosen(_: int, call: int, shared: int) -> tuple[int, int]:
            rank = by_call[call]  # noqa: B023
            return (-shared, rank) if planned.order.prefix_first else (rank, -shared)  # noqa: B023

        sequences = orders.dispatch(workload, chosen)
        makespan = workload.simulate(workload.order(sequences)).makespan
        lspf = orders.dispatch(workload, lambda worker, call, shared: (-shared, 0))
        assert makespan * ranking.CLEARLY <= workload.simulate(workload.order(lspf)).makespan
        assert workload.simulate(workload.order(orders.operator_wise(workload))).makespan >= makespan


def test_operators_that_generate_nothing_need_no_order() -> None:
    tree = tree_of(op(20, q(), output=0), op(30, q(), output=0))
    planned = Ranking(tree, WORKERS)
    assert not planned.revise()
    assert planned.order.ranks == {}
    assert not planned.is_stale
