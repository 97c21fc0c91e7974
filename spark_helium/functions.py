"""LLM calls as Column functions, the same on classic and Spark Connect sessions.

Each function is the SQL function of the same name and needs no access to the JVM. Catalyst checks the call; what
is checked here is what only Python can get wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from spark_helium.errors import ArgumentError

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName

__all__ = ["llm", "prompt"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def llm(
    template: str | Column,
    /,
    *args: ColumnOrName,
    model: str | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Iterable[str] | None = None,
    choices: Iterable[str] | None = None,
    response_schema: str | DataType | Mapping[str, Any] | None = None,
    regex: str | None = None,
    fail_on_error: bool | None = None,
    fields: Column | Sequence[ColumnOrName] | None = None,
    **named: ColumnOrName,
) -> Column:
    """Answer of a language model to the prompt that the template gives for each row.

    NULL in an argument gives NULL and no call.

    Parameters
    ----------
    template
        Text with placeholders ``{}``, ``{0}`` or ``{name}``; ``{{`` and ``}}`` are literal braces. Or a
        conversation: an array column of ``struct<role, content>``.
    *args
        Columns or column names for the placeholders by position.
    model
        A built-in name, a local path or a hub name; default ``spark.helium.model``.
    system
        System message.
    max_tokens
        Most output tokens; default ``spark.helium.maxTokens``.
    temperature
        0 (default) to 2. Above 0 without a ``seed`` the call is never merged or cached.
    top_p, seed, stop
        As in vLLM's sampling parameters.
    choices
        Strings of which one is the answer.
    response_schema
        DDL string, Spark type, or JSON schema (as text or a dict); the answer becomes a value of that type.
    regex
        Regular expression that the whole answer matches.
    fail_on_error
        True (default) ends the query at the first failed row; False returns
        ``struct<response, errorMessage>``.
    fields
        Columns, or one struct column, for the prompt as lines ``name: value``: where the template says ``{fields}``,
        else at its end. The optimizer may choose their order, so that rows share long beginnings of prompts.
    **named
        Columns or column names for ``{name}`` placeholders.

    Returns
    -------
    Column
        The answers: strings, or values of ``response_schema``.

    Raises
    ------
    ArgumentError
        A keyword is neither an option nor a column.
    pyspark.errors.AnalysisException
        When the column is used: template and arguments disagree, an option is out of range, ...

    Examples
    --------
    >>> from spark_helium.functions import llm
    >>> from pyspark.sql import functions as F
    >>> column = llm("Is this {kind} review positive? {review}", kind=F.lit("hotel"), review="body",
    ...              choices=["yes", "no"])
    """
    options = {
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
        "choices": choices,
        "response_schema": _schema_text(response_schema),
        "regex": regex,
        "fail_on_error": fail_on_error,
    }
    given = [_named(name, _constant(name, value)) for name, value in options.items() if value is not None]
    placeholders = _named_columns("llm", template, named, options)
    if fields is not None:
        record = fields if isinstance(fields, Column) else F.struct(*_columns("llm", _listed(fields)))
        placeholders.append(_named("fields", record))
    return F.call_function("llm", _template(template), *_columns("llm", args), *placeholders, *given)


def prompt(template: str, /, *args: ColumnOrName, **named: ColumnOrName) -> Column:
    """A prompt that stays visible to the optimizer, for the content of a conversation's message.

    Parameters
    ----------
    template
        As in :func:`llm`.
    *args, **named
        Columns or column names for the placeholders.

    Returns
    -------
    Column
        Where no prompt is expected: the string that it renders to.

    Examples
    --------
    >>> from spark_helium.functions import llm, prompt
    >>> from pyspark.sql import functions as F
    >>> message = F.struct(F.lit("user").alias("role"), prompt("Shorten: {0}", "body").alias("content"))
    >>> column = llm(F.array(message))
    """
    placeholders = _named_columns("prompt", template, named)
    return F.call_function("prompt", _template(template), *_columns("prompt", args), *placeholders)


def _template(template: str | Column) -> Column:
    return F.lit(template) if isinstance(template, str) else template


def _columns(function: str, args: Sequence[ColumnOrName]) -> list[Column]:
    for position, arg in enumerate(args):
        if not isinstance(arg, (Column, str)):
            raise ArgumentError(
                f"{function}() got {arg!r} as argument {position}, which is not a column; "
                f"pass a Column, a column name, or F.lit({arg!r})"
            )
    return [F.col(arg) if isinstance(arg, str) else arg for arg in args]


def _named_columns(
    function: str, template: str | Column, named: Mapping[str, ColumnOrName], options: Iterable[str] = ()
) -> list[Column]:
    for name, value in named.items():
        wanted = isinstance(template, Column) or name in _PLACEHOLDER.findall(template.replace("{{", ""))
        if not wanted or not isinstance(value, (Column, str)):
            raise ArgumentError.not_a_column(function, name, value, options)
    columns = _columns(function, list(named.values()))
    return [_named(name, column) for name, column in zip(named, columns, strict=True)]


def _named(name: str, value: Column) -> Column:
    # SQL's `name => value`, which call_function() has no spelling for.
    return F.call_function("helium_named_argument", F.lit(name), value)


def _constant(name: str, value: Any) -> Column:
    if isinstance(value, Column):
        raise ArgumentError(
            f"llm() got a column as {name}, which is an option and the same for every row; "
            "give a placeholder that needs a column another name"
        )
    if isinstance(value, (set, frozenset)):
        value = sorted(value)  # an order that is the same in every run, since it is part of the call
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return F.array(*[F.lit(item) for item in value])
    if not isinstance(value, (str, int, float)):
        raise ArgumentError(f"llm() got {name}={value!r}, which is no constant that an option takes")
    return F.lit(value)


def _listed(fields: Sequence[ColumnOrName]) -> Sequence[ColumnOrName]:
    if isinstance(fields, str) or not fields:
        raise ArgumentError(f"llm() got fields={fields!r}; pass a list of columns, or one struct column")
    return fields


def _schema_text(schema: str | DataType | Mapping[str, Any] | None) -> str | None:
    if isinstance(schema, DataType):
        return schema.json()
    if isinstance(schema, Mapping):
        return json.dumps(schema)
    if schema is not None and not isinstance(schema, str):
        raise ArgumentError(
            f"llm() got response_schema={schema!r}; pass a DDL string, a Spark type such as "
            "StructType(), or a JSON schema as text or dict"
        )
    return schema
