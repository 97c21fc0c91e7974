"""Scaling: what is ours is measured here (planning, the daemon), GPUs are a model (``benchmarks/h100.py``).

* planning: a query with a call over tables of 10 thousand to 10 million rows, from the analysed plan to the physical
one.
* the schedule: ranking the operators of the trading workflow for 1 to 64 engines, and placing a row on one of them.
* the daemon: rows through SQL, Arrow, the node's daemon and the simulator without delays, per row.
* curves: strong scaling of one table over 1 to 64 nodes, weak scaling with a table that grows with them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_helium
from benchmarks import h100, schedules
from benchmarks.compare import environment
from benchmarks.engines import SIMULATOR, EngineSettings
from benchmarks.systems.spark import spark_session
from benchmarks.workloads.agents import trading
from spark_helium.functions import llm
from spark_helium.trt.call_tree import CallTree
from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.placement import Placement
from spark_helium.trt.ranking import Ranking
from spark_helium.trt.token_steps import Worker
from spark_helium.trt.tree import OperatorId

NODES = (1, 2, 4, 8, 16, 32, 64)
ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
WEAK_ROWS_PER_NODE = 100_000
DEFAULT_DAEMON_ROWS = 50_000
REVIEW = "The parcel came two days late and the box was dented, but the lamp inside still works as it should. "


def run(options: argparse.Namespace) -> None:
    """Run the suite; ``--rows`` is the number of rows through the daemon. Writes ``OUT/scale/scale.json``."""
    rows = options.rows or DEFAULT_DAEMON_ROWS
    with spark_session(EngineSettings(SIMULATOR)) as spark:
        record: dict[str, Any] = {"suite": "scale", "daemon": _daemon(spark, rows, options.rounds)}
        record["planning"] = [_planning(spark, size, options.rounds) for size in ROWS]
        record["scheduling"] = [_scheduling(nodes, options.rounds) for nodes in NODES]
    per_row = record["daemon"]["seconds_per_row"]["median"]
    curves = []
    for policy in (h100.BY_PREFIX, h100.AS_THEY_COME):
        for nodes in NODES:
            for size in ROWS:
                curves.append(_point("strong", policy, size, nodes, per_row))
            curves.append(_point("weak", policy, WEAK_ROWS_PER_NODE * nodes, nodes, per_row))
    record |= {"curves": curves, "node": asdict(h100.Node()), "work": asdict(h100.Work()), "environment": environment()}
    path = Path(options.out) / "scale" / "scale.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def _point(kind: str, policy: str, rows: int, nodes: int, daemon_seconds_per_row: float) -> dict[str, Any]:
    found = h100.simulate(rows, nodes, policy, daemon_seconds_per_row)
    return {"kind": kind, "policy": policy, "rows": rows, "nodes": nodes, **asdict(found)}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _daemon(spark: SparkSession, rows: int, rounds: int) -> dict[str, Any]:
    seconds = []
    for round_ in range(-1, rounds):
        count = rows if round_ >= 0 else 1_000  # the first warms up
        body = F.concat(F.lit(f"{round_} "), F.col("id").cast("string"), F.lit(" " + REVIEW * 2))
        table = spark.range(0, count, 1, 2).select(body.alias("body"))
        began = time.perf_counter()
        with spark_helium.measure(spark) as usage:
            table.select(llm("Good or bad? {0}", "body", max_tokens=4)).write.format("noop").mode("overwrite").save()
        if round_ >= 0:
            seconds.append((time.perf_counter() - began) / count)
            if usage.calls_sent != count:
                raise RuntimeError(f"the simulator was asked {usage.calls_sent} of {count} calls")
    print(f"scale: the daemon took {1e6 * statistics.median(seconds):.0f} microseconds a row", file=sys.stderr)
    return {"rows": rows, "seconds_per_row": _spread(seconds)}


def _planning(spark: SparkSession, rows: int, rounds: int) -> dict[str, Any]:
    times = []
    for _ in range(rounds + 2):
        table = spark.range(rows).select(
            (F.col("id") % 1000).alias("product"), F.col("id").cast("string").alias("body")
        )
        asked = table.select("product", llm("Good or bad? {0}", "body", max_tokens=4).alias("tone"))
        query = asked.where("tone = 'good' and product < 10").groupBy("product").count()
        began = time.perf_counter()
        query._jdf.queryExecution().executedPlan()
        times.append(time.perf_counter() - began)
    return {"rows": rows, "seconds": _spread(times[2:])}


def _scheduling(nodes: int, rounds: int) -> dict[str, Any]:
    instance = trading(16, nodes)
    workload_from_json(instance)
    times = []
    for _ in range(rounds):
        ranking = Ranking(schedules.tree_of(instance), [Worker(f"w{w}", 478_560) for w in range(nodes)])
        began = time.perf_counter()
        ranking.revise()
        times.append(time.perf_counter() - began)
    trees = [CallTree(16) for _ in range(nodes)]
    placement = Placement(trees)
    prompts = [array("I", [k % 97] * 300 + [k] * 50).tobytes() for k in range(2_000)]
    began = time.perf_counter()
    for k, tokens in enumerate(prompts):
        trees[placement.place(k, k, tokens, 8.0)].add(k, tokens, OperatorId("q", 0))
    return {"nodes": nodes, "ranking_seconds": _spread(times), "place_seconds": (time.perf_counter() - began) / 2_000}
