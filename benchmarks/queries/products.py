"""Products joined with their reviews, shuffled."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_groups, shorten
from benchmarks.jobs import Job
from benchmarks.queries.question import SENTIMENTS, Question, run
from benchmarks.systems.base import Ask, Case, Views

KINDS = ("electronics", "kitchen", "clothing", "office", "toys", "other")


def _table(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["product_reviews"], "product_id", rows, 8, seed=round_)
    found = found[["review_id", "product_id", "product_name", "about_product", "review_content", "rating"]].copy()
    found["product_name"] = shorten(found["product_name"], 80)
    found["about_product"] = shorten(found["about_product"], 600)
    found["review_content"] = shorten(found["review_content"], 240)
    return found


def projection(tables: Tables, rows: int, round_: int) -> Case:
    """A text per row, over a long product description that rows share."""
    question = Question(
        "Product: {name}\n{about}\n\nReview: {review}\nWhat does the review say about this product, in short?",
        run(round_, "projection") + "You help a web shop and answer in a few words.",
        max_tokens=8,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        gist = question.of(ask, name="product_name", about="about_product", review="review_content")
        return views["products"].select("review_id", gist.alias("gist"))

    given = table.rename(columns={"product_name": "name", "about_product": "about", "review_content": "review"})
    return Case(
        "projection", "projection over joined products", query, {"products": table},
        Job((question.step("gist"),), ("gist",)), given, lambda answered: answered[["review_id", "gist"]],
    )  # fmt: skip


def classify_dimension(tables: Tables, rows: int, round_: int) -> Case:
    """``GROUP BY`` an answer over the columns of the product alone, which all its reviews repeat."""
    question = Question(
        "Product: {name}\n{about}\n\nWhat kind of product is it?",
        run(round_, "dimension") + "You sort the products of a web shop and answer with one word.",
        max_tokens=4,
        choices=KINDS,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        kind = question.of(ask, name="product_name", about="about_product")
        grouped = views["products"].groupBy(kind.alias("kind"))
        return grouped.agg(F.count("*").alias("reviews"), F.max("rating").alias("best"))

    given = table.rename(columns={"product_name": "name", "about_product": "about"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        grouped = answered.groupby("kind", as_index=False)
        return grouped.agg(reviews=("review_id", "count"), best=("rating", "max"))[["kind", "reviews", "best"]]

    job = Job((question.step("kind"),), ("kind",))
    return Case(
        "classify_dimension", "classify a joined dimension", query, {"products": table}, job, given, finish
    )  # fmt: skip


def self_union(tables: Tables, rows: int, round_: int) -> Case:
    """The same classification in two branches of a ``UNION``."""
    question = Question(
        "Product: {name}\nReview: {review}\nIs the review positive or negative?",
        run(round_, "union") + "You classify reviews of products and answer with one word.",
        max_tokens=3,
        choices=SENTIMENTS,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        sentiment = question.of(ask, name="product_name", review="review_content")
        labelled = views["products"].withColumn("sentiment", sentiment)
        surprising = labelled.where((F.col("rating") < 4.1) & (F.col("sentiment") == "positive"))
        unhappy = labelled.where(F.col("sentiment") == "negative")
        return surprising.select("review_id", "sentiment").unionAll(unhappy.select("review_id", "sentiment"))

    given = table.rename(columns={"product_name": "name", "review_content": "review"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        surprising = answered[(answered["rating"] < 4.1) & (answered["sentiment"] == "positive")]
        unhappy = answered[answered["sentiment"] == "negative"]
        return pd.concat([surprising, unhappy])[["review_id", "sentiment"]]

    job = Job((question.step("sentiment"),), ("sentiment",))
    return Case("self_union", "UNION of two branches", query, {"products": table}, job, given, finish)
