"""A query pins what its prompts share, and the pin is there when the query is over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession

from spark_helium.gpu_executor import client, lifecycle

RULES = "Judge the review with care, and say what its author liked, and what not. " * 12


def pinned_tokens(spark: SparkSession) -> list[int]:
    """Of the session's engines."""
    directory = Path(spark.conf.get("spark.helium.executor.directory") or "")
    states = [client.ping(files) for files in lifecycle.known_daemons(directory)]
    return [engine.pin_tokens for state in states if state is not None for engine in state.engines]


def test_a_query_leaves_its_pins_behind(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    query = f"SELECT llm('{RULES} Review: {{0}}', id, max_tokens => 4) AS a FROM range(20)"
    set_setting("spark.helium.kv.pin.enabled", "false")
    assert spark.sql(query).toPandas()["a"].notna().all()
    before = pinned_tokens(spark)
    set_setting("spark.helium.cache.enabled", "false")
    set_setting("spark.helium.kv.pin.enabled", "true")
    assert spark.sql(query).toPandas()["a"].notna().all()
    tokens = len(RULES) // 4
    assert tokens - 16 <= sum(pinned_tokens(spark)) - sum(before) <= tokens + 16
