"""What the order of a record's fields is worth, and what it costs to find.

For each table given by its path, all columns but those of --without are asked for with ``fields``, in five orders: as
written; by statistics (ANALYZE TABLE; one order for all rows); by a sample, one order for all rows; by a
sample, greedy group recursion (an order by the values of each row); and the one that the optimizer takes. Of each

* *radix*: the share of prompt tokens that a prompt has in common with the one before, all prompts in the order
  of their tokens: what a KV cache without a limit could give. Tokens are those of the built-in model.
* *simulator*: the share that the simulator found in a KV cache of --kv-blocks blocks of 16 tokens, with the rows in the
  order of the file and calls in the order of the node daemon. Its tokens are four bytes each.

Equal prompts count once, as they are one call. Planning is timed from the analysed plan to the optimized one, the
job for the sample included, with the rule on and off in alternation, on a filter that is new each time, so that each
round reads and looks at a sample; beside the tables on 10,000 generated rows of ten fields.

    python benchmarks/fields.py TABLE.parquet ... [--without COLUMN,...] [--kv-blocks 1024] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyspark
from py4j.java_gateway import JavaObject
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from tokenizers import Tokenizer

import spark_helium
from spark_helium.conf import Settings
from spark_helium.functions import llm
from spark_helium.gpu_executor import models

QUESTION = "Is this a good buy? Answer with yes or no, by these fields alone: "
ON = "spark.helium.optimizer.orderFields.enabled"
SAMPLE = "spark.helium.optimizer.orderFields.sampleRows"


def asked(df: DataFrame) -> DataFrame:
    return df.select(llm(QUESTION + "{fields}", fields=df.columns, max_tokens=1).alias("answer"))


def record_of(df: DataFrame) -> tuple[JavaObject, JavaObject]:
    """The record in the optimized plan of a query, and the plan that it reads from."""
    plan = asked(df)._jdf.queryExecution().optimizedPlan()
    while plan.nodeName() != "EvalLLM":
        plan = plan.children().apply(0)
    return plan.calls().apply(0).arguments().apply(0), plan.child()


def groups_of(spark: SparkSession, record: JavaObject, child: JavaObject, rows: int) -> JavaObject:
    """The planner's view of a sample."""
    jvm = spark._jvm
    jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)
    found = jvm.org.apache.spark.sql.helium.statistics.FieldSample.of(record.values(), child, rows)
    sample = found.toOption().get()
    texts = jvm.scala.collection.mutable.ArrayBuffer()
    for i in range(sample.size()):
        texts.append(record.texts(sample.apply(i)))
    return jvm.org.apache.spark.sql.helium.statistics.FieldGroups(texts.toIndexedSeq(), record.overheads())


def prompts_of(spark: SparkSession, record: JavaObject, order: JavaObject, child: JavaObject) -> list[str]:
    """The prompts of all rows, in the order of the rows."""
    jvm = spark._jvm
    expressions = jvm.org.apache.spark.sql.catalyst.expressions
    none, nil = jvm.scala.Option.empty(), jvm.scala.collection.immutable.List.newBuilder().result()
    ordered = record.copy(record.names(), record.values(), order, record.timeZoneId())
    alias = expressions.Alias(ordered, "record", expressions.NamedExpression.newExprId(), nil, none, nil)
    project = jvm.org.apache.spark.sql.catalyst.plans.logical.Project(nil.prepended(alias), child)
    rows = DataFrame(jvm.org.apache.spark.sql.classic.Dataset.ofRows(spark._jsparkSession, project), spark)
    return [QUESTION + row.record for row in rows.collect()]


def radix_share(prompts: list[str], tokenizer: Tokenizer) -> float:
    """Tokens in common with the prompt before, of all tokens; in the order of the tokens."""
    encoded = sorted(tuple(e.ids) for e in tokenizer.encode_batch(sorted(set(prompts))))
    shared = 0
    for before, prompt in itertools.pairwise(encoded):
        for a, b in zip(before, prompt, strict=False):
            if a != b:
                break
            shared += 1
    return shared / sum(map(len, encoded))


def simulated_share(spark: SparkSession, prompts: list[str]) -> float:
    df = spark.createDataFrame([(prompt,) for prompt in prompts], "prompt string").coalesce(1)
    with spark_helium.measure(spark) as run:
        df.select(llm("{0}", "prompt", max_tokens=1)).write.format("noop").mode("overwrite").save()
    return run.cached_prompt_tokens / run.prompt_tokens


def planning(spark: SparkSession, df: DataFrame, rounds: int, warm: int) -> dict[str, Any]:
    """Seconds from the analysed to the optimized plan with the rule on, on the clock and of the planning thread's
    processor time, and how much more of that than with the rule off."""
    threads = spark._jvm.java.lang.management.ManagementFactory.getThreadMXBean()

    def once(n: int, on: bool) -> tuple[float, float]:
        spark.conf.set(ON, str(on).lower())
        fresh = asked(df.where(F.coalesce(F.col(df.columns[0]).cast("string"), F.lit("")) != f"round {n}"))
        execution = fresh._jdf.queryExecution()
        execution.analyzed()
        # All calls from one thread are one thread in the JVM, too.
        began, cpu = time.perf_counter(), threads.getCurrentThreadCpuTime()
        execution.optimizedPlan()
        return time.perf_counter() - began, (threads.getCurrentThreadCpuTime() - cpu) / 1e9

    pairs = [(once(n, True), once(n, False)) for n in range(-warm, rounds)][warm:]
    spark.conf.set(ON, "true")
    clock = sorted(on[0] for on, _ in pairs)
    cpu = sorted(on[1] for on, _ in pairs)
    return {
        "seconds": round(statistics.median(clock), 3),
        "range": [round(clock[0], 3), round(clock[-1], 3)],
        "cpu": round(statistics.median(cpu), 3),
        "cpu_more_than_without": round(statistics.median(on[1] - off[1] for on, off in pairs), 3),
    }


