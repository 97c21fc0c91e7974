"""Iterative refinement: a summary of an item's reviews is written from the first chunk and refined with each further
one."""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.data import Tables, shorten
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows.conversation import Size

CPU = Size(rows=8, max_tokens=24, characters=120, chunks=6)
PAPER = Size(rows=200, max_tokens=512, characters=100_000, chunks=6)
DISTINCT, CALLS = 6, 6

SYSTEM = "You summarise customer reviews."
FIRST = (
    "Here are reviews of one garment. Write a summary that tells a buyer what customers like, what they dislike, how "
    "it fits, how the fabric feels, and whether it is worth its price. Keep to what the reviews say, give more weight "
    "to what several of them say, and do not quote anybody. Write in whole sentences, without "
    "lists.\n\nReviews:\n{chunk_0}"
)


def further(step: int) -> str:
    """The template of a later step."""
    return (
        "Here is a summary of reviews of one garment, and more reviews of it. Write the summary anew, so that it "
        "covers the new reviews as well: correct what they contradict, add what they bring, and keep what still holds. "
        "Keep to what was said, give more weight to what is said often, and stay about as long.\n\n"
        f"Summary so far: {{refined_{step - 1}}}\n\nNew reviews:\n{{chunk_{step}}}"
    )


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    """One row per item, its reviews in chunks of up to ten; a CPU gets two reviews a chunk."""
    return chunked(tables, size, seed, per_chunk=10 if size.characters > 10_000 else 2)


def chunked(tables: Tables, size: Size, seed: int, per_chunk: int) -> pd.DataFrame:
    """Items with enough reviews, as often as rows are wanted, and other reviews of theirs each time."""
    reviews = tables["clothing_reviews"].dropna(subset=["review_text"])
    wanted = size.chunks * per_chunk
    groups = [group for _, group in reviews.groupby("clothing_id") if len(group) >= min(wanted, 60)]
    rows = []
    for k in range(size.rows):
        group = groups[(seed * 31 + k) % len(groups)].sample(frac=1, random_state=seed * 1000 + k)
        texts = shorten(group["review_text"], size.characters).tolist()
        item = f"{group['class_name'].iloc[0]}, item {group['clothing_id'].iloc[0]}"
        row = {"id": str(k), "item": item}
        for chunk in range(size.chunks):
            row[f"chunk_{chunk}"] = "\n".join(f"- {t}" for t in texts[chunk * per_chunk : (chunk + 1) * per_chunk])
        rows.append(row)
    return pd.DataFrame(rows)


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    refined = llm(FIRST, chunk_0="chunk_0", system=tag + SYSTEM, max_tokens=size.max_tokens)
    for step in range(1, size.chunks):
        columns = {f"refined_{step - 1}": refined, f"chunk_{step}": F.col(f"chunk_{step}")}
        refined = llm(further(step), **columns, system=tag + SYSTEM, max_tokens=size.max_tokens)
    return df.select("id", refined.alias("summary"))


def job(size: Size, tag: str) -> Job:
    steps = [Step("refined_0", FIRST, tag + SYSTEM, max_tokens=size.max_tokens)]
    for step in range(1, size.chunks):
        steps.append(Step(f"refined_{step}", further(step), tag + SYSTEM, max_tokens=size.max_tokens))
    return Job(tuple(steps), (steps[-1].name,))
