"""What spark_helium adds to the time that Spark takes to plan a query.

Each shape is planned in alternation by two sessions of one JVM, one with the extension and one without it: from
the analysed plan to the physical plan, on a new DataFrame each time. Two sessions of one JVM run the same compiled
code, where two JVMs differ by more than what is to be measured. Shapes with LLM calls stand beside the same shapes
with a built-in function in their place; shapes without calls are the same query on both sides.

Beside the clock stand the processor time of the thread that plans, which a busy machine disturbs less, and Spark's
own account of how long our rules ran. These are what to read for the plans without calls, where the difference of
two clock times is mostly noise.

    python benchmarks/planning.py [--rounds 11] [--calls 200] [--only chain] [--out FILE]
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.functions import llm

OUR_RULES = "org.apache.spark.sql.helium."

Call = Callable[..., Column]
Build = Callable[[SparkSession, Call], DataFrame]


def builtin(template: str | Column, *columns: Column | str, **options: object) -> Column:
    """A function of Spark's that reads what ``llm`` would read."""
    if isinstance(template, Column):  # a conversation
        return F.sha2(F.concat_ws("\n", template["content"]), 256)
    texts = [F.lit(template), *(F.col(c) if isinstance(c, str) else c for c in columns)]
    return F.sha2(F.concat(*texts).cast("binary"), 256)


def independent(calls: int) -> Build:
    def build(spark: SparkSession, call: Call) -> DataFrame:
        columns = [call(f"Question {i} about {{0}}?", "body", max_tokens=8).alias(f"a{i}") for i in range(calls)]
        return spark.table("reviews").select("id", *columns)

    return build


def chain(calls: int) -> Build:
    def build(spark: SparkSession, call: Call) -> DataFrame:
        df = spark.table("reviews").withColumn("a0", call("Question 0: {0}", "body", max_tokens=8))
        for i in range(1, calls):
            text = F.concat(F.lit("Before: "), F.col(f"a{i - 1}"), F.lit(f" Step {i}"))
            df = df.withColumn(f"a{i}", call("{0}", text, max_tokens=8))
        return df

    return build


def filters(calls: int) -> Build:
    def build(spark: SparkSession, call: Call) -> DataFrame:
        df = spark.table("reviews")
        for i in range(calls):
            df = df.withColumn(f"a{i}", call(f"Question {i} about {{0}}?", "body", max_tokens=1))
            df = df.filter(F.col(f"a{i}") == "yes")
        return df

    return build


def workflow(trading: Any) -> Build:
    """The trading workflow of the tests, which says ``llm`` by its global name."""

    def build(spark: SparkSession, call: Call) -> DataFrame:
        trading.llm = call
        return trading.trading(spark.table("stocks"))

    return build


def columns_only(columns: int) -> Build:
    def build(spark: SparkSession, call: Call) -> DataFrame:
        return spark.table("reviews").select(
            "id", *[builtin(f"Question {i} about {{0}}?", "body").alias(f"a{i}") for i in range(columns)]
        )

    return build


JOINS = """
    SELECT n_name, o_year, sum(l_price * (1 - l_discount)) AS revenue, count(DISTINCT o_customer) AS customers
    FROM lineitem JOIN orders ON l_order = o_order JOIN customer ON o_customer = c_customer
        JOIN supplier ON l_supplier = s_supplier JOIN nation ON s_nation = n_nation AND c_nation = n_nation
        JOIN region ON n_region = r_region
    WHERE r_name = 'ASIA' AND o_year BETWEEN 1994 AND 1996 AND l_discount > 0.02
        AND l_supplier IN (SELECT s_supplier FROM supplier WHERE s_name LIKE '%a%')
    GROUP BY n_name, o_year HAVING sum(l_price) > (SELECT avg(l_price) FROM lineitem)
    ORDER BY revenue DESC LIMIT 10
"""
TABLES = {
    "reviews": "id long, body string",
    "lineitem": "l_order long, l_supplier long, l_price double, l_discount double",
    "orders": "o_order long, o_customer long, o_year int",
    "customer": "c_customer long, c_nation int, c_name string",
    "supplier": "s_supplier long, s_nation int, s_name string",
    "nation": "n_nation int, n_region int, n_name string",
    "region": "r_region int, r_name string",
    "stocks": ", ".join(
        f"{name} string"
        for name in [
            *["stock", "profile", "prices", "statistics"],
            *[f"{kind}{i}" for kind, count in (("doc", 4), ("news", 5), ("social", 3)) for i in range(count)],
        ]
    ),
}


def joins(spark: SparkSession, call: Call) -> DataFrame:
    return spark.sql(JOINS)


@dataclass(frozen=True)
class Shape:
    name: str
    build: Build
    has_calls: bool
    rounds: int


