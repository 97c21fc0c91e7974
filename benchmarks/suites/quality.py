"""Whether answers get worse: accuracy on MMLU and TAT-QA rows, through spark_helium and through one request after the
other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.data import Tables, sample_groups, sample_rows, shorten
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask, Case, Views

DEFAULT_ROWS = 96
SYSTEMS = ("helium", "query-wise")
LETTERS = ["A", "B", "C", "D"]


def mmlu(tables: Tables, rows: int, round_: int) -> Case:
    """Multiple choice; right if the letter is."""
    system = f"Run {round_}, mmlu. Answer the question with the letter of the right choice."
    template = "Subject: {subject}\n\n{question}\nAnswer:"
    found = sample_rows(tables["mmlu"], rows, seed=round_)
    lettered = [
        question + "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
        for question, choices in zip(found["question"], found["choices"], strict=True)
    ]
    table = pd.DataFrame({
        "id": range(len(found)), "subject": found["subject"].str.replace("_", " "),
        "question": shorten(pd.Series(lettered), 1800), "truth": found["answer"],
    })  # fmt: skip

    def query(views: Views, ask: Ask) -> DataFrame:
        answer = ask(template, subject="subject", question="question", system=system, max_tokens=2, choices=LETTERS)
        return views["mmlu"].select("id", "truth", answer.alias("answer"))

    job = Job((Step("answer", template, system, max_tokens=2, choices=tuple(LETTERS)),), ("answer",))
    return Case(
        "mmlu", "MMLU, multiple choice", query, {"mmlu": table}, job, table,
        lambda answered: answered[["id", "truth", "answer"]],
        score=lambda result: _share(result["answer"] == result["truth"]),
    )  # fmt: skip


def tatqa(tables: Tables, rows: int, round_: int) -> Case:
    """Questions on reports; right if the expected answer stands in what was written, letters and figures alone."""
    system = f"Run {round_}, tatqa. Answer the question from the report with a figure or a few words, and nothing else."
    template = "Report:\n{context}\n\nQuestion: {question}\nAnswer:"
    found = sample_groups(tables["tatqa"], "context_id", rows, 6, seed=round_)
    table = pd.DataFrame({
        "id": range(len(found)), "context": shorten(found["context"], 1600), "question": found["question"],
        "truth": found["answer"].astype(str),
    })  # fmt: skip

    def query(views: Views, ask: Ask) -> DataFrame:
        answer = ask(template, context="context", question="question", system=system, max_tokens=16)
        return views["tatqa"].select("id", "truth", answer.alias("answer"))

    def right(result: pd.DataFrame) -> float:
        pairs = zip(result["truth"].map(_bare), result["answer"].map(_bare), strict=True)
        return _share(pd.Series([bool(truth) and truth in said for truth, said in pairs]))

    job = Job((Step("answer", template, system, max_tokens=16),), ("answer",))
    return Case(
        "tatqa", "TAT-QA, questions on reports", query, {"tatqa": table}, job, table,
        lambda answered: answered[["id", "truth", "answer"]], score=right,
    )  # fmt: skip


def _bare(text: object) -> str:
    return "".join(c for c in str(text).lower() if c.isalnum() or c == ".").strip(".")


def _share(right: pd.Series) -> float:
    return round(float(right.mean()), 4)


def cases(tables: Tables, rows: int, round_: int) -> dict[str, Callable[[], Case]]:
    """What makes the cases of a round."""
    return {"mmlu": partial(mmlu, tables, rows, round_), "tatqa": partial(tatqa, tables, rows, round_)}
