"""RAG tables: rows with what a retriever found for them, which rows share."""

from __future__ import annotations

from pyspark.sql import DataFrame

from benchmarks.data import Tables, sample_groups, shorten
from benchmarks.jobs import Job
from benchmarks.queries.question import YES_NO, Question, run
from benchmarks.systems.base import Ask, Case, Views


def rag_squad(tables: Tables, rows: int, round_: int) -> Case:
    """Questions over two passages."""
    question = Question(
        "Passages:\n1. {first}\n2. {second}\n\nQuestion: {question}\nAnswer:",
        run(round_, "passages") + "You answer questions from the given passages with a few words.",
        max_tokens=8,
    )
    found = sample_groups(tables["squad"], "context1", rows, 8, seed=round_)
    table = found[["id", "question", "context1", "context2"]].copy()
    for column in ("context1", "context2"):
        table[column] = shorten(table[column], 600)

    def query(views: Views, ask: Ask) -> DataFrame:
        answer = question.of(ask, first="context1", second="context2", question="question")
        return views["squad"].select("id", answer.alias("answer"))

    given = table.rename(columns={"context1": "first", "context2": "second"})
    return Case(
        "rag_squad", "RAG: questions over passages", query, {"squad": table},
        Job((question.step("answer"),), ("answer",)), given, lambda answered: answered[["id", "answer"]],
    )  # fmt: skip


def rag_fever(tables: Tables, rows: int, round_: int) -> Case:
    """Claims, and the sentences that should support or refute them."""
    question = Question(
        "Claim: {claim}\nEvidence:\n{evidence1}\n{evidence2}\n{evidence3}\nDoes the evidence support the claim?",
        run(round_, "claims") + "You check claims against evidence and answer with one word.",
        max_tokens=2,
        choices=YES_NO,
    )
    found = sample_groups(tables["fever"], "claim", rows, 2, seed=round_)
    table = found[["id", "claim", "evidence1", "evidence2", "evidence3"]].copy()

    def query(views: Views, ask: Ask) -> DataFrame:
        supported = question.of(ask, **{name: name for name in ("claim", "evidence1", "evidence2", "evidence3")})
        return views["fever"].select("id", supported.alias("supported"))

    return Case(
        "rag_fever", "RAG: claims against evidence", query, {"fever": table},
        Job((question.step("supported"),), ("supported",)), table, lambda answered: answered[["id", "supported"]],
    )  # fmt: skip
