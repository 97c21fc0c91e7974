"""Texts as the vectors and the tokens that a model sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.functions._arguments import column, constant, named

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


def ai_embed(content: ColumnOrName, *, model: str | None = None, fail_on_error: bool | None = None) -> Column:
    """The vector that the model's pooling gives for a text, of length 1. NULL gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name. It is embedded as it is, without a prompt; an empty text is an error.
    model, fail_on_error
        See :class:`CallOptions`.

    Returns
    -------
    Column
        Arrays of floats, as many as the model has dimensions.

    Raises
    ------
    ArgumentError
        ``content`` is no column, or an option is no constant.

    Examples
    --------
    >>> from spark_helium.functions import ai_embed
    >>> vectors = reviews.select("review_id", ai_embed("body").alias("vector"))  # doctest: +SKIP
    """
    return _call("ai_embed", {"content": content}, model, fail_on_error)


def ai_similarity(
    first: ColumnOrName, second: ColumnOrName, *, model: str | None = None, fail_on_error: bool | None = None
) -> Column:
    """How similar two texts are: the cosine of their :func:`ai_embed` vectors. NULL gives NULL and no call.

    Parameters
    ----------
    first, second
        Columns or column names. A text that stands in several rows or calls is embedded once.
    model
        See :class:`CallOptions`.
    fail_on_error
        True (default) ends the query at the first text that cannot be embedded; False gives NULL for it.

    Returns
    -------
    Column
        Floats, -1 to 1.

    Raises
    ------
    ArgumentError
        ``first`` or ``second`` is no column, or an option is no constant.

    Examples
    --------
    >>> from spark_helium.functions import ai_similarity
    >>> from pyspark.sql import functions as F
    >>> near = reviews.orderBy(ai_similarity("body", F.lit("too heavy")).desc()).limit(10)  # doctest: +SKIP
    """
    return _call("ai_similarity", {"first": first, "second": second}, model, fail_on_error)


def ai_count_tokens(content: ColumnOrName, *, model: str | None = None, fail_on_error: bool | None = None) -> Column:
    """How many tokens the model's tokenizer makes of a text. No model is called. NULL gives NULL.

    Parameters
    ----------
    content
        Column or column name. What a chat template would set around it is not counted.
    model, fail_on_error
        See :class:`CallOptions`.

    Returns
    -------
    Column
        Integers.

    Raises
    ------
    ArgumentError
        ``content`` is no column, or an option is no constant.

    Examples
    --------
    >>> from spark_helium.functions import ai_count_tokens
    >>> longest = reviews.orderBy(ai_count_tokens("body").desc()).limit(1)  # doctest: +SKIP
    """
    return _call("ai_count_tokens", {"content": content}, model, fail_on_error)


def _call(function: str, contents: Mapping[str, ColumnOrName], model: str | None, fail_on_error: bool | None) -> Column:
    options: dict[str, Any] = {"model": model, "fail_on_error": fail_on_error}
    return F.call_function(
        function,
        *[column(function, name, value) for name, value in contents.items()],
        *[named(name, constant(function, name, value)) for name, value in options.items() if value is not None],
    )
