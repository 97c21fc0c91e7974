"""Scripts written for other products run as they are, but for the names of tables and models.

Where a product's own grammar differs from Spark's (object and array literals), the scripts have Spark's. What the
library does differently is that results have SQL types, and that a sentiment is one word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

HERE = Path(__file__).parent

TABLES = {
    "questions": ("question string, language string", [("Why is the sky blue?", "German"), ("What is art?", "French")]),
    "messages": ("text string", [("Where is my parcel?",), ("Great lamp, thank you!",), (None,)]),
    "products": ("description string", [("a red woollen scarf",), ("an oak table",)]),
    "reviews": ("content string", [("The soup was cold",), ("We will come again",), ("Too loud for us",)]),
}


@pytest.fixture(scope="module", autouse=True)
def tables(spark: SparkSession) -> Iterator[None]:
    for name, (schema, rows) in TABLES.items():
        spark.createDataFrame(rows, schema).createOrReplaceTempView(name)
    yield
    for name in [*TABLES, "angry"]:
        spark.catalog.dropTempView(name)


def statements(product: str) -> list[str]:
    text = re.sub(r"^--.*\n", "", (HERE / f"{product}.sql").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [statement.strip() for statement in text.split(";\n") if statement.strip()]


@pytest.mark.parametrize("product", ["databricks", "snowflake"])
def test_script(spark: SparkSession, product: str) -> None:
    script = statements(product)
    assert len(script) >= 12
    for statement in script:
        df = spark.sql(statement)
        rows = df.collect()
        assert rows or not statement.startswith("SELECT") or "WHERE" in statement or "JOIN" in statement, statement
        for row in rows:
            for name, value in row.asDict().items():
                if name in ("details", "sender", "note") and value is not None:
                    assert isinstance(json.loads(value), dict), statement
                if name == "mood" and value is not None:
                    assert value in {"positive", "negative", "neutral", "mixed"}


def test_null_content_gives_null(spark: SparkSession) -> None:
    rows = spark.sql("SELECT text, ai_fix_grammar(text) AS fixed FROM messages").collect()
    assert [row.fixed is None for row in rows] == [row.text is None for row in rows]
