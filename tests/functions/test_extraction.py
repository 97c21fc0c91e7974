"""ai_extract in SQL and in Python: values of the schema's type, or NULL."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator

import pydantic
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DateType,
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    StructType,
)

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_extract, prompt

from ..sql import oracle

BODIES = [f"order {n} from {place}" for n, place in enumerate(["Rome", "Oslo", "Lima", "Bonn", "Riga", "Nice"])]


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    rows = [*enumerate(BODIES), (len(BODIES), None)]
    spark.createDataFrame(rows, "id int, body string").createOrReplaceTempView("orders")
    yield
    spark.catalog.dropTempView("orders")


def asked(spark: SparkSession, call: str) -> list[Row | None]:
    return [row[1] for row in sorted(spark.sql(f"SELECT id, {call} FROM orders").collect(), key=lambda row: row[0])]


class Order(pydantic.BaseModel):
    """What a user would write for an order."""

    number: int
    place: str = pydantic.Field(description="a city")
    notes: list[str]
    express: bool | None = None


def test_names(spark: SparkSession) -> None:
    text = {"anyOf": [{"type": "string", "maxLength": 256}, {"type": "null"}]}
    schema = {
        "type": "object",
        "properties": {"number": text, "place": text},
        "required": ["number", "place"],
        "additionalProperties": False,
    }
    template = (
        "Extract these fields from the text, as a JSON object. A field that the text does not give is null.\n"
        "- number (string)\n- place (string)\n\nText: {0}"
    )
    said = [oracle.llm(template, body, json_schema=json.dumps(schema)) for body in BODIES]
    expected = [Row(**json.loads(text)) for text in said if text is not None]
    for call in (
        "ai_extract(body, array('number', 'place'))",
        "ai_extract(content => prompt('{0}', body), schema => '[\"number\", \"place\"]')",
    ):
        assert asked(spark, call) == [*expected, None]
    rows = spark.table("orders").select("id", ai_extract("body", ["number", "place"]).alias("found"))
    assert [row.found for row in sorted(rows.collect(), key=lambda row: row.id)] == [*expected, None]
    values = [value for row in expected for value in row]
    assert None in values
    assert any(isinstance(value, str) for value in values), "both what is there and what is not"


DDL = "number INT, place STRING NOT NULL COMMENT 'a city', due DATE NOT NULL, price DOUBLE NOT NULL, tags ARRAY<STRING>"
FIELDS = (
    StructType()
    .add("number", IntegerType())
    .add("place", StringType(), nullable=False)
    .add("due", DateType(), nullable=False)
    .add("price", DoubleType(), nullable=False)
    .add("tags", ArrayType(StringType()))
)


def test_ddl_and_struct_type(spark: SparkSession) -> None:
    written = DDL.replace("'", "\\'")
    found = asked(spark, f"ai_extract(body, '{written}')")
    assert found.pop() is None
    for row in found:
        assert row is not None
        assert row.number is None or isinstance(row.number, int)
        assert isinstance(row.place, str)
        assert isinstance(row.due, datetime.date)
        assert isinstance(row.price, float)
        assert row.tags is None or all(len(tag) <= 64 for tag in row.tags)
    assert asked(spark, f"ai_extract(body, 'STRUCT<{written}>')")[:-1] == found
    column = ai_extract("body", DDL)
    rows = spark.table("orders").orderBy("id").select(column.alias("found"), ai_extract("body", FIELDS).alias("typed"))
    assert [row.found for row in rows.collect()][:-1] == found
    assert [(f.name, f.dataType) for f in rows.schema["typed"].dataType] == [(f.name, f.dataType) for f in FIELDS]


def test_json_schema_and_pydantic_model(spark: SparkSession) -> None:
    schema = Order.model_json_schema()
    column = F.col("body")
    df = spark.table("orders").select(
        "id",
        ai_extract(column, Order).alias("of_model"),
        ai_extract(column, schema).alias("of_dict"),
        ai_extract(column, json.dumps(schema)).alias("of_text"),
    )
    expected = (
        StructType()
        .add("number", LongType())
        .add("place", StringType())
        .add("notes", ArrayType(StringType()))
        .add("express", BooleanType())
    )
    found = df.schema["of_model"].dataType
    assert [(f.name, f.dataType) for f in found] == [(f.name, f.dataType) for f in expected]
    with spark_helium.measure(spark) as run:
        rows = sorted(df.collect())
    assert rows.pop().of_model is None
    assert all(row.of_model == row.of_dict == row.of_text for row in rows)
    assert run.calls_sent == len(BODIES), "three spellings of one call"
    for row in rows:
        Order.model_validate(row.of_model.asDict())


def test_description_reaches_the_model(spark: SparkSession) -> None:
    plain = asked(spark, "ai_extract(body, 'place STRING NOT NULL')")
    described = asked(spark, "ai_extract(body, 'place STRING NOT NULL COMMENT \"a city\"')")
    instructed = asked(spark, "ai_extract(body, 'place STRING NOT NULL', instructions => 'Places are cities.')")
    assert plain != described != instructed


def test_field_of_the_result(spark: SparkSession) -> None:
    call = "ai_extract(body, 'number INT NOT NULL')"
    assert asked(spark, f"{call}.number") == [None if row is None else row.number for row in asked(spark, call)]


def test_an_answer_that_is_cut_off_is_reported(spark: SparkSession) -> None:
    for row in asked(spark, "ai_extract(body, 'a STRING NOT NULL', max_tokens => 1, failOnError => false)")[:-1]:
        assert row is not None
        assert row.response is None
        assert "cut off at max_tokens = 1" in row.errorMessage
    df = spark.table("orders").select(ai_extract("body", ["a"], max_tokens=1, fail_on_error=False).alias("a"))
    assert all(row.a is None or row.a.errorMessage for row in df.collect())


def test_prompt_as_content(spark: SparkSession) -> None:
    df = spark.table("orders").select(ai_extract(prompt("{0} at {1}", "body", "id"), ["place"]).place.alias("place"))
    assert len(df.collect()) == len(BODIES) + 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ai_extract("body", 3), "schema=3; pass a DDL string"),
        (lambda: ai_extract("body", int), "schema=<class 'int'>"),
        (lambda: ai_extract("body", F.col("x")), "pass a DDL string"),
        (lambda: ai_extract(None, ["a"]), "content=None, which is not a column"),
        (lambda: ai_extract("body", ["a"], stop="x"), "no option of that name"),
    ],
)
def test_what_only_python_can_get_wrong(spark: SparkSession, call: Callable, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "condition", "hint"),
    [
        ("ai_extract(body)", "HELIUM_ARGUMENTS", "the argument schema is missing"),
        ("ai_extract(body, 'a FOO')", "HELIUM_ANSWER_SCHEMA", "DDL"),
        ("ai_extract(body, 'ARRAY<INT>')", "HELIUM_ANSWER_SCHEMA", "no named fields"),
        ("ai_extract(body, body)", "HELIUM_OPTION_NOT_CONSTANT", "schema"),
        ("ai_extract(body, array('a', 'a'))", "HELIUM_OPTION_OUT_OF_RANGE", "different"),
        ("ai_extract(body, array('a'), instructions => id)", "HELIUM_OPTION_NOT_CONSTANT", "instructions"),
    ],
)
def test_mistakes(spark: SparkSession, call: str, condition: str, hint: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT {call} FROM orders").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert hint in str(error.value)


@pytest.mark.parametrize(
    "schema",
    [
        "DECIMAL(10,2)",
        "DECIMAL(4,2)",
        "DECIMAL(3,3)",
        "DECIMAL(5,0)",
        "DECIMAL(38,0)",
        "DECIMAL(38,20)",
        "DECIMAL(2,1)",
    ],
)
def test_decimals_fit_their_type(spark: SparkSession, schema: str) -> None:
    values = [row.price for row in asked(spark, f"ai_extract(body, 'price {schema} NOT NULL')") if row is not None]
    assert len(values) == len(BODIES)
    assert None not in values
    assert len(set(values)) > 1


def test_fields_by_name_as_json(spark: SparkSession) -> None:
    questions = {"number": "which number?", "place": "which city?"}
    by_map = asked(spark, "ai_extract(body, map('number', 'which number?', 'place', 'which city?'))")
    assert asked(spark, f"ai_extract(body, '{json.dumps(questions)}')") == by_map
    in_python = spark.table("orders").orderBy("id").select(ai_extract("body", questions)).collect()
    assert [row[0] for row in in_python] == by_map

    fields = {"number": {"type": "integer", "minimum": 0}, "express": {"type": "boolean"}}
    whole = {"type": "object", "properties": fields, "required": list(fields)}
    assert asked(spark, f"ai_extract(body, '{json.dumps(fields)}')") == asked(
        spark, f"ai_extract(body, '{json.dumps(whole)}')"
    )
