from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as t

from spark_helium.udf.typed import AnswerType, converter

STRUCT = t.StructType(
    [
        t.StructField("name", t.StringType()),
        t.StructField("stars", t.ByteType()),
        t.StructField("tags", t.ArrayType(t.StringType())),
    ]
)


def column(type_: t.DataType, *texts: str | None, truncated: tuple[int, ...] = ()):
    return AnswerType(type_).column(pa.array(texts, pa.string()), lambda i: i in truncated, 9)


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (t.BooleanType(), "true", True),
        (t.ByteType(), "-128", -128),
        (t.ShortType(), "32767", 32767),
        (t.IntegerType(), " 7 ", 7),
        (t.IntegerType(), "3.0", 3),
        (t.IntegerType(), "3e2", 300),
        (t.LongType(), "9223372036854775807", 2**63 - 1),
        (t.FloatType(), "0.5", 0.5),
        (t.DoubleType(), "1", 1.0),
        (t.DoubleType(), "-1.5e-3", -0.0015),
        (t.DecimalType(5, 2), "123.455", Decimal("123.46")),
        (t.DecimalType(38, 10), "0.1", Decimal("0.1000000000")),
        (t.DecimalType(38, 0), "9" * 38, Decimal("9" * 38)),
        (t.DateType(), '"2026-01-31"', dt.date(2026, 1, 31)),
        (t.TimestampType(), '"2026-01-31T12:00:00+02:00"', dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)),
        (t.TimestampType(), '"2026-01-31T12:00:00"', dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        (t.TimestampNTZType(), '"2026-01-31T12:00:00"', dt.datetime(2026, 1, 31, 12)),
        (t.BinaryType(), '"aGk="', b"hi"),
        (t.ArrayType(t.IntegerType()), "[1, null, 2]", [1, None, 2]),
        (t.MapType(t.StringType(), t.IntegerType()), '{"a": 1, "b": null}', [("a", 1), ("b", None)]),
        (STRUCT, '{"name": "é", "stars": 5, "tags": [], "x": 1}', {"name": "é", "stars": 5, "tags": []}),
        (STRUCT, "{}", {"name": None, "stars": None, "tags": None}),
        (STRUCT, "null", None),
        (STRUCT, '{"name": "a\tb"}', {"name": "a\tb", "stars": None, "tags": None}),
    ],
    ids=str,
)
def test_values(type_, text, value):
    result = column(type_, None, text)
    assert result.errors == {}
    assert result.values.to_pylist() == [None, value]


