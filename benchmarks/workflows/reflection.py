"""Reflection: an analyst answers a question on a report, two critics find fault in turn, the analyst answers anew.

Four calls for every question, in a chain; six questions are about one report.
"""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, sample_groups, shorten
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows.conversation import Message, Size, conversation
from spark_helium.functions import prompt

CPU = Size(rows=12, max_tokens=16, characters=900)
PAPER = Size(rows=1200, max_tokens=512, characters=100_000)
DISTINCT, CALLS = 4, 4

ANALYST = (
    "You are a financial analyst. You are given part of a company's report, with text and a table whose cells are "
    "divided by bars, and a question about it. Find the figures that the question needs, say in which row and column "
    "they stand, and write the calculation down step by step. Mind units and scales such as thousands and millions, "
    "and years that are easily confused. If the report does not say what is asked for, say so. End with the answer in "
    "one line."
)
FIGURES = (
    "You check the work of financial analysts. You look at the figures: whether each was read from the right row, "
    "column and year, and whether its unit was kept. Name every mistake that you find and what the report says instead."
)
REASONING = (
    "You check the work of financial analysts. You look at the reasoning: whether the question was understood, whether "
    "the formula fits it, and whether the arithmetic is right. Read what the first critic said and do not repeat it."
)
QUESTION = "Read this part of the report and answer the question.\n\nReport:\n{context}\n\nQuestion: {question}"
CHECK = "Report:\n{context}\n\nQuestion: {question}\n\nThe analyst's answer: {draft}"
CHECK_AGAIN = CHECK + "\n\nThe first critic said: {figures}"
REVISE = (
    "Two critics looked at your answer. Correct it where they are right, and answer the question again.\n\n"
    "On the figures: {figures}\n\nOn the reasoning: {reasoning}"
)


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    found = sample_groups(tables["tatqa"], "context_id", size.rows, 6, seed)
    context = shorten(found["context"], size.characters)
    return pd.DataFrame({"id": [str(k) for k in range(len(found))], "context": context, "question": found["question"]})


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    report = {"context": "context", "question": "question"}
    asked: list[Message] = [("system", tag + ANALYST), ("user", prompt(QUESTION, **report))]
    df = df.withColumn("draft", llm(conversation(asked), max_tokens=size.max_tokens))
    figures = llm(CHECK, **report, draft="draft", system=tag + FIGURES, max_tokens=size.max_tokens)
    df = df.withColumn("figures", figures)
    reasoning = llm(
        CHECK_AGAIN, **report, draft="draft", figures="figures", system=tag + REASONING, max_tokens=size.max_tokens
    )
    df = df.withColumn("reasoning", reasoning)
    reply = prompt(REVISE, figures="figures", reasoning="reasoning")
    final = llm(conversation([*asked, ("assistant", F.col("draft")), ("user", reply)]), max_tokens=size.max_tokens)
    return df.select("id", final.alias("final"))


def job(size: Size, tag: str) -> Job:
    n = size.max_tokens
    steps = (
        Step("draft", QUESTION, tag + ANALYST, max_tokens=n),
        Step("figures", CHECK, tag + FIGURES, max_tokens=n),
        Step("reasoning", CHECK_AGAIN, tag + REASONING, max_tokens=n),
        Step("final", REVISE, history="draft", max_tokens=n),
    )
    return Job(steps, ("final",))
