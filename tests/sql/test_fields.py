"""``fields => struct(...)``: a JSON record in the prompt, whose order the optimizer may choose."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as t

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import llm

from . import oracle

REVIEWS = [(f"text {i}", ["shoe", "hat", None][i % 3], i % 2) for i in range(12)]


@pytest.fixture(scope="module", autouse=True)
def reviews(spark: SparkSession) -> Iterator[None]:
    values = ", ".join(f"('{b}', {'NULL' if p is None else repr(p)}, {s})" for b, p, s in REVIEWS)
    spark.sql(f"SELECT * FROM VALUES {values} AS t(body, product, stars)").createOrReplaceTempView("fields_reviews")
    yield
    spark.catalog.dropTempView("fields_reviews")


def record(*fields: tuple[str, object]) -> str:
    return json.dumps(dict(fields), separators=(",", ":"), ensure_ascii=False)


def prompt(before: str, *fields: tuple[str, object]) -> str:
    return oracle.chat([("user", before + record(*fields))])


def did(df: DataFrame) -> list[str]:
    """What OrderFields says in the report."""
    report = spark_helium.explain(df)
    declined = [note for node in report.nodes for note in node.declined]
    return [note.text for note in (*report.did, *declined) if note.rule == "OrderFields"]


def records_of(df: DataFrame) -> list[str]:
    """The text of the first call's record for each row, as the plan computes it; on a classic session."""
    spark = df.sparkSession
    jvm = spark._jvm  # type: ignore[attr-defined]
    plan = df._jdf.queryExecution().optimizedPlan()  # type: ignore[operator]
    while plan.nodeName() != "EvalLLM":
        plan = plan.children().apply(0)
    expressions = jvm.org.apache.spark.sql.catalyst.expressions
    none = jvm.scala.Option.empty()
    nil = jvm.scala.collection.immutable.List.newBuilder().result()
    argument = plan.calls().apply(0).arguments().apply(0)
    alias = expressions.Alias(argument, "record", expressions.NamedExpression.newExprId(), nil, none, nil)
    project = jvm.org.apache.spark.sql.catalyst.plans.logical.Project(nil.prepended(alias), plan.child())
    rows = jvm.org.apache.spark.sql.classic.Dataset.ofRows(spark._jsparkSession, project)  # type: ignore[attr-defined]
    return [row.record for row in DataFrame(rows, spark).collect()]


