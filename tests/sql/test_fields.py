"""``fields => struct(...)``: a record in the prompt, whose order the optimizer may choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import llm

from . import oracle

REVIEWS = [(f"text {i}", ["shoe", "hat", None][i % 3], i % 2) for i in range(12)]


@pytest.fixture(scope="module", autouse=True)
def reviews(spark: SparkSession) -> Iterator[None]:
    values = ", ".join(f"('{b}', {'NULL' if p is None else repr(p)}, {s})" for b, p, s in REVIEWS)
    spark.sql(f"SELECT * FROM VALUES {values} AS t(body, product, stars)").createOrReplaceTempView("fields_reviews")
    yield
    spark.catalog.dropTempView("fields_reviews")


def prompt(before: str, *fields: tuple[str, object]) -> str | None:
    lines = "\n".join(f"{name}: {'null' if value is None else value}" for name, value in fields)
    return oracle.llm(before + lines)


def test_as_written_without_the_rule(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.optimizer.orderFields.enabled", "false")
    df = spark.sql(
        "SELECT body, llm('Good?', fields => struct(body, product, stars AS rating)) AS a FROM fields_reviews"
    )
    expected = {b: prompt("Good?\n", ("body", b), ("product", p), ("rating", s)) for b, p, s in REVIEWS}
    assert {r.body: r.a for r in df.collect()} == expected


def test_the_order_that_shares_most(spark: SparkSession) -> None:
    df = spark.table("fields_reviews").select(
        "body", llm("Rate {fields} in {word}", fields=["body", "stars", "product"], word=F.lit("one")).alias("a")
    )
    assert "stars: {0}\\nproduct: {1}\\nbody: {2}" in df._jdf.queryExecution().optimizedPlan().toString()
    expected = {
        b: oracle.llm(f"Rate stars: {s}\nproduct: {'null' if p is None else p}\nbody: {b} in one")
        for b, p, s in REVIEWS
    }
    assert {r.body: r.a for r in df.collect()} == expected


def test_a_struct_column_and_positional_arguments(spark: SparkSession) -> None:
    df = spark.sql(
        """SELECT body, llm('{0}!', stars, fields => r) AS a
           FROM (SELECT body, stars, named_struct('b', body) AS r FROM fields_reviews)"""
    )
    assert {r.body: r.a for r in df.collect()} == {b: prompt(f"{s}!\n", ("b", b)) for b, _, s in REVIEWS}


def test_what_is_no_record(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql("SELECT llm('x', fields => 'body')").collect()
    assert error.value.getCondition() == "HELIUM_OPTION_TYPE"
    with pytest.raises(ArgumentError, match="list of columns"):
        llm("x", fields="body")  # type: ignore[arg-type]
    conversations = "SELECT array(struct(a AS role, a AS content)) AS c FROM VALUES ('user') AS t(a)"
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT llm(c, fields => struct(1)) FROM ({conversations})").collect()
    assert error.value.getCondition() == "HELIUM_CONFLICTING_OPTIONS"


TWICE = "llm('Twice? {fields}', fields => struct(body, stars, product))"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT {TWICE} AS a FROM fields_reviews INTERSECT SELECT {TWICE} FROM fields_reviews WHERE body = 'text 7'",
        f"""SELECT count(DISTINCT a) FROM (SELECT {TWICE} AS a FROM fields_reviews
            UNION ALL SELECT {TWICE} FROM fields_reviews WHERE body = 'text 7')""",
        f"""SELECT count(*) FROM fields_reviews
            WHERE {TWICE} = (SELECT max({TWICE}) FROM fields_reviews WHERE body = 'text 7')""",
    ],
    ids=["intersect", "union", "subquery"],
)
def test_equal_calls_keep_one_order(spark: SparkSession, set_setting: Callable[[str, str], None], query: str) -> None:
    # With the filter other statistics hold, and by them another order would be best.
    set_setting("spark.helium.cache.enabled", "false")
    with spark_helium.measure(spark) as run:
        rows = len(spark.sql(query).collect())
    assert run.calls_sent == len(REVIEWS)
    set_setting("spark.helium.optimizer.enabled", "false")
    assert len(spark.sql(query).collect()) == rows
