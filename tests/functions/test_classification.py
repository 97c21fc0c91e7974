"""ai_classify, ai_filter and ai_sentiment in SQL and in Python, and what the optimizer makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.errors import ArgumentError
from spark_helium.functions import ai_analyze_sentiment, ai_classify, ai_filter, ai_sentiment, prompt

from ..sql import oracle

BODIES = ["red shoe", "blue hat", None, "old lamp", "tin can", "red shoe", "wet dog", "flat stone"]
LABELS = ("warm", "cold", "neither")


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    spark.createDataFrame(list(enumerate(BODIES)), "id int, body string").createOrReplaceTempView("things")
    spark.createDataFrame([("toy",), ("tool",)], "kind string").createOrReplaceTempView("kinds")
    yield
    spark.catalog.dropTempView("things")
    spark.catalog.dropTempView("kinds")


def answers(df: DataFrame) -> list[object]:
    return [row[1] for row in sorted(df.collect(), key=lambda row: row[0])]


def asked(spark: SparkSession, call: str) -> list[object]:
    return answers(spark.sql(f"SELECT id, {call} FROM things"))


LABELLED = [
    oracle.llm(
        "Classify the text with one of these labels: warm, cold, neither.\nAnswer with the label alone.\n\nText: {0}",
        body,
        choices=LABELS,
    )
    for body in BODIES
]


class TestClassify:
    @pytest.mark.parametrize(
        "call",
        [
            "ai_classify(body, array('warm', 'cold', 'neither'))",
            "ai_classify(content => body, labels => array('warm', 'cold', 'neither'))",
            "ai_classify(labels => split('warm,cold,neither', ','), content => prompt('{0}', body))",
            """ai_classify(body, '["warm", "cold", "neither"]', multi => false)""",
        ],
    )
    def test_spellings(self, spark: SparkSession, call: str) -> None:
        assert asked(spark, call) == LABELLED
        assert set(LABELLED) <= {*LABELS, None}

    def test_python(self, spark: SparkSession) -> None:
        things = spark.table("things")
        assert answers(things.select("id", ai_classify("body", list(LABELS)))) == LABELLED
        assert answers(things.select("id", ai_classify(F.col("body"), iter(LABELS), model="smollm2-135m"))) == LABELLED
        assert answers(things.select("id", ai_classify(prompt("{0}", "body"), LABELS))) == LABELLED

    def test_descriptions_and_instructions(self, spark: SparkSession) -> None:
        described = {"warm": "holds heat", "cold": "does not"}
        expected = [
            oracle.llm(
                "Classify the text with one of these labels:\n- warm: holds heat\n- cold: does not\nTouch it.\n"
                "Answer with the label alone.\n\nText: {0}",
                body,
                choices=("warm", "cold"),
            )
            for body in BODIES
        ]
        sql = "ai_classify(body, map('warm', 'holds heat', 'cold', 'does not'), instructions => 'Touch it.')"
        assert asked(spark, sql) == expected
        column = ai_classify("body", described, instructions="Touch it.")
        assert answers(spark.table("things").select("id", column)) == expected

    def test_several_labels(self, spark: SparkSession) -> None:
        sql = asked(spark, "ai_classify(body, array('warm', 'cold', 'neither'), multi => true)")
        for body, found in zip(BODIES, sql, strict=True):
            assert (found is None) == (body is None)
            assert found is None or found == [label for label in LABELS if label in found]
        assert len({tuple(found) for found in sql if found is not None}) > 1
        column = ai_classify("body", LABELS, multi=True)
        assert answers(spark.table("things").select("id", column)) == sql

    def test_equal_calls_are_made_once(self, spark: SparkSession) -> None:
        labels = "array('kept', 'thrown')"
        df = spark.sql(
            f"""SELECT ai_classify(body, {labels}) AS a, upper(ai_classify(body, {labels})) AS b
                FROM things WHERE ai_classify(body, {labels}) IS NOT NULL"""
        )
        with spark_helium.measure(spark) as run:
            rows = df.collect()
        assert len(rows) == 7
        assert all(row.a.upper() == row.b for row in rows)
        assert run.calls_sent == len({body for body in BODIES if body}), "equal contents ask once, too"
        with spark_helium.measure(spark) as run:
            assert sorted(df.collect()) == sorted(rows)
        assert run.calls_sent == 0, "the prompt cache has them"

    def test_group_by_a_label(self, spark: SparkSession) -> None:
        call = "ai_classify(body, array('warm', 'cold', 'neither'))"
        rows = spark.sql(f"SELECT {call} AS label, count(*) AS n FROM things GROUP BY {call}").collect()
        assert {row.label: row.n for row in rows} == {label: LABELLED.count(label) for label in set(LABELLED)}

    def test_a_call_in_a_branch_runs_for_its_rows(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT CASE WHEN id < 2 THEN ai_classify(body, array('branch', 'stem')) END FROM things")
        with spark_helium.measure(spark) as run:
            df.collect()
        assert run.calls_sent == 2

    def test_a_label_longer_than_max_tokens(self, spark: SparkSession) -> None:
        long = "very " * 50 + "long"
        row = spark.sql(f"SELECT ai_classify('x', array('{long}', '{long}er'), max_tokens => 1)").collect()[0]
        assert row[0] in {long, long + "er"}

    def test_names_of_columns(self, spark: SparkSession) -> None:
        df = spark.sql(
            "SELECT ai_classify(body, array('a', 'b'), multi => true), ai_filter(body, 'is red') FROM things"
        )
        assert df.columns == ["ai_classify(body, array(a, b), multi => true)", "ai_filter(body, is red)"]


class TestSentiment:
    def test_answers(self, spark: SparkSession) -> None:
        template = (
            "Is the sentiment of the text positive, negative, neutral or mixed? Answer with one word.\n\nText: {0}"
        )
        choices = ("positive", "negative", "neutral", "mixed")
        expected = [oracle.llm(template, body, choices=choices) for body in BODIES]
        assert asked(spark, "ai_analyze_sentiment(body)") == expected
        assert asked(spark, "ai_sentiment(content => body)") == expected
        things = spark.table("things")
        assert answers(things.select("id", ai_analyze_sentiment("body"))) == expected
        assert answers(things.select("id", ai_sentiment(F.col("body"), temperature=0))) == expected


def question(text: str, *args: object) -> bool | None:
    said = oracle.llm(f"Is this true? Answer with true or false.\n\n{text}", *args, choices=("true", "false"))
    return None if said is None else said == "true"


def holds(condition: str, body: str | None) -> bool | None:
    template = f"Does this condition hold for the text: {condition}\nAnswer with true or false.\n\nText: {{0}}"
    said = oracle.llm(template, body, choices=("true", "false"))
    return None if said is None else said == "true"


class TestFilter:
    @pytest.mark.parametrize(
        "call",
        [
            "ai_filter('Would you buy a {0}?', body)",
            "ai_filter('Would you buy a {thing}?', thing => body)",
            "ai_filter(prompt('Would you buy a {}?', body))",
            "ai_filter('Would you buy a ' || body || '?')",
        ],
    )
    def test_templates(self, spark: SparkSession, call: str) -> None:
        expected = [question("Would you buy a {0}?", body) for body in BODIES]
        assert asked(spark, call) == expected
        assert {True, False, None} == set(expected)

    @pytest.mark.parametrize(
        "call",
        [
            "ai_filter(body, 'it is useful')",
            "ai_filter('it is useful', body)",
            "ai_filter(content => body, condition => 'it is useful')",
        ],
    )
    def test_conditions(self, spark: SparkSession, call: str) -> None:
        assert asked(spark, call) == [holds("it is useful", body) for body in BODIES]

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (lambda: ai_filter("Would you buy a {0}?", "body"), lambda b: question("Would you buy a {0}?", b)),
            (lambda: ai_filter("Would you buy a {x}?", x=F.col("body")), lambda b: question("Would you buy a {0}?", b)),
            (lambda: ai_filter(prompt("Would you buy a {0}?", "body")), lambda b: question("Would you buy a {0}?", b)),
            (lambda: ai_filter("body", condition="it is useful"), lambda b: holds("it is useful", b)),
            (lambda: ai_filter(F.col("body"), condition="it is useful", seed=1), lambda b: holds("it is useful", b)),
        ],
    )
    def test_python(self, spark: SparkSession, call: Callable, expected: Callable) -> None:
        assert answers(spark.table("things").select("id", call())) == [expected(body) for body in BODIES]

    def test_where(self, spark: SparkSession) -> None:
        rows = spark.sql("SELECT id FROM things WHERE NOT ai_filter('Would you buy a {0}?', body)").collect()
        expected = [i for i, body in enumerate(BODIES) if question("Would you buy a {0}?", body) is False]
        assert sorted(row.id for row in rows) == expected

    def test_case(self, spark: SparkSession) -> None:
        call = "CASE WHEN ai_filter('Would you buy a {0}?', body) THEN 'keep' WHEN id < 4 THEN 'sell' END"
        expected = [
            "keep" if question("Would you buy a {0}?", body) else "sell" if i < 4 else None
            for i, body in enumerate(BODIES)
        ]
        assert asked(spark, call) == expected

    @pytest.mark.parametrize("kind", ["INNER", "LEFT OUTER", "LEFT SEMI", "LEFT ANTI"])
    def test_join(self, spark: SparkSession, kind: str) -> None:
        right = ", kind" if kind in ("INNER", "LEFT OUTER") else ""
        df = spark.sql(
            f"SELECT id{right} FROM things {kind} JOIN kinds "
            "ON ai_filter('Is a {0} a {1}?', body, kind) AND id <> 1"
        )
        pairs = [
            (i, k)
            for i, body in enumerate(BODIES)
            for k in ("toy", "tool")
            if i != 1 and question("Is a {0} a {1}?", body, k)
        ]
        found = {i for i, _ in pairs}
        expected: list[tuple[object, ...]] = {
            "INNER": list(pairs),
            "LEFT OUTER": [*pairs, *((i, None) for i in range(len(BODIES)) if i not in found)],
            "LEFT SEMI": [(i,) for i in found],
            "LEFT ANTI": [(i,) for i in range(len(BODIES)) if i not in found],
        }[kind]
        assert sorted(map(tuple, df.collect()), key=str) == sorted(expected, key=str)
        assert found
        assert len(found) < len(BODIES)

    def test_cheap_conditions_run_first(self, spark: SparkSession) -> None:
        df = spark.sql("SELECT id FROM things WHERE ai_filter('Does {0} float?', body) AND id < 2")
        with spark_helium.measure(spark) as run:
            df.collect()
        assert run.calls_sent == 2

    def test_conditions_that_stand_together_are_ordered(self, spark: SparkSession) -> None:
        one, two = "ai_filter('Is {0} of value? Think of it twice.', body)", "ai_filter(body, 'it is alive')"
        both = spark.sql(f"SELECT id FROM things WHERE {one} AND {two}")
        with spark_helium.measure(spark) as run:
            rows = both.collect()
        expected = [
            i
            for i, body in enumerate(BODIES)
            if question("Is {0} of value? Think of it twice.", body) and holds("it is alive", body)
        ]
        assert sorted(row.id for row in rows) == expected
        distinct = len({body for body in BODIES if body})
        assert distinct < run.calls_sent < 2 * distinct, "the second condition runs for what the first one lets through"

    def test_an_error_is_null_and_counted(self, spark: SparkSession) -> None:
        call = "ai_filter('Is {0} good?', repeat(body, 20000), failOnError => false)"
        with spark_helium.measure(spark) as run:
            assert asked(spark, f"CASE WHEN id < 4 THEN {call} END") == [None] * len(BODIES)
        assert run.calls_failed == 3
        column = ai_filter("body", condition="good", fail_on_error=False)
        assert answers(spark.table("things").select("id", column)) == [holds("good", body) for body in BODIES]

    def test_an_error_ends_the_query_by_default(self, spark: SparkSession) -> None:
        with pytest.raises(Exception, match="ai_filter\\(\\) on model smollm2-135m failed"):
            spark.sql("SELECT ai_filter('Is {0} good?', repeat('x', 200000))").collect()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ai_classify("body", "a"), "labels='a'; pass a list of strings"),
        (lambda: ai_classify("body", 3), "labels=3"),
        (lambda: ai_classify(3, ["a"]), "content=3, which is not a column"),
        (lambda: ai_classify("body", ["a"], stop="x"), "stop='x', and has no option of that name"),
        (lambda: ai_filter("body", "x", condition="y"), "condition='y' and arguments for placeholders"),
        (lambda: ai_filter("{x}", y="body"), "ai_filter\\(\\) got y='body'"),
        (lambda: ai_filter("{x}", x="body", modell="m"), "did you mean the option model"),
    ],
)
def test_what_only_python_can_get_wrong(spark: SparkSession, call: Callable, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "condition", "hint"),
    [
        ("ai_classify(body)", "HELIUM_ARGUMENTS", "the argument labels is missing"),
        ("ai_classify(body, array())", "HELIUM_OPTION_OUT_OF_RANGE", "one or more different strings"),
        ("ai_classify(body, array('a', 'a'))", "HELIUM_OPTION_OUT_OF_RANGE", "'a' stands twice"),
        ("ai_classify(body, array(1, 2))", "HELIUM_OPTION_TYPE", "array('a', 'b')"),
        ("ai_classify(body, 'a')", "HELIUM_OPTION_TYPE", "array('a', 'b')"),
        ("ai_classify(body, array(body))", "HELIUM_OPTION_NOT_CONSTANT", "array(body)"),
        ("ai_classify(body, array('a'), choices => array('b'))", "HELIUM_UNKNOWN_OPTION", "choices"),
        ("ai_classify(array(id), array('a'))", "HELIUM_ARGUMENT_TYPE", "to_json"),
        ("ai_filter(body, concat(body, '?'))", "HELIUM_OPTION_NOT_CONSTANT", "condition"),
        ("ai_filter('Is {0}?', body, id)", "HELIUM_TEMPLATE_ARGUMENTS", "1 placeholder for 2 arguments"),
        ("ai_filter('Is {thing}?', thin => body)", "HELIUM_UNKNOWN_OPTION", "Did you mean thing?"),
        ("transform(array(body), x -> ai_filter(x, 'red'))", "HELIUM_CALL_IN_LAMBDA", "ai_filter() cannot run inside"),
    ],
)
def test_mistakes(spark: SparkSession, call: str, condition: str, hint: str) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT {call} FROM things").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert hint in str(error.value)
