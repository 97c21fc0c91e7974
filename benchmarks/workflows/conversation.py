"""Conversations as columns, and how large a workflow is."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

Message = tuple[str, "Column | str"]


@dataclass(frozen=True)
class Size:
    """How large a workflow is.

    Attributes
    ----------
    rows: of the table.
    max_tokens: most output tokens of a call.
    characters: where a document of a row is cut.
    agents: experts of parallel chains; other workflows have their numbers of agents from the paper.
    chunks: pieces of a row's documents.
    """

    rows: int
    max_tokens: int
    characters: int
    agents: int = 7
    chunks: int = 6


def conversation(messages: list[Message]) -> Column:
    """The messages as ``llm`` takes them."""
    entries = []
    for role, text in messages:
        content = text if isinstance(text, Column) else F.lit(text)
        entries.append(F.struct(F.lit(role).alias("role"), content.alias("content")))
    return F.array(*entries)
