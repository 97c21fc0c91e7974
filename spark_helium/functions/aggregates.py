"""Aggregates, and folds over arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.errors import ArgumentError
from spark_helium.functions._arguments import call, column

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


class UnrolledOptions(TypedDict, total=False):
    """Keyword options of functions that make several calls per row: those of ``llm`` that do not shape the answer.

    Attributes
    ----------
    model: a built-in name, a local path or a hub name; default ``spark.helium.model``.
    max_tokens: most output tokens of each call; default ``spark.helium.maxTokens``.
    temperature: 0 (default) to 2. Above 0 without a ``seed`` no call is merged or cached.
    top_p, seed, stop: as in vLLM's sampling parameters.
    fail_on_error: True (default) ends the query at the first failed row; False returns
        ``struct<response, errorMessage>``.
    """

    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Iterable[str] | None
    fail_on_error: bool | None


def ai_agg(content: ColumnOrName, instruction: str, **options: Unpack[UnrolledOptions]) -> Column:
    """What a language model makes of all texts of a group.

    An aggregate, for ``groupBy(...).agg(...)``. The texts go into prompts in the order of the rows, as many as fit
    ``spark.helium.agg.tokens``; several answers are put together in the same way until there is one.

    Parameters
    ----------
    content
        Column of texts. NULLs are passed over, so that ``F.when(condition, content)`` chooses rows; a group without
        texts gives NULL.
    instruction
        What to do with the texts.
    **options
        See :class:`UnrolledOptions`.

    Returns
    -------
    Column
        A string per group.

    Raises
    ------
    ArgumentError
        A value is not of the kind that the function takes.

    Examples
    --------
    >>> from spark_helium.functions import ai_agg
    >>> column = ai_agg("body", "Name the three most frequent complaints.", max_tokens=64)
    """
    return _call("ai_agg", [column("ai_agg", "content", content), _text("ai_agg", "instruction", instruction)], options)


def ai_summarize_agg(content: ColumnOrName, **options: Unpack[UnrolledOptions]) -> Column:
    """A summary of all texts of a group; otherwise as :func:`ai_agg`.

    Examples
    --------
    >>> from spark_helium.functions import ai_summarize_agg
    >>> column = ai_summarize_agg("body", max_tokens=64)
    """
    return _call("ai_summarize_agg", [column("ai_summarize_agg", "content", content)], options)


def llm_fold(array: ColumnOrName, init_template: str, step_template: str, **options: Unpack[UnrolledOptions]) -> Column:
    """An answer refined over the elements of an array, such as the chunks of a document: one call per element.

    Parameters
    ----------
    array
        Array of texts. NULL elements are passed over; NULL, and an array without texts, give NULL.
    init_template
        Prompt for the first element, which ``{0}`` stands for.
    step_template
        Prompt for a further element: ``{0}`` is the answer so far, ``{1}`` the element.
    **options
        See :class:`UnrolledOptions`.

    Returns
    -------
    Column
        The last answer.

    Raises
    ------
    ArgumentError
        A value is not of the kind that the function takes.

    Examples
    --------
    >>> from spark_helium.functions import llm_fold
    >>> column = llm_fold("chunks", "Summarize: {0}", "Summary so far: {0} Extend it with: {1}")
    """
    templates = [_text("llm_fold", "init_template", init_template), _text("llm_fold", "step_template", step_template)]
    return _call("llm_fold", [column("llm_fold", "array", array), *templates], options)


def llm_top_k(array: ColumnOrName, criterion: str, k: int, **options: Unpack[UnrolledOptions]) -> Column:
    """The positions, from 0, of the ``k`` elements of an array that fit a criterion best, the best first.

    Of n different elements at most ``n - 1 + (k - 1) * (ceil(log2(n)) - 1)`` pairs are compared, a call each. A hash
    says which element of a pair the model reads first, so that the same ones are chosen whatever order they come in.

    Parameters
    ----------
    array
        Array of texts. NULL elements are passed over; NULL, and an array without texts, give NULL.
    criterion
        What the elements are compared by. Equal elements are not compared, they follow each other in their order.
    k
        How many positions, 1 or more.
    **options
        See :class:`UnrolledOptions`.

    Returns
    -------
    Column
        Arrays of at most ``k`` integers.

    Raises
    ------
    ArgumentError
        A value is not of the kind that the function takes.

    Examples
    --------
    >>> from spark_helium.functions import llm_top_k
    >>> column = llm_top_k("bodies", "the most specific complaint", 3)
    """
    if type(k) is not int or k < 1:
        raise ArgumentError(f"llm_top_k() got k={k!r}; pass a whole number, 1 or more")
    given = [column("llm_top_k", "array", array), _text("llm_top_k", "criterion", criterion), F.lit(k)]
    return _call("llm_top_k", given, options)


def _call(function: str, arguments: list[Column], options: UnrolledOptions) -> Column:
    return call(function, arguments, {}, options, UnrolledOptions)


def _text(function: str, name: str, value: str) -> Column:
    if not isinstance(value, str):
        raise ArgumentError(f"{function}() got {name}={value!r}; pass text, which is the same for all rows")
    return F.lit(value)
