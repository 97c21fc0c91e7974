"""Answers are the same with the rules on and off, and rules never make more calls: on random queries."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.conf import registry

from .random_queries import queries

PLANS = int(os.environ.get("SPARK_HELIUM_RANDOM_PLANS", "500"))
SWITCHES = [key for key in registry() if re.fullmatch(r"spark\.helium\.optimizer\.\w+\.enabled", key)]

T_ROWS = [
    (i, [None, "a", "b", "red shoe", "a"][i % 5], ["x", None, "y"][i % 3], None if i % 7 == 3 else i * 3 % 8)
    for i in range(9)
]
U_ROWS = [(1, "a", 2), (1, None, 3), (3, "b", None), (5, "blue", 7), (40, "a", 1)]


@pytest.fixture(scope="module")
def tables(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(T_ROWS, "id int, p string, s string, n int").coalesce(1).createOrReplaceTempView("t")
    spark.createDataFrame(U_ROWS, "id int, q string, m int").coalesce(1).createOrReplaceTempView("u")
    # Small queries spend their time in compiling generated code and in empty shuffle partitions.
    small = {
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.shuffle.partitions": "1",
        "spark.helium.cache.enabled": "false",
        "spark.helium.cluster.engines": "0",
        "spark.sql.adaptive.enabled": "true",
        "spark.helium.optimizer.deduplicateInputs.minRows": "100000",
    }
    before = {key: spark.conf.get(key) for key in small}
    for key, value in small.items():
        spark.conf.set(key, value)
    yield
    for key, value in before.items():
        spark.conf.set(key, value)
    for key in SWITCHES:
        spark.conf.set(key, "true")


def answer(spark: SparkSession, query: str) -> tuple[Counter[tuple[object, ...]], spark_helium.Measurement]:
    with spark_helium.measure(spark) as run:
        rows = spark.sql(query).collect()
    return Counter(tuple(row) for row in rows), run


@pytest.mark.usefixtures("tables")
def test_rules_change_no_answer(spark: SparkSession) -> None:
    fired = 0
    seen = 0

    @settings(
        max_examples=PLANS,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a failing query is short enough to read
        suppress_health_check=list(HealthCheck),
    )
    @given(query=queries)
    def check(query: str) -> None:
        nonlocal fired, seen
        # Every other query has all rules on, the others subsets of them that share little with one another.
        subset = seen * 797 % (1 << len(SWITCHES))
        for bit, key in enumerate(SWITCHES):
            spark.conf.set(key, "true" if seen % 2 == 0 or subset >> bit & 1 else "false")
        # As on a cluster, and with statistics that ask for distinct inputs, now and then.
        spark.conf.set("spark.helium.cluster.engines", "3" if seen % 3 == 0 else "0")
        spark.conf.set("spark.helium.optimizer.deduplicateInputs.minRows", "2" if seen % 5 == 0 else "100000")
        # Adaptive execution may stop a side of a join when the other one turns out empty: then counts say nothing.
        adaptive = seen % 4 in (1, 2)
        spark.conf.set("spark.sql.adaptive.enabled", str(adaptive).lower())
        # By an estimate, a call may run above a join that repeats its rows: more requests, for the same prompts.
        placed = spark.conf.get("spark.helium.optimizer.placeCallsByCost.enabled") == "true"
        seen += 1
        optimized, on = answer(spark, query)
        for key in SWITCHES:
            spark.conf.set(key, "false")
        unoptimized, off = answer(spark, query)
        assert optimized == unoptimized, query
        if not adaptive:
            assert on.calls_sent <= off.calls_sent, query
            assert placed or on.calls_requested <= off.calls_requested, query
        fired += on.calls_requested < off.calls_requested

    check()
    assert seen >= PLANS
    assert fired >= seen // 5, f"vacuous: rules saved calls in only {fired} of {seen} queries"
