"""docs/functions.md: it is what the catalog says, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

import spark_helium.functions
from spark_helium.catalyst_rules import function_page
from spark_helium.demo import table

TEXT = function_page.PAGE.read_text(encoding="utf-8")
NAMES = re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)
STATEMENTS = [
    (statement[1].strip(), [line[3:] for line in statement[2].splitlines()])
    for block in re.findall(r"^```sql\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    for statement in re.finditer(r"(.*?);\n((?:-- .*\n)*)", block, re.DOTALL)
]


@pytest.fixture(scope="module", autouse=True)
def reviews(spark: SparkSession) -> Iterator[None]:
    table.reviews(spark).createOrReplaceTempView("reviews")
    yield
    spark.catalog.dropTempView("reviews")


def test_page_is_current() -> None:
    functions = function_page.catalog()
    assert function_page.page(functions) == TEXT, "run: make function-docs"
    assert [f.name for f in functions] == NAMES
    assert sum(len(f.examples) for f in functions) == len(STATEMENTS)
    assert all(f.examples for f in functions)


def test_no_name_twice_and_python_has_them_all() -> None:
    assert len(NAMES) == len(set(NAMES)) > 10
    python = {name for name in spark_helium.functions.__all__ if callable(getattr(spark_helium.functions, name))}
    assert set(NAMES) <= python


@pytest.mark.parametrize(("statement", "result"), STATEMENTS, ids=[s.split("\n")[0][:60] for s, _ in STATEMENTS])
def test_example(spark: SparkSession, statement: str, result: list[str]) -> None:
    rows = spark.sql(statement).collect()
    if result:
        assert ["\t".join(map(str, row)) for row in rows] == result


@pytest.mark.parametrize("name", NAMES)
def test_describe(spark: SparkSession, name: str) -> None:
    text = "\n".join(row[0] for row in spark.sql(f"DESCRIBE FUNCTION EXTENDED {name}").collect())
    assert f"Function: {name}" in text
    assert f"Usage: {name}(" in text
    assert "Arguments:" in text
    assert "> SELECT" in text.split("Examples:")[1]
    assert "_FUNC_" not in text


def test_plumbing_is_not_on_the_page() -> None:
    assert not [name for name in NAMES if name.startswith("helium_")]


def test_the_python_of_the_page_runs(spark: SparkSession) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    scope = {"reviews": table.reviews(spark)}
    lines = block.replace("\nreviews.where", "\nchosen = reviews.where")
    exec(lines, scope)
    assert len(scope["chosen"].columns) == 4
    scope["chosen"].collect()
