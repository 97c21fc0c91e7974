"""``spark.helium.models.<name>.*`` from SQL: calls of one query on different models, checks at analysis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.functions import llm

SetSetting = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def models(set_setting: SetSetting) -> None:
    set_setting("spark.helium.models.short.engine", "simulator")
    set_setting("spark.helium.models.short.maxModelLen", "64")
    set_setting("spark.helium.models.wide.maxModelLen", "4096")


def test_calls_of_one_query_name_different_models(spark: SparkSession) -> None:
    long = "repeat('word ', 100)"
    [row] = spark.sql(
        f"""SELECT llm('{{}}', {long}, model => 'wide') AS wide,
                   llm('{{}}', {long}, model => 'short', failOnError => false) AS short,
                   llm('Summarize {{}}', llm('{{}}', 'a', model => 'wide'), model => 'short') AS chained"""
    ).collect()
    assert isinstance(row.wide, str)
    assert row.short.response is None
    assert "context of 64 tokens (spark.helium.simulator.maxModelLen)" in row.short.errorMessage
    assert isinstance(row.chained, str)


def test_the_default_model_may_be_a_declared_one(spark: SparkSession, set_setting: SetSetting) -> None:
    set_setting("spark.helium.model", "wide")
    df = spark.sql("SELECT id, llm('What is {0}?', id) AS a FROM range(3)")
    assert df.where("a IS NOT NULL").count() == 3
    assert spark_helium.explain(df).templates == (spark_helium.report.PromptTemplate("llm", "wide", "What is {0}?"),)


def test_in_dataframes(spark: SparkSession) -> None:
    [row] = spark.range(1).select(llm("{0}", "id", model="short").alias("a")).collect()
    assert isinstance(row.a, str)


@pytest.mark.parametrize("kind", ["VIEW", "TEMPORARY VIEW"])
def test_in_views(spark: SparkSession, set_setting: SetSetting, kind: str) -> None:
    spark.sql(f"CREATE {kind} asks_a_model AS SELECT llm('In a view {{0}}', id, model => 'short') AS a FROM range(2)")
    try:
        assert [type(row.a) for row in spark.table("asks_a_model").collect()] == [str, str]
        assert spark.sql("SELECT llm('{0}', a, model => 'wide') AS b FROM asks_a_model").count() == 2
        spark.conf.unset("spark.helium.models.short.engine")
        spark.conf.unset("spark.helium.models.short.maxModelLen")
        with pytest.raises(AnalysisException) as error:
            spark.table("asks_a_model").collect()
        assert error.value.getCondition() == "HELIUM_UNKNOWN_MODEL"
    finally:
        spark.sql("DROP VIEW asks_a_model")


@pytest.mark.parametrize("model", ["shrt", "unknown"])
def test_a_name_that_nobody_declared(spark: SparkSession, model: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT llm('x', model => '{model}')").collect()
    assert error.value.getCondition() == "HELIUM_UNKNOWN_MODEL"
    assert "short" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "condition"),
    [
        ("short.engine", "magic", "HELIUM_SETTING_INVALID"),
        ("short.maxModelLen", "1", "HELIUM_SETTING_INVALID"),
        ("short.dtype", "auto", "HELIUM_SETTING_UNKNOWN"),
        ("wide.maxModelLength", "9", "HELIUM_SETTING_UNKNOWN"),
    ],
)
def test_what_set_cannot_check_is_checked_at_analysis(
    spark: SparkSession, set_setting: SetSetting, key: str, value: str, condition: str
) -> None:
    set_setting(f"spark.helium.models.{key}", value)
    with pytest.raises(PySparkException) as error:
        spark.sql("SELECT llm('x')").collect()
    assert error.value.getCondition() == condition
    assert f"spark.helium.models.{key}" in str(error.value)
