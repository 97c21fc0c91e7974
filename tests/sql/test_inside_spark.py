"""The optimizer beside the rest of Spark: adaptive execution, code generation, caching, streams, writes, parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

import spark_helium
from spark_helium.functions import llm

from . import oracle

YES = "choices => array('yes', 'no')"
MIXED = f"""
    WITH c AS (SELECT id, id % 4 AS k, llm('mixed {{0}}', id % 6, {YES}) AS a FROM range(0, 60, 1, 3))
    SELECT c.id, c.a, d.n, llm('then {{0}} {{1}}', concat(c.a, '!'), d.n) AS b
    FROM c JOIN (SELECT k, count(*) AS n FROM c WHERE a = 'yes' GROUP BY k) d ON c.k = d.k
    WHERE c.id > 3 AND (c.a = 'yes' OR c.id % 5 = 0) ORDER BY c.id DESC LIMIT 20
"""


@pytest.fixture
def uncached(set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.cache.enabled", "false")


def rows(df: DataFrame) -> list[tuple[object, ...]]:
    return [tuple(row) for row in df.collect()]


@pytest.mark.parametrize("adaptive", ["true", "false"])
@pytest.mark.parametrize("codegen", ["true", "false"])
def test_adaptive_execution_and_code_generation(
    spark: SparkSession, set_setting: Callable[[str, str], None], adaptive: str, codegen: str
) -> None:
    set_setting("spark.sql.adaptive.enabled", adaptive)
    set_setting("spark.sql.codegen.wholeStage", codegen)
    first = {i: oracle.yes("mixed {0}", i % 6) for i in range(60)}
    counts = {k: sum(bool(first[i]) for i in range(60) if i % 4 == k) for k in range(4)}
    kept = [i for i in range(59, 3, -1) if (first[i] or i % 5 == 0) and counts[i % 4]][:20]
    word = {True: "yes", False: "no", None: None}
    expected = []
    for i in kept:
        a, n = word[first[i]], counts[i % 4]
        expected.append((i, a, n, oracle.llm("then {0} {1}", f"{a}!", n)))
    assert rows(spark.sql(MIXED)) == expected


@pytest.mark.usefixtures("uncached")
def test_a_cached_frame_serves_a_second_query_with_the_same_call(spark: SparkSession) -> None:
    def query() -> DataFrame:
        return spark.sql(f"SELECT id, llm('cached frame {{0}}', id, {YES}) AS a FROM range(12)")

    cached = query().cache()
    try:
        with spark_helium.measure(spark) as first:
            before = rows(cached)
        with spark_helium.measure(spark) as second:
            assert rows(query()) == before
            counted = query().groupBy("a").count()
            assert sum(row["count"] for row in counted.collect()) == 12
        assert (first.calls_requested, second.calls_requested) == (12, 0)
    finally:
        cached.unpersist()


@pytest.mark.usefixtures("uncached")
def test_checkpointed_answers_are_not_asked_again(spark: SparkSession) -> None:
    df = spark.range(8).withColumn("a", llm("checkpoint {0}", "id")).localCheckpoint()
    with spark_helium.measure(spark) as run:
        assert [r.a for r in df.orderBy("id").collect()] == [oracle.llm("checkpoint {0}", i) for i in range(8)]
    assert run.calls_requested == 0


def test_a_stream_with_a_chain_of_calls(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(10).write.parquet(str(tmp_path / "in"))
    stream = spark.readStream.schema("id long").parquet(str(tmp_path / "in"))
    df = stream.withColumn("a", llm("first {0}", "id", choices=["yes", "no"])).filter("a = 'yes' AND id > 2")
    df = df.withColumn("b", llm("second {0}", "a"))
    query = df.writeStream.format("memory").queryName("chained").trigger(availableNow=True).start()
    assert query.awaitTermination(60)
    expected = [(i, "yes", oracle.llm("second {0}", "yes")) for i in range(3, 10) if oracle.yes("first {0}", i)]
    assert sorted(rows(spark.table("chained"))) == expected


def test_a_streaming_aggregate_and_a_stream_static_join(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(12).write.parquet(str(tmp_path / "in"))
    stream = spark.readStream.schema("id long").parquet(str(tmp_path / "in"))
    few = spark.range(0, 12, 3).withColumnRenamed("id", "key")
    df = stream.withColumn("a", llm("in a stream {0}", "id", choices=["yes", "no"]))
    df = df.join(few, df.id == few.key).groupBy("a").count()
    query = df.writeStream.format("memory").queryName("counted").outputMode("complete").trigger(availableNow=True)
    started = query.start()
    assert started.awaitTermination(60)
    kept = [oracle.yes("in a stream {0}", i) for i in range(0, 12, 3)]
    expected = {word: n for word, n in (("yes", kept.count(True)), ("no", kept.count(False))) if n}
    assert dict(rows(spark.table("counted"))) == expected


def test_parquet_and_partitioned_writes(spark: SparkSession, tmp_path: Path) -> None:
    df = spark.range(20).withColumn("a", llm("written {0}", "id", choices=["yes", "no"]))
    df.write.partitionBy("a").parquet(str(tmp_path / "out"))
    got = {row.id: row.a for row in spark.read.parquet(str(tmp_path / "out")).collect()}
    assert got == {i: "yes" if oracle.yes("written {0}", i) else "no" for i in range(20)}


@pytest.mark.usefixtures("uncached")
def test_a_prepared_statement_with_other_parameters(spark: SparkSession) -> None:
    call = f"llm(:template, id, {YES})"
    text = f"SELECT id, {call} AS a FROM range(6) WHERE id < :most AND {call} = 'yes'"
    for template, most in (("prepared {0}", 4), ("again {0}", 6)):
        with spark_helium.measure(spark) as run:
            got = rows(spark.sql(text, {"template": template, "most": most}))
        assert got == [(i, "yes") for i in range(most) if oracle.yes(template, i)]
        assert run.calls_requested == run.calls_sent == most


def test_views_over_views(spark: SparkSession) -> None:
    spark.sql(f"CREATE OR REPLACE TEMP VIEW inner_view AS SELECT id, llm('viewed {{0}}', id, {YES}) AS a FROM range(9)")
    spark.sql(
        "CREATE OR REPLACE TEMP VIEW outer_view AS SELECT *, llm('outer {0}', a) AS b FROM inner_view WHERE id > 2"
    )
    try:
        got = rows(spark.sql("SELECT id, b FROM outer_view WHERE a = 'yes'"))
        assert got == [(i, oracle.llm("outer {0}", "yes")) for i in range(3, 9) if oracle.yes("viewed {0}", i)]
    finally:
        spark.catalog.dropTempView("outer_view")
        spark.catalog.dropTempView("inner_view")


def test_statistics_of_a_table_move_calls(spark: SparkSession) -> None:
    spark.range(200).selectExpr("id", "id % 5 AS k", "concat('text ', id) AS t").write.saveAsTable("many_rows")
    spark.range(2).selectExpr("id AS k", "id AS other").write.saveAsTable("few_keys")
    try:
        asked = "SELECT id, k, llm('analysed {0}', t) AS a FROM many_rows"
        query = f"SELECT x.id, a FROM ({asked}) x JOIN few_keys y ON x.k = y.k"
        for table, columns in (("many_rows", "id, k, t"), ("few_keys", "k, other")):
            spark.sql(f"ANALYZE TABLE {table} COMPUTE STATISTICS FOR COLUMNS {columns}")
        [node] = spark_helium.explain(spark.sql(query)).nodes
        assert node.calls[0].measured
        assert node.calls[0].calls == pytest.approx(80, rel=0.1)  # two of five keys find a partner
        with spark_helium.measure(spark) as run:
            assert len(spark.sql(query).collect()) == 80
        assert run.calls_requested == 80
    finally:
        spark.sql("DROP TABLE many_rows")
        spark.sql("DROP TABLE few_keys")
