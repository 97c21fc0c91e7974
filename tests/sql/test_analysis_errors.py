"""Mistakes in a call are analysis errors with a name, an SQLSTATE and a next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructType

from spark_helium.errors import ArgumentError
from spark_helium.functions import llm, prompt


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame([(1, "a", [1])], "id int, body string, list array<int>").createOrReplaceTempView("mistakes")
    yield
    spark.catalog.dropTempView("mistakes")


CASES = [
    ("llm()", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "no template"),
    ("llm('{0} {1}', body)", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "2 placeholders for 1 argument"),
    ("llm('{0}', body, id)", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "1 placeholder for 2 arguments"),
    ("llm('hello', body)", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "0 placeholders for 1 argument"),
    ("llm('{1}', body, id)", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "argument 0 has no placeholder"),
    ("llm('{a} {b}', a => body)", "HELIUM_TEMPLATE_ARGUMENTS", "42K0E", "without a named argument"),
    ("llm('{0', body)", "HELIUM_TEMPLATE_SYNTAX", "42601", "character 1"),
    ("llm('{\"a\": 1}', body)", "HELIUM_TEMPLATE_SYNTAX", "42601", "{{ and }} for literal braces"),
    ("llm('{} {0}', body)", "HELIUM_TEMPLATE_SYNTAX", "42601", "{0} placeholder follows {} ones"),
    ("llm(body)", "HELIUM_TEMPLATE_NOT_CONSTANT", "42K09", "llm('{0}', body)"),
    ("llm('{0}', list)", "HELIUM_ARGUMENT_TYPE", "42K09", "to_json(list)"),
    ("llm('{0}', body, max_token => 3)", "HELIUM_UNKNOWN_OPTION", "42K0E", "Did you mean max_tokens?"),
    ("llm('{text}', txt => body)", "HELIUM_UNKNOWN_OPTION", "42K0E", "Did you mean text?"),
    ("llm('{0}', body, max_tokens => 0)", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "1 to 2147483647"),
    ("llm('{0}', body, max_tokens => 3000000000)", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "1 to 2147483647"),
    ("llm('{0}', body, temperature => 2.1)", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "between 0 and 2"),
    ("llm('{0}', body, top_p => 0)", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "above 0"),
    ("llm('{0}', body, seed => -1)", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "0 to "),
    ("llm('{0}', body, choices => array())", "HELIUM_OPTION_TYPE", "42K09", "array of strings"),
    ("llm('{0}', body, choices => array('a', 'a'))", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "different strings"),
    ("llm('{0}', body, regex => '(')", "HELIUM_OPTION_OUT_OF_RANGE", "22003", "regular expression"),
    ("llm('{0}', body, temperature => 'hot')", "HELIUM_OPTION_TYPE", "42K09", "a number"),
    ("llm('{0}', body, max_tokens => id)", "HELIUM_OPTION_NOT_CONSTANT", "42K09", "must be a constant"),
    ("llm('{0}', body, response_schema => 'a FOO')", "HELIUM_ANSWER_SCHEMA", "42K0E", "DDL"),
    ("llm('{0}', body, regex => 'a', choices => array('a'))", "HELIUM_CONFLICTING_OPTIONS", "42K0E", "only one"),
    ("llm('{0}', body, model => 'smollm2-135')", "HELIUM_UNKNOWN_MODEL", "42704", "Did you mean smollm2-135m?"),
    ("llm(list)", "HELIUM_CONVERSATION", "42K09", "ARRAY<INT>"),
    ("llm(array(struct('boss' AS role, body AS content)))", "HELIUM_CONVERSATION", "42K09", "boss"),
    ("transform(list, x -> llm('{0}', x))", "HELIUM_CALL_IN_LAMBDA", "0A000", "lambda of transform()"),
    ("filter(list, x -> llm('{0}', x) = 'yes')", "HELIUM_CALL_IN_LAMBDA", "0A000", "lambda of filter()"),
]


@pytest.mark.parametrize(("call", "condition", "state", "hint"), CASES, ids=[c[0] for c in CASES])
def test_sql(spark: SparkSession, call: str, condition: str, state: str, hint: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT {call} FROM mistakes").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert error.value.getSqlState() == state
    assert hint in str(error.value)


def test_dataframe(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.table("mistakes").select(llm("{0} {1}", "body")).schema  # noqa: B018
    assert error.value.getCondition() == "HELIUM_TEMPLATE_ARGUMENTS"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: llm("{0}", "body", max_token=3), "max_token=3.*did you mean the option max_tokens"),
        (lambda: llm("{0}", "body", modle="a/b"), "modle='a/b'.*did you mean the option model"),
        (lambda: llm("{0}", "body", failOnError=False), "did you mean the option fail_on_error"),
        (lambda: llm("{0}", "body", review="body"), "write {review} in the template"),
        (lambda: llm("{0}", 5), "argument 0, which is not a column.*F.lit\\(5\\)"),  # type: ignore[arg-type]
        (lambda: llm("{0}", "body", response_schema=int), "response_schema=<class 'int'>"),  # type: ignore[arg-type]
        (lambda: llm("{0}", "body", choices={"a": 1}), "choices={'a': 1}"),
        (lambda: prompt("{0}", "body", other="body"), "prompt\\(\\) got other='body'"),
    ],
)
def test_what_only_python_can_get_wrong(spark: SparkSession, call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


def test_iterables_and_types_as_options(spark: SparkSession) -> None:
    schema = StructType().add("first name", StringType()).add("n", IntegerType(), nullable=False)
    df = spark.table("mistakes").select(
        llm("{body} {{x}}", body="body", choices={"b", "a"}, stop=(s for s in ("x", "y"))).alias("a"),
        llm("{0}", "body", response_schema=schema).alias("b"),
    )
    assert df.schema["b"].dataType == schema
    assert df.collect()[0].a in {"a", "b"}


def test_a_temperature_in_a_join_condition_is_refused(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(
            """SELECT a.id FROM mistakes a LEFT JOIN mistakes b
               ON llm('{0} {1}', a.body, b.body, temperature => 1) = 'yes'"""
        ).collect()
    assert error.value.getCondition() == "INVALID_NON_DETERMINISTIC_EXPRESSIONS"


def test_a_call_outside_a_lambda_may_feed_one(spark: SparkSession) -> None:
    df = spark.table("mistakes").select(F.transform("list", lambda x: x + 1), llm("{0}", "body"))
    assert df.count() == 1
