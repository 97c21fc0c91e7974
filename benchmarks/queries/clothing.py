"""Reviews of clothes: short texts behind a category."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_groups, sample_rows, shorten
from benchmarks.jobs import Job, Step
from benchmarks.queries.question import SENTIMENTS, YES_NO, Question, run
from benchmarks.systems.base import Ask, Case, Views


def _table(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["clothing_reviews"], "clothing_id", rows, 8, seed=round_)
    found = found[["review_id", "department_name", "class_name", "review_text", "rating"]].copy()
    found["review_text"] = shorten(found["review_text"], 300)
    for column in ("department_name", "class_name"):
        found[column] = found[column].fillna("other").astype(str)
    return found


def filter_(tables: Tables, rows: int, round_: int) -> Case:
    """``WHERE ai_filter AND rating <= 3``, the LLM condition written first."""
    question = Question(
        "Review of a garment from the department {department}:\n{review}\nDoes the customer complain about the fit?",
        run(round_, "filter") + "You read clothing reviews for a shop and answer with one word.",
        max_tokens=2,
        choices=YES_NO,
    )
    table = _table(tables, 3 * rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        complains = question.of(ask, department="department_name", review="review_text")
        return views["clothing"].where((complains == "yes") & (F.col("rating") <= 3)).select("review_id", "rating")

    kept = table[table["rating"] <= 3]
    given = kept.rename(columns={"department_name": "department", "review_text": "review"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["complains"] == "yes"][["review_id", "rating"]]

    job = Job((question.step("complains"),), ("complains",))
    return Case("filter", "LLM filter beside a plain one", query, {"clothing": table}, job, given, finish)


def filter_answer(tables: Tables, rows: int, round_: int) -> Case:
    """A label as a column, a filter on the label, and the label in the result."""
    question = Question(
        "A customer wrote about a {kind}: {review}\nIs the review positive or negative?",
        run(round_, "filtered label") + "You read clothing reviews for a shop and answer with one word.",
        max_tokens=3,
        choices=SENTIMENTS,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        labelled = views["clothing"].withColumn("label", question.of(ask, kind="class_name", review="review_text"))
        return labelled.where(F.col("label") == "negative").select("review_id", "rating", "label")

    given = table.rename(columns={"class_name": "kind", "review_text": "review"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["label"] == "negative"][["review_id", "rating", "label"]]

    job = Job((question.step("label"),), ("label",))
    return Case("filter_answer", "filter on an answer that is shown", query, {"clothing": table}, job, given, finish)


def classify_aggregate(tables: Tables, rows: int, round_: int) -> Case:
    """``GROUP BY`` an answer: how many reviews of which sentiment, and their ratings."""
    question = Question(
        "A customer wrote about a {kind}: {review}\nIs the review positive or negative?",
        run(round_, "classify") + "You classify reviews and answer with one word.",
        max_tokens=3,
        choices=SENTIMENTS,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        sentiment = question.of(ask, kind="class_name", review="review_text")
        grouped = views["clothing"].groupBy(sentiment.alias("sentiment"))
        return grouped.agg(F.count("*").alias("reviews"), F.sum("rating").alias("stars"))

    given = table.rename(columns={"class_name": "kind", "review_text": "review"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        grouped = answered.groupby("sentiment", as_index=False)
        return grouped.agg(reviews=("review_id", "count"), stars=("rating", "sum"))[["sentiment", "reviews", "stars"]]

    job = Job((question.step("sentiment"),), ("sentiment",))
    return Case("classify_aggregate", "classify, then aggregate", query, {"clothing": table}, job, given, finish)


def limit(tables: Tables, rows: int, round_: int) -> Case:
    """``ORDER BY rating LIMIT n`` above a call: the worst reviews, each with its reason."""
    question = Question(
        "Review of a {kind}: {review}\nWhy is the customer not happy?",
        run(round_, "limit") + "You read clothing reviews for a shop and answer in a few words.",
        max_tokens=8,
    )
    table = _table(tables, rows, round_)
    wanted = min(10, max(2, rows // 4))

    def query(views: Views, ask: Ask) -> DataFrame:
        reason = question.of(ask, kind="class_name", review="review_text")
        reasons = views["clothing"].select("review_id", "rating", reason.alias("reason"))
        return reasons.orderBy("rating", "review_id").limit(wanted)

    given = table.sort_values(["rating", "review_id"]).head(wanted)
    given = given.rename(columns={"class_name": "kind", "review_text": "review"})
    return Case(
        "limit", "ORDER BY and LIMIT", query, {"clothing": table}, Job((question.step("reason"),), ("reason",)), given,
        lambda answered: answered[["review_id", "rating", "reason"]],
    )  # fmt: skip


def case(tables: Tables, rows: int, round_: int) -> Case:
    """``CASE``: one question for good reviews, another for bad ones, none in between."""
    system = run(round_, "case") + "You read reviews for a web shop and answer in a few words."
    praise = Question("Review: {review}\nWhat does the customer praise?", system, max_tokens=8)
    blame = Question("Review: {review}\nWhat should the shop do about it?", system, max_tokens=8)
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        praised, blamed = praise.of(ask, review="review_text"), blame.of(ask, review="review_text")
        note = F.when(F.col("rating") >= 5, praised).when(F.col("rating") <= 2, blamed)
        return views["clothing"].select("review_id", note.alias("note"))

    # Without CASE a user writes the question into a column, and sends the rows that have one.
    given = table.rename(columns={"review_text": "review"})
    given["question"] = None
    given.loc[given["rating"] >= 5, "question"] = praise.template.partition("\n")[2]
    given.loc[given["rating"] <= 2, "question"] = blame.template.partition("\n")[2]
    given = given[given["question"].notna()]
    job = Job((Step("note", "Review: {review}\n{question}", system, max_tokens=8),), ("note",))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return table[["review_id"]].merge(answered[["review_id", "note"]], how="left", on="review_id")

    return Case("case", "CASE", query, {"clothing": table}, job, given, finish)


def nothing_shared(tables: Tables, rows: int, round_: int) -> Case:
    """The worst query for us: every prompt begins with its own text, and nothing can be left out."""
    question = Question(
        "{review}\nWhat is this about?", run(round_, "notes") + "You answer in a few words.", max_tokens=8
    )
    found = sample_rows(tables["clothing_reviews"].drop_duplicates("review_text"), rows, seed=round_)
    table = found[["review_id", "review_text"]].copy()
    table["review_text"] = shorten(table["review_text"], 300)

    def query(views: Views, ask: Ask) -> DataFrame:
        return views["clothing"].select("review_id", question.of(ask, review="review_text").alias("about"))

    given = table.rename(columns={"review_text": "review"})
    return Case(
        "nothing_shared", "nothing shared, nothing pruned", query, {"clothing": table},
        Job((question.step("about"),), ("about",)), given, lambda answered: answered[["review_id", "about"]],
    )  # fmt: skip
