"""Answers as SQL values: JSON text to Arrow, with an error of its own for every row that does not fit.

Guided decoding makes the JSON well formed and of the right shape. What it cannot promise is checked here: that
the answer was not cut off at max_tokens, and that numbers, dates and decimals fit their SQL types.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import types as t
from pyspark.sql.pandas.types import to_arrow_type

# Takes what json.loads gave, never None, and where in the answer it stands; raises ValueError.
Convert = Callable[[Any, str], Any]

_INTEGERS: dict[type[t.DataType], tuple[str, int]] = {
    t.ByteType: ("TINYINT", 8),
    t.ShortType: ("SMALLINT", 16),
    t.IntegerType: ("INT", 32),
    t.LongType: ("BIGINT", 64),
}
_VECTORS: dict[type[t.DataType], type[np.floating[Any]]] = {t.FloatType: np.float32, t.DoubleType: np.float64}
_FLOAT_MAX = 3.4028235677973366e38  # what rounds to more than this is not a FLOAT


@dataclass(frozen=True, slots=True)
class TypedColumn:
    """Values of an answer column, NULL where ``errors`` has a reason for the position."""

    values: pa.Array
    errors: dict[int, str]


class AnswerType:
    """The SQL type of an answer, and how text becomes a value of it.

    Raises
    ------
    ValueError
        The type cannot come from JSON.
    """

    def __init__(self, type_: t.DataType, *, large: bool = False) -> None:
        self.arrow: pa.DataType = to_arrow_type(type_, timezone="UTC", prefers_large_types=large)
        self.is_text = isinstance(type_, t.StringType)
        self._convert = converter(type_)
        self._vector_of = _VECTORS.get(type(type_.elementType)) if isinstance(type_, t.ArrayType) else None
        # Not strict: engines let control characters such as a tab stand in a text.
        self._decode = json.JSONDecoder(parse_float=decimal.Decimal, parse_constant=_no_constant, strict=False).decode

    def column(self, texts: pa.Array, truncated: Callable[[int], bool], max_tokens: int) -> TypedColumn:
        """Values of the answers; ``truncated(position)`` says whether one ended at ``max_tokens``."""
        if self.is_text:
            return TypedColumn(texts if texts.type == self.arrow else texts.cast(self.arrow), {})
        if self._vector_of is not None:
            vectors = self._vectors(texts, self._vector_of)
            if vectors is not None:
                return TypedColumn(vectors, {})
        errors: dict[int, str] = {}
        values = []
        for position, text in enumerate(texts.to_pylist()):
            value = None
            if text is not None:
                try:
                    parsed = self._decode(text)
                    value = None if parsed is None else self._convert(parsed, "the answer")
                except (ValueError, RecursionError) as e:
                    if truncated(position):
                        errors[position] = cut_off(max_tokens)
                    elif isinstance(e, json.JSONDecodeError):
                        errors[position] = f"the answer is not JSON: {e}; it starts with {text[:40]!r}"
                    else:
                        errors[position] = str(e)
            values.append(value)
        return TypedColumn(pa.array(values, self.arrow), errors)

    def _vectors(self, texts: pa.Array, dtype: type[np.floating[Any]]) -> pa.Array | None:
        """Arrays of numbers all at once, which takes a sixth of the time; None where an answer is anything else."""
        rows: list[list[float]] = []
        for text in texts.to_pylist():
            try:
                numbers = json.loads(text) if text is not None else []
            except (ValueError, RecursionError):
                return None
            if type(numbers) is not list or not {int, float}.issuperset(map(type, numbers)):
                return None
            rows.append(numbers)
        offsets = np.zeros(len(rows) + 1, np.int64 if pa.types.is_large_list(self.arrow) else np.int32)
        np.cumsum(list(map(len, rows)), out=offsets[1:])
        try:
            with np.errstate(over="ignore"):
                values = np.fromiter(chain.from_iterable(rows), np.float64, offsets[-1]).astype(dtype)
        except OverflowError:
            return None
        if not np.isfinite(values).all():
            return None
        valid = None
        if texts.null_count:
            valid = pa.py_buffer(np.packbits([text.is_valid for text in texts], bitorder="little"))
        items = pa.Array.from_buffers(self.arrow.value_type, len(values), [None, pa.py_buffer(values)])
        return pa.Array.from_buffers(self.arrow, len(rows), [valid, pa.py_buffer(offsets)], children=[items])


def cut_off(max_tokens: int) -> str:
    """Why an answer that ended at ``max_tokens`` is of no use."""
    return f"the answer was cut off at max_tokens = {max_tokens}; raise max_tokens"


def is_json(text: str) -> bool:
    """Whether the text is one whole JSON value."""
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(f"the answer holds {name}, which is not JSON")


def _wrong(where: str, value: Any, expected: str) -> ValueError:
    shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
    if isinstance(value, decimal.Decimal):
        shown = str(value)
    return ValueError(f"{where} is {shown}, which is not {expected}")


def converter(type_: t.DataType) -> Convert:
    """What turns JSON values into values that Arrow takes for the type."""
    match type_:
        case t.StringType():
            return _text
        case t.BooleanType():
            return _boolean
        case t.ByteType() | t.ShortType() | t.IntegerType() | t.LongType():
            return _integer(*_INTEGERS[type(type_)])
        case t.FloatType():
            return _floating("FLOAT", _FLOAT_MAX)
        case t.DoubleType():
            return _floating("DOUBLE", math.inf)
        case t.DecimalType():
            return _decimal(type_.precision, type_.scale)
        case t.DateType():
            return _date
        case t.TimestampType():
            return _timestamp
        case t.TimestampNTZType():
            return _timestamp_ntz
        case t.BinaryType():
            return _binary
        case t.ArrayType():
            return _array(converter(type_.elementType), type_.containsNull)
        case t.MapType(keyType=t.StringType()):
            return _map(converter(type_.valueType), type_.valueContainsNull)
        case t.StructType():
            return _struct([(f.name, converter(f.dataType), f.nullable) for f in type_.fields])
    raise ValueError(f"an LLM call cannot return {type_.simpleString()}: no JSON form of it is known")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, value, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} holds half a surrogate pair, which is not text") from None
    return value


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, value, "true or false")
    return value


def _integer(name: str, bits: int) -> Convert:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def convert(value: Any, where: str) -> int:
        if isinstance(value, decimal.Decimal) and value.copy_abs() < 1 << 64 and value == value.to_integral_value():
            value = int(value)  # 3.0 and 3e2 are whole numbers in JSON
        if isinstance(value, bool) or not isinstance(value, int | decimal.Decimal):
            raise _wrong(where, value, "a whole number")
        if not low <= value <= high:
            raise ValueError(f"{where} is {value}, which is out of the range of {name} ({low} to {high})")
        if not isinstance(value, int):
            raise _wrong(where, value, "a whole number")
        return value

    return convert


def _floating(name: str, largest: float) -> Convert:
    def convert(value: Any, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | decimal.Decimal):
            raise _wrong(where, value, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number) or abs(number) >= largest:
            raise ValueError(f"{where} is {str(value)[:40]}, which is out of the range of {name}")
        return number

    return convert


def _decimal(precision: int, scale: int) -> Convert:
    context = decimal.Context(prec=precision + scale + 64, rounding=decimal.ROUND_HALF_UP)
    step = decimal.Decimal(1).scaleb(-scale)
    limit = decimal.Decimal(10) ** (precision - scale)

    def convert(value: Any, where: str) -> decimal.Decimal:
        if isinstance(value, bool) or not isinstance(value, int | decimal.Decimal):
            raise _wrong(where, value, "a number")
        number = decimal.Decimal(value)
        if number.copy_abs() < limit:
            number = number.quantize(step, context=context)  # rounds as Spark's own cast does
        if number.copy_abs() >= limit:
            raise ValueError(f"{where} is {str(value)[:40]}, which is out of the range of DECIMAL({precision},{scale})")
        return number

    return convert


def _date(value: Any, where: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(value)
    except (ValueError, TypeError):
        raise _wrong(where, value, "a date such as 2026-01-31") from None


def _moment(value: Any, where: str) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise _wrong(where, value, "a timestamp such as 2026-01-31T12:00:00Z") from None


def _timestamp(value: Any, where: str) -> datetime.datetime:
    """Without a zone it is read as UTC: a model does not know the session's zone."""
    moment = _moment(value, where)
    try:
        return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
    except OverflowError:
        raise _wrong(where, value, "a timestamp in the years 1 to 9999") from None


