"""Debate: three agents answer a question, then each revises its answer after reading the others'. 6 calls a row."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows import map_reduce
from benchmarks.workflows.conversation import Message, Size, conversation
from spark_helium.functions import prompt

CPU = Size(rows=10, max_tokens=16, characters=600)
PAPER = Size(rows=200, max_tokens=512, characters=100_000)
DISTINCT, CALLS = 6, 6

ROLES = ("somebody who doubts everything", "somebody who looks for examples", "somebody who calculates")
SYSTEM = "You take part in a debate."


def ask_as(role: str) -> str:
    """The first question to an agent."""
    return f"{{question}}\n\nArgue as {role}."


def revision(agent: int) -> str:
    """What an agent is shown of the others' answers."""
    others = [k for k in range(len(ROLES)) if k != agent]
    said = "".join(f"Another debater answered: {{first_{k}}}\n\n" for k in others)
    return said + "Take what convinces you from these answers, correct your own where it was wrong, and answer again."


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    return map_reduce.table(tables, size, seed + 1000)


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    opening: dict[int, list[Message]] = {}
    for k, role in enumerate(ROLES):
        opening[k] = [("system", tag + SYSTEM), ("user", prompt(ask_as(role), question="question"))]
        df = df.withColumn(f"first_{k}", llm(conversation(opening[k]), max_tokens=size.max_tokens))
    for k in opening:
        others = {f"first_{j}": f"first_{j}" for j in opening if j != k}
        history = [*opening[k], ("assistant", F.col(f"first_{k}")), ("user", prompt(revision(k), **others))]
        df = df.withColumn(f"second_{k}", llm(conversation(history), max_tokens=size.max_tokens))
    return df.select("id", *[f"second_{k}" for k in opening])


def job(size: Size, tag: str) -> Job:
    first = [Step(f"first_{k}", ask_as(r), tag + SYSTEM, max_tokens=size.max_tokens) for k, r in enumerate(ROLES)]
    second = [
        Step(f"second_{k}", revision(k), history=f"first_{k}", max_tokens=size.max_tokens) for k in range(len(ROLES))
    ]
    return Job((*first, *second), tuple(step.name for step in second))
