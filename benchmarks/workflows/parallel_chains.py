"""Parallel chains: experts read an item's reviews chunk by chunk and report, a writer makes one text of the reports.

With seven experts and six chunks as in the paper, 50 calls a row; a CPU gets three of each, 13 calls.
"""

from __future__ import annotations

import pandas as pd
from pyspark.sql import DataFrame

from benchmarks.data import Tables
from benchmarks.jobs import Job, Step
from benchmarks.systems.base import Ask
from benchmarks.workflows.conversation import Size
from benchmarks.workflows.refinement import chunked

CPU = Size(rows=4, max_tokens=16, characters=120, agents=3, chunks=3)
PAPER = Size(rows=100, max_tokens=512, characters=100_000, agents=7, chunks=6)
DISTINCT, CALLS = 13, 13  # on a CPU

TOPICS = {
    "fit": "how the garment fits: sizes that run large or small, length, cut, for which figures it works",
    "fabric": "the fabric and how it is made: how it feels, how thick it is, whether it lasts and keeps its shape",
    "looks": "how it looks: colours in life and on pictures, patterns, whether it flatters",
    "price": "whether it is worth its price, compared with what customers expected and with other garments",
    "care": "washing and care: shrinking, ironing, colours that run",
    "use": "what people wear it for: occasions, seasons, what they combine it with",
    "service": "ordering, delivery and returns, and why garments are sent back",
}
EXTRACT = (
    "Go through the reviews below. Write down everything that belongs to your topic, and nothing else. Say how many "
    "reviews say it, and keep it short.\n\nItem: {item}\n\nReviews:\n"
)
REPORT = (
    "Make one report of your notes. Put first what is said most often, and settle contradictions by numbers.\n\n"
    "Item: {item}"
)
WRITER = (
    "You write product pages for a shop. You get reports on several topics that others made from customers' reviews, "
    "and turn them into one honest text for buyers."
)
WRITE = "Write one text from these reports. Begin with what matters most to a buyer.\n\nItem: {item}"


def expert(topic: str) -> str:
    """The system message of a topic's expert."""
    return (
        f"You read customers' reviews of garments for a shop, and you have one topic: {TOPICS[topic]}. Others read the "
        "same reviews for other topics, so leave those to them. Do not guess: what no review says you do not write. "
        "Where reviews contradict each other say so, and how many are on which side."
    )


def report_template(topic: str, chunks: int) -> str:
    return REPORT + "".join(f"\n\nNotes {c + 1}: {{{topic}_{c}}}" for c in range(chunks))


def page_template(topics: list[str]) -> str:
    return WRITE + "".join(f"\n\nReport on {topic}: {{{topic}}}" for topic in topics)


def table(tables: Tables, size: Size, seed: int) -> pd.DataFrame:
    return chunked(tables, size, seed + 500, per_chunk=10 if size.characters > 10_000 else 3)


def workflow(df: DataFrame, llm: Ask, size: Size, tag: str) -> DataFrame:
    topics = list(TOPICS)[: size.agents]
    for topic in topics:
        system = tag + expert(topic)
        notes = [f"{topic}_{c}" for c in range(size.chunks)]
        for c, note in enumerate(notes):
            extract = EXTRACT + f"{{chunk_{c}}}"
            columns = {"item": "item", f"chunk_{c}": f"chunk_{c}"}
            df = df.withColumn(note, llm(extract, **columns, system=system, max_tokens=size.max_tokens))
        columns = {"item": "item", **{note: note for note in notes}}
        template = report_template(topic, size.chunks)
        df = df.withColumn(topic, llm(template, **columns, system=system, max_tokens=size.max_tokens))
    columns = {"item": "item", **{topic: topic for topic in topics}}
    page = llm(page_template(topics), **columns, system=tag + WRITER, max_tokens=size.max_tokens)
    return df.select("id", page.alias("page"))


def job(size: Size, tag: str) -> Job:
    topics, n = list(TOPICS)[: size.agents], size.max_tokens
    steps = [
        Step(f"{topic}_{c}", EXTRACT + f"{{chunk_{c}}}", tag + expert(topic), max_tokens=n)
        for topic in topics
        for c in range(size.chunks)
    ]
    steps += [Step(topic, report_template(topic, size.chunks), tag + expert(topic), max_tokens=n) for topic in topics]
    return Job((*steps, Step("page", page_template(topics), tag + WRITER, max_tokens=n)), ("page",))
