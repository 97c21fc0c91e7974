"""Map-reduce: 14 experts answer a question, a summariser weighs what they say. 15 calls a row, 8 of them distinct.

As in the paper, seven roles are each given to two experts, so that half of the experts' calls are duplicates.
"""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.data import Tables, sample_rows, shorten
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows.conversation import Size

CPU = Size(rows=6, max_tokens=16, characters=600)
PAPER = Size(rows=200, max_tokens=512, characters=100_000)
DISTINCT, CALLS = 8, 15

ROLES = (
    "a careful mathematician",
    "a physician who has seen many cases",
    "a historian of ideas",
    "a lawyer who reads every word",
    "an engineer who estimates first",
    "a philosopher who looks for hidden assumptions",
    "a teacher who explains to beginners",
)
EXPERT = "You are one member of a panel that answers examination questions. Say which choice is right, and why."
SUMMARISER = "You chair a panel and weigh the opinions of its members before you settle on one choice."


def ask_as(role: str) -> str:
    """An expert's template."""
    return f"{{question}}\n\nAnswer as {role}."


def summary_template() -> str:
    """The chair's template."""
    opinions = "".join(f"\n\nMember {k + 1} said: {{expert_{k}}}" for k in range(len(ROLES) * 2))
    return (
        "The panel was asked the question below. Compare the opinions, note where they differ, and end with the letter "
        "of the choice that is best supported.\n\n{question}" + opinions
    )


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    found = sample_rows(tables["mmlu"], size.rows, seed)
    lettered = [
        question + "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True))
        for question, choices in zip(found["question"], found["choices"], strict=True)
    ]
    return pd.DataFrame(
        {"id": [str(k) for k in range(len(found))], "question": shorten(pd.Series(lettered), size.characters)}
    )


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    experts = [f"expert_{k}" for k in range(len(ROLES) * 2)]
    for k, expert in enumerate(experts):
        role = ROLES[k % len(ROLES)]
        answer = llm(ask_as(role), question="question", system=tag + EXPERT, max_tokens=size.max_tokens)
        df = df.withColumn(expert, answer)
    opinions = {expert: expert for expert in experts}
    summary = llm(
        summary_template(), question="question", **opinions, system=tag + SUMMARISER, max_tokens=size.max_tokens
    )
    return df.select("id", summary.alias("summary"))


def job(size: Size, tag: str) -> Job:
    experts = [
        Step(f"expert_{k}", ask_as(ROLES[k % len(ROLES)]), tag + EXPERT, max_tokens=size.max_tokens)
        for k in range(len(ROLES) * 2)
    ]
    summary = Step("summary", summary_template(), tag + SUMMARISER, max_tokens=size.max_tokens)
    return Job((*experts, summary), ("summary",))
