"""Agent workflows and glue as plain columns become one call graph, and give what separate nodes give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.functions import llm

from . import oracle
from .workflows import debate, trading


def nodes(df: DataFrame) -> list[int]:
    """Calls of each EvalLLM node of the optimized plan."""
    plan = df._jdf.queryExecution().optimizedPlan().toString()  # classic sessions only
    lines = [line.split("EvalLLM ")[1] for line in plan.splitlines() if "EvalLLM " in line]
    return [int(line.split()[0]) for line in lines]


@pytest.fixture
def questions(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([(1, "why is the sky blue"), (2, "is it art"), (3, None)], "id int, question string")


def test_a_debate_is_one_node(
    spark: SparkSession, questions: DataFrame, set_setting: Callable[[str, str], None]
) -> None:
    df = debate(questions)
    assert nodes(df) == [7]
    with spark_helium.measure(spark) as run:
        fused = sorted(map(tuple, df.collect()))
    assert run.calls_requested == 14
    set_setting("spark.helium.optimizer.enabled", "false")
    assert len(nodes(debate(questions))) > 1
    assert sorted(map(tuple, debate(questions).collect())) == fused
    assert fused[2][0] == 3
    assert set(fused[2][1:]) == {None}


def test_trading_is_one_node_of_56_distinct_calls(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    columns = ["stock", "profile", *(f"doc{i}" for i in range(4)), "prices", "statistics"]
    columns += [*(f"news{i}" for i in range(5)), *(f"social{i}" for i in range(3))]
    rows = [tuple(f"{c} {i}" for c in columns) for i in range(2)]
    stocks = spark.createDataFrame(rows, ", ".join(f"{c} string" for c in columns))
    assert nodes(trading(stocks)) == [56]
    with spark_helium.measure(spark) as run:
        merged = sorted(map(tuple, trading(stocks).collect()))
    assert (run.calls_requested, run.calls_sent) == (2 * 88, 2 * 56)
    set_setting("spark.helium.optimizer.mergeEqualCalls.enabled", "false")
    assert nodes(trading(stocks)) == [88]
    assert sorted(map(tuple, trading(stocks).collect())) == merged


ANSWER = "first {0}"
GLUE: dict[str, tuple[Callable[[Column], Column], Callable[[str | None, str | None], str | None]]] = {
    "concat": (lambda a: F.concat(F.lit("<|im_start|>"), a, F.lit("é ")), lambda a, n: a and f"<|im_start|>{a}é "),
    "concat_ws": (
        lambda a: F.concat_ws(", ", "name", a, F.lit("end")),
        lambda a, n: ", ".join(text for text in (n, a, "end") if text is not None),
    ),
    "coalesce": (lambda a: F.coalesce(a, F.lit("none")), lambda a, n: "none" if a is None else a),
    "coalesce of two": (lambda a: F.coalesce(a, "other"), lambda a, n: "other" if a is None else a),
    "format_string": (lambda a: F.format_string("%s = %s!", "name", a), lambda a, n: f"{n or 'null'} = {a or 'null'}!"),
    "nested": (
        lambda a: F.concat(F.coalesce(F.concat(F.lit("("), a, F.lit(")")), F.lit("-")), F.lit(".")),
        lambda a, n: f"({a})." if a is not None else "-.",
    ),
    "cast": (lambda a: a.cast("string"), lambda a, n: a),
    "no glue": (lambda a: F.upper(a), lambda a, n: a and a.upper()),
}


@pytest.mark.parametrize("glue", GLUE)
def test_glue(spark: SparkSession, glue: str) -> None:
    column, expected = GLUE[glue]
    names = ["red", None, "blue"]
    df = spark.createDataFrame([(n, "other") for n in names], "name string, other string")
    df = (
        df.withColumn("a", llm(ANSWER, "name"))
        .withColumn("g", column(F.col("a")))
        .withColumn("b", llm("then {0}", "g"))
    )
    assert nodes(df) == ([1, 1] if glue == "no glue" else [2])
    got = [(row.name, row.g, row.b) for row in df.collect()]
    want = []
    for n in names:
        text = expected(oracle.llm(ANSWER, n), n)
        want.append((n, text, oracle.llm("then {0}", text)))
    assert got == want


def test_a_filter_between_two_calls_guards_the_second(spark: SparkSession) -> None:
    df = spark.range(40).withColumn("a", llm("keep {0}?", "id", choices=["yes", "no"])).filter("a = 'yes'")
    df = df.withColumn("b", llm("why {0}?", "id"))
    assert nodes(df) == [2]
    with spark_helium.measure(spark) as run:
        rows = df.collect()
    kept = [i for i in range(40) if oracle.yes("keep {0}?", i)]
    assert [(r.id, r.b) for r in rows] == [(i, oracle.llm("why {0}?", i)) for i in kept]
    assert 0 < len(kept) < 40
    assert run.calls_requested == 40 + len(kept)


def test_filters_over_calls_run_the_cheap_one_first(spark: SparkSession) -> None:
    long = llm("is " + "this long question " * 20 + "good for {0}?", "id", choices=["yes", "no"])
    short = llm("short {0}?", "id", choices=["yes", "no"])
    df = spark.range(40).withColumn("a", long).withColumn("b", short).filter("a = 'yes' AND b = 'yes'")
    with spark_helium.measure(spark) as run:
        df.collect()
    passed = sum(1 for i in range(40) if oracle.yes("short {0}?", i))
    assert run.calls_requested == 40 + passed


def test_a_condition_that_only_spark_knows_between_two_calls(spark: SparkSession) -> None:
    df = spark.range(20).withColumn("a", llm("word {0}", "id")).filter("length(a) > 20")
    df = df.withColumn("b", llm("why {0}?", "a"))
    expected = [oracle.llm("word {0}", i) for i in range(20)]
    assert [r.b for r in df.collect()] == [oracle.llm("why {0}?", a) for a in expected if a and len(a) > 20]


@pytest.mark.parametrize("adaptive", ["true", "false"])
def test_equal_subplans_run_once(spark: SparkSession, set_setting: Callable[[str, str], None], adaptive: str) -> None:
    set_setting("spark.sql.adaptive.enabled", adaptive)
    set_setting("spark.helium.cache.enabled", "false")
    call = f"llm('shared {adaptive} {{0}}', id, choices => array('yes', 'no'))"
    for query in (
        f"SELECT {call} AS a FROM range(30) UNION ALL SELECT {call} FROM range(30)",
        f"""WITH c AS (SELECT id, id % 3 AS k, {call} AS a FROM range(30))
            SELECT count(*) FROM c WHERE a = 'yes' UNION ALL SELECT count(*) FROM c WHERE k = 1 OR a = 'no'
            UNION ALL SELECT max(id) FROM c WHERE a < 'z'""",
        f"WITH c AS (SELECT id, {call} AS a FROM range(30)) SELECT x.id, y.a FROM c x JOIN c y ON x.id = y.id + 1",
    ):
        with spark_helium.measure(spark) as run:
            shared = sorted(map(str, spark.sql(query).collect()))
        assert run.calls_requested == 30, query
        set_setting("spark.helium.optimizer.shareLLMSubplans.enabled", "false")
        assert sorted(map(str, spark.sql(query).collect())) == shared
        set_setting("spark.helium.optimizer.shareLLMSubplans.enabled", "true")


def test_a_draw_below_a_sort_is_made_once(spark: SparkSession) -> None:
    df = spark.range(0, 30, 1, 3).withColumn("a", llm("draw {0}", "id", temperature=1.0))
    with spark_helium.measure(spark) as run:
        rows = df.orderBy("a", "id").collect()
    assert [r.a for r in rows] == sorted(r.a for r in rows)
    assert run.calls_sent == run.calls_requested == 30


def test_few_inputs_over_many_rows(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.optimizer.deduplicateInputs.minRows", "100")
    df = spark.range(0, 400, 1, 4).withColumn("p", (F.col("id") % 5).cast("string"))
    df = df.withColumn("a", llm("few {0}", "p"))
    with spark_helium.measure(spark) as run:
        rows = {r.id: r.a for r in df.collect()}
    assert run.calls_requested == 5
    assert rows == {i: oracle.llm("few {0}", i % 5) for i in range(400)}


def test_several_engines_get_ranges_of_the_inputs(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.cluster.engines", "4")
    hot = F.when(F.col("id") < 900, F.lit("hot")).otherwise(F.concat(F.lit("p"), F.col("id") % 7))
    df = spark.range(0, 1000, 1, 1).withColumn("p", hot).withColumn("a", llm("{0}: {1}", "p", "id"))
    sizes = [r["count"] for r in df.groupBy(F.spark_partition_id()).agg(F.count("a").alias("count")).collect()]
    assert len(sizes) >= 3
    assert max(sizes) <= 2 * 1000 / 4
    ordered = spark.range(0, 100, 1, 1).orderBy(F.desc("id")).limit(50).withColumn("a", llm("n {0}", "id"))
    assert [r.id for r in ordered.collect()] == list(range(99, 49, -1))


def test_a_second_call_gets_its_own_rows_first_answer(
    spark: SparkSession, set_setting: Callable[[str, str], None]
) -> None:
    """Rows whose first calls are equal settle together, in another order than they came."""
    set_setting("spark.helium.cache.enabled", "false")
    df = spark.range(0, 40, 1, 1).withColumn("p", F.concat(F.lit("p"), F.col("id") % 2))
    df = df.withColumn("b", llm("b {0}", "p")).withColumn("c", llm("c {0}", F.concat("b", F.lit("!"))))
    for row in df.collect():
        b = oracle.llm("b {0}", f"p{row.id % 2}")
        assert (row.b, row.c) == (b, oracle.llm("c {0}", f"{b}!"))


def test_a_limit_above_a_filter_over_a_call_stays_above_the_second_call(
    spark: SparkSession, set_setting: Callable[[str, str], None]
) -> None:
    set_setting("spark.helium.cache.enabled", "false")
    df = spark.range(0, 8000, 1, 16).withColumn("a", llm("keep {0}?", "id", choices=["yes", "no"])).filter("a = 'yes'")
    df = df.withColumn("b", llm("sum {0}", "id")).limit(5)
    assert nodes(df) == [2]
    with spark_helium.measure(spark) as on:
        assert len(df.collect()) == 5
    set_setting("spark.helium.optimizer.enabled", "false")
    with spark_helium.measure(spark) as off:
        assert len(df.limit(5).collect()) == 5
    assert on.calls_requested <= off.calls_requested
