"""LLM calls in every place where an expression may stand; answers are compared with the oracle's.

Runs on classic and on Connect sessions: ``pytest tests/sql --session connect``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.functions import llm, prompt

from . import oracle

ITEMS = [(i, ["red shoe", "blue hat", "old lamp", None, "tin can"][i % 5], i * 10) for i in range(12)]
TAGS = [(0, "cheap"), (1, "soft"), (2, "cheap"), (7, "loud"), (20, None)]
YES = "choices => array('yes', 'no')"


@pytest.fixture(scope="module", autouse=True)
def tables(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(ITEMS, "id int, name string, price int").createOrReplaceTempView("items")
    spark.createDataFrame(TAGS, "item int, tag string").createOrReplaceTempView("tags")
    yield
    spark.catalog.dropTempView("items")
    spark.catalog.dropTempView("tags")


def rows(df: DataFrame) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in df.collect()]


def bag(actual: DataFrame | list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    """Equal as multisets: SQL promises no order."""
    got = rows(actual) if isinstance(actual, DataFrame) else actual
    assert Counter(got) == Counter(expected)
    assert got, "an empty result proves nothing"


class TestSelect:
    def test_select_list(self, spark: SparkSession) -> None:
        bag(
            spark.sql("SELECT id, llm('Describe {0} at {1}', name, price) FROM items"),
            [(i, oracle.llm("Describe {0} at {1}", n, p)) for i, n, p in ITEMS],
        )

    def test_inside_other_expressions(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT struct(llm('a {0}', name) AS a, id AS b), array(llm('b {0}', name), 'x'),
                      upper(llm('c {0}', name)) || '!', map('k', llm('d {0}', name))['k'],
                      coalesce(llm('e {0}', name), 'none')
               FROM items"""
        )

        def ask(template: str, n: str | None) -> str | None:
            return oracle.llm(template, n)

        got = [(r[0].a, r[0].b, tuple(r[1]), *r[2:]) for r in df.collect()]
        expected = []
        for i, n, _ in ITEMS:
            c = ask("c {0}", n)
            shout = None if c is None else c.upper() + "!"
            e = ask("e {0}", n)
            expected.append(
                (ask("a {0}", n), i, (ask("b {0}", n), "x"), shout, ask("d {0}", n), "none" if e is None else e)
            )
        bag(got, expected)

    def test_case(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT id, CASE WHEN price < 30 THEN llm('low {0}', name)
                               WHEN llm('rare? {0}', name, choices => array('yes', 'no')) = 'yes' THEN 'rare'
                               ELSE llm('high {0}', name) END
               FROM items"""
        )

        def expected(n: str | None, p: int) -> str | None:
            if p < 30:
                return oracle.llm("low {0}", n)
            return "rare" if oracle.yes("rare? {0}", n) else oracle.llm("high {0}", n)

        bag(df, [(i, expected(n, p)) for i, n, p in ITEMS])

    def test_nested_calls(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT id, llm('Shorten {0} of {1}', llm('Praise {0}', name), name),
                      llm('Again {0}', concat('<', upper(llm('Praise {0}', name)), '>'))
               FROM items"""
        )

        def expected(i: int, n: str | None) -> tuple[Any, ...]:
            praise = oracle.llm("Praise {0}", n)
            upper = None if praise is None else f"<{praise.upper()}>"
            return i, oracle.llm("Shorten {0} of {1}", praise, n), oracle.llm("Again {0}", upper)

        bag(df, [expected(i, n) for i, n, _ in ITEMS])

    def test_without_a_table(self, spark: SparkSession) -> None:
        bag(spark.sql("SELECT llm('Say hello'), llm('Say {0}', 'this')"), [
            (oracle.llm("Say hello"), oracle.llm("Say {0}", "this"))
        ])  # fmt: skip

    def test_null_literal_makes_no_call(self, spark: SparkSession) -> None:
        bag(spark.sql("SELECT llm('Say {0}', CAST(NULL AS STRING))"), [(None,)])

    def test_around_and_inside_python_udfs(self, spark: SparkSession) -> None:
        shout = F.udf(lambda text: None if text is None else text.upper() + "!", "string")
        df = spark.table("items").select("id", shout(llm("p {0}", "name")), llm("q {0}", shout("name")))

        def loud(text: str | None) -> str | None:
            return None if text is None else text.upper() + "!"

        bag(df, [(i, loud(oracle.llm("p {0}", n)), oracle.llm("q {0}", loud(n))) for i, n, _ in ITEMS])

    def test_a_subquery_as_argument(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, llm('{0} of {1}', id, (SELECT max(price) FROM items)) FROM items")
        bag(df, [(i, oracle.llm("{0} of {1}", i, 110)) for i, _, _ in ITEMS])

    def test_parameter_markers(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT llm(:template, name, max_tokens => :n) FROM items", {"template": "t {0}", "n": 3})
        bag(df, [(oracle.llm("t {0}", n, max_tokens=3),) for _, n, _ in ITEMS])


class TestFilter:
    def test_where(self, spark: SparkSession) -> None:
        bag(
            spark.sql(f"SELECT id FROM items WHERE llm('good? {{0}}', name, {YES}) = 'yes'"),
            [(i,) for i, n, _ in ITEMS if oracle.yes("good? {0}", n)],
        )

    def test_three_valued_logic(self, spark: SparkSession) -> None:
        df = spark.sql(f"SELECT id FROM items WHERE id < 3 OR NOT (llm('good? {{0}}', name, {YES}) = 'yes')")
        bag(df, [(i,) for i, n, _ in ITEMS if i < 3 or oracle.yes("good? {0}", n) is False])

    def test_where_and_select_of_the_same_call(self, spark: SparkSession) -> None:
        call = f"llm('good? {{0}}', name, {YES})"
        bag(
            spark.sql(f"SELECT id, {call} FROM items WHERE {call} = 'no'"),
            [(i, "no") for i, n, _ in ITEMS if oracle.yes("good? {0}", n) is False],
        )

    def test_having(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT name, count(*) FROM items GROUP BY name
                HAVING llm('{{0}} x {{1}}', name, count(*), {YES}) = 'yes'"""
        )
        counts = Counter(n for _, n, _ in ITEMS)
        bag(df, [(n, c) for n, c in counts.items() if oracle.yes("{0} x {1}", n, c)])


class TestAggregate:
    def test_group_by_key(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT llm('kind {{0}}', name, {YES}) AS kind, sum(price) FROM items
                GROUP BY llm('kind {{0}}', name, {YES})"""
        )
        sums: Counter[str | None] = Counter()
        for _, n, p in ITEMS:
            sums[oracle.llm("kind {0}", n, choices=("yes", "no"))] += p
        bag(df, list(sums.items()))

    def test_argument_result_and_filter_clause(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT id % 2, max(llm('word {{0}}', name)), llm('explain {{0}}', sum(price)),
                       count(*) FILTER (WHERE llm('good? {{0}}', name, {YES}) = 'yes')
                FROM items GROUP BY id % 2"""
        )

        def expected(parity: int) -> tuple[Any, ...]:
            mine = [(n, p) for i, n, p in ITEMS if i % 2 == parity]
            words = [w for w in (oracle.llm("word {0}", n) for n, _ in mine) if w is not None]
            good = sum(1 for n, _ in mine if oracle.yes("good? {0}", n))
            return parity, max(words), oracle.llm("explain {0}", sum(p for _, p in mine)), good

        bag(df, [expected(0), expected(1)])

    def test_call_over_a_call_in_an_aggregate(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT llm('best of {0}', max(llm('word {0}', name))) FROM items")
        words = [w for w in (oracle.llm("word {0}", n) for _, n, _ in ITEMS) if w is not None]
        bag(df, [(oracle.llm("best of {0}", max(words)),)])

    def test_grouping_sets(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT llm('kind {{0}}', name, {YES}) AS kind, count(*) FROM items
                GROUP BY ROLLUP(llm('kind {{0}}', name, {YES}))"""
        )
        counts = Counter(oracle.llm("kind {0}", n, choices=("yes", "no")) for _, n, _ in ITEMS)
        bag(df, [*counts.items(), (None, len(ITEMS))])

    def test_distinct_and_count_distinct(self, spark: SparkSession) -> None:
        answers = {oracle.llm("kind {0}", n, choices=("yes", "no")) for _, n, _ in ITEMS}
        bag(spark.sql(f"SELECT DISTINCT llm('kind {{0}}', name, {YES}) FROM items"), [(a,) for a in answers])
        bag(
            spark.sql(f"SELECT count(DISTINCT llm('kind {{0}}', name, {YES}), llm('k {{0}}', id)) FROM items"),
            [
                (
                    len(
                        {
                            (k, oracle.llm("k {0}", i))
                            for i, n, _ in ITEMS
                            if (k := oracle.llm("kind {0}", n, choices=("yes", "no"))) is not None
                        }
                    ),
                )
            ],
        )


def _matches(cheap: bool) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    return [
        (item, tag)
        for item in ITEMS
        for tag in TAGS
        if (not cheap or item[0] == tag[0]) and oracle.yes("fits? {0} {1}", item[1], tag[1])
    ]


class TestJoin:
    pair = f"llm('fits? {{0}} {{1}}', i.name, t.tag, {YES}) = 'yes'"
    matches = staticmethod(_matches)

    @pytest.mark.parametrize("cheap", [True, False], ids=["with equality", "call only"])
    @pytest.mark.parametrize("kind", ["INNER", "LEFT", "RIGHT", "FULL", "LEFT SEMI", "LEFT ANTI"])
    def test_both_sides(self, spark: SparkSession, kind: str, cheap: bool) -> None:
        columns = "i.id" if kind in ("LEFT SEMI", "LEFT ANTI") else "i.id, t.item, t.tag"
        condition = f"i.id = t.item AND {self.pair}" if cheap else self.pair
        df = spark.sql(f"SELECT {columns} FROM items i {kind} JOIN tags t ON {condition}")
        pairs = _matches(cheap)
        matched_items = {item[0] for item, _ in pairs}
        matched_tags = {tag[0] for _, tag in pairs}
        inner: list[tuple[Any, ...]] = [(item[0], tag[0], tag[1]) for item, tag in pairs]
        lonely_items: list[tuple[Any, ...]] = [(i, None, None) for i, _, _ in ITEMS if i not in matched_items]
        lonely_tags: list[tuple[Any, ...]] = [(None, k, t) for k, t in TAGS if k not in matched_tags]
        expected = {
            "INNER": inner,
            "LEFT": inner + lonely_items,
            "RIGHT": inner + lonely_tags,
            "FULL": inner + lonely_items + lonely_tags,
            "LEFT SEMI": [(i,) for i in matched_items],
            "LEFT ANTI": [(i,) for i, _, _ in ITEMS if i not in matched_items],
        }[kind]
        bag(df, expected)

    @pytest.mark.parametrize("kind", ["INNER", "LEFT", "FULL"])
    def test_one_side(self, spark: SparkSession, kind: str) -> None:
        df = spark.sql(
            f"""SELECT i.id, t.tag FROM items i {kind} JOIN tags t
                ON i.id = t.item AND llm('good? {{0}}', i.name, {YES}) = 'yes'"""
        )
        pairs = [(i, k, t) for i, n, _ in ITEMS for k, t in TAGS if i == k and oracle.yes("good? {0}", n)]
        expected: list[tuple[Any, ...]] = [(i, t) for i, _, t in pairs]
        if kind != "INNER":
            expected += [(i, None) for i, _, _ in ITEMS if i not in {p[0] for p in pairs}]
        if kind == "FULL":
            expected += [(None, t) for k, t in TAGS if k not in {p[1] for p in pairs}]
        bag(df, expected)

    def test_join_key(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT i.id, t.item FROM items i JOIN tags t
                ON llm('is {{0}}', i.name, {YES}) = llm('is {{0}}', t.tag, {YES})"""
        )
        ask = lambda x: oracle.llm("is {0}", x, choices=("yes", "no"))  # noqa: E731
        bag(df, [(i, k) for i, n, _ in ITEMS for k, t in TAGS if ask(n) is not None and ask(n) == ask(t)])

    def test_self_join_of_a_column(self, spark: SparkSession) -> None:
        df = spark.table("items").withColumn("a", llm("kind {0}", "name", choices=["yes", "no"]))
        joined = df.alias("l").join(df.alias("r"), (F.col("l.a") == F.col("r.a")) & (F.col("l.id") < F.col("r.id")))
        ask = lambda x: oracle.llm("kind {0}", x, choices=("yes", "no"))  # noqa: E731
        bag(
            joined.select("l.id", "r.id"),
            [(i, j) for i, n, _ in ITEMS for j, m, _ in ITEMS if i < j and ask(n) is not None and ask(n) == ask(m)],
        )

    def test_values_that_sql_holds_for_equal(self, spark: SparkSession) -> None:
        """Different prompts all the same: each pair of rows is joined by its own call's answer."""
        words = "SELECT x COLLATE UTF8_LCASE AS x FROM VALUES ('a'), ('A'), ('b'), ('B'), ('c'), ('C') AS v(x)"
        df = spark.sql(
            f"""SELECT x, y FROM ({words}) AS a LEFT JOIN VALUES ('q'), ('r') AS b(y)
                ON llm('c {{0}} {{1}}', a.x, b.y, {YES}) = 'yes'"""
        )
        expected: list[tuple[Any, ...]] = []
        for x in "aAbBcC":
            matched = [(x, y) for y in "qr" if oracle.yes("c {0} {1}", x, y)]
            expected += matched or [(x, None)]
        bag(df, expected)
        zeros = spark.sql(
            f"""SELECT CAST(v AS STRING), y FROM (SELECT explode(array(0.0D, -0.0D)) AS v) AS a
                LEFT JOIN VALUES ('q'), ('r'), ('s'), ('t') AS b(y) ON llm('c {{0}} {{1}}', v, y, {YES}) = 'yes'"""
        )
        expected = []
        for v in ("0.0", "-0.0"):
            expected += [(v, y) for y in "qrst" if oracle.yes("c {0} {1}", v, y)] or [(v, None)]
        bag(zeros, expected)

    def test_a_side_made_by_python(self, spark: SparkSession) -> None:
        items = spark.table("items").mapInPandas(lambda frames: frames, "id int, name string, price int")
        items.createOrReplaceTempView("made")
        df = spark.sql(f"SELECT i.id, t.item, t.tag FROM made i FULL JOIN tags t ON {self.pair}")
        pairs = _matches(False)
        expected: list[tuple[Any, ...]] = [(item[0], *tag) for item, tag in pairs]
        expected += [(i, None, None) for i, _, _ in ITEMS if i not in {item[0] for item, _ in pairs}]
        expected += [(None, *tag) for tag in TAGS if tag not in [t for _, t in pairs]]
        bag(df, expected)
        spark.catalog.dropTempView("made")

    def test_a_side_that_is_not_the_same_twice_is_refused(self, spark: SparkSession) -> None:
        draws = "(SELECT id, llm('draw {0}', id, temperature => 1) AS r FROM range(4))"
        with pytest.raises(AnalysisException) as error:
            spark.sql(f"SELECT * FROM {draws} a LEFT JOIN tags t ON llm('{{0}}{{1}}', a.r, t.tag) > 'm'").collect()
        assert error.value.getCondition() == "HELIUM_CALL_PLACEMENT"
        assert "the left side is not deterministic" in str(error.value)

    def test_an_implicit_join_asks_only_for_joined_rows(self, spark: SparkSession) -> None:
        with spark_helium.measure(spark) as run:
            df = spark.sql("SELECT i.id FROM items i, tags t WHERE i.id = t.item AND llm('implicit {0}', i.id) <> ''")
            bag(df, [(0,), (1,), (2,), (7,)])
        assert run.calls_requested == 4


class TestOrderAndWindow:
    def test_order_by(self, spark: SparkSession) -> None:
        got = rows(spark.sql("SELECT id FROM items ORDER BY llm('rank {0}', name) DESC NULLS LAST, id"))
        ranked = sorted(
            ITEMS, key=lambda r: ((a := oracle.llm("rank {0}", r[1])) is None, [-ord(c) for c in a or ""] + [1], r[0])
        )
        assert got == [(r[0],) for r in ranked]

    def test_order_by_and_limit(self, spark: SparkSession) -> None:
        got = rows(spark.sql("SELECT id FROM items WHERE name IS NOT NULL ORDER BY llm('rank {0}', id), id LIMIT 3"))
        ranked = sorted((r for r in ITEMS if r[1]), key=lambda r: (oracle.llm("rank {0}", r[0]), r[0]))
        assert got == [(r[0],) for r in ranked[:3]]

    def test_window(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT id, row_number() OVER (PARTITION BY llm('kind {{0}}', name, {YES})
                                          ORDER BY llm('o {{0}}', id), id),
                       max(llm('w {{0}}', id)) OVER (PARTITION BY llm('kind {{0}}', name, {YES}))
                FROM items"""
        )
        groups: dict[str | None, list[int]] = {}
        for i, n, _ in ITEMS:
            groups.setdefault(oracle.llm("kind {0}", n, choices=("yes", "no")), []).append(i)
        expected = []
        for members in groups.values():
            ranked = sorted(members, key=lambda i: (oracle.llm("o {0}", i), i))
            best = max(str(oracle.llm("w {0}", i)) for i in members)
            expected += [(i, position + 1, best) for position, i in enumerate(ranked)]
        bag(df, expected)


class TestGenerate:
    def test_lateral_view(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, w FROM items LATERAL VIEW explode(split(llm('list {0}', name), ' ')) v AS w")
        bag(df, [(i, w) for i, n, _ in ITEMS if n for w in str(oracle.llm("list {0}", n)).split(" ")])

    def test_lateral_view_outer(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, w FROM items LATERAL VIEW OUTER explode(split(llm('list {0}', name), ' ')) v AS w")
        bag(df, [(i, w) for i, n, _ in ITEMS for w in (str(oracle.llm("list {0}", n)).split(" ") if n else [None])])

    def test_call_over_a_generated_column(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, llm('w {0}', w) FROM items LATERAL VIEW explode(split(name, ' ')) v AS w")
        bag(df, [(i, oracle.llm("w {0}", w)) for i, n, _ in ITEMS if n for w in n.split(" ")])


class TestSubqueries:
    def test_scalar(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, (SELECT max(llm('t {0}', tag)) FROM tags) FROM items WHERE id = 0")
        bag(df, [(0, max(str(oracle.llm("t {0}", t)) for _, t in TAGS if t))])

    def test_scalar_correlated(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, (SELECT max(llm('t {0}', tag)) FROM tags t WHERE t.item = i.id) FROM items i")
        tag = dict(TAGS)
        bag(df, [(i, oracle.llm("t {0}", tag.get(i))) for i, _, _ in ITEMS])

    @pytest.mark.parametrize("negated", [False, True], ids=["in", "not in"])
    def test_in(self, spark: SparkSession, negated: bool) -> None:
        df = spark.sql(
            f"""SELECT id FROM items WHERE llm('is {{0}}', id, choices => array('a','b','c'))
                {"NOT" if negated else ""} IN
                (SELECT llm('is {{0}}', tag, choices => array('a','b','c')) FROM tags WHERE tag IS NOT NULL)"""
        )
        choices = ("a", "b", "c")
        tags = {oracle.llm("is {0}", t, choices=choices) for _, t in TAGS if t}
        expected = [(i,) for i, _, _ in ITEMS if (oracle.llm("is {0}", i, choices=choices) in tags) is not negated]
        if expected:
            bag(df, expected)
        else:
            assert rows(df) == []

    @pytest.mark.parametrize("negated", [False, True], ids=["exists", "not exists"])
    def test_exists_over_both_tables(self, spark: SparkSession, negated: bool) -> None:
        df = spark.sql(
            f"""SELECT id FROM items i WHERE {"NOT" if negated else ""} EXISTS
                (SELECT 1 FROM tags t WHERE llm('fits? {{0}} {{1}}', i.name, t.tag, {YES}) = 'yes')"""
        )
        matched = {item[0] for item, _ in _matches(False)}
        bag(df, [(i,) for i, _, _ in ITEMS if (i in matched) is not negated])

    def test_exists_under_or(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT id FROM items i WHERE id = 3 OR EXISTS
                (SELECT 1 FROM tags t WHERE llm('fits? {{0}} {{1}}', i.name, t.tag, {YES}) = 'yes')"""
        )
        matched = {item[0] for item, _ in _matches(False)}
        bag(df, [(i,) for i, _, _ in ITEMS if i == 3 or i in matched])

    def test_from_subquery_and_cte(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""WITH a AS (SELECT id, llm('kind {{0}}', name, {YES}) AS kind FROM items),
                     b AS (SELECT kind, count(*) AS n FROM a GROUP BY kind)
                SELECT a.id, b.n FROM a JOIN b ON a.kind = b.kind
                UNION ALL SELECT id, NULL FROM (SELECT id FROM a WHERE kind IS NULL) s"""
        )
        kinds = {i: oracle.llm("kind {0}", n, choices=("yes", "no")) for i, n, _ in ITEMS}
        counts = Counter(kinds.values())
        bag(df, [(i, counts[k] if k is not None else None) for i, k in kinds.items()])

    def test_a_correlated_scalar_subquery_as_argument(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT id, llm('n {0}', (SELECT count(*) FROM tags t WHERE t.item = i.id)),
                      llm('m {0} {1}', name, (SELECT max(tag) FROM tags t WHERE t.item = i.id))
               FROM items i"""
        )
        tag = dict(TAGS)
        bag(
            df,
            [(i, oracle.llm("n {0}", int(i in tag)), oracle.llm("m {0} {1}", n, tag.get(i))) for i, n, _ in ITEMS],
        )

    @pytest.mark.parametrize("outer", [False, True], ids=["inner", "left"])
    def test_lateral(self, spark: SparkSession, outer: bool) -> None:
        df = spark.sql(
            f"""SELECT i.id, l.tag FROM items i {"LEFT" if outer else ""} JOIN LATERAL
                (SELECT tag FROM tags t WHERE llm('fits? {{0}} {{1}}', i.name, t.tag, {YES}) = 'yes') l"""
        )
        pairs = _matches(False)
        lonely = [(i, None) for i, _, _ in ITEMS if i not in {item[0] for item, _ in pairs}] if outer else []
        bag(df, [(item[0], tag[1]) for item, tag in pairs] + lonely)

    def test_lateral_condition(self, spark: SparkSession) -> None:
        df = spark.sql(
            f"""SELECT i.id, l.tag FROM items i JOIN LATERAL (SELECT tag FROM tags t WHERE t.item = i.id) l
                ON llm('good? {{0}}', l.tag, {YES}) = 'yes'"""
        )
        ids = {i for i, _, _ in ITEMS}
        bag(df, [(k, t) for k, t in TAGS if k in ids and oracle.yes("good? {0}", t)])


class TestWrites:
    def test_insert_and_ctas(self, spark: SparkSession) -> None:
        spark.sql("CREATE TABLE answers USING parquet AS SELECT id, llm('w {0}', name) AS answer FROM items")
        try:
            spark.sql("INSERT INTO answers SELECT id + 100, llm('v {0}', name) FROM items")
            expected = [(i, oracle.llm("w {0}", n)) for i, n, _ in ITEMS]
            expected += [(i + 100, oracle.llm("v {0}", n)) for i, n, _ in ITEMS]
            bag(spark.table("answers"), expected)
        finally:
            spark.sql("DROP TABLE answers")

    def test_views(self, spark: SparkSession) -> None:
        spark.sql("CREATE TABLE stored USING parquet AS SELECT * FROM items")
        spark.sql(f"CREATE VIEW kinds AS SELECT id, llm('kind {{0}}', name, {YES}) AS kind FROM stored")
        spark.sql("CREATE OR REPLACE TEMP VIEW some AS SELECT * FROM kinds WHERE kind IS NOT NULL")
        try:
            kinds = [(i, oracle.llm("kind {0}", n, choices=("yes", "no"))) for i, n, _ in ITEMS if n]
            bag(spark.table("some"), kinds)
        finally:
            spark.sql("DROP VIEW some")
            spark.sql("DROP VIEW kinds")
            spark.sql("DROP TABLE stored")

    def test_cache(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id, llm('w {0}', name) AS answer FROM items").cache()
        try:
            bag(df.filter("id > 3"), [(i, oracle.llm("w {0}", n)) for i, n, _ in ITEMS if i > 3])
        finally:
            df.unpersist()


class TestSetOperations:
    def test_union_intersect_except(self, spark: SparkSession) -> None:
        kinds = {oracle.llm("kind {0}", n, choices=("yes", "no")) for _, n, _ in ITEMS}
        tags = {oracle.llm("kind {0}", t, choices=("yes", "no")) for _, t in TAGS}
        left, right = (
            f"SELECT llm('kind {{0}}', {c}, {YES}) FROM {t}" for c, t in (("name", "items"), ("tag", "tags"))
        )
        bag(spark.sql(f"{left} UNION {right}"), [(k,) for k in kinds | tags])
        bag(spark.sql(f"{left} INTERSECT {right}"), [(k,) for k in kinds & tags])
        bag(spark.sql(f"{left} EXCEPT SELECT 'yes'"), [(k,) for k in kinds - {"yes"}])


class TestDataFrame:
    def test_names_positions_and_columns(self, spark: SparkSession) -> None:
        df = spark.table("items").select(
            llm("{x} costs {y}", x="name", y=F.col("price")).alias("a"),
            llm("{} costs {}", "name", F.col("price") + 1).alias("b"),
            llm("{{literal}} {0}", "name").alias("c"),
        )
        bag(
            df,
            [
                (
                    oracle.llm("{0} costs {1}", n, p),
                    oracle.llm("{0} costs {1}", n, p + 1),
                    None if n is None else oracle.chat([("user", f"{{literal}} {n}")]),
                )
                for _, n, p in ITEMS
            ],
        )

    def test_options(self, spark: SparkSession) -> None:
        df = spark.table("items").select(
            llm("a {0}", "name", max_tokens=2).alias("a"),
            llm("b {0}", "name", system="Be brief").alias("b"),
            llm("c {0}", "name", regex="[0-9]{3}").alias("c"),
        )
        bag(
            df,
            [
                (
                    oracle.llm("a {0}", n, max_tokens=2),
                    oracle.llm("b {0}", n, system="Be brief"),
                    oracle.llm("c {0}", n, regex="[0-9]{3}"),
                )
                for _, n, _ in ITEMS
            ],
        )

    def test_conversation(self, spark: SparkSession) -> None:
        first = llm("Ask about {0}", "name")
        turns = [
            ("system", F.lit("Be {brief}")),
            ("user", prompt("Ask about {0}", "name")),
            ("assistant", F.col("first")),
        ]
        history = F.array(*[F.struct(F.lit(r).alias("role"), c.alias("content")) for r, c in turns])
        df = spark.table("items").withColumn("first", first).select("id", llm(history).alias("next"))

        def expected(n: str | None) -> str | None:
            said = oracle.llm("Ask about {0}", n)
            if said is None:
                return None
            return oracle.chat([("system", "Be {brief}"), ("user", f"Ask about {n}"), ("assistant", said)])

        bag(df, [(i, expected(n)) for i, n, _ in ITEMS])

    def test_conversation_in_a_column(self, spark: SparkSession) -> None:
        talk = [[Row(role="user", content="Hi"), Row(role="assistant", content="Hello"), Row(role="user", content="x")],
                [Row(role="user", content="Bye")], None]  # fmt: skip
        schema = "id int, talk array<struct<role: string, content: string>>"
        df = spark.createDataFrame(list(enumerate(talk)), schema).select("id", llm(F.col("talk")).alias("a"))
        bag(df, [(i, None if t is None else oracle.chat([(m.role, m.content) for m in t])) for i, t in enumerate(talk)])

    def test_prompt_alone_is_text(self, spark: SparkSession) -> None:
        bag(spark.table("items").select(prompt("{0}: {1}", "id", "name")), [
            (None if n is None else f"{i}: {n}",) for i, n, _ in ITEMS
        ])  # fmt: skip


class TestAnswers:
    def test_typed_answers(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT llm('about {0}', name, response_schema => 'age INT, tags ARRAY<STRING>, ok BOOLEAN') AS a
               FROM items"""
        )
        assert df.schema["a"].dataType.simpleString() == "struct<age:int,tags:array<string>,ok:boolean>"
        for row, (_, n, _) in zip(
            df.orderBy("a").collect(), sorted(ITEMS, key=lambda r: r[1] is not None), strict=True
        ):
            assert (row.a is None) == (n is None)
            if row.a is not None:
                assert isinstance(row.a.age, int)
                assert isinstance(row.a.ok, bool)
                assert all(isinstance(tag, str) for tag in row.a.tags)

    def test_fail_on_error_false_keeps_the_other_rows(self, spark: SparkSession) -> None:
        df = spark.sql(
            """SELECT id, llm('{0}', IF(id = 2, repeat('long ', 20000), name), failOnError => false) AS a FROM items"""
        )
        for row in df.collect():
            name = ITEMS[row.id][1]
            if row.id == 2:
                assert row.a.response is None
                assert "tokens" in row.a.errorMessage
            elif name is None:
                assert row.a is None
            else:
                assert (row.a.response, row.a.errorMessage) == (oracle.llm("{0}", name), None)

    def test_temperature_draws_anew(self, spark: SparkSession) -> None:
        df = spark.sql(
            "SELECT llm('draw {0}', 1, temperature => 1) AS a, llm('draw {0}', 1, temperature => 1) AS b FROM range(8)"
        )
        answers = [answer for row in df.collect() for answer in row]
        assert len(set(answers)) > 1

    def test_temperature_in_order_by_and_group_by(self, spark: SparkSession) -> None:
        draw = "llm('draw {0}', id, temperature => 1, choices => array('a', 'b'))"
        assert sorted(rows(spark.sql(f"SELECT id FROM items ORDER BY {draw}"))) == [(i,) for i, _, _ in ITEMS]
        groups = rows(spark.sql(f"SELECT {draw} AS k, count(*) FROM items GROUP BY {draw}"))
        assert sum(count for _, count in groups) == len(ITEMS)
        assert {k for k, _ in groups} <= {"a", "b"}

    def test_the_file_of_a_row_is_its_own(self, spark: SparkSession, tmp_path: Path) -> None:
        for i in range(6):
            (tmp_path / f"f{i}.txt").write_text(f"text {i}\n")
        df = spark.read.text(str(tmp_path)).coalesce(1)
        got = df.select("value", F.input_file_name().alias("file"), llm("{0}", "value").alias("a")).collect()
        assert {(r.value, r.file.rsplit("/", 1)[1]) for r in got} == {(f"text {i}", f"f{i}.txt") for i in range(6)}

    def test_order_of_the_input_is_kept(self, spark: SparkSession) -> None:
        df = spark.range(0, 3000, 1, 1).select("id", llm("n {0}", "id", choices=["a", "b", "c"]).alias("a"))
        got = rows(df)
        assert [r[0] for r in got] == list(range(3000))
        assert got == [(i, oracle.llm("n {0}", i, choices=("a", "b", "c"))) for i in range(3000)]

    def test_empty_table(self, spark: SparkSession) -> None:
        assert rows(spark.sql("SELECT llm('w {0}', name) FROM items WHERE id < 0")) == []


def test_an_argument_that_fails_where_nobody_asks(spark: SparkSession) -> None:
    """Spark computes a branch for the rows that take it; the arguments of a call in it are no exception."""
    n = "nullif(price, 40)"
    df = spark.sql(
        f"""SELECT id, CASE WHEN price <> 0 THEN llm('per {{0}}', 100 div price) END AS a,
                   IF({n} > 0, llm('why {{0}}?', concat(llm('of {{0}}', 100 div {n}), '!')), NULL) AS b FROM items"""
    )
    expected = []
    for i, _, p in ITEMS:
        a = oracle.llm("per {0}", 100 // p) if p else None
        b = oracle.llm("why {0}?", f"{oracle.llm('of {0}', 100 // p)}!") if p and p != 40 else None
        expected.append((i, a, b))
    bag(df, expected)
