"""ai_embed, ai_similarity and ai_count_tokens in SQL and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException, SparkRuntimeException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_count_tokens, ai_embed, ai_similarity
from spark_helium.gpu_executor.engines.answers import EMBEDDING_SIZE

from ..sql import oracle

TEXTS = ["a red shoe", "a blue hat", None, "the old lamp", "a red shoe", "red"]


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string").createOrReplaceTempView("things")
    yield
    spark.catalog.dropTempView("things")


@pytest.mark.parametrize(
    "make",
    [
        lambda: F.expr("ai_embed(text)"),
        lambda: F.expr("ai_embed(content => text, model => 'smollm2-135m')"),
        lambda: F.expr("ai_embed(text, 'smollm2-135m', failOnError => true)"),
        lambda: ai_embed("text"),
        lambda: ai_embed(F.col("text"), model="smollm2-135m", fail_on_error=True),
    ],
)
def test_vectors_have_every_bit_of_the_engines(spark: SparkSession, make: Callable[[], Column]) -> None:
    rows = spark.table("things").select("id", make().alias("vector")).orderBy("id")
    assert rows.schema["vector"].dataType.simpleString() == "array<float>"
    assert [row.vector for row in rows.collect()] == [oracle.embed(text) for text in TEXTS]


@pytest.mark.parametrize(
    "make",
    [
        lambda: F.expr("ai_similarity(text, 'something red')"),
        lambda: F.expr("ai_similarity(first => text, second => 'something red')"),
        lambda: F.expr("ai_similarity('something red', text, 'smollm2-135m')"),
        lambda: F.expr("vector_cosine_similarity(ai_embed(text), ai_embed('something red'))"),
        lambda: ai_similarity("text", F.lit("something red"), model="smollm2-135m"),
    ],
)
def test_similarity_is_the_cosine_of_the_vectors(spark: SparkSession, make: Callable[[], Column]) -> None:
    rows = spark.table("things").select("id", make().alias("s")).orderBy("id")
    assert rows.schema["s"].dataType.simpleString() == "float"
    for row, text in zip(rows.collect(), TEXTS, strict=True):
        expected = oracle.similarity(text, "something red")
        assert row.s == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_a_text_is_embedded_once(spark: SparkSession) -> None:
    query = """
        SELECT id, ai_similarity(concat(text, ' once'), 'one'), ai_similarity('one', concat(text, ' once')),
          ai_embed(concat(text, ' once')), ai_similarity(concat(text, ' once'), concat(text, ' once'))
        FROM things"""
    with spark_helium.measure(spark) as run:
        rows = spark.sql(query).collect()
    assert run.calls_sent == 5, "four texts and the constant"
    assert run.calls_requested == 5 * 7, "five rows, and seven calls in the query's text"
    assert run.output_tokens == 0
    for row in rows:
        text = TEXTS[row.id]
        assert row[1] == row[2]
        assert row[3] == (None if text is None else oracle.embed(f"{text} once"))
        assert row[4] == (None if text is None else pytest.approx(1, abs=1e-6))


def test_with_one_side_null_nothing_is_embedded(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.sql("SELECT ai_similarity('never seen', if(id < 0, text, NULL)) AS s FROM things").collect()
    assert {row.s for row in rows} == {None}
    assert run.calls_sent == 0


def test_nearest_texts(spark: SparkSession) -> None:
    near = spark.table("things").orderBy(ai_similarity("text", F.lit("red shoe")).desc(), "id").limit(2)
    assert [row.id for row in near.collect()] == [0, 4]


def test_a_similarity_join(spark: SparkSession) -> None:
    spark.createDataFrame([("hats",), ("a shoe",), (None,)], "name string").createOrReplaceTempView("names")
    pairs = spark.sql("""
        SELECT id, name FROM things JOIN names ON ai_similarity(text, name) > 0.4 ORDER BY id, name""").collect()
    spark.catalog.dropTempView("names")
    expected = [
        (i, name)
        for i, text in enumerate(TEXTS)
        for name in ("a shoe", "hats")
        if text is not None and (oracle.similarity(text, name) or 0) > 0.4
    ]
    assert [tuple(pair) for pair in pairs] == expected
    assert expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: F.expr("ai_count_tokens(text)"),
        lambda: F.expr("ai_count_tokens(text, 'smollm2-135m')"),
        lambda: ai_count_tokens("text"),
        lambda: ai_count_tokens(F.col("text"), model="smollm2-135m"),
    ],
)
def test_counting_tokens_makes_no_call(spark: SparkSession, make: Callable[[], Column]) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.table("things").select("id", make().alias("n")).orderBy("id")
        assert [row.n for row in rows.collect()] == [oracle.count_tokens(text) for text in TEXTS]
    assert rows.schema["n"].dataType.simpleString() == "int"
    assert (run.calls_requested, run.calls_sent, run.prompt_tokens) == (0, 0, 0)


def test_counts_in_conditions_and_sums(spark: SparkSession) -> None:
    (row,) = spark.sql("SELECT sum(ai_count_tokens(text)) AS n FROM things WHERE ai_count_tokens(text) > 1").collect()
    counts = [oracle.count_tokens(text) or 0 for text in TEXTS]
    assert row.n == sum(n for n in counts if n > 1)


def test_the_report_expects_no_calls_where_tokens_are_counted(spark: SparkSession) -> None:
    report = spark_helium.explain(spark.sql("SELECT ai_count_tokens(text), ai_embed(text) FROM things"), analyze=True)
    (node,) = report.nodes
    counted, embedded = node.calls
    assert (counted.calls, counted.distinct_prompts, counted.prompt_tokens) == (0, 0, 0)
    assert embedded.calls > 0
    assert embedded.prompt_tokens > 0
    assert node.actual is not None


def test_a_text_that_cannot_be_embedded(spark: SparkSession) -> None:
    rows = spark.sql("""
        SELECT ai_embed(t, failOnError => false) AS e, ai_similarity(t, 'x', failOnError => false) AS s,
          ai_count_tokens(t, failOnError => false) AS n
        FROM VALUES (''), ('x') AS t(t)""").collect()
    assert rows[0].e.response is None
    assert "an empty text has no embedding" in rows[0].e.errorMessage
    assert (rows[0].s, rows[0].n.response) == (None, 0)
    assert len(rows[1].e.response) == EMBEDDING_SIZE
    assert rows[1].s == pytest.approx(1, abs=1e-6)
    with pytest.raises(SparkRuntimeException, match="an empty text has no embedding"):
        spark.sql("SELECT ai_embed(t) FROM VALUES (''), ('x') AS t(t)").collect()


@pytest.mark.parametrize(
    ("call", "condition"),
    [
        ("ai_embed()", "HELIUM_ARGUMENTS"),
        ("ai_embed(text, 'smollm2-135m', 3)", "HELIUM_ARGUMENTS"),
        ("ai_embed(text, 'smolm')", "HELIUM_UNKNOWN_MODEL"),
        ("ai_embed(text, text)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("ai_embed(array(text))", "HELIUM_ARGUMENT_TYPE"),
        ("ai_embed(text, max_tokens => 3)", "HELIUM_UNKNOWN_OPTION"),
        ("ai_similarity(text)", "HELIUM_ARGUMENTS"),
        ("ai_count_tokens(text, system => 'x')", "HELIUM_UNKNOWN_OPTION"),
    ],
)
def test_mistakes(spark: SparkSession, call: str, condition: str) -> None:
    with pytest.raises(AnalysisException) as caught:
        spark.sql(f"SELECT {call} FROM things").collect()
    assert caught.value.getCondition() == condition


def test_mistakes_in_python() -> None:
    with pytest.raises(ArgumentError, match="ai_embed.. got content=3, which is not a column"):
        ai_embed(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="ai_similarity.. got second=None, which is not a column"):
        ai_similarity("text", None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="got a column as model"):
        ai_count_tokens("text", model=F.col("text"))  # type: ignore[arg-type]
