"""Conditions on a row, in SQL's three-valued logic: when a call of the call graph runs.

A value of a condition is True, False, or None for unknown (SQL's NULL). Texts are compared by their characters, as
Spark compares strings without a collation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from spark_helium.call_parts import (
    InputRef,
    Parts,
    Ref,
    Row,
    input_from_json,
    is_null,
    malformed,
    parts_from_json,
    parts_to_json,
    references,
    text_of,
)


@dataclass(frozen=True, slots=True)
class Literal:
    """The same value for every row."""

    value: bool | None


@dataclass(frozen=True, slots=True)
class And:
    """False when one condition is false, else unknown when one is unknown. Of none at all, it is true."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True when one condition is true, else unknown when one is unknown. Of none at all, it is false."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; unknown stays unknown."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class IsTrue:
    """Whether a condition is true: false when it is unknown, and never unknown itself."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether a text is NULL; never unknown."""

    text: Parts


@dataclass(frozen=True, slots=True)
class Equal:
    """SQL's ``=``: unknown when a side is NULL."""

    left: Parts
    right: Parts


@dataclass(frozen=True, slots=True)
class NullSafeEqual:
    """SQL's ``<=>``: NULL equals NULL and nothing else; never unknown."""

    left: Parts
    right: Parts


@dataclass(frozen=True, slots=True)
class In:
    """SQL's ``IN`` with constants: unknown for NULL, and for a text that is not there while NULL is."""

    text: Parts
    values: frozenset[str | None]


# An InputRef is a boolean input column.
Condition: TypeAlias = InputRef | Literal | And | Or | Not | IsTrue | IsNull | Equal | NullSafeEqual | In


def evaluate(condition: Condition, row: Row) -> bool | None:
    """The value of the condition for the row. What stands right of a decision is not read, as in Spark."""
    match condition:
        case InputRef():
            value = row.value(condition)
            return None if value is None else bool(value)
        case Literal(value):
            return value
        case And(conditions):
            return _first(conditions, row, decisive=False)
        case Or(conditions):
            return _first(conditions, row, decisive=True)
        case Not(negated):
            value = evaluate(negated, row)
            return None if value is None else not value
        case IsTrue(tested):
            return evaluate(tested, row) is True
        case IsNull(text):
            return is_null(text, row)
        case Equal(left, right):
            if is_null(left, row) or is_null(right, row):
                return None
            return text_of(left, row) == text_of(right, row)
        case NullSafeEqual(left, right):
            if is_null(left, row) or is_null(right, row):
                return is_null(left, row) and is_null(right, row)
            return text_of(left, row) == text_of(right, row)
        case In(text, values):
            found = text_of(text, row)
            if found is None:
                return None
            return True if found in values else None if None in values else False


def _first(conditions: tuple[Condition, ...], row: Row, *, decisive: bool) -> bool | None:
    """``decisive`` when a condition has that value, else unknown when one is unknown, else the opposite."""
    result: bool | None = not decisive
    for condition in conditions:
        value = evaluate(condition, row)
        if value is decisive:
            return decisive
        if value is None:
            result = None
    return result


def condition_references(condition: Condition) -> Iterator[Ref]:
    """Every placeholder of the condition, in order of appearance, repeats included."""
    match condition:
        case InputRef():
            yield condition
        case And(conditions) | Or(conditions):
            for each in conditions:
                yield from condition_references(each)
        case Not(inner) | IsTrue(inner):
            yield from condition_references(inner)
        case IsNull(text) | In(text, _):
            yield from references(text)
        case Equal(left, right) | NullSafeEqual(left, right):
            yield from references(left)
            yield from references(right)
        case Literal():
            pass


def condition_to_json(condition: Condition) -> Any:
    """The wire form of a condition; :func:`condition_from_json` reads it."""
    match condition:
        case InputRef(index):
            return {"input": index}
        case Literal(value):
            return {"literal": value}
        case And(conditions):
            return {"and": [condition_to_json(each) for each in conditions]}
        case Or(conditions):
            return {"or": [condition_to_json(each) for each in conditions]}
        case Not(inner):
            return {"not": condition_to_json(inner)}
        case IsTrue(inner):
            return {"is_true": condition_to_json(inner)}
        case IsNull(text):
            return {"is_null": parts_to_json(text)}
        case Equal(left, right):
            return {"equal": [parts_to_json(left), parts_to_json(right)]}
        case NullSafeEqual(left, right):
            return {"null_safe_equal": [parts_to_json(left), parts_to_json(right)]}
        case In(text, values):
            # In a fixed order, NULL last, so that equal graphs are equal text.
            return {"in": parts_to_json(text), "values": sorted(values, key=lambda v: (v is None, v or ""))}


def condition_from_json(value: Any) -> Condition:
    """Read the wire form of a condition.

    Raises
    ------
    ValueError
        It is not a condition.
    """
    if isinstance(value, dict) and len(value) == 1:
        match value:
            case {"input": _}:
                return input_from_json(value)
            case {"literal": bool() | None as literal}:
                return Literal(literal)
            case {"and": list(conditions)}:
                return And(tuple(map(condition_from_json, conditions)))
            case {"or": list(conditions)}:
                return Or(tuple(map(condition_from_json, conditions)))
            case {"not": inner}:
                return Not(condition_from_json(inner))
            case {"is_true": inner}:
                return IsTrue(condition_from_json(inner))
            case {"is_null": text}:
                return IsNull(parts_from_json(text))
            case {"equal": [left, right]}:
                return Equal(parts_from_json(left), parts_from_json(right))
            case {"null_safe_equal": [left, right]}:
                return NullSafeEqual(parts_from_json(left), parts_from_json(right))
    match value:
        case {"in": text, "values": list(values)} if len(value) == 2:
            if not all(v is None or isinstance(v, str) for v in values):
                raise malformed("a list of texts and nulls", values)
            return In(parts_from_json(text), frozenset(values))
    raise malformed("a condition", value)
