"""The demo: what goes wrong with the products of a shop, by category, in the words of its customers.

The WHERE keeps the cheap condition away from the model, the ``llm()`` column asks the model about each row that
is left, with the answers that it may give, and the GROUP BY counts them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from spark_helium.demo import table

_LOGGING = Path(__file__).with_name("log4j2.properties").as_uri()

QUESTION = "What are unhappy customers unhappy about?"

# A small model names the problem better when it has seen an example of each. The examples come first and are the
# same for every row, then the product, the same for each of its reviews, then the review: what prompts share stands
# at their beginning, where the engine computes it once.
QUERY = """
SELECT   category, problem, count(*) AS reviews
FROM    (SELECT category,
                llm(array(
                      struct('system' AS role, 'Name the problem of the customer: '
                                               'quality, delivery, price or service.' AS content),
                      struct('user' AS role, 'A rucksack of blue canvas. Review: Far too expensive, '
                                             'other shops sell it for half the money.' AS content),
                      struct('assistant' AS role, 'price' AS content),
                      struct('user' AS role, 'A rucksack of blue canvas. Review: I called the support '
                                             'three times and nobody helped me.' AS content),
                      struct('assistant' AS role, 'service' AS content),
                      struct('user' AS role, 'A rucksack of blue canvas. Review: The courier lost my '
                                             'parcel and it came two weeks late.' AS content),
                      struct('assistant' AS role, 'delivery' AS content),
                      struct('user' AS role, 'A rucksack of blue canvas. Review: The zip broke on the '
                                             'second day and a seam is open.' AS content),
                      struct('assistant' AS role, 'quality' AS content),
                      struct('user' AS role, prompt('{0} Review: {1}', description, body) AS content)),
                    choices => array('quality', 'delivery', 'price', 'service'), max_tokens => 8) AS problem
         FROM   reviews
         WHERE  stars <= 3)
GROUP BY category, problem
ORDER BY category, reviews DESC, problem
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and print what it does."""
    parser = argparse.ArgumentParser(prog="python -m spark_helium.demo", description=__doc__)
    parser.add_argument("--engine", choices=["vllm", "simulator"], default="vllm", help="simulator: no model")
    parser.add_argument("--model", help="instead of the built-in model: a hub name or a local folder")
    options = parser.parse_args(arguments)
    run(options.engine, options.model)
    return 0


def run(engine: str = "vllm", model: str | None = None) -> None:
    """Run the demo on ``engine``, in a Spark session of its own; by default with the built-in model."""
    from pyspark.sql import SparkSession

    import spark_helium

    say = _Narrator()
    # A demo leaves nothing behind in the folder it is started from.
    scratch = tempfile.mkdtemp(prefix="spark-helium-demo-")
    builder = (
        SparkSession.builder.master(f"local[{min(4, os.cpu_count() or 2)}]")
        .appName("spark-helium demo")
        .config("spark.sql.warehouse.dir", scratch)
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.extraJavaOptions", f"-Dlog4j2.configurationFile={_LOGGING}")
    )
    say("Starting Spark ...")
    settings = {"engine": engine} if model is None else {"engine": engine, "model": model}
    spark = spark_helium.configure(builder, **settings).getOrCreate()
    try:
        table.reviews(spark).createOrReplaceTempView("reviews")
        stars = [review.stars for review in table.load()]
        say(f"A table of {len(stars)} product reviews, {sum(n <= 3 for n in stars)} of them with three stars or fewer.")
        print(f"\n{QUESTION}\n{QUERY}")
        if engine == "vllm":
            say("The first call starts the engine of this machine: about 40 seconds on two cores, and a minute more")
            say("the first time ever, when the built-in model is unpacked. Then the model reads the reviews ...")
        with spark_helium.measure(spark) as measured:
            answer = spark.sql(QUERY)
            rows = answer.collect()
        say("Done.")
        print()
        _print_table(answer.columns, [[str(value) for value in row] for row in rows])
        print("\nThe plan: EvalLLM is one node, above the filter on stars and below the count\n")
        spark.sql(QUERY).explain()  # anew: the plan of the finished run lists what adaptive execution did as well
        print("What the run took, counted by the executor\n")
        print(measured)
        if engine == "vllm" and model is None:
            print(
                "\nThe built-in model has 135 million parameters: quick to start, often wrong. For better answers name "
                "another\none, a hub name or a local folder: python -m spark_helium.demo --model NAME"
            )
    finally:
        spark.stop()
        shutil.rmtree(scratch, ignore_errors=True)


class _Narrator:
    """Prints lines with the seconds since the start, so that nobody wonders whether anything moves."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:5.1f} s] {line}", flush=True)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    rule = "+".join("-" * (width + 2) for width in widths)
    for position, row in enumerate([columns, *rows]):
        print("  " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        if position == 0:
            print(" " + rule)


if __name__ == "__main__":
    sys.exit(main())
