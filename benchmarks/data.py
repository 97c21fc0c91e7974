"""The tables of the benchmarks: files that the user has, or seeded texts of the same shape.

``--data DIR`` or ``SPARK_HELIUM_BENCH_DATA`` names a folder with Parquet files by these names; ``docs/benchmarks.md``
says from which public sources they come. Where one is missing, a synthetic table stands in: the columns that the suites
read, about as long, with values that repeat about as often. Every result says which of the two it used.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.texts import text
from spark_helium.errors import ConfigurationError

VARIABLE = "SPARK_HELIUM_BENCH_DATA"
REAL, SYNTHETIC = "real", "synthetic"


class Tables:
    """Tables by name.

    Attributes
    ----------
    directory: where files are looked for; None: there are none.
    sources: the tables that were asked for since this was last emptied: ``real`` or ``synthetic``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is None and os.environ.get(VARIABLE):
            directory = Path(os.environ[VARIABLE])
        if directory is not None and not directory.is_dir():
            raise ConfigurationError(f"the folder of tables {str(directory)!r} does not exist (--data or {VARIABLE})")
        self.directory = directory
        self.sources: dict[str, str] = {}
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        path = self.directory / f"{name}.parquet" if self.directory else None
        is_real = path is not None and path.exists()
        if name not in self._read:
            self._read[name] = pd.read_parquet(path) if is_real else SYNTHETIC_TABLES[name]()
        self.sources[name] = REAL if is_real else SYNTHETIC
        return self._read[name]


def sample_groups(table: pd.DataFrame, key: str, rows: int, each: int, seed: int) -> pd.DataFrame:
    """About ``rows`` rows in which the values of ``key`` repeat as in the whole table, shuffled.

    Rows taken at random would hardly share a value; so whole groups are taken, with at most ``each`` rows, or more
    where the table has too few groups for that.
    """
    generator = np.random.default_rng(seed)
    groups = [group for _, group in table.groupby(key, sort=True)]
    each = max(each, -(-rows // len(groups)))
    generator.shuffle(groups)  # type: ignore[arg-type]
    taken: list[pd.DataFrame] = []
    for group in groups:
        have = sum(map(len, taken))
        if have >= rows:
            break
        if len(group) >= min(each, 2):
            taken.append(group.sample(n=min(each, len(group), rows - have), random_state=seed))
    return pd.concat(taken).sample(frac=1, random_state=seed).reset_index(drop=True)


def sample_rows(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """``rows`` rows at random, or all there are."""
    return table.sample(n=min(rows, len(table)), random_state=seed).reset_index(drop=True)


def shorten(values: pd.Series, characters: int) -> pd.Series:
    """Texts cut at a blank near ``characters``, so that a CPU can do them."""

    def cut(value: object) -> str:
        said = "" if value is None else str(value)
        return said if len(said) <= characters else said[:characters].rsplit(" ", 1)[0]

    return values.map(cut)


def _table(name: str, count: int, make: Callable[[random.Random, int], dict[str, object]]) -> pd.DataFrame:
    dice = random.Random(name)
    return pd.DataFrame([make(dice, k) for k in range(count)])


def _products() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        of = dice.randrange(200)
        return {
            "review_id": k,
            "product_id": f"P{of}",
            "product_name": text(f"name {of}", 18),
            "category_top": text(f"category {of % 9}", 1),
            "about_product": text(f"about {of}", 120),
            "rating": round(1 + 4 * random.Random(of).random(), 1),
            "review_title": text(f"title {k}", 4),
            "review_content": text(f"content {k}", 20),
        }

    return _table("products", 1200, row)


def _clothing() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        of = dice.randrange(20)
        return {
            "review_id": k,
            "clothing_id": of,
            "title": text(f"title {k}", 3),
            "review_text": text(f"review {k}", 60),
            "rating": dice.choices([1, 2, 3, 4, 5], [3, 6, 12, 22, 57])[0],
            "department_name": text(f"department {of % 6}", 1),
            "class_name": text(f"class {of % 15}", 1),
        }

    return _table("clothing", 2000, row)


def _posts() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        of = dice.randrange(300)
        return {
            "comment_id": k,
            "comment_text": text(f"comment {k}", 40),
            "comment_score": dice.randrange(4),
            "post_id": of,
            "post_body": text(f"post {of}", 220),
            "question_title": text(f"title {of}", 10),
        }

    return _table("posts", 1200, row)


def _squad() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        passages = dice.sample(range(60), 5)
        contexts = {f"context{n + 1}": text(f"passage {p}", 130) for n, p in enumerate(passages)}
        return {"id": f"q{k}", "question": text(f"question {k}", 10), "answer": text(f"answer {k}", 2), **contexts}

    return _table("squad", 600, row)


def _fever() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        sentences = dice.sample(range(80), 4)
        evidence = {f"evidence{n + 1}": text(f"evidence {s}", 22) for n, s in enumerate(sentences)}
        label = dice.choice(["SUPPORTS", "REFUTES"])
        return {"id": f"c{k}", "claim": text(f"claim {k // 2}", 8), **evidence, "label": label}

    return _table("fever", 500, row)


def _movies() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        of = dice.randrange(60)
        return {
            "movie_id": f"m{of}",
            "review_id": k,
            "title": text(f"title {of}", 3),
            "review_text": text(f"review {k}", 26),
            "score_sentiment": dice.choice(["POSITIVE", "NEGATIVE"]),
            "creation_date": f"20{dice.randrange(10, 20)}-0{dice.randrange(1, 9)}-1{dice.randrange(9)}",
        }

    return _table("movies", 1000, row)


def _mmlu() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        choices = [text(f"choice {k} {c}", 5) for c in range(4)]
        question = text(f"question {k}", 35)
        return {
            "subject": text(f"s{k % 57}", 1),
            "question": question,
            "choices": choices,
            "answer": dice.choice("ABCD"),
        }

    return _table("mmlu", 600, row)


def _tatqa() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        return {
            "context_id": f"t{k // 6}",
            "context": text(f"context {k // 6}", 300),
            "question_order": k % 6 + 1,
            "question": text(f"question {k}", 12),
            "answer": str(dice.randrange(1000)),
            "answer_type": "arithmetic",
        }

    return _table("tatqa", 600, row)


def _trading() -> pd.DataFrame:
    def row(dice: random.Random, k: int) -> dict[str, object]:
        return {
            "ticker": f"T{k}",
            "company_name": text(f"name {k}", 2),
            "company_profile": text(f"profile {k}", 240),
            "price_history": text(f"prices {k}", 500),
            "technical_indicators": text(f"indicators {k}", 300),
            "fundamentals": text(f"fundamentals {k}", 150),
            "news": [text(f"news {k} {n}", 20) for n in range(48)],
            "social_posts": [text(f"post {k} {n}", 18) for n in range(79)],
        }

    return _table("trading", 48, row)


SYNTHETIC_TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "product_reviews": cache(_products),
    "clothing_reviews": cache(_clothing),
    "posts_comments": cache(_posts),
    "squad": cache(_squad),
    "fever": cache(_fever),
    "movies_sembench": cache(_movies),
    "mmlu": cache(_mmlu),
    "tatqa": cache(_tatqa),
    "trading": cache(_trading),
}