def test_as_written_without_the_rule(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.optimizer.orderFields.enabled", "false")
    df = spark.sql(
        "SELECT body, llm('Good?', fields => struct(body, product, stars AS rating)) AS a FROM fields_reviews"
    )
    expected = {b: prompt("Good?\n", ("body", b), ("product", p), ("rating", s)) for b, p, s in REVIEWS}
    assert {r.body: r.a for r in df.collect()} == expected


def test_the_order_that_shares_most(spark: SparkSession) -> None:
    df = spark.table("fields_reviews").select(
        "body", llm("Rate {fields} in {word}", fields=["body", "stars", "product"], word=F.lit("one")).alias("a")
    )
    expected = {
        b: oracle.llm(
            f"Rate {record(('product', p), ('stars', s), ('body', b))}".replace("{", "{0}", 1) + " in one", "{"
        )
        for b, p, s in REVIEWS
    }
    assert {r.body: r.a for r in df.collect()} == expected
    (text,) = did(df)
    assert text == (
        "order product, stars, body (of the characters of a sample of 12 rows, 40 % are in shared prefixes, "
        "0 % as written)"
    )


def test_templates_with_placeholders_keep_their_order(spark: SparkSession) -> None:
    df = spark.sql("SELECT body, llm('{0} {1} {2}', body, product, stars) AS a FROM fields_reviews")
    assert {r.body: r.a for r in df.collect()} == {b: oracle.llm("{0} {1} {2}", b, p, s) for b, p, s in REVIEWS}


def test_a_struct_column_and_positional_arguments(spark: SparkSession) -> None:
    df = spark.sql(
        """SELECT body, llm('{0}!', stars, fields => r) AS a
           FROM (SELECT body, stars, named_struct('b', body) AS r FROM fields_reviews)"""
    )
    assert {r.body: r.a for r in df.collect()} == {b: prompt(f"{s}!\n", ("b", b)) for b, _, s in REVIEWS}


def test_values_that_are_no_text(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.sql.session.timeZone", "Europe/Berlin")
    df = spark.sql(
        """SELECT llm('What? {fields}', fields => struct(true AS flag, d, DATE'2024-02-29' AS day,
                      TIMESTAMP'2024-02-29 12:00:00' AS time, array(1, NULL) AS list, map('k', 0.5D) AS map,
                      named_struct('x', CAST(NULL AS STRING), 'y', '"') AS inner, NULL AS nothing)) AS a
           FROM VALUES (1.50BD) AS t(d)"""
    )
    expected = (
        '{"flag":true,"d":1.50,"day":"2024-02-29","time":"2024-02-29T12:00:00.000+01:00","list":[1,null],'
        '"map":{"k":0.5},"inner":{"x":null,"y":"\\""},"nothing":null}'
    )
    assert df.collect()[0].a == oracle.chat([("user", f"What? {expected}")])


def test_what_is_no_record(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql("SELECT llm('x', fields => 'body')").collect()
    assert error.value.getCondition() == "HELIUM_OPTION_TYPE"
    with pytest.raises(ArgumentError, match="list of columns"):
        llm("x", fields="body")  # type: ignore[arg-type]
    conversations = "SELECT array(struct(a AS role, a AS content)) AS c FROM VALUES ('user') AS t(a)"
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT llm(c, fields => struct(1)) FROM ({conversations})").collect()
    assert error.value.getCondition() == "HELIUM_CONFLICTING_OPTIONS"


TWICE = "llm('Twice? {fields}', fields => struct(body, stars, product))"


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT {TWICE} AS a FROM fields_reviews INTERSECT SELECT {TWICE} FROM fields_reviews WHERE body = 'text 7'",
        f"""SELECT count(DISTINCT a) FROM (SELECT {TWICE} AS a FROM fields_reviews
            UNION ALL SELECT {TWICE} FROM fields_reviews WHERE body = 'text 7')""",
        f"""SELECT count(*) FROM fields_reviews
            WHERE {TWICE} = (SELECT max({TWICE}) FROM fields_reviews WHERE body = 'text 7')""",
    ],
    ids=["intersect", "union", "subquery"],
)
def test_equal_calls_keep_one_order(spark: SparkSession, set_setting: Callable[[str, str], None], query: str) -> None:
    # With the filter other values hold, and by them another order would be best.
    set_setting("spark.helium.cache.enabled", "false")
    with spark_helium.measure(spark) as run:
        rows = len(spark.sql(query).collect())
    assert run.calls_sent == len(REVIEWS)
    set_setting("spark.helium.optimizer.enabled", "false")
    assert len(spark.sql(query).collect()) == rows


# Three groups that repeat in different fields, so that no order is the best for all rows; and rows of no group.
GROUPS = [
    {field: "a group of many words" if i % 4 == group else f"{field} {i}" for group, field in enumerate("abc")}
    for i in range(80)
]


@pytest.fixture
def files(spark: SparkSession, tmp_path: Path) -> str:
    path = str(tmp_path / "groups")
    rows = [row for row in GROUPS for _ in range(2)]
    spark.createDataFrame([tuple(row.values()) for row in rows], ["a", "b", "c"]).repartition(3).write.parquet(path)
    return path


def test_the_order_follows_the_values(spark: SparkSession, set_setting: Callable[[str, str], None], files: str) -> None:
    set_setting("spark.helium.cache.enabled", "false")
    df = spark.read.parquet(files)
    expected = {}
    for i, row in enumerate(GROUPS):
        first = "abc"[i % 4] if i % 4 < 3 else "a"
        order = [first, *[field for field in "abc" if field != first]]
        expected[tuple(row.values())] = prompt("Which?\n", *[(field, row[field]) for field in order])
    for partitions in (1, 8):
        asked = df.repartition(partitions).select("a", "b", "c", llm("Which?", fields=["a", "b", "c"]).alias("answer"))
        with spark_helium.measure(spark) as run:
            rows = asked.collect()
        assert {(r.a, r.b, r.c): r.answer for r in rows} == expected, "equal rows get equal prompts in any partition"
        assert len(rows) == 2 * run.calls_sent == 2 * len(GROUPS)
        (text,) = did(asked)
        assert text == (
            "order a, b, c, other ones for 3 values (of the characters of a sample of 160 rows, "
            "44 % are in shared prefixes, 15 % as written)"
        )


def test_no_job_reads_a_sample_where_none_is_wanted(
    spark: SparkSession, set_setting: Callable[[str, str], None], files: str
) -> None:
    set_setting("spark.helium.optimizer.orderFields.sampleRows", "0")
    df = spark.read.parquet(files).select(llm("Which?", fields=["b", "a"]).alias("answer"))
    assert did(df) == [
        "no job may read a sample (spark.helium.optimizer.orderFields.sampleRows = 0); no statistics of b, a"
    ]


def test_a_sample_is_read_once(
    spark: SparkSession, session_kind: str, set_setting: Callable[[str, str], None], files: str
) -> None:
    if session_kind != "classic":
        pytest.skip("a Connect client sees no jobs")
    spark.sparkContext.setJobGroup("order of fields", "")
    tracker = spark.sparkContext.statusTracker()

    def planned(where: str) -> int:
        df = spark.read.parquet(files).where(where).select(llm("Once?", fields=["a", "b"]).alias("answer"))
        df._jdf.queryExecution().optimizedPlan()
        return len(tracker.getJobIdsForGroup("order of fields"))

    before = len(tracker.getJobIdsForGroup("order of fields"))
    schema = planned("c > 'c 1'")  # reading the schema may be a job, too
    again = planned("c > 'c 1'")
    other = planned("c > 'c 2'")
    assert schema > before
    assert other - again == again - schema + 1, "a job for the sample of each plan, and once"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("fails(a)", "user's function"),
        ("rand() < 0.9", "not deterministic"),
        ("CAST(a AS INT) > 0", "reading a sample failed"),
    ],
)
def test_where_there_is_no_sample(spark: SparkSession, files: str, where: str, reason: str) -> None:
    spark.udf.register("fails", lambda a: True, "boolean")
    df = spark.read.parquet(files).where(where).select(llm("Which?", fields=["a", "b"]).alias("answer"))
    assert any(reason in text for text in did(df)), did(df)


