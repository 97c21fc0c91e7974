"""How good the planned orders are, and what planning costs. Needs no engine.

* Reduced instances of the paper's kind: the makespan in token steps of the planner, of longest-shared-prefix-first
  sorted again after every call (LSPF), of operator-wise, query-wise and random order, against the best known order:
  the best of all of these, of branch and bound, and of annealing from other starts with other seeds and ten times the
  planner's steps.
* The 88 operators of the trading workflow: the time to rank them, and the makespan of the orders at several sizes.
* The call-level tree with 100,000 calls waiting: time per operation.

    python benchmarks/schedules.py [--instances 48] [--seed 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.workloads.agents import Instance, reduced_instances, trading
from spark_helium.trt import orders
from spark_helium.trt.call_tree import CallTree
from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.planner import RUNS, STEPS_PER_CALL, Effort, plan
from spark_helium.trt.ranking import Ranking
from spark_helium.trt.search import OrderSearch
from spark_helium.trt.templates import Placeholder, Template, answer, column
from spark_helium.trt.token_steps import Workload
from spark_helium.trt.tree import Operator, OperatorId, TemplatedRadixTree

RANDOM_SEEDS = 40


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def random_order(workload: Workload, seed: int) -> orders.Sequences:
    """Any of the calls that can start, with equal chances."""
    rng = random.Random(seed)
    return orders.dispatch(workload, lambda worker, call, shared: (rng.getrandbits(60), 0))


def cost(workload: Workload, sequences: orders.Sequences) -> Fraction:
    return workload.simulate(workload.order(sequences)).makespan


def best_known(workload: Workload, at_most: Fraction) -> tuple[Fraction, bool]:
    """A makespan that took far more work than the planner's, and whether it is proven."""
    search = OrderSearch(workload)
    steps = STEPS_PER_CALL * search.size * 5
    best = search.solution(orders.longest_shared_prefix_first(workload))
    for seed in range(RUNS):
        found = search.anneal(best, steps, seed=1000 + seed, heat=(0.05, 0.03, 0.02, 0.01)[seed % 4])
        best = min(best, found, key=lambda solution: solution.makespan)
    for seed in range(RUNS):
        start = search.solution(random_order(workload, seed))
        best = min(best, search.anneal(start, steps, seed=2000 + seed, heat=0.03), key=lambda s: s.makespan)
    proven = False
    if search.size <= 14:
        best, proven = search.exact(best, 200_000)
    return min(workload.steps(best.makespan), at_most), proven


def reduced(count: int, seed: int) -> dict[str, Any]:
    gaps: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {"planner": [], "planner, quick": []}
    proven = 0
    for number, instance in enumerate(reduced_instances(count, seed)):
        workload = workload_from_json(instance)
        costs: dict[str, list[Fraction]] = {}
        for name, effort in (("planner", Effort.THOROUGH), ("planner, quick", Effort.QUICK)):
            took, found = timed(partial(plan, workload, effort))
            costs[name] = [workload.simulate(found.order).makespan]
            seconds[name].append(took)
        costs["LSPF"] = [cost(workload, orders.longest_shared_prefix_first(workload))]
        costs["random"] = [cost(workload, random_order(workload, k)) for k in range(RANDOM_SEEDS)]
        costs["operator-wise"] = [cost(workload, orders.operator_wise(workload))]
        costs["query-wise"] = [cost(workload, orders.query_wise(workload))]
        best, is_proven = best_known(workload, min(min(values) for values in costs.values()))
        proven += is_proven
        for name, values in costs.items():
            gaps.setdefault(name, []).append(100 * float(statistics.mean(values) / best - 1))
        gap = gaps["planner"][-1]
        print(f"  {number + 1:3} {instance['name']:30} {len(workload):3} calls  gap {gap:.2f} %", flush=True)
    for name, values in gaps.items():
        print(f"{name:15} mean gap {statistics.mean(values):7.2f} %   max {max(values):7.2f} %")
    for name, values in seconds.items():
        print(f"{name:15} median {statistics.median(values):.3f} s   max {max(values):.3f} s")
    compared = zip(*(gaps[name] for name in ("planner", "LSPF", "operator-wise", "query-wise")), strict=True)
    behind = sum(planned > min(others) for planned, *others in compared)
    print(f"best known order proven optimal: {proven} of {count}; planner behind LSPF or a fixed order: {behind}")
    return {"gaps": gaps, "seconds": seconds, "proven": proven, "behind": behind}


