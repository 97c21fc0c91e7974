"""The call that everything else is made of, and templates by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from spark_helium.errors import ArgumentError
from spark_helium.functions._arguments import (
    columns,
    constant,
    named_columns,
    schema_text,
    template_column,
)
from spark_helium.functions._arguments import named as named_argument

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


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
    response_schema: str | DataType | Mapping[str, Any] | type | None = None,
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
        DDL string, Spark type, JSON schema (as text or a dict), or a Pydantic model class; the answer becomes a value
        of that type.
    regex
        Regular expression that the whole answer matches.
    fail_on_error
        True (default) ends the query at the first failed row; False returns
        ``struct<response, errorMessage>``.
    fields
        Columns, or one struct column, for the prompt as a JSON object: where the template says ``{fields}``, else in
        a line at its end. A NULL is written as null and does not make the answer NULL. The optimizer chooses the
        order of the fields by what a sample of the rows shares, also from row to row, so that prompts have long
        beginnings in common; rows with equal values have equal prompts.
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
        "response_schema": schema_text("llm", "response_schema", response_schema),
        "regex": regex,
        "fail_on_error": fail_on_error,
    }
    given = [named_argument(name, constant("llm", name, value)) for name, value in options.items() if value is not None]
    placeholders = named_columns("llm", template, named, options)
    if fields is not None:
        record = fields if isinstance(fields, Column) else F.struct(*columns("llm", _listed(fields)))
        placeholders.append(named_argument("fields", record))
    return F.call_function("llm", template_column(template), *columns("llm", args), *placeholders, *given)


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
    placeholders = named_columns("prompt", template, named)
    return F.call_function("prompt", template_column(template), *columns("prompt", args), *placeholders)


def _listed(fields: Sequence[ColumnOrName]) -> Sequence[ColumnOrName]:
    if isinstance(fields, str) or not fields:
        raise ArgumentError(f"llm() got fields={fields!r}; pass a list of columns, or one struct column")
    return fields