@pytest.mark.parametrize(
    ("type_", "text", "reason"),
    [
        (t.BooleanType(), "1", "the answer is 1, which is not true or false"),
        (t.ByteType(), "128", "the answer is 128, which is out of the range of TINYINT (-128 to 127)"),
        (t.LongType(), "-9223372036854775809", "out of the range of BIGINT"),
        (t.IntegerType(), "1e400", "out of the range of INT"),
        (t.IntegerType(), "1.5", "the answer is 1.5, which is not a whole number"),
        (t.IntegerType(), "true", "not a whole number"),
        (t.IntegerType(), '"7"', "the answer is '7', which is not a whole number"),
        (t.FloatType(), "1e39", "out of the range of FLOAT"),
        (t.DoubleType(), "1e400", "out of the range of DOUBLE"),
        (t.DoubleType(), "1" * 400, "out of the range of DOUBLE"),
        (t.DoubleType(), "NaN", "NaN, which is not JSON"),
        (t.DecimalType(5, 2), "1000", "the answer is 1000, which is out of the range of DECIMAL(5,2)"),
        (t.DecimalType(5, 2), "999.999", "out of the range of DECIMAL(5,2)"),
        (t.DecimalType(5, 2), "1e999999", "out of the range of DECIMAL(5,2)"),
        (t.DateType(), '"31.1.2026"', "the answer is '31.1.2026', which is not a date such as 2026-01-31"),
        (t.DateType(), "5", "not a date"),
        (t.TimestampType(), '"noon"', "not a timestamp"),
        (t.TimestampType(), '"0001-01-01T00:00:00+05:00"', "years 1 to 9999"),
        (t.TimestampNTZType(), '"2026-01-31T12:00:00Z"', "without a time zone"),
        (t.BinaryType(), '"?"', "not base64"),
        (t.ArrayType(t.ByteType()), "[1, 200]", "element [1] is 200, which is out of the range of TINYINT"),
        (t.ArrayType(t.ByteType(), False), "[1, null]", "is missing or null"),
        (t.MapType(t.StringType(), t.ByteType()), "[]", "the answer is [], which is not an object"),
        (STRUCT, '{"name": "x", "stars": 300}', "field stars is 300, which is out of the range of TINYINT"),
        (STRUCT, '{"tags": ["x", 1]}', "field tags[1] is 1, which is not a string"),
        (STRUCT, '{"name": "\\ud800"}', "field name holds half a surrogate pair"),
        (STRUCT, '{"name": "x"', "the answer is not JSON"),
        (STRUCT, "[" * 100_000, "recursion"),
        (STRUCT, "", "the answer is not JSON"),
        (t.StructType([t.StructField("a", t.StringType(), False)]), "{}", "field a is missing or null"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_what_does_not_fit(type_, text, reason):
    result = column(type_, text, "null")
    assert result.values.null_count == 2
    assert list(result.errors) == [0]
    assert reason in result.errors[0]


def test_answer_that_was_cut_off_names_the_limit():
    result = column(STRUCT, '{"name": "lo', '{"name": "long"}', truncated=(0, 1))
    assert result.errors == {0: "the answer was cut off at max_tokens = 9; raise max_tokens"}
    assert result.values[1].as_py()["name"] == "long"


def test_text_is_passed_through():
    texts = pa.array(["{", None, "x"])
    result = AnswerType(t.StringType()).column(texts, lambda i: True, 9)
    assert result.values is texts
    assert result.errors == {}


@pytest.mark.parametrize("type_", [t.CalendarIntervalType(), t.MapType(t.IntegerType(), t.StringType()), t.NullType()])
def test_type_without_a_json_form(type_):
    with pytest.raises(ValueError, match="cannot return"):
        converter(t.ArrayType(type_))


def test_long_values_are_not_repeated_in_errors():
    assert len(column(t.IntegerType(), json.dumps("x" * 10_000)).errors[0]) < 120


FLOATS, DOUBLES = t.ArrayType(t.FloatType(), containsNull=False), t.ArrayType(t.DoubleType())
numbers = st.one_of(
    st.integers(-(10**400), 10**400), st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)
)
items = st.one_of(numbers, st.sampled_from([None, True, "1", [1.0]]))
vectors = st.one_of(st.none(), st.lists(st.floats(-1, 1)), st.lists(numbers, max_size=4), st.lists(items, max_size=3))


@given(type_=st.sampled_from([FLOATS, DOUBLES]), rows=st.lists(vectors, max_size=6), large=st.booleans())
def test_vectors_read_at_once_are_those_read_item_by_item(type_, rows, large) -> None:
    texts = pa.array([None if row is None else json.dumps(row) for row in rows], pa.string())
    at_once, one_by_one = (AnswerType(type_, large=large) for _ in range(2))
    one_by_one._vector_of = None
    fast, slow = (answer.column(texts, lambda _: False, 9) for answer in (at_once, one_by_one))
    fast.values.validate(full=True)
    assert (fast.values.type, fast.errors) == (slow.values.type, slow.errors)
    assert fast.values.to_pylist() == slow.values.to_pylist()


def test_a_slice_of_vectors_starts_at_its_own_row() -> None:
    texts = pa.array(["[9]", None, "[0.5,-1e-3]", "[]"]).slice(1)
    result = AnswerType(FLOATS).column(texts, lambda _: False, 9)
    assert result.values.to_pylist() == [None, [0.5, pytest.approx(-0.001)], []]


@pytest.mark.parametrize("text", ["[NaN]", "[1e999]", "[3.5e38]", "[1,]", "{}", "[[1]]", "[true]", "nonsense"])
def test_what_is_no_vector_costs_its_own_row_alone(text) -> None:
    result = column(FLOATS, "[1]", text, "[2]")
    assert list(result.errors) == [1]
    assert result.values.to_pylist() == [[1.0], None, [2.0]]
