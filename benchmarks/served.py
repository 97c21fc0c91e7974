"""A query against what people write today: a pandas UDF with 32 threads on a vLLM server.

The rows are reviews of 64 products, shuffled: a system prompt of about 200 tokens, a product's description of about
150, a review of about 60. The server and spark_helium's daemon run the same vLLM with the same settings, both are up
before the clock starts, and take turns. Shapes:

* ``shuffled``: KV space for about 4,000 tokens, so that a prefix is evicted before its next row comes;
* ``duplicates``: the same with a quarter of the rows repeated;
* ``nothing shared``: every row has its own description and system prompt, with ample KV;
* ``ample``: ``shuffled`` with ample KV, where vLLM's own prefix cache gives every client the same hits.

    python benchmarks/served.py [--rows 512] [--rounds 1] [--shape shuffled] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyspark
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import spark_helium
from benchmarks.engines import MODEL, VLLM, EngineSettings, running_server
from benchmarks.texts import text
from spark_helium.functions import llm

PRODUCTS = 64
MAX_TOKENS = 4
MAX_MODEL_LEN = 1024


@dataclass(frozen=True)
class Shape:
    kv: str
    repeated: float = 0.0  # share of the rows that repeat another one
    shared: bool = True


SHAPES = {
    "shuffled": Shape("small"),
    "duplicates": Shape("small", repeated=0.25),
    "nothing shared": Shape("ample", shared=False),
    "ample": Shape("ample"),
}


def rows(shape: Shape, count: int, round_: int) -> list[tuple[str, str, str]]:
    """System prompt, description and review of each row, in an order that has nothing to do with them."""
    distinct = round(count * (1 - shape.repeated))
    made = []
    for row in range(distinct):
        of = row % PRODUCTS if shape.shared else row
        system = text(f"system {round_}" if shape.shared else f"system {round_} {row}", 190)
        made.append((system, text(f"product {round_} {of}", 145), text(f"review {round_} {row}", 55)))
    dice = random.Random(round_)
    made += dice.choices(made, k=count - distinct)
    dice.shuffle(made)
    return made


def udf(address: str) -> Any:
    @F.pandas_udf("string")
    def ask(system: pd.Series, description: pd.Series, review: pd.Series) -> pd.Series:
        from openai import OpenAI

        client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=3600, max_retries=0)

        def one(row: tuple[str, str, str]) -> str:
            user = f"{row[1]}\nReview: {row[2]}\nIs it good?"
            messages: Any = [{"role": "system", "content": row[0]}, {"role": "user", "content": user}]
            answer = client.chat.completions.create(
                model=MODEL, messages=messages, max_tokens=MAX_TOKENS, temperature=0.0
            )
            return answer.choices[0].message.content or ""

        with ThreadPoolExecutor(32) as pool:
            return pd.Series(list(pool.map(one, zip(system, description, review, strict=True))))

    return ask


def ours() -> Column:
    messages = F.array(
        F.struct(F.lit("system").alias("role"), F.col("system").alias("content")),
        F.struct(
            F.lit("user").alias("role"),
            F.concat("description", F.lit("\nReview: "), "review", F.lit("\nIs it good?")).alias("content"),
        ),
    )
    return llm(messages, max_tokens=MAX_TOKENS)


def timed(df: DataFrame) -> tuple[float, list[str]]:
    began = time.perf_counter()
    answers = [row[0] for row in df.collect()]
    return time.perf_counter() - began, answers


def run(name: str, shape: Shape, count: int, rounds: int) -> dict[str, Any]:
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.helium.cache.enabled", "false")
    )
    engine = EngineSettings(VLLM, shape.kv, MAX_MODEL_LEN)
    for key, value in engine.options().items():
        builder = builder.config(key, value)
    results = []
    with tempfile.TemporaryDirectory(prefix="hb") as directory, running_server(engine) as server:
        spark = spark_helium.configure(builder, executor_directory=directory).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        ask = udf(server.address)

        def table(round_: int, size: int) -> DataFrame:
            schema = "system string, description string, review string"
            df = spark.createDataFrame(rows(shape, size, round_), schema).repartition(2).cache()
            df.count()
            return df

        def helium(df: DataFrame) -> dict[str, Any]:
            with spark_helium.measure(spark) as usage:
                seconds, answers = timed(df.select(ours()))
            computed = usage.prompt_tokens - usage.cached_prompt_tokens
            return {"seconds": seconds, "computed_prompt_tokens": computed, "answers": answers}

        def pandas_udf(df: DataFrame) -> dict[str, Any]:
            before = server.counts()
            seconds, answers = timed(df.select(ask("system", "description", "review")))
            used = server.counts() - before
            computed = used.prompt_tokens - used.cached_tokens
            return {"seconds": seconds, "computed_prompt_tokens": computed, "answers": answers}

        sides = {"pandas UDF": pandas_udf, "spark_helium": helium}
        for side in sides.values():
            side(table(-1, 8))
        for number in range(rounds):
            df = table(number, count)
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            result = {side: sides[side](df) for side in order}
            answers = [result[side].pop("answers") for side in sides]
            result["equal answers"] = sum(a == b for a, b in zip(*answers, strict=True))
            results.append(result)
            print(json.dumps({name: result}), file=sys.stderr, flush=True)
        spark.stop()

    def ratio(key: str, upper: str, lower: str) -> float:
        return round(statistics.median(r[upper][key] / r[lower][key] for r in results), 3)

    return {
        "rows": count,
        "times faster": ratio("seconds", "pandas UDF", "spark_helium"),
        "computed prompt tokens, share": ratio("computed_prompt_tokens", "spark_helium", "pandas UDF"),
        "rounds": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for the pandas UDF
    chosen = SHAPES if args.shape == "all" else {args.shape: SHAPES[args.shape]}
    results: dict[str, Any] = {name: run(name, shape, args.rows, args.rounds) for name, shape in chosen.items()}
    results["versions"] = {"python": platform.python_version(), "pyspark": pyspark.__version__}
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