def generated(spark: SparkSession, rows: int) -> DataFrame:
    """Reviews of 700 products: ten fields, of which four depend on the product."""
    product = F.pmod(F.hash("id"), F.lit(700))

    def text(of: Column, length: int) -> Column:
        return F.substring(F.repeat(F.sha2(of.cast("string"), 256), 1 + length // 64), 1, length)

    return spark.range(rows).select(
        text(F.col("id"), 250).alias("review"),
        text(product, 30).alias("product"),
        text(product + 1, 400).alias("description"),
        (product % 40).alias("category"),
        (product % 13).alias("price"),
        F.pmod(F.hash(F.col("id") + 1), F.lit(5)).alias("stars"),
        F.pmod(F.hash(F.col("id") + 2), F.lit(365)).alias("day"),
        text(F.pmod(F.hash(F.col("id") + 3), F.lit(3000)), 12).alias("customer"),
        (F.pmod(F.hash(F.col("id") + 4), F.lit(3)) == 0).alias("verified"),
        F.when(F.col("id") % 3 == 0, F.lit("This review was taken down."))
        .otherwise(text(-F.col("id"), 40))
        .alias("note"),
    )


def table(spark: SparkSession, df: DataFrame, name: str, tokenizer: Tokenizer, sample_rows: int) -> dict[str, Any]:
    df.write.saveAsTable(name)
    spark.sql(f"ANALYZE TABLE {name} COMPUTE STATISTICS FOR ALL COLUMNS")
    stored = spark.table(name)
    spark.conf.set(ON, "false")
    written, child = record_of(stored)
    spark.conf.set(ON, "true")
    spark.conf.set(SAMPLE, "0")
    statistical, _ = record_of(stored)
    spark.conf.set(SAMPLE, str(sample_rows))
    groups = groups_of(spark, written, child, sample_rows)
    orders = {
        "as written": written.order(),
        "by statistics": statistical.order(),
        "sample, one order": groups.fixed(),
        "sample, by value (GGR)": groups.greedy(),
        "taken": groups.best(),
    }
    result: dict[str, Any] = {"table": name, "rows": stored.count(), "fields": len(stored.columns), "orders": {}}
    for label, order in orders.items():
        prompts = prompts_of(spark, written, order, child)
        result["distinct"] = len(set(prompts))
        result["orders"][label] = {
            "radix": round(radix_share(prompts, tokenizer), 4),
            "simulator": round(simulated_share(spark, prompts), 4),
            "values": order.size(),
        }
        print(name, label, result["orders"][label], file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help="Parquet files")
    parser.add_argument("--without", default="", help="columns that are not asked for, with commas between them")
    parser.add_argument("--kv-blocks", type=int, default=1024)
    parser.add_argument("--sample-rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm", type=int, default=3, help="rounds before those that count")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.memory", "3g")
    )
    tokenizer = Tokenizer.from_file(f"{models.resolve('smollm2-135m', Settings())}/tokenizer.json")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        spark = spark_helium.configure(
            builder.config("spark.sql.warehouse.dir", f"{directory}/warehouse"),
            engine="simulator",
            executor_directory=f"{directory}/d",
            cache_enabled=False,
            simulator_kv_blocks=args.kv_blocks,
        ).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        generated(spark, 10_000).write.parquet(f"{directory}/generated")
        spark.conf.set(SAMPLE, str(args.sample_rows))
        made = spark.read.parquet(f"{directory}/generated")
        plans = {"10,000 generated rows, 10 fields": planning(spark, made, args.rounds, args.warm)}
        for path in args.tables:
            df = spark.read.parquet(str(path.resolve()))
            df = df.drop(*args.without.split(","))
            plans[path.stem] = planning(spark, df, args.rounds, args.warm)
        print(json.dumps(plans, indent=2), file=sys.stderr, flush=True)
        sources = {"generated": made} | {
            path.stem: spark.read.parquet(str(path.resolve())).drop(*args.without.split(",")) for path in args.tables
        }
        for name, df in sources.items():
            results.append(table(spark, df, name, tokenizer, args.sample_rows))
        spark.stop()
    for measure in ("radix", "simulator"):
        print(f"\n| {measure} | " + " | ".join(results[0]["orders"]) + " |")
        print("|---" * (len(results[0]["orders"]) + 1) + "|")
        for result in results:
            cells = [f"{100 * order[measure]:.1f} %" for order in result["orders"].values()]
            print(
                f"| {result['table']}, {result['rows']:,} rows, {result['fields']} fields | " + " | ".join(cells) + " |"
            )
    print(
        "\n| planning | seconds, median (range) | CPU of the thread | more than with the rule off |\n|---|---|---|---|"
    )
    for name, plan in plans.items():
        low, high = plan["range"]
        print(f"| {name} | {plan['seconds']} ({low} to {high}) | {plan['cpu']} | {plan['cpu_more_than_without']} |")
    if args.out:
        versions = {"python": platform.python_version(), "pyspark": pyspark.__version__}
        args.out.write_text(json.dumps({"tables": results, "planning": plans, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
