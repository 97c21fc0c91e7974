"""What ``measure`` counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.errors.exceptions.base import PySparkException
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.gpu_executor.engines.base import token_count

from . import oracle


def test_counts_of_one_query(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        got = spark.sql("SELECT id, llm('measured once {0}', id, max_tokens => 8) AS a FROM range(40)").collect()
    assert run.calls_requested == run.calls_sent == 40
    assert (run.answers_from_cache, run.calls_failed) == (0, 0)
    assert run.prompt_tokens == sum(token_count(oracle.tokens_of([("user", f"measured once {r.id}")])) for r in got)
    assert 0 < run.output_tokens <= 40 * 8
    assert run.wall_seconds > 0


def test_equal_calls_are_asked_once_and_cached(spark: SparkSession) -> None:
    query = "SELECT llm('measured {0}', id % 5) AS a, llm('measured {}', id % 5) AS b FROM range(50)"
    with spark_helium.measure(spark) as first:
        answers = sorted(map(tuple, spark.sql(query).collect()))
    assert (first.calls_requested, first.calls_sent) == (100, 5)
    with spark_helium.measure(spark) as second:
        assert sorted(map(tuple, spark.sql(query).collect())) == answers
    assert (second.calls_requested, second.calls_sent) == (100, 0)
    # Two equal calls of a row were merged in the plan; the others were found in the cache.
    assert second.answers_from_cache == 50


def test_settings_change_while_the_session_runs(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    query = "SELECT llm('switch {0}', id % 5) AS a, llm('switch {}', id % 5) AS b FROM range(10)"
    spark.sql(query).collect()
    set_setting("spark.helium.cache.enabled", "false")
    with spark_helium.measure(spark) as uncached:
        spark.sql(query).collect()
    # Nothing comes from the query before; within the query, five prompts are asked once each.
    assert (uncached.calls_requested, uncached.calls_sent, uncached.answers_from_cache) == (20, 5, 5)
    set_setting("spark.helium.optimizer.enabled", "false")
    with spark_helium.measure(spark) as plain:
        spark.sql(query).collect()
    # Two calls a row reach the daemon when no rule merges them.
    assert (plain.calls_requested, plain.calls_sent, plain.answers_from_cache) == (20, 5, 15)


def test_model_and_engine_change_while_the_session_runs(
    spark: SparkSession, set_setting: Callable[[str, str], None]
) -> None:
    query = "SELECT llm('which {0}', 1) AS a"
    set_setting("spark.helium.model", "/no/such/model")
    assert "model => '/no/such/model'" in spark.sql("EXPLAIN " + query).first()[0]
    assert spark.sql(query).first().a == oracle.llm("which {0}", 1)
    set_setting("spark.helium.engine", "vllm")
    with pytest.raises(PySparkException) as error:
        spark.sql(query).collect()
    assert error.value.getCondition() == "HELIUM_DAEMON_FAILED"
    assert "/no/such/model" in str(error.value)


def test_null_arguments_make_no_calls(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        spark.sql("SELECT llm('nothing {0}', IF(id < 7, NULL, id)) FROM range(10)").collect()
    assert (run.calls_requested, run.calls_sent) == (3, 3)


def test_a_pruned_call_is_not_made(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.sql("SELECT id FROM (SELECT id, llm('unread {0}', id) AS a FROM range(10)) WHERE id > 2").collect()
    assert len(rows) == 7
    assert run.calls_requested == 0


def test_failed_calls_are_counted_when_the_query_ends(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run, pytest.raises(PySparkException) as error:
        spark.sql("SELECT llm('{0}', repeat('long ', 20000))").collect()
    assert run.calls_failed == 1
    assert error.value.getCondition() == "HELIUM_CALL_FAILED"
    text = str(error.value)
    assert "llm()" in text
    assert "tokens" in text
    assert "failOnError => false" in text
    assert len(text.splitlines()[0]) < 1000, "the prompt must be shortened"


def test_a_cached_frame_is_counted(spark: SparkSession) -> None:
    df = spark.sql("SELECT llm('cached {0}', id) AS a FROM range(10)").cache()
    try:
        with spark_helium.measure(spark) as run:
            df.collect()
        assert run.calls_requested == 10
    finally:
        df.unpersist()


def test_a_stream_is_counted(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(10).write.parquet(str(tmp_path / "in"))
    stream = spark.readStream.schema("id long").parquet(str(tmp_path / "in"))
    with spark_helium.measure(spark) as run:
        query = (
            stream.selectExpr("llm('streamed {0}', id) AS a")
            .writeStream.format("parquet")
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .trigger(availableNow=True)
            .start(str(tmp_path / "out"))
        )
        query.awaitTermination(60)
    assert spark.read.parquet(str(tmp_path / "out")).count() == 10
    assert run.calls_requested == 10


def test_sessions_count_for_themselves(spark: SparkSession) -> None:
    other = spark.newSession()
    with spark_helium.measure(spark) as mine, spark_helium.measure(other) as theirs:
        other.sql("SELECT llm('other {0}', id) FROM range(3)").collect()
    assert (mine.calls_requested, theirs.calls_requested) == (0, 3)


def test_repr(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        spark.sql("SELECT llm('readable {0}', 1)").collect()
    assert "1 calls requested" in repr(run)
    assert "output tokens" in repr(run)
