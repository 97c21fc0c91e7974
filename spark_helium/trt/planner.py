"""The best order of a workload whose calls are all known.

Helium (arXiv 2603.16104, scheduling section) descends the tree once, by hops to the sink, under one clock for all
workers, and cuts rows into equal ranges. Here orders are compared by what they cost: simple ones first, then a search
that moves calls and rows between places and workers, with a clock per worker. The result is never behind query-wise,
operator-wise or longest-shared-prefix-first order, because the search starts from these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import partial

from spark_helium.trt import orders
from spark_helium.trt.search import OrderSearch, Solution
from spark_helium.trt.token_steps import CallId, Workload

# Sizes of the search; all times are of one core of a small server, for the sizes named.
RUNS = 20  # annealing runs: half from the best simple order, half from the best that those found
STEPS_PER_CALL = 400
MOST_STEPS_TIMES_CALLS = 400_000  # a step costs O(calls): larger workloads get fewer, and a run stays below 0.1 s
QUICK_STEPS_TIMES_CALLS = 60_000  # some 10 ms
BEAM_TIMES_CALLS = 600
MOST_CALLS_BEAMED = 64
MOST_CALLS_PROVEN = 14
NODES = 30_000
MOST_CALLS_SEARCHED = 500  # a search has a table of calls x calls
HEATS = (0.01, 0.02, 0.04)
LOW_HEATS = (0.005, 0.01, 0.02)

SIMPLE_ORDERS: tuple[Callable[[Workload], orders.Sequences], ...] = (
    *(partial(orders.urgent_first, weight=weight) for weight in (1, 0, 4, 16, 32, 64)),
    orders.longest_shared_prefix_first,
    orders.operator_wise,
    orders.query_wise,
)


class Effort(Enum):
    """How long to search: ``QUICK`` is for planning while a query waits, ``THOROUGH`` for planning ahead; ``AUTO`` is
    thorough up to :data:`MOST_CALLS_BEAMED` calls, and quick from there on.
    """

    AUTO = "auto"
    QUICK = "quick"
    THOROUGH = "thorough"


@dataclass(frozen=True, slots=True)
class Plan:
    """An order, its makespan in token steps, and whether no order has a smaller one, as far as that was proven."""

    order: dict[str, list[CallId]]
    makespan: Fraction
    optimal: bool


def plan(workload: Workload, effort: Effort = Effort.AUTO) -> Plan:
    """An order of all calls with a small makespan; equal workloads give equal plans.

    Up to :data:`MOST_CALLS_SEARCHED` calls the time is bounded by the constants above: a second or two for
    ``THOROUGH``, and some 0.05 s for ``QUICK``. Larger workloads get the best of the orders of
    :mod:`~spark_helium.trt.orders`, which takes O(calls x calls that can start at a time).
    """
    if not len(workload):
        return Plan(workload.order([[] for _ in workload.workers]), Fraction(0), True)
    simple = [make(workload) for make in SIMPLE_ORDERS]
    if len(workload) > MOST_CALLS_SEARCHED:
        candidates = [workload.order(sequences) for sequences in simple]
        makespan, at = min((workload.simulate(order).makespan, k) for k, order in enumerate(candidates))
        return Plan(candidates[at], makespan, False)
    search = OrderSearch(workload)
    found = [search.solution(sequences) for sequences in simple]
    best, optimal = _searched(search, found, effort)
    return Plan(workload.order(best.sequences(search.workers)), workload.steps(best.makespan), optimal)


def _searched(search: OrderSearch, found: list[Solution], effort: Effort) -> tuple[Solution, bool]:
    best = _best(found)
    if effort is Effort.QUICK or (effort is Effort.AUTO and search.size > MOST_CALLS_BEAMED):
        return search.anneal(best, QUICK_STEPS_TIMES_CALLS // search.size, heat=LOW_HEATS[0]), False
    if search.size <= MOST_CALLS_BEAMED:
        best = _best([best, search.beam(BEAM_TIMES_CALLS // search.size)])
    steps = min(STEPS_PER_CALL * search.size, MOST_STEPS_TIMES_CALLS // search.size)
    start = best
    for run in range(RUNS // 2):
        best = _best([best, search.anneal(start, steps, seed=run, heat=HEATS[run % len(HEATS)])])
    for run in range(RUNS // 2, RUNS):
        best = _best([best, search.anneal(best, steps, seed=run, heat=LOW_HEATS[run % len(LOW_HEATS)])])
    if search.size > MOST_CALLS_PROVEN:
        return best, False
    return search.exact(best, NODES)


def _best(solutions: list[Solution]) -> Solution:
    """The first of the smallest makespan."""
    return min(solutions, key=lambda solution: solution.makespan)
