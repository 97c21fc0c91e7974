"""Posts joined with the comments on them, shuffled."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.data import Tables, sample_groups, shorten
from benchmarks.jobs import Job, When, as_json
from benchmarks.queries.question import YES_NO, Question, run
from benchmarks.systems.base import Ask, Case, Views

FIELDS = ("comment_text", "comment_score", "post_body", "question_title")  # in the order of the table


def _table(tables: Tables, rows: int, round_: int) -> pd.DataFrame:
    found = sample_groups(tables["posts_comments"], "post_id", rows, 8, seed=round_)
    found = found[["comment_id", *FIELDS]].copy()
    found["post_body"] = shorten(found["post_body"], 700)
    found["comment_text"] = shorten(found["comment_text"], 240)
    return found


def multi_call(tables: Tables, rows: int, round_: int) -> Case:
    """Two calls: a filter, and an answer for what passes it."""
    system = run(round_, "multi call") + "You moderate a forum about quantum computing and answer briefly."
    head = "Post: {title}\n{post}\n\nComment: {comment}\n"
    useful = Question(head + "Is the comment useful?", system, max_tokens=2, choices=YES_NO)
    gist = Question(head + "What does the comment add, in short?", system, max_tokens=8)
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        columns = {"title": "question_title", "post": "post_body", "comment": "comment_text"}
        passing = views["posts"].where(useful.of(ask, **columns) == "yes")
        return passing.select("comment_id", gist.of(ask, **columns).alias("gist"))

    given = table.rename(columns={"question_title": "title", "post_body": "post", "comment_text": "comment"})

    def finish(answered: pd.DataFrame) -> pd.DataFrame:
        return answered[answered["useful"] == "yes"][["comment_id", "gist"]]

    job = Job((useful.step("useful"), gist.step("gist", When("useful", "yes"))), ("useful", "gist"))
    return Case("multi_call", "filter, then projection", query, {"posts": table}, job, given, finish)


def fields(tables: Tables, rows: int, round_: int) -> Case:
    """All columns as one JSON object, as in the LLM-SQL paper: whoever sends them chooses their order."""
    question = Question(
        "{fields}\nDoes the comment answer the post?",
        run(round_, "fields") + "You moderate a forum about quantum computing and answer with one word.",
        max_tokens=2,
        choices=YES_NO,
    )
    table = _table(tables, rows, round_)

    def query(views: Views, ask: Ask) -> DataFrame:
        return views["posts"].select("comment_id", question.of(ask, fields=FIELDS).alias("answers"))

    given = table[["comment_id"]].assign(fields=[as_json(row) for row in table[list(FIELDS)].to_dict("records")])
    return Case(
        "fields", "all columns as fields", query, {"posts": table},
        Job((question.step("answers"),), ("answers",)), given, lambda answered: answered[["comment_id", "answers"]],
        notes={"prompts differ": "spark_helium chooses the order of the fields, the others take the table's"},
    )  # fmt: skip
