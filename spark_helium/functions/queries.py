"""Questions without a form of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from spark_helium.errors import ArgumentError
from spark_helium.functions._arguments import TextOptions, call, schema_text, template_column

Format: TypeAlias = str | DataType | Mapping[str, Any] | type


def ai_query(
    model: str | None,
    /,
    request: str | Column,
    *,
    return_type: Format | None = None,
    response_format: Format | None = None,
    model_parameters: Mapping[str, Any] | None = None,
    **options: Unpack[TextOptions],
) -> Column:
    """Answer of a model to a prompt. NULL in a prompt gives NULL and no call.

    Parameters
    ----------
    model
        A built-in name, a local path or a hub name; None for ``spark.helium.model``.
    request
        The prompt: a text that is the same for every row; or a column: a string, a :func:`prompt`, or a conversation.
        What is put together with ``F.concat`` is a template whose constants the optimizer sees.
    return_type
        DDL string, Spark type, JSON schema or Pydantic model: the type of the answer, which guided decoding enforces.
    response_format
        The form of an answer that stays a string of JSON: what ``return_type`` takes, or a response format as in
        ``{"type": "json_schema", "json_schema": {"schema": ...}}``.
    model_parameters
        Options as a dict, as Databricks and Snowflake have them: ``{"max_tokens": 20}`` is ``max_tokens=20``.
    **options
        See :class:`TextOptions`.

    Returns
    -------
    Column
        Strings, or values of ``return_type``.

    Raises
    ------
    ArgumentError
        An option is unknown, or no constant.
    pyspark.errors.AnalysisException
        When the column is used: an option is out of range, a schema cannot be read, ...

    Examples
    --------
    >>> from pyspark.sql import functions as F
    >>> from spark_helium.functions import ai_query
    >>> column = ai_query("smollm2-135m", F.concat(F.lit("Rate this: "), "body"), return_type="STRUCT<stars: INT>")
    """
    constants = {
        "returnType": schema_text("ai_query", "return_type", return_type),
        "responseFormat": schema_text("ai_query", "response_format", response_format),
    }
    given = _with_parameters("ai_query", options, model_parameters)
    return call("ai_query", [F.lit(model), template_column(request)], constants, given, TextOptions)


def ai_complete(
    model: str | None,
    /,
    prompt: str | Column,
    *,
    response_format: Format | None = None,
    model_parameters: Mapping[str, Any] | None = None,
    **options: Unpack[TextOptions],
) -> Column:
    """Answer of a model to a prompt, by the name that Snowflake has for it; see :func:`ai_query`.

    Parameters
    ----------
    model
        A built-in name, a local path or a hub name; None for ``spark.helium.model``.
    prompt
        As ``request`` of :func:`ai_query`.
    response_format, model_parameters
        As in :func:`ai_query`.
    **options
        See :class:`TextOptions`.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_complete, prompt
    >>> column = ai_complete("smollm2-135m", prompt("Shorten: {0}", "body"), max_tokens=20)
    """
    constants = {"response_format": schema_text("ai_complete", "response_format", response_format)}
    given = _with_parameters("ai_complete", options, model_parameters)
    return call("ai_complete", [F.lit(model), template_column(prompt)], constants, given, TextOptions)


def ai_gen(prompt: str | Column, **options: Unpack[TextOptions]) -> Column:
    """Answer to a prompt, of the default model if no option says another.

    Parameters
    ----------
    prompt
        As ``request`` of :func:`ai_query`.
    **options
        See :class:`TextOptions`.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from pyspark.sql import functions as F
    >>> from spark_helium.functions import ai_gen
    >>> column = ai_gen(F.concat(F.lit("Thank the customer for this review: "), "body"))
    """
    return call("ai_gen", [template_column(prompt)], {}, options, TextOptions)


def _with_parameters(
    function: str, options: Mapping[str, Any], model_parameters: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    more = model_parameters or {}
    for name in options.keys() & more.keys():
        raise ArgumentError(f"{function}() got {name} as an option and in model_parameters; leave one of them out")
    return {**options, **more}
