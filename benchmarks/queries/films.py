"""Reviews of films: SemBench's movie scenario."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_groups
from benchmarks.jobs import Job
from benchmarks.queries.question import YES_NO, Question, run
from benchmarks.systems.base import Ask, Case, Views

WANTED = 10
_PAIR = "First review: {left}\nSecond review: {right}\nDo both like the film or both dislike it?"


def _table(tables: Tables, rows: int, round_: int, each: int) -> pd.DataFrame:
    found = sample_groups(tables["movies_sembench"], "movie_id", rows, each, seed=round_)
    return found[["movie_id", "review_id", "title", "review_text"]].copy()


def limit_filter(tables: Tables, rows: int, round_: int) -> Case:
    """``WHERE ai_filter LIMIT n``: some reviews that are clearly positive."""
    question = Question(
        "Review of the film {title}: {review}\nIs the review clearly positive?",
        run(round_, "positive") + "You read reviews of films and answer with one word.",
        max_tokens=2,
        choices=YES_NO,
    )
    table = _table(tables, rows, round_, 8)
    wanted = min(WANTED, max(1, rows // 4))

    def query(views: Views, ask: Ask) -> DataFrame:
        positive = question.of(ask, title="title", review="review_text") == "yes"
        return views["movies"].where(positive).select("review_id").limit(wanted)

    given = table.rename(columns={"review_text": "review"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["positive"] == "yes"][["review_id"]]

    job = Job((question.step("positive"),), ("positive",))
    title = "LLM filter with LIMIT"
    return Case("limit_filter", title, query, {"movies": table}, job, given, finish, any_rows=wanted)


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    left = table.rename(columns={"review_id": "a", "review_text": "left"})
    right = table.rename(columns={"review_id": "b", "review_text": "right"})
    pairs = left.merge(right, on="movie_id")
    return pairs[pairs["a"] < pairs["b"]].sort_values(["movie_id", "a", "b"])


def _join(views: Views, agree: Column) -> DataFrame:
    left = views["movies"].select("movie_id", F.col("review_id").alias("a"), F.col("review_text").alias("text_a"))
    right = views["movies"].select("movie_id", F.col("review_id").alias("b"), F.col("review_text").alias("text_b"))
    return left.join(right, "movie_id").where(F.col("a") < F.col("b")).where(agree == "yes").select("a", "b")


def semantic_join(tables: Tables, rows: int, round_: int) -> Case:
    """``JOIN ON`` a question: pairs of reviews of one film that agree. The first review of a pair is shared."""
    system = run(round_, "join") + "You compare two reviews of a film and answer with one word."
    question = Question(_PAIR, system, max_tokens=2, choices=YES_NO)
    table = _table(tables, max(6, rows // 3), round_, 5)

    def query(views: Views, ask: Ask) -> DataFrame:
        return _join(views, question.of(ask, left="text_a", right="text_b"))

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["agree"] == "yes"][["a", "b"]]

    job = Job((question.step("agree"),), ("agree",))
    return Case("semantic_join", "semantic join", query, {"movies": table}, job, _pairs(table), finish)


def limit_join(tables: Tables, rows: int, round_: int) -> Case:
    """A semantic join of which ten pairs are wanted."""
    system = run(round_, "ten pairs") + "You compare two reviews of a film and answer with one word."
    question = Question(_PAIR, system, max_tokens=2, choices=YES_NO)
    table = _table(tables, max(6, rows // 3), round_, 5)
    wanted = min(WANTED, max(1, rows // 4))

    def query(views: Views, ask: Ask) -> DataFrame:
        return _join(views, question.of(ask, left="text_a", right="text_b")).limit(wanted)

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["agree"] == "yes"][["a", "b"]]

    job = Job((question.step("agree"),), ("agree",))
    title = "semantic join with LIMIT"
    return Case("limit_join", title, query, {"movies": table}, job, _pairs(table), finish, any_rows=wanted)
