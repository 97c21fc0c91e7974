"""Typed answers of the library from the real engine: every one of them is a value of its type."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pytest
from pyspark.sql import DataFrame, SparkSession

import spark_helium
from spark_helium.demo import table
from spark_helium.functions import ai_classify, ai_extract, ai_filter, ai_query

from .test_page import STATEMENTS

pytestmark = pytest.mark.engine

ROWS = 20
TOPICS = ["quality", "delivery", "price", "customer service"]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    directory = tmp_path_factory.mktemp("f")
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
    )
    spark = spark_helium.configure(
        builder, engine="vllm", executor_directory=str(directory), cache_directory=str(directory / "cache")
    ).getOrCreate()
    yield spark
    spark.stop()


@pytest.fixture(scope="module")
def reviews(session: SparkSession) -> DataFrame:
    table.reviews(session).createOrReplaceTempView("reviews")
    return session.table("reviews").limit(ROWS)


def test_labels(session: SparkSession, reviews: DataFrame) -> None:
    df = reviews.select("review_id", ai_classify("body", TOPICS), ai_classify("body", TOPICS, multi=True))
    rows = sorted(df.collect())
    assert len(rows) == ROWS
    assert {row[1] for row in rows} <= set(TOPICS)
    assert all(row[2] == [topic for topic in TOPICS if topic in row[2]] for row in rows)
    prompt = "Classify the text with one of these labels: {}.\\nAnswer with the label alone.\\n\\nText: {{0}}"
    plain = session.sql(
        f"""SELECT review_id, llm('{prompt.format(", ".join(TOPICS))}', body,
                                  choices => array({", ".join(f"'{topic}'" for topic in TOPICS)}))
            FROM reviews WHERE review_id <= {max(row.review_id for row in rows)}"""
    )
    with spark_helium.measure(session) as run:
        assert [row[1] for row in sorted(plain.collect())] == [row[1] for row in rows]
    assert run.calls_sent == 0, "the same call as llm() makes"


def test_conditions(reviews: DataFrame) -> None:
    rows = reviews.select(
        ai_filter("Is this a complaint? {0}", "body"), ai_filter("body", condition="it mentions the weight")
    ).collect()
    assert len(rows) == ROWS
    assert {value for row in rows for value in row} <= {True, False}


def test_fields(reviews: DataFrame) -> None:
    kinds = "stars INT, price DOUBLE NOT NULL, bought DATE NOT NULL, broken BOOLEAN NOT NULL, parts ARRAY<STRING>"
    rows = reviews.select(
        ai_extract("body", ["product", "problem"]).alias("names"), ai_extract("body", kinds).alias("kinds")
    ).collect()
    assert len(rows) == ROWS
    for row in rows:
        assert all(value is None or isinstance(value, str) for value in row.names)
        stars, price, bought, broken, parts = row.kinds
        assert stars is None or isinstance(stars, int)
        assert isinstance(price, float)
        assert isinstance(bought, datetime.date)
        assert isinstance(broken, bool)
        assert parts is None or isinstance(parts, list)


def test_json_that_stays_text(reviews: DataFrame) -> None:
    schema = {"type": "object", "properties": {"tone": {"enum": ["calm", "angry"]}}, "required": ["tone"]}
    format_ = {"type": "json_schema", "json_schema": {"schema": {**schema, "additionalProperties": False}}}
    rows = reviews.select(ai_query(None, reviews.body, response_format=format_)).collect()
    assert {json.loads(row[0])["tone"] for row in rows} <= {"calm", "angry"}


@pytest.mark.usefixtures("reviews")
@pytest.mark.parametrize("statement", [s for s, _ in STATEMENTS], ids=[s.split("\n")[0][:60] for s, _ in STATEMENTS])
def test_every_example_of_the_page(session: SparkSession, statement: str) -> None:
    assert session.sql(statement).collect()
