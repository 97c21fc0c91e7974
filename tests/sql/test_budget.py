"""``spark.helium.budget.*``: a query that is expected to pass it does not start, and one that passes it stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

import spark_helium

SetSetting = Callable[[str, str], None]
YES = "choices => array('yes', 'no')"


@pytest.fixture
def unknown_size(spark: SparkSession) -> DataFrame:
    """20 different rows of a source that says nothing of its size or its values."""
    return spark.range(10).selectExpr("explode(sequence(id * 2, id * 2 + 1)) AS n")


def refused(df: DataFrame) -> str:
    with pytest.raises(PySparkException) as error:
        df.collect()
    assert error.value.getCondition() == "HELIUM_BUDGET_EXCEEDED", error.value
    return str(error.value)


def test_a_measured_estimate_stops_a_query_before_its_first_call(spark: SparkSession, set_setting: SetSetting) -> None:
    set_setting("spark.helium.budget.maxCalls", "9")
    query = f"SELECT llm('budget {{0}}', id, {YES}) AS a FROM range(10)"
    df = spark.sql(query)
    with spark_helium.measure(spark) as run:
        message = refused(df)
    assert "expected to need 10 calls" in message
    assert "spark.helium.budget.maxCalls is 9" in message
    assert run.calls_sent == 0
    df.explain()  # looking at it is free
    assert spark_helium.explain(df).nodes[0].calls[0].distinct_prompts == 10
    set_setting("spark.helium.budget.maxCalls", "10")
    assert len(spark.sql(query).collect()) == 10


def test_all_calls_of_a_query_count_together(spark: SparkSession, set_setting: SetSetting) -> None:
    set_setting("spark.helium.budget.maxCalls", "19")
    texts = [f"SELECT llm('{name} {{0}}', id, {YES}) AS a FROM range(10)" for name in ("one", "two")]
    assert "expected to need 20 calls" in refused(spark.sql(" UNION ALL ".join(texts)))
    counted = f"SELECT llm('one {{0}}', id, {YES}) AS a, (SELECT count(a) FROM ({texts[1]})) AS n FROM range(10)"
    with pytest.raises(Exception, match="expected to need 20 calls"):  # Spark wraps what a subquery throws
        spark.sql(counted).collect()
    assert len(spark.sql(" UNION ALL ".join([texts[0], texts[0]])).collect()) == 20, "equal calls are made once"


def test_tokens_of_prompts_stop_it_as_well(spark: SparkSession, set_setting: SetSetting) -> None:
    set_setting("spark.helium.budget.maxTokens", "1000")
    df = spark.sql(f"SELECT llm('{'long ' * 100}{{0}}', id, {YES}) AS a FROM range(10)")
    assert "tokens, by statistics" in refused(df)


def test_a_guess_stops_nothing_and_what_is_used_does(
    spark: SparkSession, set_setting: SetSetting, unknown_size: DataFrame
) -> None:
    unknown_size.createOrReplaceTempView("unknown_size")
    df = spark.sql(f"SELECT llm('guessed {{0}}', n, {YES}) AS a FROM unknown_size")
    assert not spark_helium.explain(df).nodes[0].calls[0].measured
    set_setting("spark.helium.budget.maxCalls", "12")
    with spark_helium.measure(spark) as run:
        message = refused(df)
    assert "budget of 12 calls" in message
    assert "spark.helium.budget.maxCalls" in message
    assert run.calls_sent <= 12
    # What was answered is kept: the next run has 12 calls for what is missing, and that is enough.
    with spark_helium.measure(spark) as run:
        assert len(df.collect()) == 20
    assert (run.calls_sent, run.answers_from_cache) == (8, 12)


def test_tokens_that_are_used_stop_it(spark: SparkSession, set_setting: SetSetting, unknown_size: DataFrame) -> None:
    unknown_size.createOrReplaceTempView("unknown_size")
    set_setting("spark.helium.budget.maxTokens", "100")
    assert "budget of 100 tokens" in refused(spark.sql(f"SELECT llm('used {{0}}', n, {YES}) AS a FROM unknown_size"))


def test_without_a_budget_nothing_stops(spark: SparkSession) -> None:
    assert spark.sql(f"SELECT llm('free {{0}}', id, {YES}) AS a FROM range(30)").count() == 30


def test_a_budget_that_is_misspelt_is_no_budget_without_a_word(spark: SparkSession, set_setting: SetSetting) -> None:
    set_setting("spark.helium.budget.maxCals", "3")
    with pytest.raises(PySparkException, match=r"Did you mean spark\.helium\.budget\.maxCalls\?.*RESET"):
        spark.sql("SELECT llm('{0}', x) FROM VALUES ('a') AS t(x)").collect()