def shapes(calls: int, rounds: int) -> list[Shape]:
    return [
        Shape(f"independent: {calls} calls of one table", independent(calls), True, rounds),
        Shape(f"chain: {calls} calls, each reads the one before", chain(calls), True, rounds),
        *([Shape("trading: a workflow of 88 calls", workflow(found), True, rounds)] if (found := workflows()) else []),
        Shape(f"filters: {calls} calls, a filter on each before the next", filters(calls), True, (rounds + 1) // 2),
        Shape("joins: 6 tables, aggregate, 2 subqueries, no call", joins, False, 5 * rounds),
        Shape("columns: 200 built-in columns, no call", columns_only(200), False, 5 * rounds),
    ]


def workflows() -> Any | None:
    """The workflows of the tests; None in an installation without the tests."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    try:
        return importlib.import_module("tests.sql.workflows")
    except ImportError:
        return None


def plain_session(spark: SparkSession) -> SparkSession:
    """A session beside the given one without any extension; the builder can only make more of the same."""
    jvm = spark._jvm
    none = jvm.scala.Option.empty()
    nothing = jvm.PythonUtils.toScalaMap({})
    extensions = jvm.org.apache.spark.sql.SparkSessionExtensions()
    context = spark.sparkContext
    made = jvm.org.apache.spark.sql.classic.SparkSession(context._jsc.sc(), none, none, extensions, nothing, nothing)
    return SparkSession(context, made)


def register(spark: SparkSession, directory: str) -> None:
    for name, schema in TABLES.items():
        spark.read.schema(schema).parquet(f"{directory}/{name}").createOrReplaceTempView(name)


@dataclass(frozen=True)
class Sample:
    """Milliseconds of one planning.

    plan, plan_cpu: from the analysed to the physical plan; rules: the part of it that is our rules; analysis_cpu:
    before that, all that the JVM did for the DataFrame.
    """

    plan: float
    plan_cpu: float
    rules: float
    analysis_cpu: float


def measured(spark: SparkSession, shape: Shape, call: Call) -> Sample:
    jvm = spark._jvm
    jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)
    threads = jvm.java.lang.management.ManagementFactory.getThreadMXBean()
    jvm.System.gc()  # so that nobody pays for the garbage of the one before
    cpu = [threads.getCurrentThreadCpuTime()]  # all calls from one thread are one thread in the JVM, too
    execution = shape.build(spark, call)._jdf.queryExecution()
    execution.analyzed()
    cpu.append(threads.getCurrentThreadCpuTime())
    began = time.perf_counter()
    execution.optimizedPlan()
    execution.executedPlan()
    wall = time.perf_counter() - began
    cpu.append(threads.getCurrentThreadCpuTime())
    rules = jvm.scala.jdk.javaapi.CollectionConverters.asJava(execution.tracker().rules())
    ours = sum(s.totalTimeNs() for name, s in dict(rules).items() if name.startswith(OUR_RULES))
    return Sample(1e3 * wall, (cpu[2] - cpu[1]) / 1e6, ours / 1e6, (cpu[1] - cpu[0]) / 1e6)


def compare(helium: SparkSession, plain: SparkSession, shape: Shape, warm: int) -> dict[str, Any]:
    sides: dict[str, tuple[SparkSession, Call]] = {"helium": (helium, llm), "plain": (plain, builtin)}
    samples: dict[str, list[Sample]] = {"helium": [], "plain": []}
    for n in range(warm + shape.rounds):
        for side in sorted(sides, reverse=n % 2 == 0):
            sample = measured(sides[side][0], shape, sides[side][1])
            if n >= warm:
                samples[side].append(sample)

    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(values), 2),
            "min": round(min(values), 2),
            "max": round(max(values), 2),
        }

    pairs = list(zip(samples["helium"], samples["plain"], strict=True))
    return {
        "shape": shape.name,
        "calls": shape.has_calls,
        "rounds": shape.rounds,
        "helium_ms": spread([h.plan for h, _ in pairs]),
        "plain_ms": spread([p.plan for _, p in pairs]),
        "difference_ms": spread([h.plan - p.plan for h, p in pairs]),
        "ratio": spread([h.plan / p.plan for h, p in pairs]),
        "our_rules_ms": spread([h.rules for h, _ in pairs]),
        "plain_cpu_ms": spread([p.plan_cpu for _, p in pairs]),
        "difference_cpu_ms": spread([h.plan_cpu - p.plan_cpu for h, p in pairs]),
        "ratio_cpu": spread([h.plan_cpu / p.plan_cpu for h, p in pairs]),
        "analysis_plain_cpu_ms": spread([p.analysis_cpu for _, p in pairs]),
        "analysis_difference_cpu_ms": spread([h.analysis_cpu - p.analysis_cpu for h, p in pairs]),
    }


COLUMNS = {
    "helium_ms": "with it, ms",
    "plain_ms": "without, ms",
    "difference_ms": "difference, ms",
    "ratio": "ratio",
    "difference_cpu_ms": "difference, CPU ms",
    "ratio_cpu": "ratio, CPU",
    "our_rules_ms": "our rules, ms",
    "analysis_difference_cpu_ms": "difference in analysis, CPU ms",
}


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table: medians, and in brackets the smallest and the largest value."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"

    def cell(value: Mapping[str, float]) -> str:
        return f"{number(value['median'])} ({number(value['min'])} to {number(value['max'])})"

    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for result in results:
        lines.append("| " + " | ".join([result["shape"], *(cell(result[c]) for c in COLUMNS)]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=11, help="of a shape with calls; the others get five times as many"
    )
    parser.add_argument("--warm", type=int, default=6, help="rounds before those that count")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--only", default="", help="shapes whose name begins with this")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "3g")
    )
    with tempfile.TemporaryDirectory() as directory:
        # Nothing is executed: no daemon starts, and the engine is only a name.
        helium = spark_helium.configure(builder, engine="simulator", executor_directory=f"{directory}/d").getOrCreate()
        helium.sparkContext.setLogLevel("ERROR")
        plain = plain_session(helium)
        for name, schema in TABLES.items():
            helium.createDataFrame([], schema).write.parquet(f"{directory}/{name}")
        for spark in (helium, plain):
            register(spark, directory)
        results = []
        for shape in shapes(args.calls, args.rounds):
            if shape.name.startswith(args.only):
                results.append(compare(helium, plain, shape, args.warm))
                print(table(results[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
        helium.stop()
    print(table(results))
    if args.out:
        versions = {"python": platform.python_version(), "pyspark": pyspark.__version__}
        args.out.write_text(json.dumps({"results": results, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
