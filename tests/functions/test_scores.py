"""ai_score in SQL and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_score, llm, prompt

from ..sql import oracle

BODIES = ["red shoe", "blue hat", None, "old lamp", "red shoe", "a very long coat"]
QUESTION = "Is this warm? {0}"
EXPECTED = [oracle.score(QUESTION, body) for body in BODIES]


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(list(enumerate(BODIES)), "id int, body string").createOrReplaceTempView("clothes")
    yield
    spark.catalog.dropTempView("clothes")


@pytest.mark.parametrize(
    "call",
    [
        f"ai_score('{QUESTION}', body)",
        "ai_score('Is this warm? {thing}', thing => body)",
        f"ai_score(prompt('{QUESTION}', body))",
        "ai_score('Is this warm? ' || body)",
        f"ai_score('{QUESTION}', body, choices => array('yes', 'no'), model => 'smollm2-135m')",
    ],
)
def test_spellings_of_one_question(spark: SparkSession, call: str) -> None:
    rows = spark.sql(f"SELECT id, {call} AS score FROM clothes ORDER BY id")
    assert rows.schema["score"].dataType.simpleString() == "double"
    assert [row.score for row in rows.collect()] == EXPECTED
    assert all(score is None or 0 <= score <= 1 for score in EXPECTED)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ai_score(QUESTION, "body"),
        lambda: ai_score("Is this warm? {thing}", thing=F.col("body")),
        lambda: ai_score(prompt(QUESTION, "body"), model="smollm2-135m", choices=["yes", "no"]),
    ],
)
def test_the_same_in_python(spark: SparkSession, make: Callable[[], Column]) -> None:
    rows = spark.table("clothes").select("id", make().alias("score")).orderBy("id").collect()
    assert [row.score for row in rows] == EXPECTED


def test_other_choices_are_another_question(spark: SparkSession) -> None:
    rows = spark.sql(f"""
        SELECT ai_score('{QUESTION}', body, choices => array('ja', 'nein')) AS ja,
          ai_score('{QUESTION}', body, choices => array('nein', 'ja')) AS nein
        FROM clothes WHERE body IS NOT NULL ORDER BY id""").collect()
    bodies = [body for body in BODIES if body is not None]
    assert [row.ja for row in rows] == [oracle.score(QUESTION, body, choices=("ja", "nein")) for body in bodies]
    assert [row.nein for row in rows] == [oracle.score(QUESTION, body, choices=("nein", "ja")) for body in bodies]


def by_score(ascending: bool = False) -> list[int]:
    known = [(score, i) for i, score in enumerate(EXPECTED) if score is not None]
    return [i for _, i in sorted(known, key=lambda pair: (pair[0] if ascending else -pair[0], pair[1]))]


def test_the_best_by_score_ask_each_prompt_once(spark: SparkSession) -> None:
    query = f"SELECT id FROM clothes ORDER BY ai_score('{QUESTION} (SQL)', body) DESC, id LIMIT 3"
    with spark_helium.measure(spark) as run:
        found = [row.id for row in spark.sql(query).collect()]
    scores = {i: oracle.score(f"{QUESTION} (SQL)", body) for i, body in enumerate(BODIES) if body is not None}
    assert found == sorted(scores, key=lambda i: (-scores[i], i))[:3]  # type: ignore[operator]
    assert (run.calls_requested, run.calls_sent) == (5, 4), "no sample of the sort asks again"
    assert run.output_tokens == 4
    plan = spark.sql(f"EXPLAIN {query}").collect()[0][0]
    assert "TakeOrderedAndProject" in plan
    assert "ai_score('Answer with yes or no." in plan


@pytest.mark.parametrize("cache", ["true", "false"])
def test_the_best_by_score_in_python(spark: SparkSession, set_setting: Callable[[str, str], None], cache: str) -> None:
    set_setting("spark.helium.cache.enabled", cache)
    best = spark.table("clothes").orderBy(ai_score(QUESTION, "body").desc(), "id").limit(2)
    assert [row.id for row in best.collect()] == by_score()[:2]
    whole = spark.table("clothes").where("body IS NOT NULL").orderBy(ai_score(QUESTION, "body"), "id")
    with spark_helium.measure(spark) as run:
        assert [row.id for row in whole.collect()] == by_score(ascending=True)
    assert run.calls_sent == (0 if cache == "true" else 4)


def test_equal_scores_are_one_call_and_a_completion_is_another(spark: SparkSession) -> None:
    asked = "Answer with yes or no.\n\nIs this warm? {0}"
    rows = spark.table("clothes").select(
        ai_score(QUESTION, "body").alias("a"),
        (ai_score(QUESTION, "body") * 2).alias("b"),
        llm(asked, "body", choices=["yes", "no"]).alias("said"),
    )
    rows.createOrReplaceTempView("asked")
    plan = spark.sql("EXPLAIN SELECT * FROM asked").collect()[0][0]
    spark.catalog.dropTempView("asked")
    assert "EvalLLM 2 calls" in plan, plan
    for row, body, score in zip(rows.collect(), BODIES, EXPECTED, strict=True):
        assert (row.a, row.b) == (score, None if score is None else 2 * score)
        assert row.said == oracle.llm(asked, body, choices=("yes", "no"))


def test_a_score_in_conditions_and_in_another_prompt(spark: SparkSession) -> None:
    rows = spark.sql(f"""
        SELECT id, llm('Explain {{0}}', round(ai_score('{QUESTION}', body), 2)) AS why FROM clothes
        WHERE ai_score('{QUESTION}', body) > 0.3
          AND CASE WHEN id < 4 THEN ai_score('{QUESTION}', body) < 2 ELSE true END
        ORDER BY id""").collect()
    kept = [i for i, score in enumerate(EXPECTED) if score is not None and score > 0.3]
    assert [row.id for row in rows] == kept
    for row in rows:
        assert row.why == oracle.llm("Explain {0}", float(f"{EXPECTED[row.id]:.2f}"))


def test_a_failed_row_is_reported(spark: SparkSession) -> None:
    rows = spark.sql("""
        SELECT ai_score('{0}', body, failOnError => false) AS s
        FROM VALUES (repeat('x', 100000)), ('short') AS t(body)""").collect()
    assert rows[0].s.response is None
    assert "tokens" in rows[0].s.errorMessage
    assert rows[1].s == (oracle.score("{0}", "short"), None)


@pytest.mark.parametrize(
    ("call", "condition"),
    [
        ("ai_score()", "HELIUM_TEMPLATE_ARGUMENTS"),
        ("ai_score('{0}')", "HELIUM_TEMPLATE_ARGUMENTS"),
        ("ai_score('{0}', body, choices => array('yes'))", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("ai_score('{0}', body, choices => array('yes', 'yes'))", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("ai_score('{0}', body, choices => array('yes', ''))", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("ai_score('{0}', body, choices => body)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("ai_score('{0}', body, temperature => 0.5)", "HELIUM_UNKNOWN_OPTION"),
        ("ai_score('{0}', body, model => 'smolm')", "HELIUM_UNKNOWN_MODEL"),
    ],
)
def test_mistakes(spark: SparkSession, call: str, condition: str) -> None:
    with pytest.raises(AnalysisException) as caught:
        spark.sql(f"SELECT {call} FROM clothes").collect()
    assert caught.value.getCondition() == condition


def test_mistakes_in_python() -> None:
    with pytest.raises(ArgumentError, match="ai_score.. got temperature=0.5"):
        ai_score(QUESTION, "body", temperature=0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="ai_score.. got a column as choices"):
        ai_score(QUESTION, "body", choices=F.col("body"))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="as argument 0, which is not a column"):
        ai_score(QUESTION, 5)  # type: ignore[arg-type]
