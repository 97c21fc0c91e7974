from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workloads.agents import reduced_instances, trading
from spark_helium.trt import orders, planner
from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.planner import Effort, plan
from spark_helium.trt.search import OrderSearch
from spark_helium.trt.token_steps import Worker, Workload
from tests.trt.workloads import best_makespan, random_workload, two_agents


@pytest.mark.parametrize(("rows", "optimum"), [(1, 63_150), (2, 74_300), (4, 93_050)])
def test_optimum_of_the_worked_example(rows: int, optimum: int) -> None:
    found = plan(workload_from_json(two_agents(rows)))
    assert (found.makespan, found.optimal) == (optimum, True)


@pytest.mark.parametrize(("rows", "helium", "attainable"), [(4, 96_700, 93_050), (5, 107_750, 104_625)])
def test_ahead_of_helium_s_own_plan(rows: int, helium: int, attainable: int) -> None:
    assert plan(workload_from_json(two_agents(rows))).makespan <= attainable < helium


@given(st.integers(0, 10**6), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_small_workloads_are_solved(seed: int, workers: int) -> None:
    workload = random_workload(random.Random(seed), 5 if workers == 1 else 4, workers)
    found = plan(workload)
    assert found.optimal
    assert found.makespan == best_makespan(workload) == workload.simulate(found.order).makespan


@pytest.mark.parametrize("instance", reduced_instances(24, seed=7), ids=lambda instance: instance["name"])
def test_never_behind_simple_orders(instance: dict[str, object]) -> None:
    workload = workload_from_json(instance)
    effort = Effort.THOROUGH if len(workload) <= 8 else Effort.QUICK
    found = plan(workload, effort)
    assert workload.simulate(found.order).makespan == found.makespan
    for make in (orders.longest_shared_prefix_first, orders.operator_wise, orders.query_wise):
        assert found.makespan <= workload.simulate(workload.order(make(workload))).makespan


def test_gap_to_the_optimum_on_instances_of_the_paper_s_kind() -> None:
    """The search without its proof, against branch and bound from scratch, where that ends."""
    gaps = []
    for instance in reduced_instances(48, seed=11):
        workload = workload_from_json(instance)
        if len(workload) > 9:
            continue
        search = OrderSearch(workload)
        optimum, proven = search.exact(search.solution(orders.query_wise(workload)), 100_000)
        if proven:
            gaps.append(planner.plan(workload).makespan / workload.steps(optimum.makespan) - 1)
    assert len(gaps) >= 8
    assert max(gaps) == 0


def test_workers_of_different_speed_get_work_by_their_speed() -> None:
    workload = workload_from_json(two_agents(6))
    fast, slow = Worker("fast", 1000), Worker("slow", 1000, 3 * Worker("", 0).alpha)
    found = plan(Workload(workload.calls, [fast, slow]), Effort.QUICK)
    assert 0 < len(found.order["slow"]) < len(found.order["fast"])


def test_large_workloads_get_the_best_simple_order(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = workload_from_json(trading(1, 2))
    best = min(workload.simulate(workload.order(make(workload))).makespan for make in planner.SIMPLE_ORDERS)
    monkeypatch.setattr(planner, "MOST_CALLS_SEARCHED", 87)
    assert plan(workload).makespan == best
    monkeypatch.setattr(planner, "MOST_CALLS_SEARCHED", 88)
    assert plan(workload, Effort.QUICK).makespan <= best
    monkeypatch.setattr(planner, "SIMPLE_ORDERS", [orders.query_wise])  # which leaves more to find
    assert (
        plan(workload, Effort.QUICK).makespan < workload.simulate(workload.order(orders.query_wise(workload))).makespan
    )


def test_no_calls() -> None:
    found = plan(Workload([], [Worker("w0", 10)]))
    assert (found.order, found.makespan, found.optimal) == ({"w0": []}, 0, True)


def test_plans_do_not_depend_on_the_process() -> None:
    """Hash seeds differ between processes, so that an order from a set would differ too."""
    program = (
        "from benchmarks.workloads.agents import reduced_instances\n"
        "from spark_helium.trt.instance import schedule_to_json, workload_from_json\n"
        "from spark_helium.trt.planner import Effort, plan\n"
        "for instance in reduced_instances(12, seed=3):\n"
        "    print(schedule_to_json(plan(workload_from_json(instance), Effort.QUICK).order))\n"
    )
    root = str(Path(__file__).parents[2])
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_many_calls_are_planned_quickly_unless_asked_otherwise() -> None:
    few, many = workload_from_json(two_agents(2)), workload_from_json(two_agents(30))
    assert len(few) <= planner.MOST_CALLS_BEAMED < len(many)
    assert plan(few) == plan(few, Effort.THOROUGH)
    assert plan(many) == plan(many, Effort.QUICK)