HOSTILE = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\{}[]:,\n\r\t\x00\x1f\x7f\u2028'), max_size=20)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(HOSTILE, st.none() | HOSTILE, st.integers(-9, 9)), min_size=20, max_size=60))
def test_no_cell_can_forge_a_field(
    spark: SparkSession, session_kind: str, rows: list[tuple[str, str | None, int]]
) -> None:
    if session_kind != "classic":
        pytest.skip("a Connect client cannot see the text of a prompt")
    df = spark.createDataFrame(rows, 'a string, `b"\\` string, n int').coalesce(1)
    texts = records_of(df.select(llm("Read {fields}", fields=["a", '`b"\\`', "n"]).alias("answer")))
    assert [json.loads(text) for text in texts] == [{"a": a, 'b"\\': b, "n": n} for a, b, n in rows]
    assert all(len(json.loads(text, object_pairs_hook=list)) == 3 for text in texts)


def test_numbers_of_all_kinds(spark: SparkSession, session_kind: str) -> None:
    if session_kind != "classic":
        pytest.skip("a Connect client cannot see the text of a prompt")
    row = (2**63 - 1, -1.5, float("nan"), Decimal("0.000000001"), datetime.date(1, 1, 1), bytearray(b"\x00\xff"), "ä")
    schema = "a long, b double, c double, d decimal(20, 9), e date, f binary, g string"
    df = spark.createDataFrame([row], schema)
    fields = t._parse_datatype_string(schema).fieldNames()
    text = records_of(df.select(llm("Read {fields}", fields=fields).alias("answer")))[0]
    assert text == df.select(F.to_json(F.struct(*fields))).collect()[0][0]
    assert json.loads(text)["g"] == "ä"


