"""The order of a record's fields on the real engine: more of the prompts is found in the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.functions import llm

pytestmark = pytest.mark.engine

PRODUCTS, ROWS = 6, 36
FIELDS = ["review", "description", "product"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    directory = tmp_path_factory.mktemp("f")
    spark = spark_helium.configure(
        builder, engine="vllm", executor_directory=str(directory), cache_enabled=False
    ).getOrCreate()
    yield spark
    spark.stop()


def test_more_prompt_tokens_are_cached(session: SparkSession, tmp_path: Path) -> None:
    rows = [
        (
            f"Customer number {i} came back after {i * 7} days and would buy it again.",
            " ".join(f"Part {part} of product {i % PRODUCTS} is made of steel and of wood." for part in range(12)),
            f"product {i % PRODUCTS}",
        )
        for i in range(ROWS)
    ]
    session.createDataFrame(rows, FIELDS).repartition(2).write.parquet(str(tmp_path / "reviews"))
    df = session.read.parquet(str(tmp_path / "reviews"))
    asked = df.select(llm("Is it good? {fields}", fields=FIELDS, max_tokens=1).alias("answer"))
    cached = {}
    for on in (False, True):
        session.conf.set("spark.helium.optimizer.orderFields.enabled", str(on).lower())
        with spark_helium.measure(session) as run:
            assert len(asked.collect()) == ROWS
        assert run.calls_sent == ROWS
        cached[on] = run.cached_prompt_tokens
    # A description has more than 150 tokens, and all rows but the first of a product find it in the cache.
    assert cached[True] - cached[False] >= (ROWS - PRODUCTS) * 128, cached
