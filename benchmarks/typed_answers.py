"""Whether every typed answer of the real engine is a value of its type.

200 rows of the demo's reviews (they repeat with a number in front) are classified, extracted from and filtered by the
built-in model, with ``fail_on_error=False``, so that a failure is counted and does not end the query. Says how many
answers are values of their type, and which errors there were.

    python benchmarks/typed_answers.py [--rows 200] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.demo import table
from spark_helium.functions import ai_classify, ai_extract, ai_filter

TOPICS = ["quality", "delivery", "price", "customer service"]
FIELDS = "product STRING, problem STRING, stars INT, broken BOOLEAN"


def reviews(spark: SparkSession, rows: int) -> DataFrame:
    source = table.reviews(spark).select("body")
    copies = -(-rows // source.count())
    numbered = source.crossJoin(spark.range(copies)).select(F.concat_ws(": ", F.col("id") + 1, "body").alias("body"))
    return numbered.limit(rows).localCheckpoint()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hb") as directory:
        spark = spark_helium.configure(
            builder, engine="vllm", executor_directory=directory, cache_directory=f"{directory}/cache"
        ).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        df = reviews(spark, args.rows)

        def errors(rows: list[Any]) -> dict[str, int]:
            return dict(Counter(row.a.errorMessage for row in rows if row.a.errorMessage))

        rows = df.select(ai_classify("body", TOPICS, fail_on_error=False).alias("a")).collect()
        typed = sum(row.a.response in TOPICS for row in rows)
        results["classify"] = {"rows": len(rows), "typed": typed, "errors": errors(rows)}
        rows = df.select(ai_extract("body", FIELDS, fail_on_error=False).alias("a")).collect()
        typed = sum(row.a.response is not None for row in rows)
        results["extract"] = {"rows": len(rows), "typed": typed, "errors": errors(rows)}
        with spark_helium.measure(spark) as usage:
            answers = df.select(ai_filter("Is this a complaint? {0}", "body", fail_on_error=False).alias("a")).collect()
        typed = sum(row.a in (True, False) for row in answers)
        results["filter"] = {"rows": len(answers), "typed": typed, "failed": usage.calls_failed}
        spark.stop()
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
