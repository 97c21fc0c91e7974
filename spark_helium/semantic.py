"""Operators on whole DataFrames: the best rows by pairwise comparison, and joins by what a language model says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_embed, ai_filter, llm_top_k
from spark_helium.functions._arguments import column

if TYPE_CHECKING:
    from pyspark.sql._typing import ColumnOrName

_SEED = 17  # of the sample of a join, so that two reports are about the same rows


def semantic_top_k(
    df: DataFrame, criterion: str, k: int, *, content: ColumnOrName | None = None, rank: str = "rank", **options: Any
) -> DataFrame:
    """The ``k`` rows that fit a criterion best, by pairwise comparisons.

    Of n different contents at most ``n - 1 + (k - 1) * (ceil(log2(n)) - 1)`` pairs are compared, a call each; none for
    n below 2. Which contents are chosen does not depend on the order of the rows, as hashes of the contents decide who
    meets whom and which of two the model reads first; see ``Tournament`` in ``gpu_executor/composite.py``. All rows are
    collected in one array in one task, because selecting per partition first would take more calls; the array must
    fit its memory.

    Parameters
    ----------
    df
        A DataFrame of a classic or a Connect session.
    criterion
        What the contents are compared by, such as ``"the most specific complaint"``.
    k
        How many rows, 1 or more; fewer come where fewer have a content.
    content
        Column or column name of the texts; by default the whole row as JSON. Rows with NULL are left out. Rows with
        equal texts stand together, in the order of the partitions and of the rows within one.
    rank
        Name of the column with the place, from 1, which is put first.
    **options
        Those of :func:`~spark_helium.functions.llm_top_k`, without ``fail_on_error``.

    Returns
    -------
    DataFrame
        The rows, the best first, with their place.

    Raises
    ------
    ArgumentError
        An argument is not of the kind that the function takes, ``df`` has a column of the name of ``rank``, or is a
        stream.

    Examples
    --------
    >>> best = spark_helium.semantic_top_k(reviews, "the most useful review", 3, content="body")  # doctest: +SKIP
    """
    _dataframe("semantic_top_k", "df", df)
    _no_stream("semantic_top_k", "df", df)
    text = F.to_json(F.struct("*")) if content is None else column("semantic_top_k", "content", content)
    if rank.lower() in (name.lower() for name in df.columns):
        raise ArgumentError(f"semantic_top_k() got rank={rank!r}, which is a column of df; give the rank another name")
    if "fail_on_error" in options:
        raise ArgumentError("semantic_top_k() has no option fail_on_error: without a comparison there is no order")
    # The text stands last, where the estimates look for it.
    row = F.struct(
        F.monotonically_increasing_id().alias("id"),
        F.struct("*").alias("row"),
        text.cast("string").alias("text"),
    )
    rows = df.select(row.alias("item")).where("item.text IS NOT NULL")
    collected = rows.agg(F.collect_list("item").alias("found")).select(
        F.array_sort("found", lambda a, b: F.when(a["id"] < b["id"], -1).otherwise(1)).alias("items")
    )
    texts = F.transform("items", lambda item: item["text"])
    best = collected.select("items", llm_top_k(texts, criterion, k, **options).alias("best"))
    chosen = best.select(F.posexplode(F.transform("best", lambda i: F.get("items", i)["row"])).alias("at", "row"))
    return chosen.select((F.col("at") + 1).alias(rank), "row.*")


@dataclass(frozen=True, slots=True)
class SampledJoin:
    """A join whose pre-filter is measured on a sample; :func:`spark_helium.explain` takes it as it takes a DataFrame.

    Attributes
    ----------
    rows : DataFrame
        The join.
    recall : DataFrame
        One row about the sample, computed when it is asked for, by asking all pairs of it: ``rows`` (left rows of the
        sample that have a pair), ``matches`` (pairs for which the template is true), ``kept`` (those of them that
        the pre-filter kept), ``recall`` (their share; NULL without matches), ``calls`` (different pairs of texts),
        ``calls_saved`` (those that the pre-filter dropped).
    """

    rows: DataFrame
    recall: DataFrame


@overload
def semantic_join(
    left: DataFrame,
    right: DataFrame,
    template: str,
    left_on: ColumnOrName,
    right_on: ColumnOrName,
    on: Column | str | Sequence[str] | None = None,
    *,
    top_k: int | None = None,
    recall_sample: None = None,
    **options: Any,
) -> DataFrame: ...


@overload
def semantic_join(
    left: DataFrame,
    right: DataFrame,
    template: str,
    left_on: ColumnOrName,
    right_on: ColumnOrName,
    on: Column | str | Sequence[str] | None = None,
    *,
    top_k: int,
    recall_sample: float,
    **options: Any,
) -> SampledJoin: ...


def semantic_join(
    left: DataFrame,
    right: DataFrame,
    template: str,
    left_on: ColumnOrName,
    right_on: ColumnOrName,
    on: Column | str | Sequence[str] | None = None,
    *,
    top_k: int | None = None,
    recall_sample: float | None = None,
    **options: Any,
) -> DataFrame | SampledJoin:
    """Pairs of rows for which a language model says that a template is true.

    Each different pair of texts is asked once, so that there are at most as many calls as pairs that ``on`` leaves.
    :func:`spark_helium.explain` tells how many to expect before the join runs.

    Parameters
    ----------
    left, right
        DataFrames of one session.
    template
        A statement or question with ``{0}`` for the left text and ``{1}`` for the right one.
    left_on, right_on
        Columns or column names of the texts. NULL matches nothing.
    on
        A cheap condition that pairs must meet to be asked: a Column over both sides, or names that both have.
    top_k
        Ask only about the ``top_k`` right rows that are most similar to a left row by the cosine of
        :func:`~spark_helium.functions.ai_embed`, of those that ``on`` leaves. It approximates: other matches are lost.
    recall_sample
        Share of the left rows, above 0 and at most 1, on which the loss by ``top_k`` is measured.
    **options
        Those of :func:`~spark_helium.functions.ai_filter`; ``model`` holds for embeddings too.

    Returns
    -------
    DataFrame or SampledJoin
        The columns of both sides; with ``recall_sample`` together with a DataFrame about the sample, which
        ``explain(..., analyze=True)`` shows in its report.

    Raises
    ------
    ArgumentError
        An argument is not of the kind that the function takes, or a side is a stream and there is a ``top_k``.

    Examples
    --------
    >>> pairs = spark_helium.semantic_join(
    ...     reviews, products, "Is the review {0} about {1}?", "body", "name", on="shop", top_k=5
    ... )  # doctest: +SKIP
    >>> sampled = spark_helium.semantic_join(
    ...     reviews, products, "Is {0} about {1}?", "body", "name", top_k=5, recall_sample=0.05
    ... )  # doctest: +SKIP
    >>> print(spark_helium.explain(sampled, analyze=True))  # doctest: +SKIP
    """
    function = "semantic_join"
    _dataframe(function, "left", left)
    _dataframe(function, "right", right)
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ArgumentError(f"{function}() got top_k={top_k!r}; pass a whole number, 1 or more, or leave it out")
    if recall_sample is not None and not 0 < recall_sample <= 1:
        raise ArgumentError(f"{function}() got recall_sample={recall_sample!r}; pass a share above 0 and at most 1")
    if recall_sample is not None and top_k is None:
        raise ArgumentError(f"{function}() got recall_sample without top_k; without a pre-filter nothing is lost")
    one = left.withColumn("__helium_left", column(function, "left_on", left_on))
    other = right.withColumn("__helium_right", column(function, "right_on", right_on))
    asked = ai_filter(template, "__helium_left", "__helium_right", **options)
    if top_k is None:
        return _pairs(one, other, on).where(asked).drop("__helium_left", "__helium_right")

    _no_stream(function, "left", left)
    _no_stream(function, "right", right)
    model = options.get("model")
    one = one.withColumn("__helium_left_id", F.monotonically_increasing_id())
    other = other.withColumn("__helium_right_id", F.monotonically_increasing_id())
    vectors = other.withColumn("__helium_right_vector", ai_embed("__helium_right", model=model))

    def ranked(rows: DataFrame) -> DataFrame:
        pairs = _pairs(rows.withColumn("__helium_left_vector", ai_embed("__helium_left", model=model)), vectors, on)
        similarity = F.call_function("vector_cosine_similarity", "__helium_left_vector", "__helium_right_vector")
        order = Window.partitionBy("__helium_left_id").orderBy(similarity.desc_nulls_last(), "__helium_right_id")
        return pairs.withColumn("__helium_rank", F.row_number().over(order))

    helpers = [f"__helium_{side}{what}" for side in ("left", "right") for what in ("", "_id", "_vector")]
    kept = F.col("__helium_rank") <= top_k
    rows = ranked(one).where(kept).where(asked).drop(*helpers, "__helium_rank")
    if recall_sample is None:
        return rows
    sample = ranked(one.sample(fraction=float(recall_sample), seed=_SEED)).select(
        "__helium_left_id",
        kept.alias("kept"),
        asked.alias("match"),
        F.struct("__helium_left", "__helium_right").alias("pair"),
        (F.col("__helium_left").isNotNull() & F.col("__helium_right").isNotNull()).alias("asked"),
    )
    counts = sample.agg(
        F.count_distinct("__helium_left_id").alias("rows"),
        F.count_if("match").alias("matches"),
        F.count_if(F.col("match") & F.col("kept")).alias("kept"),
        F.count_distinct(F.when(F.col("asked"), F.col("pair"))).alias("calls"),
        F.count_distinct(F.when(F.col("asked") & F.col("kept"), F.col("pair"))).alias("calls_kept"),
    )
    recall = F.when(F.col("matches") > 0, F.col("kept") / F.col("matches")).alias("recall")
    saved = (F.col("calls") - F.col("calls_kept")).alias("calls_saved")
    return SampledJoin(rows, counts.select("rows", "matches", "kept", recall, "calls", saved))


def _pairs(left: DataFrame, right: DataFrame, on: Column | str | Sequence[str] | None) -> DataFrame:
    if on is None:
        return left.crossJoin(right)
    return left.join(right, on if isinstance(on, (Column, str)) else list(on))


def _dataframe(function: str, name: str, value: object) -> None:
    if not isinstance(value, DataFrame):
        raise ArgumentError(f"{function}() got {name}={value!r:.80}; pass a DataFrame, such as spark.table(...)")


def _no_stream(function: str, name: str, value: DataFrame) -> None:
    """Ranks are among all rows, which a stream never has."""
    if value.isStreaming:
        raise ArgumentError(f"{function}() ranks rows, and {name} is a stream; call it on each batch in foreachBatch()")
