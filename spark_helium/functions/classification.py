"""Calls whose answer is one of a few values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.errors import ArgumentError
from spark_helium.functions._arguments import (
    CallOptions,
    call,
    column,
    columns,
    constant,
    labels_column,
    named,
    named_columns,
    template_column,
)

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


def ai_classify(
    content: ColumnOrName,
    labels: Iterable[str] | Mapping[str, str],
    *,
    multi: bool = False,
    instructions: str | None = None,
    **options: Unpack[CallOptions],
) -> Column:
    """The label that fits the content best; with ``multi``, all that fit. NULL gives NULL and no call.

    Nothing but a given label can come out: the engine cannot write anything else.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    labels
        Different strings, or a dict from labels to descriptions that the model is shown.
    multi
        Return an array of the labels that fit, in the order of ``labels`` and perhaps empty.
    instructions
        A text that says more about the labels.
    **options
        See :class:`CallOptions`.

    Returns
    -------
    Column
        Strings, or arrays of strings.

    Raises
    ------
    ArgumentError
        ``labels`` is no list or dict, or an option is unknown or no constant.
    pyspark.errors.AnalysisException
        When the column is used: there is no label, two are equal, an option is out of range, ...

    Examples
    --------
    >>> from spark_helium.functions import ai_classify
    >>> column = ai_classify("body", {"praise": "says what is good", "blame": "says what is bad"}, multi=True)
    """
    constants = {"multi": True if multi else None, "instructions": instructions}
    arguments = [column("ai_classify", "content", content), labels_column("ai_classify", labels)]
    return call("ai_classify", arguments, constants, options)


def ai_filter(
    template: str | Column,
    /,
    *args: ColumnOrName,
    condition: str | None = None,
    model: str | None = None,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    fail_on_error: bool | None = None,
    proxy_model: str | None = None,
    target_precision: float | None = None,
    target_recall: float | None = None,
    sample_rows: int | None = None,
    **named_args: ColumnOrName,
) -> Column:
    """Whether what a template says is true, or whether a condition holds for a content.

    NULL in an argument gives NULL and no call. Conditions over answers that stand together in a filter run cheapest
    first, each for the rows that the others let through.

    Parameters
    ----------
    template
        Text with placeholders ``{}``, ``{0}`` or ``{name}``; or a column with the whole question, such as a
        :func:`prompt`. With ``condition``: the content, a column or a column name.
    *args
        Columns or column names for the placeholders by position.
    condition
        A text that is the same for every row, without placeholders.
    model, system, max_tokens, temperature, top_p, seed
        See :class:`CallOptions`.
    fail_on_error
        False gives NULL where a call fails, and ``calls_failed`` of :func:`spark_helium.measure` counts it.
    proxy_model, target_precision, target_recall
        Together: a cascade, which approximates. The proxy, another and cheaper model, decides the rows of which it is
        sure; ``model`` answers the others. Beside ``model`` alone, at least the share ``target_precision`` of what
        comes out true is right, and at least the share ``target_recall`` of what is to be found is found: for each
        window of ``spark.helium.cascade.windowRows`` rows of a partition with probability 0.95. ``cascade`` of
        :func:`spark_helium.measure` tells what was achieved.
    sample_rows
        Different prompts of a window that both models answer, to learn from.
    **named_args
        Columns or column names for ``{name}`` placeholders.

    Returns
    -------
    Column
        Booleans.

    Raises
    ------
    ArgumentError
        A keyword is neither an option nor a column; or ``condition`` and placeholders are given.

    Examples
    --------
    >>> from spark_helium.functions import ai_filter
    >>> heavy = ai_filter("Does this review mention the weight? {0}", "body")
    >>> late = ai_filter("body", condition="it complains about the delivery")
    >>> angry = ai_filter(
    ...     "Is it angry? {0}", "body", proxy_model="org/small", target_precision=0.95, target_recall=0.95
    ... )
    """
    options = {
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "fail_on_error": fail_on_error,
        "proxy_model": proxy_model,
        "target_precision": target_precision,
        "target_recall": target_recall,
        "sample_rows": sample_rows,
    }
    if condition is not None:
        if args or named_args:
            raise ArgumentError(
                f"ai_filter() got condition={condition!r} and arguments for placeholders; pass the content and a "
                "condition, or a template and its arguments"
            )
        content = column("ai_filter", "content", template)
        return call("ai_filter", [content, F.lit(condition)], options, {})
    placeholders = named_columns("ai_filter", template, named_args, options)
    given = [named(name, constant("ai_filter", name, value)) for name, value in options.items() if value is not None]
    return F.call_function("ai_filter", template_column(template), *columns("ai_filter", args), *placeholders, *given)


def ai_analyze_sentiment(content: ColumnOrName, **options: Unpack[CallOptions]) -> Column:
    """The sentiment of the content: positive, negative, neutral or mixed. NULL gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    **options
        See :class:`CallOptions`.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_analyze_sentiment
    >>> column = ai_analyze_sentiment("body")
    """
    return call("ai_analyze_sentiment", [column("ai_analyze_sentiment", "content", content)], {}, options)


def ai_sentiment(content: ColumnOrName, **options: Unpack[CallOptions]) -> Column:
    """The same as :func:`ai_analyze_sentiment`."""
    return call("ai_sentiment", [column("ai_sentiment", "content", content)], {}, options)
