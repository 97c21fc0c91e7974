"""``a JOIN b ON ai_filter('..{0}..{1}', a.x, b.y) AND cheap`` in SQL, on the simulator.

What is asked, and in which order, is counted exactly.
The left side has 24 rows with 8 different texts, the right side 18 rows with 6, in 3 blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from pyspark.sql import SparkSession

import spark_helium

from . import oracle

BLOCKS = 3
LEFT = [(i, i % BLOCKS, f"request {i % 8}") for i in range(24)]
RIGHT = [(j, j % BLOCKS, f"offer {j % 6}") for j in range(18)]
TEMPLATE = "Does {0} match {1}?"


@pytest.fixture(scope="module", autouse=True)
def tables(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame([*LEFT, (99, 0, None)], "id int, b int, x string").createOrReplaceTempView("wanted")
    spark.createDataFrame([*RIGHT, (99, 0, None)], "id int, b int, y string").createOrReplaceTempView("offered")
    yield
    spark.catalog.dropTempView("wanted")
    spark.catalog.dropTempView("offered")


def says_yes(template: str, x: str, y: str) -> bool:
    asked = f"Is this true? Answer with true or false.\n\n{template}"
    return oracle.llm(asked, x, y, choices=("true", "false")) == "true"


@pytest.mark.parametrize(
    ("name", "cheap", "meets"),
    [
        ("cross", "true", lambda i, a, j, b: True),
        ("equal", "w.b = o.b", lambda i, a, j, b: a == b),
        ("less", "w.id < o.id", lambda i, a, j, b: i < j),
        ("both", "w.b = o.b AND o.id <> 4", lambda i, a, j, b: a == b and j != 4),
    ],
)
def test_the_cheap_condition_goes_first_and_different_pairs_are_asked_once(
    spark: SparkSession, name: str, cheap: str, meets: Callable[[int, int, int, int], bool]
) -> None:
    template = f"{name}: {TEMPLATE}"
    query = f"SELECT w.id, o.id FROM wanted w JOIN offered o ON ai_filter('{template}', w.x, o.y) AND {cheap}"
    pairs = [(i, x, j, y) for i, a, x in LEFT for j, b, y in RIGHT if meets(i, a, j, b)]
    with spark_helium.measure(spark) as run:
        found = [tuple(row) for row in spark.sql(query).collect()]
    assert sorted(found) == sorted((i, j) for i, x, j, y in pairs if says_yes(template, x, y))
    assert found, "the simulator says yes for some pair"
    different = {(x, y) for _, x, _, y in pairs}
    assert run.calls_requested == len(pairs), "NULL asks nothing"
    assert run.calls_sent == len(different) < len(pairs)


def test_explain_tells_the_calls_before_they_are_made(spark: SparkSession) -> None:
    query = f"""
        SELECT w.id FROM (SELECT id, concat('request ', id % 8) AS x FROM range(24)) w
        JOIN (SELECT id, concat('offer ', id % 6) AS y FROM range(18)) o ON ai_filter('told: {TEMPLATE}', x, y)"""
    with spark_helium.measure(spark) as run:
        [[shown]] = spark.sql(f"EXPLAIN {query}").collect()
        [[formatted]] = spark.sql(f"EXPLAIN FORMATTED {query}").collect()
        report = spark_helium.explain(spark.sql(query))
    assert run.calls_sent == 0
    [node] = report.nodes
    assert (node.calls[0].calls, node.calls[0].distinct_prompts) == (24 * 18, 8 * 6)
    for text in (shown, formatted):
        assert "expected 432 calls, 48 prompts, " in re.sub(r"[\s|:]+", " ", text), text
    with spark_helium.measure(spark) as run:
        spark.sql(query).collect()
    assert (run.calls_requested, run.calls_sent) == (432, 48)


@pytest.mark.parametrize("first", ["left", "right"])
def test_pairs_with_a_common_beginning_follow_each_other(
    spark: SparkSession, set_setting: Callable[[str, str], None], first: str
) -> None:
    """The KV cache holds three prompts, so that a beginning is found there only right behind its like.

    The join makes all pairs of one side's row before the next one's. Whichever side that is, it is the other one's
    text that one of the two templates begins with.
    """
    block, blocks = 4, 96
    set_setting("spark.helium.simulator.blockSize", str(block))
    set_setting("spark.helium.simulator.kvBlocks", str(blocks))
    set_setting("spark.helium.simulator.maxNumSeqs", "1")
    set_setting("spark.helium.cache.enabled", "false")
    long = {side: [f"{side} {i} {'and so on ' * 40}" for i in range(6)] for side in ("left", "right")}
    for side, texts in long.items():
        rows = spark.createDataFrame([(text,) for text in texts], "t string").coalesce(1)
        rows.selectExpr("t" if side == first else "substr(t, 1, 8) AS t").createOrReplaceTempView(f"of_{side}")
    slots = "{0} {1}" if first == "left" else "{1} {0}"
    try:
        with spark_helium.measure(spark) as run:
            spark.sql(
                f"SELECT count(*) FROM of_left l JOIN of_right r ON llm('{slots}', l.t, r.t, max_tokens => 4) <> ''"
            ).collect()
    finally:
        spark.catalog.dropTempView("of_left")
        spark.catalog.dropTempView("of_right")
    size = len(oracle.tokens_of([("user", long[first][0])])) // 4
    assert 2 * size < block * blocks < 4 * size, "the cache holds few of the beginnings"
    assert run.calls_sent == 36
    # Each of the six beginnings is computed once, and read from the cache by the five others that have it. What the
    # prompt ends with, and a block that is not full, are left out.
    shared = (size - 4) // block * block
    assert run.cached_prompt_tokens >= 30 * shared


def test_a_prefilter_by_similarity_is_a_window(spark: SparkSession) -> None:
    """As ``semantic_join(..., top_k=2)`` does it, written in SQL."""
    template = f"near: {TEMPLATE}"
    query = f"""
        SELECT i, j FROM (
          SELECT w.id AS i, o.id AS j, x, y,
            row_number() OVER (PARTITION BY w.id ORDER BY ai_similarity(x, y) DESC, o.id) AS place
          FROM wanted w JOIN offered o ON w.b = o.b
        ) WHERE place <= 2 AND ai_filter('{template}', x, y)"""

    def near(x: str, a: int) -> list[tuple[int, str]]:
        block = [(j, y) for j, b, y in RIGHT if b == a]
        return sorted(block, key=lambda row: (-(oracle.similarity(x, row[1]) or 0), row[0]))[:2]

    kept = [(i, x, j, y) for i, a, x in LEFT for j, y in near(x, a)]
    with spark_helium.measure(spark) as run:
        found = [tuple(row) for row in spark.sql(query).collect()]
    assert sorted(found) == sorted((i, j) for i, x, j, y in kept if says_yes(template, x, y))
    vectors = len({x for _, _, x in LEFT}) + len({y for _, _, y in RIGHT})
    assert run.calls_sent == vectors + len({(x, y) for _, x, _, y in kept})
