"""Rows per second through the whole path when the engine costs nothing.

Distinct prompts of about 200 characters go through SQL, Catalyst, Arrow, the node daemon and the simulator
without delays. Beside it, in the same session and in alternation: the same rows through a pandas UDF that
only measures the length of the string, which is what Spark's Arrow path costs by itself.

What bounds it shows in the CPU time per row of each kind of process.

    python benchmarks/throughput.py [--rows 100000] [--rounds 3] [--partitions 2] [--no-disk-cache] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pyspark
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

import spark_helium
from spark_helium.functions import llm

PADDING = "The parcel came two days late and the box was dented, but the lamp inside still works as it should. " * 2


@F.pandas_udf(StringType())
def length(texts: pd.Series) -> pd.Series:
    return texts.str.len().astype(str)


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cpu_seconds() -> Counter[str]:
    """User and system time so far of the JVM, its Python workers, and the node daemon."""
    seconds: Counter[str] = Counter()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            times = process.cpu_times()
            if "spark_helium.gpu_executor.daemon" in command:
                seconds["node daemon"] += times.user + times.system
            elif "pyspark.daemon" in command:
                seconds["python workers"] += times.user + times.system + times.children_user + times.children_system
            elif "org.apache.spark.deploy.SparkSubmit" in command:
                seconds["JVM"] += times.user + times.system
    return seconds


def drain(df: DataFrame) -> Callable[[], object]:
    return lambda: df.write.format("noop").mode("overwrite").save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--no-disk-cache", action="store_true", help="without the prompt cache's tier on disk")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for the pandas UDF
    builder = (
        SparkSession.builder.master(f"local[{args.partitions}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    with tempfile.TemporaryDirectory() as directory:
        spark = spark_helium.configure(
            builder,
            engine="simulator",
            executor_directory=directory,
            cache_directory=f"{directory}/cache",
            cache_disk_enabled=not args.no_disk_cache,
        ).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        result = run(spark, args.rows, args.rounds, args.partitions)
        spark.stop()
    json.dump(result, sys.stdout, indent=2)
    print()
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def run(spark: SparkSession, rows: int, rounds: int, partitions: int) -> dict[str, object]:
    def prompts(round_number: int) -> DataFrame:
        # Another round is another set of prompts: nothing is answered from the prompt cache.
        text = F.concat(F.lit(f"{round_number} "), F.col("id").cast("string"), F.lit(" " + PADDING))
        return spark.range(0, rows, 1, partitions).select(F.substring(text, 1, 180).alias("body"))

    question = llm("Good or bad? {0}", "body", max_tokens=4)
    drain(prompts(-1).limit(1000).select(question))()  # starts the daemon
    drain(prompts(-1).limit(1000).select(length("body")))()

    helium, plain = [], []
    used: Counter[str] = Counter()
    for n in range(rounds):
        before = cpu_seconds()
        with spark_helium.measure(spark) as usage:
            helium.append(timed(drain(prompts(n).select(question))))
        used.update(cpu_seconds())
        used.subtract(before)
        if usage.calls_sent != rows:
            raise SystemExit(f"expected {rows} calls, the engine saw {usage.calls_sent}")
        plain.append(timed(drain(prompts(n).select(length("body")))))

    def rates(seconds: list[float]) -> dict[str, float]:
        each = sorted(rows / s for s in seconds)
        return {"median": round(statistics.median(each)), "min": round(each[0]), "max": round(each[-1])}

    return {
        "rows": rows,
        "rounds": rounds,
        "partitions": partitions,
        "prompt_characters": 180 + len("Good or bad? "),
        "spark_helium_rows_per_second": rates(helium),
        "pandas_udf_rows_per_second": rates(plain),
        "cpu_microseconds_per_row": {kind: round(1e6 * t / rows / rounds, 1) for kind, t in sorted(used.items())},
        "seconds_against_pandas_udf": round(statistics.median(h / p for h, p in zip(helium, plain, strict=True)), 2),
        "versions": {"python": platform.python_version(), "pyspark": pyspark.__version__},
    }


if __name__ == "__main__":
    main()
