"""How probable a model finds something."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_helium.functions._arguments import columns, constant, named, named_columns, template_column

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName


def ai_score(
    template: str | Column,
    /,
    *args: ColumnOrName,
    choices: Iterable[str] | None = None,
    model: str | None = None,
    system: str | None = None,
    fail_on_error: bool | None = None,
    **named_args: ColumnOrName,
) -> Column:
    """How probable the model finds it that the answer to a yes/no question is yes. NULL gives NULL and no call.

    The score is P(yes) / (P(yes) + P(no)), by the probabilities that the two words' first tokens have as the beginning
    of the answer. Nothing is generated, so that equal questions have equal scores, and a score costs a prefill.

    Parameters
    ----------
    template
        The question: text with placeholders ``{}``, ``{0}`` or ``{name}``; or a column with the whole question, such as
        a :func:`prompt`.
    *args
        Columns or column names for the placeholders by position.
    choices
        The two answers, of which the first one is scored; default ``("yes", "no")``. They must differ in the first
        token that the model writes them with.
    model, system, fail_on_error
        See :class:`CallOptions`.
    **named_args
        Columns or column names for ``{name}`` placeholders.

    Returns
    -------
    Column
        Doubles, 0 to 1.

    Raises
    ------
    ArgumentError
        A keyword is neither an option nor a column.
    pyspark.errors.AnalysisException
        When the column is used: ``choices`` are not two different texts, template and arguments disagree, ...

    Examples
    --------
    >>> from spark_helium.functions import ai_score
    >>> angriest = reviews.orderBy(ai_score("Is this review angry? {0}", "body").desc()).limit(10)  # doctest: +SKIP
    """
    function = "ai_score"
    options = {"choices": choices, "model": model, "system": system, "fail_on_error": fail_on_error}
    given = [named(name, constant(function, name, value)) for name, value in options.items() if value is not None]
    placeholders = named_columns(function, template, named_args, options)
    return F.call_function(function, template_column(template), *columns(function, args), *placeholders, *given)
