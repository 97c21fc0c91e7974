"""``semantic_top_k`` and ``semantic_join`` on the simulator."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError

from .sql import oracle

TEMPLATE = "Do {0} and {1} go together?"
LEFT = ["red shoe", "blue hat", "red shoe", None, "old lamp"]
RIGHT = ["shop of shoes", "hats and more", "lamps", None, "antiques", "a garden"]


ASKED = (
    "Which of the two texts fits the criterion better? Answer with 1 or 2.\n\n"
    "Criterion: {0}\n\nText 1:\n{1}\n\nText 2:\n{2}"
)


def winners(criterion: str, one: str, other: str) -> set[str]:
    """The better one of two texts, in both orders of the prompt."""
    ways = ((one, other), (other, one))
    return {way[int(oracle.llm(ASKED, criterion, *way, choices=("1", "2")) or "") - 1] for way in ways}


def bound(different: int, k: int) -> int:
    """Most comparisons among so many different texts, as documented."""
    k = min(k, different)
    return 0 if different < 2 else different - 1 + (k - 1) * (math.ceil(math.log2(different)) - 1)


def test_the_better_one_of_two_rows_whichever_comes_first(spark: SparkSession) -> None:
    certain = 0
    for i in range(8):
        pair = [f"one {i}", f"other {i}"]
        found = []
        for rows in (pair, pair[::-1]):
            df = spark.createDataFrame([(0, rows[0]), (1, None), (2, rows[1])], "id int, body string")
            best = spark_helium.semantic_top_k(df.coalesce(1), "c", 5, content="body").collect()
            assert [row["rank"] for row in best] == [1, 2]
            assert {row.body for row in best} == set(pair)
            found.append(best[0].body)
        assert found[0] == found[1]
        likely = winners("c", *pair)
        certain += len(likely) == 1
        assert found[0] in likely
    assert certain, "the simulator says the same in both orders for some pair"


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 21])
def test_calls_are_bounded(spark: SparkSession, count: int, k: int) -> None:
    """Rows with NULL, and each text in two rows."""
    texts = [f"text {i} of {count}" for i in range(count)]
    rows = [(i, text) for i, text in enumerate([*texts, None, *texts, None])]
    df = spark.createDataFrame(rows, "id int, body string").coalesce(1)
    with spark_helium.measure(spark) as run:
        best = spark_helium.semantic_top_k(df, f"calls {k}", k, content="body").collect()
    # Whether a third row is needed depends on k: rows of equal texts stand together.
    assert max(count - 1, 0) <= run.calls_sent <= bound(count, k)
    if k == 1:
        assert run.calls_sent == max(count - 1, 0)
    assert [row["rank"] for row in best] == list(range(1, min(k, 2 * count) + 1))
    assert all(row.body == rows[row.id][1] for row in best)
    if k == 3 and count:
        assert best[0].body == best[1].body
        assert best[0].id + count + 1 == best[1].id


def test_rows_of_several_partitions_in_any_order(spark: SparkSession) -> None:
    df = spark.range(0, 13, 1, 4).select("id", F.concat(F.lit("text of row "), "id").alias("body"))
    with spark_helium.measure(spark) as run:
        rows = spark_helium.semantic_top_k(df, "longest", 3, content="body").collect()
    assert 12 <= run.calls_sent <= bound(13, 3)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(row.body == f"text of row {row.id}" for row in rows)
    with spark_helium.measure(spark) as again:
        for other in (df.repartition(3), df.repartition(1).orderBy(F.desc("id"))):
            assert spark_helium.semantic_top_k(other, "longest", 3, content=F.col("body")).collect() == rows
    assert again.calls_sent == 0, "each pair is the prompt that it was"


def test_a_whole_row_is_compared_as_json(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, "a"), (2, None)], "id int, t string")
    best = spark_helium.semantic_top_k(df, "json", 1).collect()
    likely = winners("json", '{"id":1,"t":"a"}', '{"id":2}')
    assert [(row["rank"], row.id in (1, 2)) for row in best] == [(1, True)]
    assert ('{"id":1,"t":"a"}' if best[0].id == 1 else '{"id":2}') in likely


def test_top_k_in_sql(spark: SparkSession) -> None:
    df = spark.range(0, 9, 1, 2).select("id", F.concat(F.lit("sql "), F.col("id") % 7).alias("body"))
    df.createOrReplaceTempView("of_top_k")
    rows = spark.sql("""
        SELECT posexplode(transform(llm_top_k(found.body, 'in SQL', 4), i -> found[i]))
        FROM (SELECT array_sort(collect_list(struct(id, body))) AS found FROM of_top_k)""").collect()
    spark.catalog.dropTempView("of_top_k")
    in_python = spark_helium.semantic_top_k(df, "in SQL", 4, content="body").collect()
    assert [(row.pos + 1, row.col.id, row.col.body) for row in rows] == [tuple(row) for row in in_python]
    [nothing] = spark.sql("SELECT llm_top_k(array(CAST(NULL AS STRING)), 'c', 1), llm_top_k(NULL, 'c', 1)").collect()
    assert tuple(nothing) == (None, None)


@pytest.mark.parametrize(
    ("call", "condition"),
    [
        ("llm_top_k(array('a'), 'c', 0)", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("llm_top_k(array('a'), 'c', id)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("llm_top_k(array('a'), 'c', CAST(NULL AS INT))", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("llm_top_k(array('a'), 'c', 3000000000)", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("llm_top_k(array('a'), 'c', 'two')", "HELIUM_OPTION_TYPE"),
        ("llm_top_k(array('a'), ' ', 1)", "HELIUM_OPTION_TYPE"),
        ("llm_top_k(array('a'), string(id), 1)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("llm_top_k('a', 'c', 1)", "HELIUM_OPTION_TYPE"),
        ("llm_top_k(array('a'), 'c')", "HELIUM_ARGUMENTS"),
        ("llm_top_k(array('a'), 'c', 1, choices => array('1'))", "HELIUM_UNKNOWN_OPTION"),
    ],
)
def test_errors_at_analysis(spark: SparkSession, call: str, condition: str) -> None:
    with pytest.raises(AnalysisException) as e:
        spark.sql(f"SELECT {call} FROM range(1)").collect()
    assert e.value.getCondition() == condition


def test_k_of_any_type_of_whole_numbers(spark: SparkSession) -> None:
    array = "array('one', 'two', 'three')"
    expected = spark.sql(f"SELECT llm_top_k({array}, 'c', 2)").first()
    for k in ("2L", "CAST(2 AS TINYINT)", "CAST(2 AS DECIMAL(3, 0))", "1 + 1"):
        assert spark.sql(f"SELECT llm_top_k({array}, 'c', {k})").first() == expected


def test_what_a_join_with_a_prefilter_is_expected_to_ask(spark: SparkSession) -> None:
    left = spark.range(60).selectExpr("id AS l", "concat('left ', id) AS x")
    right = spark.range(50).selectExpr("id AS r", "concat('right ', id) AS y")
    report = spark_helium.explain(spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", top_k=3))
    assert max(call.calls for node in report.nodes for call in node.calls) == 60 * 3, "and not a share of all pairs"


def test_nothing_to_choose_from(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, None)], "id int, body string")
    assert spark_helium.semantic_top_k(df, "c", 2, content="body").collect() == []


def test_equal_texts_need_no_call(spark: SparkSession) -> None:
    df = spark.range(5).select("id", F.lit("the same").alias("body"))
    with spark_helium.measure(spark) as run:
        rows = spark_helium.semantic_top_k(df, "c", 3, content="body", rank="place").collect()
    assert [(row.place, row.id) for row in rows] == [(1, 0), (2, 1), (3, 2)]
    assert run.calls_sent == 0


def sides(spark: SparkSession):  # type: ignore[no-untyped-def]
    left = spark.createDataFrame([(i, i % 2, t) for i, t in enumerate(LEFT)], "l int, b int, x string")
    right = spark.createDataFrame([(i, i % 2, t) for i, t in enumerate(RIGHT)], "r int, b int, y string")
    return left, right


def matches(i: int, j: int) -> bool:
    """Whether the simulator says yes for two rows, by hand."""
    asked = f"Is this true? Answer with true or false.\n\n{TEMPLATE}"
    return oracle.llm(asked, LEFT[i], RIGHT[j], choices=("true", "false")) == "true"


PAIRS = [(i, j) for i in range(len(LEFT)) for j in range(len(RIGHT)) if matches(i, j)]


def near(i: int, k: int) -> list[int]:
    """The right rows that are most similar to a left row, by hand; NULL is similar to nothing."""
    texts = [(j, y) for j, y in enumerate(RIGHT) if y is not None]
    return [j for j, y in sorted(texts, key=lambda p: -(oracle.similarity(LEFT[i], p[1]) or 0))[:k]]


def test_join_and_block(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.cache.enabled", "false")
    left, right = sides(spark)
    report = spark_helium.explain(spark_helium.semantic_join(left, right, TEMPLATE, "x", "y"))
    assert report.nodes[0].calls[0].calls >= report.nodes[0].calls[0].distinct_prompts > 0
    for on, holds in (
        (None, lambda i, j: True),
        ("b", lambda i, j: i % 2 == j % 2),
        (["b"], lambda i, j: i % 2 == j % 2),
        (left["b"] == right["b"], lambda i, j: i % 2 == j % 2),
        (left["l"] < right["r"], lambda i, j: i < j),
    ):
        with spark_helium.measure(spark) as run:
            rows = spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", on=on).collect()
        assert sorted((row.l, row.r) for row in rows) == [pair for pair in PAIRS if holds(*pair)]
        asked = [
            (x, y)
            for i, x in enumerate(LEFT)
            for j, y in enumerate(RIGHT)
            if x is not None and y is not None and holds(i, j)
        ]
        assert (run.calls_requested, run.calls_sent) == (len(asked), len(set(asked)))
    assert PAIRS, "the simulator says yes for some pair"


def test_a_table_with_itself(spark: SparkSession) -> None:
    left, _ = sides(spark)
    rows = spark_helium.semantic_join(left, left, "Itself? {0} {1}", "x", "x", top_k=1).collect()
    asked = "Is this true? Answer with true or false.\n\nItself? {0} {1}"
    # The most similar text is the text itself; of two rows that have it the first one.
    expected = {
        (i, LEFT.index(x))
        for i, x in enumerate(LEFT)
        if x is not None and oracle.llm(asked, x, x, choices=("true", "false")) == "true"
    }
    assert {(row[0], row[3]) for row in rows} == expected


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_most_similar_are_asked_and_the_loss_is_told(spark: SparkSession, share: float) -> None:
    left, right = sides(spark)
    join = spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", top_k=2, recall_sample=share)
    assert sorted((row.l, row.r) for row in join.rows.collect()) == [(i, j) for i, j in PAIRS if j in near(i, 2)]
    assert join.rows.columns == ["l", "b", "x", "r", "b", "y"]

    # The rows that Spark draws with this seed, from the table alone.
    drawn = {row.l for row in left.sample(fraction=share, seed=17).collect()}
    found = [(i, j) for i, j in PAIRS if i in drawn]
    kept = [(i, j) for i, j in found if j in near(i, 2)]
    asked = {(LEFT[i], y) for i in drawn if LEFT[i] is not None for y in RIGHT if y is not None}
    spared = asked - {(LEFT[i], RIGHT[j]) for i in drawn if LEFT[i] is not None for j in near(i, 2)}
    [told] = join.recall.collect()
    assert (told["rows"], told.matches, told.kept) == (len(drawn), len(found), len(kept))
    assert told.recall == (pytest.approx(len(kept) / len(found)) if found else None)
    assert (told.calls, told.calls_saved) == (len(asked), len(spared))
    if share == 1.0:
        assert len(kept) < len(found), "the pre-filter loses something here"


def test_the_report_has_the_recall_and_asks_nothing_before_it_is_analyzed(
    spark: SparkSession, set_setting: Callable[[str, str], None]
) -> None:
    set_setting("spark.helium.cache.enabled", "false")
    left, right = sides(spark)
    join = spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", top_k=2, recall_sample=1.0)
    with spark_helium.measure(spark) as run:
        before = spark_helium.explain(join)
    assert (run.calls_sent, before.prefilter) == (0, None)
    assert "Pre-filter" not in str(before)
    report = spark_helium.explain(join, analyze=True)
    kept = [(i, j) for i, j in PAIRS if j in near(i, 2)]
    told = report.prefilter
    assert told is not None
    assert (told.rows, told.matches, told.kept) == (len(LEFT), len(PAIRS), len(kept))
    sentence = (
        f"recall {len(kept) / len(PAIRS):.3f}: kept {len(kept)} of {len(PAIRS)} matches of {len(LEFT)} left rows, "
        "and spared 9 of 15 calls"
    )
    assert str(told) == sentence
    assert sentence in str(report)
    assert sentence in report._repr_html_()
    assert report.nodes[0].actual is not None


def test_a_sample_without_matches_has_no_recall(spark: SparkSession) -> None:
    left, right = sides(spark)
    join = spark_helium.semantic_join(left.where("x IS NULL"), right, TEMPLATE, "x", "y", top_k=1, recall_sample=1.0)
    told = spark_helium.explain(join, analyze=True).prefilter
    assert told == spark_helium.PrefilterRecall(rows=1, matches=0, kept=0, recall=None, calls=0, calls_saved=0)
    assert "not known" in str(told)


@pytest.mark.engine
def test_top_k_and_join_on_the_real_engine(tmp_path: Path) -> None:
    """A session of its own, in a process of its own: this one's daemon is the simulator."""
    script = """
import sys, spark_helium
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
home = sys.argv[1]
spark = spark_helium.configure(builder, executor_directory=home + "/d", cache_directory=home + "/c").getOrCreate()
things = [(i, f"The {t} is fine.") for i, t in enumerate(("lamp", "shoe", "hat"))]
df = spark.createDataFrame(things, "id int, t string")
rows = spark_helium.semantic_top_k(df, "what one wears on the head", 2, content="t").collect()
assert [row["rank"] for row in rows] == [1, 2] and len({row.id for row in rows}) == 2, rows
other = df.select(df.id.alias("r"), df.t.alias("u"))
df.createOrReplaceTempView("a")
other.createOrReplaceTempView("b")
join = spark_helium.semantic_join(df, other, "Are {0} and {1} alike?", "t", "u", top_k=2, recall_sample=1.0)
assert join.rows.count() <= 6
told = spark_helium.explain(join, analyze=True).prefilter
assert (told.rows, told.calls, told.calls_saved) == (3, 9, 3) and told.kept <= told.matches, told
pairs = spark.sql("SELECT a.id FROM a JOIN b ON ai_filter('Are {0} and {1} alike?', a.t, b.u) AND a.id <> b.r")
with spark_helium.measure(spark) as run:
    pairs.collect()
assert (run.calls_requested, run.calls_sent) == (6, 0), run  # the join above has asked them all
[row] = spark.sql("SELECT llm_top_k(collect_list(t), 'what one wears on the head', 1) AS best FROM a").collect()
assert len(row.best) == 1 and 0 <= row.best[0] < 3, row
spark.stop()
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def test_wrong_arguments(spark: SparkSession) -> None:
    left, right = sides(spark)
    for wrong in (
        lambda: spark_helium.semantic_top_k(left, "c", 0, content="x"),
        lambda: spark_helium.semantic_top_k(left, "c", 1, content="x", rank="L"),
        lambda: spark_helium.semantic_top_k(left, "c", 1, content="x", fail_on_error=False),
        lambda: spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", top_k=0),
        lambda: spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", top_k=1, recall_sample=2.0),
        lambda: spark_helium.semantic_join(left, right, TEMPLATE, "x", "y", recall_sample=0.5),  # type: ignore[call-overload]
    ):
        with pytest.raises(ArgumentError):
            wrong()


def test_a_stream_is_ranked_batch_by_batch(spark: SparkSession) -> None:
    _, right = sides(spark)
    stream = spark.readStream.format("rate").load().selectExpr("CAST(value AS STRING) AS x")
    for wrong in (
        lambda: spark_helium.semantic_top_k(stream, "c", 1, content="x"),
        lambda: spark_helium.semantic_join(stream, right, TEMPLATE, "x", "y", top_k=1),
        lambda: spark_helium.semantic_join(right, stream, TEMPLATE, "y", "x", top_k=1),
    ):
        with pytest.raises(ArgumentError, match="is a stream; call it on each batch in foreachBatch"):
            wrong()
    assert spark_helium.semantic_join(stream, right, TEMPLATE, "x", "y").isStreaming
