"""From Python values to the arguments of the SQL functions, for all families."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from spark_helium.errors import ArgumentError

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class SamplingOptions(TypedDict, total=False):
    """What all keyword options have in common.

    Attributes
    ----------
    model : str
        A built-in name, a local path or a hub name; default ``spark.helium.model``.
    max_tokens : int
        Most output tokens. The default is the function's own; see ``DESCRIBE FUNCTION EXTENDED``.
    temperature : float
        0 (default) to 2. Above 0 without a ``seed`` the call is never merged or cached.
    top_p : float
        Above 0, at most 1 (default).
    seed : int
        Makes a call with a temperature repeatable.
    fail_on_error : bool
        True (default) ends the query at the first failed row; False returns ``struct<response, errorMessage>``
        (:func:`~spark_helium.functions.ai_filter`: NULL).
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    fail_on_error: bool | None


class CallOptions(SamplingOptions, total=False):
    """Keyword options of every function that makes one LLM call.

    Attributes
    ----------
    system : str
        System message.
    """

    system: str | None


class TextOptions(CallOptions, total=False):
    """Keyword options of the functions whose answer is a text.

    Attributes
    ----------
    stop : str or iterable of str
        Texts that end the answer.
    """

    stop: str | Iterable[str] | None


def call(
    function: str,
    positional: Sequence[Column],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
    known: type[TypedDict] = CallOptions,  # type: ignore[valid-type]
) -> Column:
    """The SQL function with arguments by position, constants by name, and the user's options.

    Raises
    ------
    ArgumentError
        An option is not one of ``known``, or not a constant.
    """
    names = known.__annotations__.keys()
    for name, value in options.items():
        if name not in names:
            raise ArgumentError.unknown_option(function, name, value, sorted(names))
    given = {**constants, **options}
    return F.call_function(
        function,
        *positional,
        *[named(name, constant(function, name, value)) for name, value in given.items() if value is not None],
    )


def template_column(template: str | Column) -> Column:
    return F.lit(template) if isinstance(template, str) else template


def columns(function: str, args: Sequence[ColumnOrName]) -> list[Column]:
    return [_column(function, f"{{!r}} as argument {position}", arg) for position, arg in enumerate(args)]


def column(function: str, name: str, value: ColumnOrName) -> Column:
    return _column(function, f"{name}={{!r}}", value)


def _column(function: str, given: str, value: ColumnOrName) -> Column:
    if not isinstance(value, (Column, str)):
        raise ArgumentError(
            f"{function}() got {given.format(value)}, which is not a column; "
            f"pass a Column, a column name, or F.lit({value!r})"
        )
    return F.col(value) if isinstance(value, str) else value


def named_columns(
    function: str, template: str | Column, values: Mapping[str, ColumnOrName], options: Iterable[str] = ()
) -> list[Column]:
    for name, value in values.items():
        wanted = isinstance(template, Column) or name in _PLACEHOLDER.findall(template.replace("{{", ""))
        if not wanted or not isinstance(value, (Column, str)):
            raise ArgumentError.not_a_column(function, name, value, options)
    return [named(name, item) for name, item in zip(values, columns(function, list(values.values())), strict=True)]


def named(name: str, value: Column) -> Column:
    # SQL's `name => value`, which call_function() has no spelling for.
    return F.call_function("helium_named_argument", F.lit(name), value)


def constant(function: str, name: str, value: Any) -> Column:
    if isinstance(value, Column):
        raise ArgumentError(
            f"{function}() got a column as {name}, which is an option and the same for every row; "
            "give a placeholder that needs a column another name"
        )
    if isinstance(value, (set, frozenset)):
        value = sorted(value)  # an order that is the same in every run, since it is part of the call
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return F.array(*[F.lit(item) for item in value])
    if not isinstance(value, (str, int, float)):
        raise ArgumentError(f"{function}() got {name}={value!r}, which is no constant that an option takes")
    return F.lit(value)


def labels_column(function: str, labels: Iterable[str] | Mapping[str, str]) -> Column:
    """Names, or names with descriptions."""
    if isinstance(labels, (str, Column)) or not isinstance(labels, Iterable):
        raise ArgumentError(
            f"{function}() got labels={labels!r}; pass a list of strings, or a dict from labels to descriptions"
        )
    if isinstance(labels, Mapping):
        return F.lit(json.dumps(dict(labels), ensure_ascii=False))
    return constant(function, "labels", labels)


def schema_text(function: str, name: str, schema: str | DataType | Mapping[str, Any] | type | None) -> str | None:
    """A type or a schema as text that SQL reads. A Pydantic model is known by its method, never imported."""
    if isinstance(schema, DataType):
        return schema.json()
    if isinstance(schema, Mapping):
        return json.dumps(schema)
    of_model = getattr(schema, "model_json_schema", None)
    if callable(of_model):
        return json.dumps(of_model())
    if schema is not None and not isinstance(schema, str):
        raise ArgumentError(
            f"{function}() got {name}={schema!r}; pass a DDL string, a Spark type such as "
            "StructType(), a JSON schema as text or dict, or a Pydantic model"
        )
    return schema
