from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from spark_helium.trt import orders
from spark_helium.trt.search import OrderSearch, Solution
from tests.trt.workloads import best_makespan, random_workload


def can_run(search: OrderSearch, solution: Solution) -> bool:
    """Whether the workers' sequences can run and take as long as the solution says."""
    workload = search.workload
    timing = workload.simulate(workload.order(solution.sequences(search.workers)))
    return timing.makespan == workload.steps(solution.makespan)


@given(st.integers(0, 10**6), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_exact_search_finds_the_optimum(seed: int, workers: int) -> None:
    workload = random_workload(random.Random(seed), 5 if workers == 1 else 4, workers)
    search = OrderSearch(workload)
    start = search.solution(orders.urgent_first(workload))
    best, proven = search.exact(start, 100_000)
    assert proven
    assert workload.steps(best.makespan) == best_makespan(workload)
    assert can_run(search, best)


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_every_search_gives_orders_that_run_and_are_no_worse(seed: int, workers: int) -> None:
    workload = random_workload(random.Random(seed), 9, workers)
    search = OrderSearch(workload)
    start = search.solution(orders.longest_shared_prefix_first(workload))
    annealed = search.anneal(start, 300, seed=seed)
    few_nodes, _ = search.exact(start, 50)
    beam = search.beam(5)
    for solution in (start, annealed, few_nodes, beam):
        assert can_run(search, solution)
        assert sorted(solution.sequence) == list(range(len(workload)))
    assert annealed.makespan <= start.makespan
    assert few_nodes.makespan <= start.makespan
    assert search.anneal(start, 300, seed=seed) == annealed


def test_a_proof_that_ran_out_of_nodes_is_none() -> None:
    workload = random_workload(random.Random(3), 9, 2)
    search = OrderSearch(workload)
    _, proven = search.exact(search.beam(1), 2)
    assert not proven
