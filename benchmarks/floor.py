"""A query against the least that the engine needs: vLLM's offline ``LLM.generate``, called once.

512 rows share a system prompt of 300 tokens and differ in a text of some 20 tokens. Offline vLLM gets the prompts
distinct, in the best order and tokenised, in one call; that is the floor. spark_helium gets a DataFrame. Both engines
are up before the clock starts, have the same settings, and take turns; each round has another system prompt, so that
no round finds the one before in a cache, and the prompt cache is off.

    python benchmarks/floor.py [--rows 512] [--rounds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

sys.path.insert(0, str(Path(__file__).parents[1]))
import spark_helium
from benchmarks.engines import VLLM, EngineSettings
from benchmarks.offline_vllm import OfflineVllm
from benchmarks.texts import text
from spark_helium.functions import llm

ENGINE = EngineSettings(VLLM, "ample", 4096)
MAX_TOKENS = 8


def users(round_: int, rows: int) -> list[str]:
    return [f"{row:04} {text(f'row {round_} {row}', 18)}" for row in range(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.helium.cache.enabled", "false")
    )
    for key, value in ENGINE.options().items():
        builder = builder.config(key, value)
    with tempfile.TemporaryDirectory() as directory, OfflineVllm(ENGINE.vllm_arguments()) as offline:
        spark = spark_helium.configure(builder, executor_directory=directory).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")

        def helium(round_: int, rows: int) -> dict[str, float]:
            table = spark.createDataFrame([(u,) for u in users(round_, rows)], "user string").repartition(2).cache()
            table.count()
            system = text(f"system {round_}", 290)
            answers = table.select(llm("{user}", user="user", system=system, max_tokens=MAX_TOKENS))
            with spark_helium.measure(spark) as run:
                began = time.perf_counter()
                answers.write.format("noop").mode("overwrite").save()
                seconds = time.perf_counter() - began
            assert run.calls_sent == rows
            return {
                "seconds": seconds,
                "prompt_tokens": run.prompt_tokens,
                "cached_prompt_tokens": run.cached_prompt_tokens,
                "output_tokens": run.output_tokens,
            }

        def floor(round_: int, rows: int) -> dict[str, float]:
            return offline.generate(text(f"system {round_}", 290), users(round_, rows), MAX_TOKENS)

        sides = {"floor": floor, "helium": helium}
        for side in sides.values():
            side(-1, 16)
        rounds: list[dict[str, dict[str, float]]] = []
        for number in range(args.rounds):
            order = list(sides) if number % 2 == 0 else list(sides)[::-1]
            # Each side's prompts are its own: both know the same engine, not the same cache.
            rounds.append({name: sides[name](number, args.rows) for name in order})
            print(json.dumps(rounds[-1]), flush=True)
        spark.stop()
    ratios = [r["helium"]["seconds"] / r["floor"]["seconds"] for r in rounds]
    result = {
        "rows": args.rows,
        "time over the floor": {"median": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]},
        "rounds": rounds,
        "versions": {"python": platform.python_version(), "pyspark": pyspark.__version__},
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
