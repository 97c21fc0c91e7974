"""Texts made of texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.functions._arguments import TextOptions, call, column, labels_column, named

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


def ai_summarize(content: ColumnOrName, max_words: int | None = None, **options: Unpack[TextOptions]) -> Column:
    """A summary of the content. NULL gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    max_words
        How many words the model is asked for at most, default 50; 0 sets no limit.
    **options
        See :class:`TextOptions`. ``max_tokens`` is ``3 * max_words + 32`` by default.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_summarize
    >>> column = ai_summarize("body", 20)
    """
    return _text("ai_summarize", content, {"max_words": max_words}, options)


def ai_translate(
    content: ColumnOrName, to_lang: str | Column, *, from_lang: str | None = None, **options: Unpack[TextOptions]
) -> Column:
    """The content in another language. NULL gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    to_lang
        A language as a code (``"es"``, ``"pt-BR"``) or a name; or a column with one for each row.
    from_lang
        The language of the content; the model finds out if it is not given.
    **options
        See :class:`TextOptions`. ``max_tokens`` is 1024 by default, or ``spark.helium.maxTokens`` where that is more.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_translate
    >>> column = ai_translate("body", "es")
    """
    language = F.lit(to_lang) if isinstance(to_lang, str) else column("ai_translate", "to_lang", to_lang)
    return _text("ai_translate", content, {"from_lang": from_lang}, options, named("to_lang", language))


def ai_fix_grammar(content: ColumnOrName, **options: Unpack[TextOptions]) -> Column:
    """The content with its grammar corrected. NULL gives NULL and no call.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    **options
        See :class:`TextOptions`. ``max_tokens`` is 1024 by default, or ``spark.helium.maxTokens`` where that is more.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_fix_grammar
    >>> column = ai_fix_grammar("body")
    """
    return _text("ai_fix_grammar", content, {}, options)


def ai_mask(content: ColumnOrName, labels: Iterable[str] | Mapping[str, str], **options: Unpack[TextOptions]) -> Column:
    """The content with ``[MASKED]`` in place of what the labels name. NULL gives NULL and no call.

    The model does the masking: check what must not get out.

    Parameters
    ----------
    content
        Column or column name; a :func:`prompt`, too.
    labels
        What to mask: different strings, or a dict from them to descriptions.
    **options
        See :class:`TextOptions`. ``max_tokens`` is 1024 by default, or ``spark.helium.maxTokens`` where that is more.

    Returns
    -------
    Column
        Strings.

    Examples
    --------
    >>> from spark_helium.functions import ai_mask
    >>> column = ai_mask("body", ["person", "email"])
    """
    return _text("ai_mask", content, {}, options, labels_column("ai_mask", labels))


def _text(
    function: str,
    content: ColumnOrName,
    constants: Mapping[str, object],
    options: TextOptions,
    *more: Column,
) -> Column:
    return call(function, [column(function, "content", content), *more], constants, options, TextOptions)
