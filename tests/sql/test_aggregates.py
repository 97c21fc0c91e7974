"""``ai_agg``, ``ai_summarize_agg`` and ``llm_fold`` in SQL and DataFrames, on the simulator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.call_graph import Sampling
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_agg, ai_summarize_agg, llm_fold
from spark_helium.gpu_executor.engines import answers
from spark_helium.gpu_executor.engines.base import token_count
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer
from tests.sql.by_hand import leaf_prompt, reduce_by_hand

BUDGET = 60
SHORT = "max_tokens => 8"
RENDERER = SimulatorRenderer()


def tokens_of(prompt: str) -> bytes:
    [tokens] = RENDERER.render([[("user", ((prompt, True),))]])
    assert isinstance(tokens, bytes)
    return tokens


def ask(prompts: list[str], max_tokens: int = 8) -> list[str]:
    return [answers.answer(tokens_of(prompt), Sampling(max_tokens)).text for prompt in prompts]


def by_hand(groups: list[list[str]], instruction: str, budget: int = BUDGET) -> tuple[list[str], int]:
    """The answers of a reduction done by hand, and the number of its calls."""
    asked: list[str] = []

    def counted(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ask(prompts)

    done = reduce_by_hand(groups, instruction, budget, counted, lambda prompt: token_count(tokens_of(prompt)))
    return done, len(asked)


def by_hand_in_partitions(groups: list[list[list[str]]], instruction: str) -> tuple[list[str], int]:
    """The same for groups of partitions of texts: each partition, then the answers of each group's partitions."""
    parts, first = by_hand([texts for group in groups for texts in group], instruction)
    each = iter(parts)
    asked: list[str] = []

    def counted(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ask(prompts)

    answers_of = [[next(each) for _ in group] for group in groups]
    done = reduce_by_hand(
        answers_of, instruction, BUDGET, counted, lambda prompt: token_count(tokens_of(prompt)), of_answers=True
    )
    return done, first + len(asked)


def in_partitions(texts: dict[int, str], partitions: int = 4) -> list[list[str]]:
    """Texts by id in the partitions of :func:`table`, without those that hold none of them."""
    size = 60 // partitions
    parts = [[text for i, text in texts.items() if i // size == p] for p in range(partitions)]
    return [part for part in parts if part]


def texts_of(name: str, k: int) -> list[str]:
    return [f"{name} review number {i} is about item {i * 7 % 10}" for i in range(60) if i % 3 == k]


@pytest.fixture(autouse=True)
def small_prompts(set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.agg.tokens", str(BUDGET))


@pytest.fixture
def table(spark: SparkSession, request: pytest.FixtureRequest) -> str:
    """60 rows in 3 groups of 4 partitions; texts of the test's own, so that no other test's answers are found."""
    name = request.node.name.replace("[", "_").replace("]", "").replace("-", "_")
    spark.range(0, 60, 1, 4).selectExpr(
        "id", "CAST(id % 3 AS INT) AS k",
        f"concat('{name} review number ', id, ' is about item ', id * 7 % 10) AS body",
    ).createOrReplaceTempView(f"t_{name}")  # fmt: skip
    return name


@pytest.mark.parametrize("partitions", [1, 4, 8])
def test_it_is_the_reduction_done_by_hand(spark: SparkSession, table: str, partitions: int) -> None:
    name = table.rsplit("_", 1)[0]
    spark.range(0, 60, 1, partitions).selectExpr(
        "id", "CAST(id % 3 AS INT) AS k", f"concat('{name} review number ', id, ' is about item ', id * 7 % 10) AS body"
    ).createOrReplaceTempView(f"t_{table}")
    expected, calls = by_hand([texts_of(name, k) for k in range(3)], "List the items.")
    with spark_helium.measure(spark) as run:
        rows = spark.sql(
            f"SELECT k, ai_agg(body, 'List the items.', {SHORT}) AS a, count(*) AS c, avg(id) AS m FROM t_{table} "
            "GROUP BY k ORDER BY k"
        ).collect()
    assert [(row.k, row.a, row.c, row.m) for row in rows] == [(k, expected[k], 20, 28.5 + k) for k in range(3)]
    assert calls > 9, "trees of more than one level"
    assert run.calls_requested == calls, "the same calls, whatever the partitions"
    assert run.calls_sent + run.answers_from_cache == calls


def test_without_group_by_and_in_one_prompt(
    spark: SparkSession, table: str, set_setting: Callable[[str, str], None]
) -> None:
    set_setting("spark.helium.agg.tokens", "0")
    with spark_helium.measure(spark) as run:
        [row] = spark.sql(f"SELECT ai_agg(body, 'Count.', {SHORT}) AS a FROM t_{table} WHERE id < 9").collect()
    texts = [f"{table} review number {i} is about item {i * 7 % 10}" for i in range(9)]
    assert [row.a] == ask([leaf_prompt("Count.", texts)])
    assert run.calls_sent == 1


def test_nulls_empty_groups_and_no_rows(spark: SparkSession, table: str) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.sql(f"""
            SELECT k, ai_agg(IF(k = 0, NULL, body), 'Sum up.', {SHORT}) AS a,
                   ai_agg(IF(id % 2 = 0, body, NULL), 'Sum up.', {SHORT}) AS even
            FROM t_{table} WHERE id < 6 GROUP BY k ORDER BY k""").collect()
        [none] = spark.sql(f"SELECT ai_summarize_agg(body) AS a FROM t_{table} WHERE id < 0").collect()
        nothing = spark.sql(f"SELECT k, ai_summarize_agg(body) AS a FROM t_{table} WHERE id < 0 GROUP BY k").collect()
    text = {i: f"{table} review number {i} is about item {i * 7 % 10}" for i in range(6)}
    both, _ = by_hand([[text[1], text[4]], [text[2], text[5]]], "Sum up.")
    even, _ = by_hand([[text[0]], [text[4]], [text[2]]], "Sum up.")
    assert [(row.a, row.even) for row in rows] == [(None, even[0]), (both[0], even[1]), (both[1], even[2])]
    assert none.a is None
    assert nothing == []
    assert run.calls_requested == 5, "no call for what is NULL or empty"


def test_filter_having_and_distinct(spark: SparkSession, table: str) -> None:
    rows = spark.sql(f"""
        SELECT k, ai_agg(body, 'Sum up.', {SHORT}) FILTER (WHERE id >= 54) AS late,
               ai_agg(DISTINCT concat('{table} item ', id * 7 % 10), 'Sum up.', {SHORT}) AS items
        FROM t_{table} GROUP BY k HAVING ai_agg(body, 'Sum up.', {SHORT}) <> '' AND k > 0 ORDER BY k""").collect()
    late, _ = by_hand([texts_of(table, k)[-2:] for k in (1, 2)], "Sum up.")
    distinct = [list(dict.fromkeys(f"{table} item {i * 7 % 10}" for i in range(60) if i % 3 == k)) for k in (1, 2)]
    items, _ = by_hand(distinct, "Sum up.")
    assert [(row.k, row.late, row.items) for row in rows] == [(1, late[0], items[0]), (2, late[1], items[1])]


def test_over_the_answers_of_a_call_and_below_one(spark: SparkSession, table: str) -> None:
    rows = spark.sql(f"""
        SELECT k, llm('Shorten: {{0}}', ai_agg(llm('Name it: {{0}}', body, {SHORT}), 'Sum up.', {SHORT}), {SHORT}) AS a
        FROM t_{table} WHERE id < 12 GROUP BY k ORDER BY k""").collect()
    named = [ask([f"Name it: {text}" for text in texts_of(table, k)[:4]]) for k in range(3)]
    summed, _ = by_hand(named, "Sum up.")
    assert [row.a for row in rows] == ask([f"Shorten: {text}" for text in summed])


def test_calls_among_the_texts_run_once_for_the_rows_that_count(spark: SparkSession, table: str) -> None:
    asked = f"llm('Name it: {{0}}', body, {SHORT})"
    with spark_helium.measure(spark) as run:
        spark.sql(f"SELECT ai_agg({asked}, 'Sum up.', {SHORT}) FILTER (WHERE id < 1) FROM t_{table}").collect()
    assert run.calls_requested == 2


def test_a_temperature_draws_for_each_group_and_each_time(spark: SparkSession, table: str) -> None:
    for partial in ("", ", partial => true"):
        draw = f"ai_agg('{table}', 'Sum up.', temperature => 1.0, {SHORT}{partial})"
        with spark_helium.measure(spark) as run:
            rows = spark.sql(f"SELECT k, {draw} AS a, {draw} AS b FROM t_{table} WHERE id < 3 GROUP BY k").collect()
        assert run.calls_sent == 6, "equal texts in three groups, asked twice"
        assert any(row.a != row.b for row in rows), "two draws"


def test_rollup_and_subqueries(spark: SparkSession, table: str) -> None:
    rows = spark.sql(f"""
        SELECT k, ai_agg(body, 'Sum up.', {SHORT}) AS a FROM t_{table} GROUP BY ROLLUP (k) ORDER BY k""").collect()
    every = [f"{table} review number {i} is about item {i * 7 % 10}" for i in range(60)]
    expected, _ = by_hand([every, *[texts_of(table, k) for k in range(3)]], "Sum up.")
    assert [row.a for row in rows] == expected
    rows = spark.sql(f"""
        SELECT id, (SELECT ai_agg(body, 'Sum up.', {SHORT}) FROM t_{table} b WHERE b.k = a.id) AS a
        FROM range(4) a ORDER BY id""").collect()
    assert [row.a for row in rows] == [*expected[1:], None]


def test_equal_aggregates_are_made_once_and_unread_ones_not_at_all(spark: SparkSession, table: str) -> None:
    _, calls = by_hand([texts_of(table, k) for k in range(3)], "Sum up.")
    with spark_helium.measure(spark) as run:
        spark.sql(f"""
            SELECT a, b FROM (SELECT k, ai_agg(body, 'Sum up.', {SHORT}) AS a, ai_agg(body, 'Sum up.', {SHORT}) AS b,
                                     ai_agg(body, 'Not read.') AS c FROM t_{table} GROUP BY k)""").collect()
    assert run.calls_sent == calls
    assert run.calls_requested == 2 * calls, "of the query's text; one stands for two"


def test_a_group_s_key_filters_rows_before_the_calls_among_their_texts(
    spark: SparkSession, table: str, set_setting: Callable[[str, str], None]
) -> None:
    named = f"llm('Name it: {{0}}', body, {SHORT})"
    for partial in ("", ", partial => true"):
        query = f"""SELECT * FROM (SELECT k, ai_agg({named}, 'Sum up{partial}.', {SHORT}{partial}) AS a, count(*) AS n
                                   FROM t_{table} GROUP BY k) WHERE k = 1"""
        with spark_helium.measure(spark) as run:
            rows = spark.sql(query).collect()
        names = dict(zip(range(1, 60, 3), ask([f"Name it: {t}" for t in texts_of(table, 1)]), strict=True))
        if partial:
            expected, calls = by_hand_in_partitions([in_partitions(names)], f"Sum up{partial}.")
        else:
            expected, calls = by_hand([list(names.values())], "Sum up.")
        assert [(row.k, row.a, row.n) for row in rows] == [(1, expected[0], 20)]
        assert run.calls_requested == 20 + calls, "the calls of one group of three"
        set_setting("spark.helium.optimizer.pushThroughEvalLLM.enabled", "false")
        assert spark.sql(query).collect() == rows
        set_setting("spark.helium.optimizer.pushThroughEvalLLM.enabled", "true")


@pytest.mark.parametrize(
    "beside", ["", ", count(*) AS c, avg(id) AS m, collect_set(k) AS s, ai_agg(body, 'Else.') AS e"], ids=["0", "1"]
)
def test_partitions_first_is_the_reduction_done_by_hand(spark: SparkSession, table: str, beside: str) -> None:
    texts = [dict(zip(range(k, 60, 3), texts_of(table, k), strict=True)) for k in range(3)]
    expected, calls = by_hand_in_partitions([in_partitions(t) for t in texts], "List the items.")
    df = spark.sql(
        f"SELECT k, ai_agg(body, 'List the items.', {SHORT}, partial => true) AS a{beside} "
        f"FROM t_{table} GROUP BY k ORDER BY k"
    )
    with spark_helium.measure(spark) as run:
        rows = df.collect()
    assert [(row.k, row.a) for row in rows] == [(k, expected[k]) for k in range(3)]
    if not beside:
        assert run.calls_requested == run.calls_sent == calls
        assert calls > 3 * 4, "a reduction per partition, and one above them"
        return
    plain = spark.sql(f"SELECT k{beside} FROM t_{table} GROUP BY k ORDER BY k").collect()
    assert [(r.k, r.c, r.m, r.s, r.e) for r in rows] == [(r.k, r.c, r.m, r.s, r.e) for r in plain]


def test_partitions_first_in_one_partition_is_the_same_as_without(spark: SparkSession, table: str) -> None:
    spark.table(f"t_{table}").coalesce(1).createOrReplaceTempView(f"one_{table}")
    plain, calls = by_hand([texts_of(table, k) for k in range(3)], "Sum up.")
    with spark_helium.measure(spark) as run:
        rows = spark.sql(
            f"SELECT k, ai_agg(body, 'Sum up.', {SHORT}, partial => true) AS a FROM one_{table} GROUP BY k ORDER BY k"
        ).collect()
    assert [row.a for row in rows] == plain
    assert run.calls_requested == calls, "no call over one answer"


def test_partitions_first_with_nulls_filters_distinct_and_no_rows(spark: SparkSession, table: str) -> None:
    item = f"concat('{table} item ', id * 7 % 10)"
    rows = spark.sql(f"""
        SELECT k, ai_agg(IF(k = 0, NULL, body), 'Sum up.', {SHORT}, partial => true) AS a,
               ai_agg(body, 'Sum up.', {SHORT}, partial => true) FILTER (WHERE id % 2 = 0 AND id < 40) AS even,
               ai_agg(DISTINCT {item}, 'Sum up.', {SHORT}, partial => true) FILTER (WHERE id > 5) AS items
        FROM t_{table} GROUP BY k ORDER BY k""").collect()
    bodies = [dict(zip(range(k, 60, 3), texts_of(table, k), strict=True)) for k in range(3)]
    a, _ = by_hand_in_partitions([in_partitions(t) for t in bodies[1:]], "Sum up.")
    even, _ = by_hand_in_partitions(
        [in_partitions({i: t for i, t in of_k.items() if i % 2 == 0 and i < 40}) for of_k in bodies], "Sum up."
    )
    firsts: list[dict[int, str]] = []
    for k in range(3):
        first: dict[str, int] = {}
        for i in range(k, 60, 3):
            if i > 5:
                first.setdefault(f"{table} item {i * 7 % 10}", i)
        firsts.append({i: text for text, i in first.items()})
    items, _ = by_hand_in_partitions([in_partitions(t) for t in firsts], "Sum up.")
    assert [row.a for row in rows] == [None, *a]
    assert [row.even for row in rows] == even
    assert [row["items"] for row in rows] == items
    [none] = spark.sql(
        f"SELECT count(*) n, ai_summarize_agg(body, partial => true) a FROM t_{table} WHERE id < 0"
    ).collect()
    assert (none.n, none.a) == (0, None)
    assert (
        spark.sql(f"SELECT ai_summarize_agg(body, partial => true) FROM t_{table} WHERE id < 0 GROUP BY k").count() == 0
    )


def test_partitions_first_with_a_partition_that_fails(spark: SparkSession, table: str) -> None:
    rows = spark.sql(f"""
        SELECT k, ai_agg(IF(id = 31, CAST(X'80' AS STRING), body), 'Sum up.', {SHORT}, failOnError => false,
                         partial => true) AS a
        FROM t_{table} GROUP BY k ORDER BY k""").collect()
    texts = [dict(zip(range(k, 60, 3), texts_of(table, k), strict=True)) for k in (0, 2)]
    expected, _ = by_hand_in_partitions([in_partitions(t) for t in texts], "Sum up.")
    assert rows[1].a.response is None
    assert "not valid UTF-8" in rows[1].a.errorMessage
    assert [rows[k].a.response for k in (0, 2)] == expected


def test_partitions_first_over_rollup_expressions_and_in_python(spark: SparkSession, table: str) -> None:
    rows = spark.sql(f"""
        SELECT k % 2 AS odd, ai_agg(body, 'Sum up.', {SHORT}, partial => true) AS a, max(k) AS most
        FROM t_{table} GROUP BY ROLLUP (k % 2) HAVING max(id) > 3 ORDER BY odd""").collect()
    every = {i: f"{table} review number {i} is about item {i * 7 % 10}" for i in range(60)}
    groups = [every, *[{i: t for i, t in every.items() if i % 3 % 2 == odd} for odd in (0, 1)]]
    expected, _ = by_hand_in_partitions([in_partitions(t) for t in groups], "Sum up.")
    assert [(row.odd, row.a, row.most) for row in rows] == list(zip([None, 0, 1], expected, [2, 2, 1], strict=True))
    [row] = spark.table(f"t_{table}").agg(ai_agg("body", "Sum up.", max_tokens=8, partial=True).alias("a")).collect()
    assert row.a == expected[0]
    [text] = spark.table(f"t_{table}").agg(ai_summarize_agg("body", max_tokens=8, partial=True).alias("a")).collect()
    assert isinstance(text.a, str)


def test_explain_says_where_texts_are_reduced(spark: SparkSession, table: str) -> None:
    def said(options: str) -> str:
        query = f"SELECT k, ai_agg(body, 'Sum up.'{options}) AS a FROM t_{table} GROUP BY k"
        [row] = spark.sql(f"EXPLAIN EXTENDED {query}").collect()
        return " ".join(row.plan.replace("|", " ").replace(":", " ").split())

    assert "declined, not reduced on the map side, because" in said("")
    on = said(", partial => true")
    assert "reduced on the map side one answer per group and partition" in on
    assert "so that the answer depends on them" in on
    physical = on[on.index("== Physical Plan ==") :]
    assert physical.count("Exchange hashpartitioning(k") == 1, "none below the calls of the partitions"


def test_in_a_branch_it_runs_for_the_groups_that_take_it(spark: SparkSession, table: str) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.sql(f"""
            SELECT k, CASE WHEN max(id) = 58 THEN ai_agg(body, 'Sum up.', {SHORT}) END AS a
            FROM t_{table} GROUP BY k ORDER BY k""").collect()
    [expected], calls = by_hand([texts_of(table, 1)], "Sum up.")
    assert [row.a for row in rows] == [None, expected, None]
    assert run.calls_sent == calls


def test_a_failed_group_leaves_the_others_and_what_was_answered(
    spark: SparkSession, table: str, set_setting: Callable[[str, str], None]
) -> None:
    query = f"""
        SELECT k, ai_agg(IF(id = 31, concat(body, ' \u0001bad'), body), 'Sum up.', failOnError => false, {SHORT}) AS a
        FROM t_{table} GROUP BY k ORDER BY k"""
    groups = [texts_of(table, k) for k in range(3)]
    expected, _ = by_hand(groups, "Sum up.")
    invalid = f"""
        SELECT k, ai_agg(IF(id = 31, CAST(X'80' AS STRING), body), 'Sum up.', failOnError => false, {SHORT}) AS a
        FROM t_{table} GROUP BY k ORDER BY k"""
    with spark_helium.measure(spark) as run:
        rows = spark.sql(invalid).collect()
    assert rows[1].a.response is None
    assert "not valid UTF-8" in rows[1].a.errorMessage
    assert [rows[k].a.response for k in (0, 2)] == [expected[0], expected[2]]
    assert run.calls_failed == 1
    with spark_helium.measure(spark) as again:
        assert spark.sql(invalid).collect() == rows
    assert again.calls_sent == 0, "what was answered is in the cache"
    groups[1][10] += " \u0001bad"
    [repaired], calls = by_hand([groups[1]], "Sum up.")
    with spark_helium.measure(spark) as whole:
        assert spark.sql(query).collect()[1].a.response == repaired
    assert whole.calls_sent == calls


def test_fold(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        rows = spark.sql(f"""
            SELECT llm_fold(chunks, 'First {{0}}', 'So far {{0}}, then {{1}}', {SHORT}) AS a
            FROM VALUES (1, array('fold a', NULL, 'fold b', 'fold c')), (2, array(NULL)), (3, NULL),
                        (4, array('fold d')), (5, array()) AS t(id, chunks) ORDER BY id""").collect()
    [a] = ask(["First fold a"])
    [b] = ask([f"So far {a}, then fold b"])
    expected = ask([f"So far {b}, then fold c", "First fold d"])
    assert [row.a for row in rows] == [expected[0], None, None, expected[1], None]
    assert run.calls_sent == 4


def test_fold_over_answers_and_numbers(spark: SparkSession) -> None:
    [row] = spark.sql(f"""
        SELECT llm_fold(array(llm('of fold {{0}}', id, {SHORT}), 'tail'), 'First {{0}}', 'So far {{0}}, then {{1}}',
                        {SHORT}) AS a,
               llm_fold(array(id, 2), 'First {{}}', 'So far {{}}, then {{}}', {SHORT}) AS b FROM range(1)""").collect()
    [inner] = ask(["of fold 0"])
    [first] = ask([f"First {inner}"])
    assert [row.a] == ask([f"So far {first}, then tail"])
    assert [row.b] == ask([f"So far {ask(['First 0'])[0]}, then 2"])


def test_columns_in_python(spark: SparkSession, table: str) -> None:
    df = spark.table(f"t_{table}")
    rows = (
        df.groupBy("k")
        .agg(
            ai_agg("body", "Sum up.", max_tokens=8).alias("a"),
            ai_agg(F.when(F.col("id") < 6, F.col("body")), "Sum up.", max_tokens=8, stop=["#"], seed=1).alias("few"),
            ai_summarize_agg("body", max_tokens=8, fail_on_error=False).alias("s"),
            llm_fold(F.collect_list("body"), "First {0}", "{0} {1}", max_tokens=4).alias("f"),
            F.count("*").alias("c"),
        )
        .orderBy("k")
        .collect()
    )
    expected, _ = by_hand([texts_of(table, k) for k in range(3)], "Sum up.")
    assert [(row.a, row.c) for row in rows] == [(text, 20) for text in expected]
    assert all(isinstance(row.s.response, str) and row.s.errorMessage is None for row in rows)
    assert all(isinstance(row.f, str) and isinstance(row.few, str) for row in rows)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ai_agg(3, "x"), "not a column"),  # type: ignore[arg-type]
        (lambda: ai_agg("body", F.col("k")), "instruction"),  # type: ignore[arg-type]
        (lambda: ai_agg("body", "x", choices=["a"]), "choices"),  # type: ignore[call-arg]
        (lambda: llm_fold("body", "x", None), "step_template"),  # type: ignore[arg-type]
        (lambda: ai_summarize_agg("body", seed=F.lit(1)), "seed"),  # type: ignore[arg-type]
        (lambda: llm_fold("body", "{0}", "{0} {1}", partial=True), "partial"),  # type: ignore[call-arg]
    ],
)
def test_wrong_arguments_in_python(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("expression", "condition"),
    [
        ("ai_agg(body, 'x') OVER (PARTITION BY k)", "HELIUM_CALL_PLACEMENT"),
        ("ai_agg(body, body)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("ai_agg(body, ' ')", "HELIUM_OPTION_OUT_OF_RANGE"),
        ("ai_agg(body, 'x', partial => 'yes')", "HELIUM_OPTION_TYPE"),
        ("ai_agg(body, 'x', partial => k = 1)", "HELIUM_OPTION_NOT_CONSTANT"),
        ("ai_agg(body)", "HELIUM_ARGUMENTS"),
        ("ai_agg(body, 'x', choices => array('a'))", "HELIUM_UNKNOWN_OPTION"),
        ("ai_agg(array(body), 'x')", "HELIUM_ARGUMENT_TYPE"),
        ("llm_fold(body, 'a {0}', 'b {0} {1}')", "HELIUM_OPTION_TYPE"),
        ("llm_fold(array(body), 'a', 'b {0} {1}')", "HELIUM_TEMPLATE_ARGUMENTS"),
        ("llm_fold(array(body), 'a {0}', 'b {0}')", "HELIUM_TEMPLATE_ARGUMENTS"),
        ("llm_fold(array(body), 'a {0}', 'b {x} {y}')", "HELIUM_TEMPLATE_ARGUMENTS"),
        ("llm_fold(array(body), body, 'b {0} {1}')", "HELIUM_TEMPLATE_NOT_CONSTANT"),
    ],
)
def test_errors_at_analysis(spark: SparkSession, expression: str, condition: str) -> None:
    with pytest.raises(AnalysisException) as e:
        spark.sql(f"SELECT {expression} FROM VALUES (1, 'x') AS t(k, body)").collect()
    assert e.value.getCondition() == condition


def test_a_stream_is_refused(spark: SparkSession) -> None:
    stream = spark.readStream.format("rate").load().selectExpr("CAST(value AS STRING) AS body")
    with pytest.raises(AnalysisException) as e:
        stream.groupBy("body").agg(ai_agg("body", "x")).schema  # noqa: B018
    assert e.value.getCondition() == "HELIUM_CALL_PLACEMENT"