def _timestamp_ntz(value: Any, where: str) -> datetime.datetime:
    moment = _moment(value, where)
    if moment.tzinfo is not None:
        raise _wrong(where, value, "a timestamp without a time zone")
    return moment


def _binary(value: Any, where: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise _wrong(where, value, "base64 text") from None


def _array(element: Convert, nullable: bool) -> Convert:
    def convert(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(where, value, "an array")
        return [_nested(element, item, f"{where}[{i}]", nullable) for i, item in enumerate(value)]

    return convert


def _map(values: Convert, nullable: bool) -> Convert:
    def convert(value: Any, where: str) -> list[tuple[str, Any]]:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return [(_text(k, where), _nested(values, v, f"{where}.{k}", nullable)) for k, v in value.items()]

    return convert


def _struct(fields: Sequence[tuple[str, Convert, bool]]) -> Convert:
    def convert(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {name: _nested(conv, value.get(name), f"{where}.{name}", nullable) for name, conv, nullable in fields}

    return convert


def _nested(convert: Convert, value: Any, where: str, nullable: bool) -> Any:
    if value is not None:
        return convert(value, where.replace("the answer.", "field ", 1).replace("the answer[", "element [", 1))
    if not nullable:
        raise ValueError(f"{where.replace('the answer.', 'field ', 1)} is missing or null")
    return None
