"""ai_query, ai_complete and ai_gen in SQL and in Python; answers are those of the same llm() call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BooleanType, IntegerType, StructType

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_complete, ai_gen, ai_query, prompt

from ..sql import oracle

BODIES = ["red shoe", "blue hat", None, "old lamp"]
MODEL = "smollm2-135m"


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(list(enumerate(BODIES)), "id int, body string").createOrReplaceTempView("questions")
    yield
    spark.catalog.dropTempView("questions")


def answers(spark: SparkSession, call: str) -> list[object]:
    return [row[1] for row in sorted(spark.sql(f"SELECT id, {call} AS answer FROM questions").collect())]


EXPECTED = [oracle.llm("Praise {0}!", body) for body in BODIES]


@pytest.mark.parametrize(
    "call",
    [
        "ai_gen('Praise ' || body || '!')",
        "ai_gen(prompt => concat('Praise ', body, '!'))",
        "ai_gen(prompt('Praise {0}!', body))",
        "ai_gen(array(struct('user' AS role, prompt('Praise {0}!', body) AS content)))",
        f"ai_query('{MODEL}', 'Praise ' || body || '!')",
        f"ai_query(endpoint => '{MODEL}', request => 'Praise ' || body || '!', returnType => 'STRING')",
        "ai_query(NULL, 'Praise ' || body || '!', modelParameters => named_struct('temperature', 0.0))",
        f"ai_complete('{MODEL}', prompt('Praise {{0}}!', body))",
        f"ai_complete(model => '{MODEL}', prompt => prompt('Praise {{0}}!', body))",
    ],
)
def test_spellings_of_one_question(spark: SparkSession, call: str) -> None:
    assert answers(spark, call) == EXPECTED


@pytest.mark.parametrize(
    "call",
    [
        lambda: ai_gen(prompt("Praise {0}!", "body")),
        lambda: ai_gen(F.concat(F.lit("Praise "), "body", F.lit("!")), model=MODEL),
        lambda: ai_query(MODEL, F.concat(F.lit("Praise "), "body", F.lit("!")), return_type="STRING"),
        lambda: ai_complete(None, prompt("Praise {body}!", body="body"), temperature=0.0),
    ],
)
def test_spellings_of_one_question_in_python(spark: SparkSession, call: Callable) -> None:
    rows = spark.table("questions").select("id", call().alias("answer")).collect()
    assert [row.answer for row in sorted(rows)] == EXPECTED


def test_constant_prompts(spark: SparkSession) -> None:
    row = spark.sql("SELECT ai_gen('Name {a} color'), ai_query(NULL, 'Name a ' || 'color')").collect()[0]
    assert row[0] == oracle.chat([("user", "Name {a} color")])
    assert row[1] == oracle.chat([("user", "Name a color")])
    assert spark.range(1).select(ai_gen("Name {a} color")).collect()[0][0] == row[0]


def test_equal_questions_are_one_call_by_whatever_name(spark: SparkSession) -> None:
    df = spark.sql(
        f"""SELECT llm('Describe {{0}} once', body), ai_gen('Describe ' || body || ' once'),
                   ai_query('{MODEL}', prompt('Describe {{0}} once', body)) FROM questions"""
    )
    with spark_helium.measure(spark) as run:
        rows = df.collect()
    assert all(row[0] == row[1] == row[2] for row in rows)
    assert (run.calls_requested, run.calls_sent) == (9, 3)


def test_model_parameters(spark: SparkSession) -> None:
    got = answers(spark, f"ai_query('{MODEL}', 'Long ' || body, modelParameters => named_struct('max_tokens', 2))")
    assert got == [oracle.llm("Long {0}", body, max_tokens=2) for body in BODIES]
    rows = spark.table("questions").select("id", ai_query(MODEL, F.concat(F.lit("Long "), "body"), max_tokens=2))
    assert [row[1] for row in sorted(rows.collect())] == got


def test_types(spark: SparkSession) -> None:
    schema = StructType().add("n", IntegerType()).add("ok", BooleanType())
    df = spark.sql("SELECT ai_query(NULL, 'Rate ' || body, 'STRUCT<n: INT, ok: BOOLEAN>') AS a FROM questions")
    assert df.schema["a"].dataType == schema
    values = df.collect()
    assert sorted(row.a is None for row in values) == [False, False, False, True]
    same = spark.table("questions").select(ai_query(None, F.concat(F.lit("Rate "), "body"), return_type=schema))
    assert sorted(map(str, same.collect())) == sorted(
        str(r).replace("Row(a=", f"Row({same.columns[0]}=") for r in values
    )
    assert isinstance(answers(spark, "ai_query(NULL, 'Count ' || body, 'INT')")[0], int)


def test_json_that_stays_text(spark: SparkSession) -> None:
    ddl = "STRUCT<result: STRUCT<n: INT, ok: BOOLEAN>>"
    wrapped = {
        "type": "json_schema",
        "json_schema": {
            "name": "answer",
            "schema": {
                "type": "object",
                "properties": {"n": {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
                               "ok": {"type": "boolean"}},
                "required": ["n", "ok"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }  # fmt: skip
    one = answers(spark, f"ai_query(NULL, 'Form ' || body, responseFormat => '{ddl}')")
    two = answers(spark, f"ai_query(NULL, 'Form ' || body, responseFormat => '{json.dumps(wrapped)}')")
    assert one == two
    assert [set(json.loads(text)) for text in one if text is not None] == [{"n", "ok"}] * 3
    column = ai_complete(None, F.concat(F.lit("Form "), "body"), response_format=wrapped)
    rows = spark.table("questions").select("id", column).collect()
    assert [row[1] for row in sorted(rows)] == one
    assert json.loads(answers(spark, """ai_query(NULL, body, responseFormat => '{"type": "json_object"}')""")[0]) == {}


def test_json_text_that_is_cut_off_is_an_error(spark: SparkSession) -> None:
    call = (
        "ai_query(NULL, 'Cut ' || body, responseFormat => 'STRUCT<a: STRING>', max_tokens => 2, failOnError => false)"
    )
    for answer in answers(spark, call):
        assert answer is None or (answer.response is None and "cut off at max_tokens = 2" in answer.errorMessage)


def test_fail_on_error(spark: SparkSession) -> None:
    row = spark.sql(f"SELECT ai_query('{MODEL}', 'x', failOnError => false) AS a").collect()[0]
    assert row.a.response == oracle.chat([("user", "x")])
    assert row.a.errorMessage is None
    assert spark.range(1).select(ai_gen("x", fail_on_error=False)).collect()[0][0] == row.a


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ai_gen("x", max_token=3), "ai_gen\\(\\) got max_token=3.*did you mean max_tokens"),
        (lambda: ai_gen("x", choices=["a"]), "no option of that name"),
        (lambda: ai_query("m", "x", max_tokens=F.col("id")), "ai_query\\(\\) got a column as max_tokens"),
        (lambda: ai_query("m", "x", return_type=3), "return_type=3; pass a DDL string"),
    ],
)
def test_what_only_python_can_get_wrong(spark: SparkSession, call: Callable, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "condition", "hint"),
    [
        ("ai_gen()", "HELIUM_ARGUMENTS", "prompt is missing. Call it as ai_gen(prompt, option => value...)"),
        ("ai_gen(body, body)", "HELIUM_ARGUMENTS", "it takes 1 arguments by position, and got 2"),
        ("ai_query('m')", "HELIUM_ARGUMENTS", "the argument request is missing"),
        ("ai_query('smollm', body)", "HELIUM_UNKNOWN_MODEL", "smollm"),
        ("ai_query(NULL, body, modelParameters => 3)", "HELIUM_OPTION_TYPE", "named_struct('max_tokens', 100)"),
        ("ai_query(NULL, body, returnType => 'FOO')", "HELIUM_ANSWER_SCHEMA", "FOO"),
        ("ai_query(NULL, body, returnTyp => 'INT')", "HELIUM_UNKNOWN_OPTION", "Did you mean returnType?"),
        ("ai_query(NULL, array(id))", "HELIUM_CONVERSATION", "ARRAY<INT>"),
    ],
)  # fmt: skip
def test_mistakes(spark: SparkSession, call: str, condition: str, hint: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT {call} FROM questions").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert hint in str(error.value)


def test_model_parameters_in_python(spark: SparkSession) -> None:
    rows = spark.range(3).select(F.col("id").cast("string").alias("body"))
    same = rows.select(
        ai_query(None, F.concat(F.lit("About "), "body"), max_tokens=3, temperature=0.5, seed=1).alias("a"),
        ai_query(
            None,
            request=F.concat(F.lit("About "), "body"),
            model_parameters={"max_tokens": 3, "temperature": 0.5, "seed": 1},
        ).alias("b"),
        ai_complete(
            None, F.concat(F.lit("About "), "body"), max_tokens=3, model_parameters={"temperature": 0.5, "seed": 1}
        ).alias("c"),
    ).collect()
    assert all(row.a == row.b == row.c for row in same)
    with pytest.raises(ArgumentError, match="got seed as an option and in model_parameters"):
        ai_query(None, "hi", seed=1, model_parameters={"seed": 1})
    with pytest.raises(ArgumentError, match="did you mean max_tokens"):
        ai_query(None, "hi", model_parameters={"max_token": 1})
