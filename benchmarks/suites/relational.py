"""The queries of ``benchmarks/queries``, and one with nothing to save."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.data import Tables
from benchmarks.engines import CPU, GPU
from benchmarks.queries import clothing, films, passages, posts, products
from benchmarks.systems.base import Case

# So many that their common beginnings do not all fit the small KV space.
ROWS = {CPU: 256, GPU: 1024}
SYSTEMS = ("helium", "udf", "operator-wise", "floor", "daft-http", "ray-http", "lotus")

CASES: dict[str, Callable[[Tables, int, int], Case]] = {
    "filter": clothing.filter_,
    "filter_answer": clothing.filter_answer,
    "projection": products.projection,
    "classify_aggregate": clothing.classify_aggregate,
    "classify_dimension": products.classify_dimension,
    "multi_call": posts.multi_call,
    "fields": posts.fields,
    "rag_squad": passages.rag_squad,
    "rag_fever": passages.rag_fever,
    "semantic_join": films.semantic_join,
    "limit": clothing.limit,
    "limit_filter": films.limit_filter,
    "limit_join": films.limit_join,
    "case": clothing.case,
    "self_union": products.self_union,
    "nothing_shared": clothing.nothing_shared,
}


def cases(tables: Tables, rows: int, round_: int) -> dict[str, Callable[[], Case]]:
    """What makes the cases of a round, by name."""
    return {name: partial(make, tables, rows, round_) for name, make in CASES.items()}
