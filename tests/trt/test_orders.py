from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_helium.trt import orders
from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.planner import SIMPLE_ORDERS
from spark_helium.trt.token_steps import Call, CallId, Segment, Worker, Workload
from tests.trt.workloads import best_makespan, calls, random_workload, two_agents


def ids(workload: Workload, sequences: orders.Sequences) -> list[list[str]]:
    return [[f"{workload.calls[n].id.operator}.{workload.calls[n].id.row}" for n in calls] for calls in sequences]


def test_fixed_orders_of_the_worked_example() -> None:
    workload = workload_from_json(two_agents(2))
    assert ids(workload, orders.query_wise(workload)) == ["op1.0 op2.0 op3.0 op1.1 op2.1 op3.1".split()]
    assert ids(workload, orders.operator_wise(workload)) == ["op1.0 op1.1 op2.0 op2.1 op3.0 op3.1".split()]


def test_longest_shared_prefix_first_takes_what_can_start() -> None:
    # op3 shares most with op2 of its row, but its delay is not over when op2 has finished.
    workload = workload_from_json(two_agents(2))
    order = orders.longest_shared_prefix_first(workload)
    assert ids(workload, order) == ["op1.0 op1.1 op2.0 op2.1 op3.0 op3.1".split()]
    soon = workload_from_json(two_agents(2, kv_capacity=100))
    assert ids(soon, orders.longest_shared_prefix_first(soon)) == ["op1.0 op1.1 op2.0 op3.0 op2.1 op3.1".split()]


def test_the_urgent_call_is_the_one_with_most_token_steps_behind_it_not_most_hops() -> None:
    made = [Call(CallId("short", 0), (), 1), Call(CallId("long", 0), (), 1)]
    made += [Call(CallId(f"hop{k}", 0), (), 1, (CallId(f"hop{k - 1}" if k else "short", 0),)) for k in range(3)]
    made += [Call(CallId("writer", 0), (Segment("s", 1000),), 100, (CallId("long", 0),))]
    workload = Workload(made, [Worker("w0", 10)])
    assert ids(workload, orders.urgent_first(workload))[0][0] == "long.0"


def test_rows_are_split_by_tokens() -> None:
    made = [Call(CallId("a", row), (), length) for row, length in enumerate([90, 10, 10, 10, 60])]
    workload = Workload(made, [Worker("w0", 1), Worker("w1", 1)])
    on = {workload.calls[number].id.row: w for number, w in enumerate(orders.split_rows(workload))}
    assert on == {0: 0, 1: 1, 2: 1, 3: 1, 4: 1}


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_simple_orders_can_run(seed: int, workers: int) -> None:
    workload = random_workload(random.Random(seed), 8, workers)
    for make in SIMPLE_ORDERS[:4] if workers > 1 else SIMPLE_ORDERS:
        workload.simulate(workload.order(make(workload)))


@given(st.integers(0, 10**6), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_no_order_is_faster_than_the_longest_tail(seed: int, workers: int) -> None:
    workload = random_workload(random.Random(seed), 4, workers)
    least, tails = orders.least_usages(workload), orders.tail_costs(workload)
    bound = max(workload.steps(usage + tail) for usage, tail in zip(least, tails, strict=True))
    assert bound <= best_makespan(workload)


def test_calls_stay_on_the_workers_they_are_given() -> None:
    workload = workload_from_json(two_agents(2, workers=2))
    on = [call.id.row for call in workload.calls]
    sequences = orders.dispatch(workload, lambda _, call, shared: (-shared, call), on)
    assert [[workload.calls[n].id.row for n in calls] for calls in sequences] == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_free_worker_takes_the_next_call(workers: int) -> None:
    workload = Workload(
        [Call(CallId("a", row), (), 3) for row in range(4)], [Worker(f"w{w}", 1) for w in range(workers)]
    )
    sequences = orders.longest_shared_prefix_first(workload)
    assert [len(sequence) for sequence in sequences] == [4 // workers] * workers
    assert calls("a.0")[0] in workload.order(sequences)["w0"]
