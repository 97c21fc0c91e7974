"""ai_summarize, ai_translate, ai_fix_grammar and ai_mask in SQL and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_fix_grammar, ai_mask, ai_summarize, ai_translate, prompt

from ..sql import oracle

BODIES = ["She dont know", "He go home", None, "They was late"]
LANGUAGES = ["es", "German", "fr", None]


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    rows = [(i, body, lang) for i, (body, lang) in enumerate(zip(BODIES, LANGUAGES, strict=True))]
    spark.createDataFrame(rows, "id int, body string, lang string").createOrReplaceTempView("sentences")
    yield
    spark.catalog.dropTempView("sentences")


SUMMARY = "Summarize the text in at most {} words. Answer with the summary alone."
SPANISH = "Translate the text into Spanish. Answer with the translation alone."
GRAMMAR = (
    "Correct the grammar and the spelling of the text, and change nothing else. Answer with the corrected text alone."
)
MASK = (
    "Repeat the text with [MASKED] in place of everything of these kinds: person, email.\n"
    "Change nothing else. Answer with the text alone."
)


def about(instruction: str) -> list[str | None]:
    return [oracle.llm(instruction + "\n\nText: {0}", body) for body in BODIES]


CASES: list[tuple[str, Callable[[], Column], str]] = [
    ("ai_summarize(body)", lambda: ai_summarize("body"), SUMMARY.format(50)),
    ("ai_summarize(body, 7)", lambda: ai_summarize("body", 7), SUMMARY.format(7)),
    (
        "ai_summarize(max_words => 0, content => body)",
        lambda: ai_summarize(F.col("body"), max_words=0),
        SUMMARY.replace(" in at most {} words", ""),
    ),
    ("ai_translate(body, 'es')", lambda: ai_translate("body", "es"), SPANISH),
    ("ai_translate(body, '', 'Spanish')", lambda: ai_translate("body", "Spanish"), SPANISH),
    (
        "ai_translate(body, 'en', 'es')",
        lambda: ai_translate(prompt("{0}", "body"), "es", from_lang="en"),
        SPANISH.replace("text", "text from English"),
    ),
    ("ai_fix_grammar(body)", lambda: ai_fix_grammar("body"), GRAMMAR),
    ("ai_fix_grammar(prompt('{0}', body))", lambda: ai_fix_grammar("body", temperature=0.0), GRAMMAR),
    ("ai_mask(body, array('person', 'email'))", lambda: ai_mask("body", ["person", "email"]), MASK),
    (
        "ai_mask(labels => map('id', 'any number'), content => body)",
        lambda: ai_mask("body", {"id": "any number"}),
        MASK.replace(" person, email.", "\n- id: any number"),
    ),
]


@pytest.mark.parametrize(("sql", "column", "instruction"), CASES, ids=[case[0] for case in CASES])
def test_answers(spark: SparkSession, sql: str, column: Callable[[], Column], instruction: str) -> None:
    rows = spark.table("sentences").select("id", F.expr(sql).alias("sql"), column().alias("python")).collect()
    expected = about(instruction)
    assert [row["sql"] for row in sorted(rows)] == expected
    assert [row["python"] for row in sorted(rows)] == expected
    assert expected[2] is None, "NULL in, NULL out"


def test_language_of_each_row(spark: SparkSession) -> None:
    template = (
        "Translate the text into the language below. Answer with the translation alone.\n\nLanguage: {0}\n\nText: {1}"
    )
    expected = [oracle.llm(template, lang, body) for lang, body in zip(LANGUAGES, BODIES, strict=True)]
    df = spark.table("sentences").select("id", F.expr("ai_translate(body, lang)"), ai_translate("body", F.col("lang")))
    with spark_helium.measure(spark) as run:
        rows = sorted(df.collect())
    assert [row[1] for row in rows] == [row[2] for row in rows] == expected
    assert run.calls_sent == 2, "no call for a NULL in either"


def test_options(spark: SparkSession) -> None:
    df = spark.sql(
        """SELECT id, ai_fix_grammar(body, max_tokens => 2, system => 'Be brief', failOnError => false)
           FROM sentences"""
    )
    expected = [oracle.llm(GRAMMAR + "\n\nText: {0}", body, system="Be brief", max_tokens=2) for body in BODIES]
    assert [row[1] and row[1].response for row in sorted(df.collect(), key=lambda row: row.id)] == expected
    rows = spark.table("sentences").select("id", ai_fix_grammar("body", max_tokens=2, system="Be brief")).collect()
    assert [row[1] for row in sorted(rows, key=lambda row: row.id)] == expected


def test_answers_that_feed_calls(spark: SparkSession) -> None:
    df = spark.sql("SELECT id, ai_summarize(ai_fix_grammar(body), 5), upper(ai_translate(body, 'es')) FROM sentences")
    fixed, spanish = about(GRAMMAR), about(SPANISH)
    expected = [oracle.llm(SUMMARY.format(5) + "\n\nText: {0}", text) for text in fixed]
    rows = sorted(df.collect())
    assert [row[1] for row in rows] == expected
    assert [row[2] for row in rows] == [text and text.upper() for text in spanish]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ai_summarize("body", "many"), "AnalysisException|HELIUM_OPTION_TYPE"),
        (lambda: ai_summarize("body", F.col("id")), "got a column as max_words"),
        (lambda: ai_translate("body", 3), "to_lang=3, which is not a column"),
        (lambda: ai_mask("body", "person"), "labels='person'; pass a list"),
        (lambda: ai_fix_grammar("body", regex="x"), "regex='x', and has no option of that name"),
    ],
)
def test_mistakes_in_python(spark: SparkSession, call: Callable, message: str) -> None:
    with pytest.raises((ArgumentError, AnalysisException), match=message):
        spark.table("sentences").select(call()).schema  # noqa: B018


@pytest.mark.parametrize(
    ("call", "condition", "hint"),
    [
        ("ai_summarize(body, -1)", "HELIUM_OPTION_OUT_OF_RANGE", "0 (no limit)"),
        ("ai_summarize(body, id)", "HELIUM_OPTION_NOT_CONSTANT", "max_words"),
        ("ai_translate(body)", "HELIUM_ARGUMENTS", "the argument to_lang is missing"),
        ("ai_translate(body, 'a', 'b', 'c')", "HELIUM_ARGUMENTS", "it takes 3 arguments"),
        ("ai_translate(body, ' ')", "HELIUM_OPTION_OUT_OF_RANGE", "to_lang"),
        ("ai_mask(body, array('a', 'b', 'a '))", "HELIUM_OPTION_OUT_OF_RANGE", "'a' stands twice"),
        ("ai_mask(body, array())", "HELIUM_OPTION_OUT_OF_RANGE", "one or more"),
        ("ai_fix_grammar(array(body))", "HELIUM_ARGUMENT_TYPE", "to_json"),
        ("ai_fix_grammar(body, max_token => 3)", "HELIUM_UNKNOWN_OPTION", "Did you mean max_tokens?"),
    ],
)
def test_mistakes(spark: SparkSession, call: str, condition: str, hint: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT {call} FROM sentences").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert hint in str(error.value)