def test_planning_sends_no_calls_of_an_rdd(spark: SparkSession, session_kind: str) -> None:
    if session_kind != "classic":
        pytest.skip("Connect has no RDDs")
    called = spark.table("fields_reviews").select("product", llm("Of an RDD {0}", "body").alias("text"))
    again = spark.createDataFrame(called.rdd, called.schema)
    for df in (again, again.where("text > ''"), again.cache()):
        asked = df.select(llm("Over it: {fields}", fields=["text", "product"]).alias("a"))
        with spark_helium.measure(spark) as run:
            asked.explain()
            (text,) = did(asked)
        assert run.calls_requested == 0
        assert "an RDD below may make calls" in text
    again.unpersist()
    assert len(asked.collect()) == len(REVIEWS)


def test_a_checkpoint_is_a_sample(spark: SparkSession, session_kind: str) -> None:
    if session_kind != "classic":
        pytest.skip("a Connect client names no RDDs")
    df = spark.table("fields_reviews").select("body", "product", "stars").localCheckpoint()
    (text,) = did(df.select(llm("Kept: {fields}", fields=["body", "product"]).alias("a")))
    assert "a sample of 12 rows" in text


def test_a_sample_looks_at_no_pairs_of_all_rows(spark: SparkSession, files: str) -> None:
    left, right = spark.read.parquet(files), spark.read.parquet(files).select(F.col("a").alias("d"), "c")
    for joined, sampled in (
        (left.join(right.drop("c"), F.col("a") < F.col("d"), "left"), False),
        (left.crossJoin(right.drop("c").agg(F.max("d").alias("d"))), True),
        (left.join(right, "c"), True),
    ):
        asked = joined.select(llm("Of pairs: {fields}", fields=["a", "d"]).alias("x"))
        assert any("a sample of" in text for text in did(asked)) == sampled, did(asked)


def test_a_sample_that_failed_is_read_again(spark: SparkSession, tmp_path: Path) -> None:
    path = tmp_path / "comes-and-goes"
    spark.createDataFrame(REVIEWS, "body string, product string, stars int").repartition(1).write.parquet(str(path))
    spark.read.parquet(str(path)).createOrReplaceTempView("comes_and_goes")  # files are listed once, on Connect too
    df = spark.table("comes_and_goes").select(llm("Which?", fields=["body", "product"]).alias("answer"))
    [data] = path.glob("part-*")
    data.rename(tmp_path / "gone")
    assert any("reading a sample failed" in text for text in did(df)), did(df)
    (tmp_path / "gone").rename(data)
    (text,) = did(df)
    assert "a sample of 12 rows" in text
    spark.catalog.dropTempView("comes_and_goes")


def test_a_sample_never_fills_a_cache_with_calls(spark: SparkSession) -> None:
    df = spark.table("fields_reviews").select("product", llm("To be cached {0}", "body").alias("text")).cache()
    asked = df.select(llm("Of a cache: {fields}", fields=["text", "product"]).alias("a"))
    with spark_helium.measure(spark) as run:
        asked.explain()
    assert run.calls_requested == 0
    assert len(asked.collect()) == len(REVIEWS)
    df.unpersist()
