"""Aggregates, and folds over arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Unpack

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.errors import ArgumentError
from spark_helium.functions._arguments import SamplingOptions, call, column

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


class UnrolledOptions(SamplingOptions, total=False):
    """Keyword options of functions that make several calls per row: those of ``llm`` that do not shape the answer.

    ``max_tokens`` holds for each call; its default is ``spark.helium.maxTokens``.

    Attributes
    ----------
    stop: texts that end an answer.
    """

    stop: str | Iterable[str] | None


class AggregateOptions(UnrolledOptions, total=False):
    """Keyword options of aggregates.

    Attributes
    ----------
    partial: whether the texts of a group are reduced within each partition first, before they travel, and then the
        answers of the partitions, in their order; default False. The answer then depends on how the rows are
        partitioned.
    """

    partial: bool | None


def ai_agg(content: ColumnOrName, instruction: str, **options: Unpack[AggregateOptions]) -> Column:
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
        See :class:`AggregateOptions`.

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
    arguments = [column("ai_agg", "content", content), _text("ai_agg", "instruction", instruction)]
    return call("ai_agg", arguments, {}, options, AggregateOptions)


def ai_summarize_agg(content: ColumnOrName, **options: Unpack[AggregateOptions]) -> Column:
    """A summary of all texts of a group; otherwise as :func:`ai_agg`.

    Examples
    --------
    >>> from spark_helium.functions import ai_summarize_agg
    >>> column = ai_summarize_agg("body", max_tokens=64)
    """
    return call("ai_summarize_agg", [column("ai_summarize_agg", "content", content)], {}, options, AggregateOptions)


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
    return call("llm_fold", [column("llm_fold", "array", array), *templates], {}, options, UnrolledOptions)


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
    return call("llm_top_k", given, {}, options, UnrolledOptions)


def _text(function: str, name: str, value: str) -> Column:
    if not isinstance(value, str):
        raise ArgumentError(f"{function}() got {name}={value!r}; pass text, which is the same for all rows")
    return F.lit(value)