def tree_of(instance: Instance) -> TemplatedRadixTree:
    """The operators of an instance as the daemon knows them: mean lengths, and columns that are not known."""

    def mean(lengths: int | list[int]) -> float:
        return statistics.mean(lengths) if isinstance(lengths, list) else lengths

    numbers = {operator["id"]: k for k, operator in enumerate(instance["operators"])}
    columns = {name: k for k, name in enumerate(instance["inputs"])}
    statics: dict[str, bytes] = {}
    used = 0
    for name, length in instance["statics"].items():
        statics[name] = array("I", range(used, used + length)).tobytes()
        used += length
    operators = []
    for operator in instance["operators"]:
        symbols: list[bytes | Placeholder] = []
        reads: set[int] = set()
        for segment in operator["prompt"]:
            if "static" in segment:
                symbols.append(statics[segment["static"]])
            elif "input" in segment:
                name = segment["input"]
                symbols.append(column("q", columns[name], mean(instance["inputs"][name]["len"])))
            elif "output" in segment:
                k = numbers[segment["output"]]
                symbols.append(answer("q", k, mean(instance["operators"][k]["out_len"])))
                reads.add(k)
            else:
                symbols.append(Placeholder(("derived", segment["derived"]), mean(segment["len"])))
                reads.update(numbers[name] for name in segment["from"])
        operators.append(Operator(Template(symbols), mean(operator["out_len"]), tuple(sorted(reads))))
    tree = TemplatedRadixTree(16)
    tree.add("q", operators, instance["queries"])
    return tree


def by_dispatch_order(workload: Workload, instance: Instance, ranking: Ranking) -> orders.Sequences:
    """What a dispatcher does that knows the mean lengths only."""
    numbers = {operator["id"]: k for k, operator in enumerate(instance["operators"])}
    order = ranking.order
    rank = [order.ranks[OperatorId("q", numbers[call.id.operator])] for call in workload.calls]
    return orders.dispatch(
        workload,
        lambda worker, call, shared: (-shared, rank[call]) if order.prefix_first else (rank[call], -shared),
    )


def trading_graph() -> list[dict[str, Any]]:
    table = []
    for rows, workers in ((1, 1), (1, 2), (16, 2)):
        instance = trading(rows, workers)
        workload = workload_from_json(instance)
        ranking = Ranking(tree_of(instance), workload.workers)
        times = []
        for _ in range(5):
            times.append(timed(ranking.revise)[0])
        quick, found = timed(partial(plan, workload, Effort.QUICK))
        thorough, best = timed(partial(plan, workload))
        costs = {
            "planner": best.makespan,
            "planner, quick": found.makespan,
            "dispatch order": cost(workload, by_dispatch_order(workload, instance, ranking)),
            "LSPF": cost(workload, orders.longest_shared_prefix_first(workload)),
            "operator-wise": cost(workload, orders.operator_wise(workload)),
            "query-wise": cost(workload, orders.query_wise(workload)),
        }
        print(f"trading, {rows} rows, {workers} workers, {len(workload)} calls:")
        print(f"  ranking the operators: median {1e3 * statistics.median(times):.0f} ms, max {1e3 * max(times):.0f} ms")
        print(f"  planning every call: quick {1e3 * quick:.0f} ms, thorough {1e3 * thorough:.0f} ms")
        for name, makespan in costs.items():
            print(f"  {name:15} {float(makespan):.4g} token steps")
        row = {"rows": rows, "workers": workers, "ranking": times, "quick": quick, "thorough": thorough}
        table.append(row | {"costs": {name: float(value) for name, value in costs.items()}})
    return table


def call_tree(calls: int = 100_000) -> dict[str, float]:
    """Prompts of 500 tokens, of which the first 300 are one of eight."""
    rng = random.Random(0)
    starts = [array("I", (rng.randrange(50_000) for _ in range(300))).tobytes() for _ in range(8)]
    ends = [array("I", (rng.randrange(50_000) for _ in range(200))).tobytes() for _ in range(calls)]
    prompts = [rng.choice(starts) + end for end in ends]
    operators = [OperatorId("q", k) for k in range(8)]
    tree = CallTree(16, recent_tokens=400_000)
    tree.set_order({operator: k for k, operator in enumerate(operators)})
    half = calls // 2
    popped: list[int] = []

    def pop() -> None:
        while len(popped) < half:
            popped.extend(tree.pop(min(1024, half - len(popped))))  # type: ignore[arg-type]

    waiting = range(half, calls)
    times = {
        "add": timed(lambda: [tree.add(k, tokens, operators[k % 8]) for k, tokens in enumerate(prompts)])[0] / calls,
        "pop, eight ranks": timed(pop)[0] / half,
        "shared_tokens": timed(lambda: [tree.shared_tokens(tokens) for tokens in prompts[:10_000]])[0] / 10_000,
        "finish": timed(lambda: [tree.finish(call) for call in popped])[0] / half,
        "discard": timed(lambda: [tree.discard(k) for k in waiting])[0] / half,
    }
    print(f"call-level tree, {calls} calls: " + ", ".join(f"{name} {1e6 * t:.1f} us" for name, t in times.items()))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    results = {
        "trading": trading_graph(),
        "call_tree": call_tree(),
        "reduced": reduced(args.instances, args.seed),
    }
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
