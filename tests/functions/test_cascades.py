"""``ai_filter`` with a proxy, in SQL and in Python: who answers what, what is counted, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import Column, SparkSession

import spark_helium
from spark_helium.functions import ai_filter
from spark_helium.gpu_executor.cascade import Label, Thresholds, learn

from ..sql import oracle

CHOICES = ("true", "false")
TARGET = 0.9
SAMPLE = 224  # the default for this target
OPTIONS = f"proxy_model => 'small', target_precision => {TARGET}, target_recall => {TARGET}"


class Item(NamedTuple):
    """A row, and what the simulator says of it as main model and as proxy."""

    body: str
    score: float
    is_true: bool


def asked(question: str, body: str) -> Item:
    from spark_helium.gpu_executor.engines import answers

    text = f"Is this true? Answer with true or false.\n\n{question.replace('{0}', body)}"
    return Item(
        body,
        float(answers.score(oracle.tokens_of([("user", text)]), CHOICES)),
        oracle.llm(text, choices=CHOICES) == "true",
    )


def good(question: str, size: int) -> list[Item]:
    """Rows of which the simulated proxy is right but for those in the middle, which is luck for a hash."""
    all_of_them = (asked(question, f"thing {i}") for i in itertools.count())
    wanted = (i for i in all_of_them if 0.45 < i.score < 0.55 or (i.score > 0.5) == i.is_true)
    return list(itertools.islice(wanted, size))


QUESTION = "Would you keep a {0}?"
ITEMS = good(QUESTION, 1400)


@pytest.fixture(scope="module", autouse=True)
def table(spark: SparkSession) -> Iterator[None]:
    rows = [(i, item.body) for i, item in enumerate(ITEMS)]
    spark.createDataFrame(rows, "id int, body string").coalesce(1).createOrReplaceTempView("items")
    yield
    spark.catalog.dropTempView("items")


@pytest.fixture(autouse=True)
def proxy(set_setting: Callable[[str, str], None]) -> None:
    set_setting("spark.helium.models.small.engine", "simulator")


def found(spark: SparkSession, call: str | Column, source: str = "items") -> dict[int, bool | None]:
    df = spark.table(source)
    df = df.selectExpr("id", call) if isinstance(call, str) else df.select("id", call)
    return {row[0]: row[1] for row in df.collect()}


def quality(answers: dict[int, bool | None]) -> tuple[float, float]:
    right = sum(bool(said) and ITEMS[i].is_true for i, said in answers.items())
    return right / sum(map(bool, answers.values())), right / sum(item.is_true for item in ITEMS)


def test_sql(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        answers = found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})")
    assert len(answers) == len(ITEMS)
    assert min(quality(answers)) >= TARGET
    cascade = run.cascade
    assert cascade is not None
    assert cascade.labelled == SAMPLE
    assert cascade.by_proxy > len(ITEMS) / 3
    assert cascade.by_proxy + cascade.by_main + cascade.labelled == run.calls_requested == len(ITEMS)
    assert run.calls_sent == len(ITEMS) + cascade.by_main + SAMPLE, "the proxy scores all, once"
    assert (cascade.windows, run.calls_failed) == (1, 0)
    assert cascade.lower is not None
    assert cascade.upper is not None
    assert cascade.precision is not None
    assert cascade.recall is not None
    assert 0 < cascade.lower < cascade.upper < 1
    assert min(cascade.precision, cascade.recall) >= TARGET
    assert all(answers[i] is True for i, item in enumerate(ITEMS) if item.is_true and item.score > cascade.upper + 1e-6)
    sure = [i for i, item in enumerate(ITEMS) if not cascade.lower <= item.score <= cascade.upper]
    unsure = set(answers) - set(sure)
    assert {i: answers[i] for i in unsure} == {i: ITEMS[i].is_true for i in unsure}, "the main model's own answers"
    wrong = [i for i in answers if answers[i] != ITEMS[i].is_true]
    assert 0 < len(unsure) < len(answers)
    assert all(ITEMS[i].score <= cascade.lower or ITEMS[i].score >= cascade.upper for i in wrong)
    assert f"{cascade.by_proxy:,} rows by the proxy" in repr(run)


def test_again_it_is_the_same_and_costs_nothing(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    call = f"ai_filter('{QUESTION}', body, {OPTIONS})"
    first = found(spark, call)
    with spark_helium.measure(spark) as run:
        assert found(spark, call) == first
    assert run.calls_sent == 0
    spark.table("items").orderBy("body").coalesce(1).createOrReplaceTempView("items_in_another_order")
    assert found(spark, call, "items_in_another_order") == first, "one window: any order"
    set_setting("spark.helium.cache.enabled", "false")
    with spark_helium.measure(spark) as run:
        assert found(spark, call) == first
    assert run.calls_sent > len(ITEMS)
    spark.catalog.dropTempView("items_in_another_order")


@pytest.mark.parametrize(
    "column",
    [
        lambda: ai_filter(
            QUESTION, "body", proxy_model="small", target_precision=TARGET, target_recall=TARGET, sample_rows=SAMPLE
        ),
        lambda: ai_filter(
            "Would you keep a {x}?", x="body", proxy_model="small", target_precision=TARGET, target_recall=TARGET
        ),
    ],
)
def test_python_is_the_same_call(spark: SparkSession, column: Callable[[], Column]) -> None:
    expected = found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})")
    with spark_helium.measure(spark) as run:
        assert found(spark, column()) == expected
    assert run.calls_sent == 0


def test_python_with_a_condition(spark: SparkSession) -> None:
    targets = {"target_precision": TARGET, "target_recall": TARGET}
    column = ai_filter("body", condition="it is heavy", proxy_model="small", **targets)
    expected = found(spark, f"ai_filter(body, 'it is heavy', {OPTIONS})")
    assert found(spark, column) == expected
    template = "Does this condition hold for the text: it is heavy\nAnswer with true or false.\n\nText: {0}"
    main = {i: oracle.llm(template, item.body, choices=CHOICES) == "true" for i, item in enumerate(ITEMS)}
    assert expected == main, "here the proxy's scores are worth nothing: everything is the main model's"


def test_null_and_where_and_case(spark: SparkSession) -> None:
    call = f"ai_filter('{QUESTION}', IF(id % 2 = 0, body, NULL), {OPTIONS})"
    answers = found(spark, call)
    assert all((said is None) == (i % 2 == 1) for i, said in answers.items())
    kept = spark.sql(f"SELECT id FROM items WHERE id % 2 = 0 AND {call}").collect()
    assert {row.id for row in kept} == {i for i, said in answers.items() if said}
    branches = found(spark, f"CASE WHEN id % 2 = 0 THEN {call} ELSE id > 10 END")
    assert branches == {i: i > 10 if said is None else said for i, said in answers.items()}


def test_few_rows_are_the_main_models(spark: SparkSession) -> None:
    with spark_helium.measure(spark) as run:
        df = spark.sql(
            f"SELECT id, ai_filter('{QUESTION}', body, {OPTIONS}) AS f FROM items WHERE id < {2 * SAMPLE - 1}"
        )
        assert all(row.f == ITEMS[row.id].is_true for row in df.collect())
    assert run.cascade is not None
    assert (run.cascade.by_proxy, run.cascade.labelled, run.cascade.windows) == (0, 0, 0)
    assert run.cascade.precision is None


def test_partitions_learn_by_themselves(spark: SparkSession, set_setting: Callable[[str, str], None]) -> None:
    spark.createDataFrame(spark.table("items").collect()).repartition(2, "id").createOrReplaceTempView("halves")
    with spark_helium.measure(spark) as run:
        answers = found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})", "halves")
    assert run.cascade is not None
    assert (run.cascade.windows, run.cascade.labelled) == (2, 2 * SAMPLE)
    assert min(quality(answers)) >= TARGET
    set_setting("spark.helium.cascade.windowRows", str(2 * SAMPLE))
    with spark_helium.measure(spark) as run:
        answers = found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})")
    assert run.cascade is not None
    assert run.cascade.windows == len(ITEMS) // (2 * SAMPLE), "the last rows are no whole window, and few"
    assert min(quality(answers)) >= TARGET
    spark.catalog.dropTempView("halves")


def test_windows_larger_than_what_is_in_flight_otherwise(
    spark: SparkSession, set_setting: Callable[[str, str], None]
) -> None:
    expected = found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})")
    set_setting("spark.helium.stream.maxInFlight", "16")
    assert found(spark, f"ai_filter('{QUESTION}', body, {OPTIONS})") == expected


def test_equal_calls_are_one_and_others_are_not(spark: SparkSession) -> None:
    one = f"ai_filter('Is a {{0}} big?', body, {OPTIONS})"
    other = f"ai_filter('Is a {{0}} big?', body, {OPTIONS}, sample_rows => 300)"
    plain = "ai_filter('Is a {0} big?', body)"
    report = spark_helium.explain(spark.sql(f"SELECT {one} AS a, {one} AS b, {other} AS c, {plain} AS d FROM items"))
    assert sorted(call.multiplicity for node in report.nodes for call in node.calls) == [1, 1, 2]


def test_explain_says_that_it_approximates(spark: SparkSession) -> None:
    df = spark.sql(f"SELECT id FROM items WHERE ai_filter('{QUESTION}', body, {OPTIONS})")
    text = " ".join(df._explain_string().split()) if hasattr(df, "_explain_string") else ""
    report = spark_helium.explain(df, analyze=True)
    for shown in (text, " ".join(report.after.split())):
        if shown:
            assert "proxy_model => 'small'" in shown.replace(" | ", " ")
            assert "approximate: small decides" in shown.replace(" | ", " ")
    [node] = report.nodes
    assert node.cascade is not None
    assert node.cascade.by_proxy > len(ITEMS) / 3
    assert f"cascade:         {node.cascade.lines()[0]}" in str(report)
    assert node.cascade.lines()[1] in report._repr_html_()


def test_a_query_without_a_cascade_counts_none(spark: SparkSession) -> None:
    df = spark.sql(f"SELECT ai_filter('{QUESTION}', body) AS f FROM items LIMIT 5")
    with spark_helium.measure(spark) as run:
        df.collect()
    assert run.cascade is None
    assert "cascade" not in repr(run)
    assert spark_helium.explain(df, analyze=True).nodes[0].cascade is None


def test_names_of_columns(spark: SparkSession) -> None:
    df = spark.sql(f"SELECT ai_filter(body, 'is red', {OPTIONS}) FROM items")
    assert df.columns == [f"ai_filter(body, is red, {OPTIONS})".replace("'", "")]


def test_fail_on_error(spark: SparkSession) -> None:
    long = f"ai_filter('{QUESTION}', IF(id = 3, repeat(body, 20000), body), {OPTIONS}, failOnError => false)"
    with spark_helium.measure(spark) as run:
        answers = found(spark, long)
    assert [i for i, said in answers.items() if said is None] == [3]
    assert run.calls_failed == 1, "the main model's failure; that of the proxy is none of the row's"
    with pytest.raises(Exception, match="ai_filter\\(\\) on model smollm2-135m failed"):
        found(spark, long.replace("failOnError => false", "failOnError => true"))


@pytest.mark.parametrize(
    ("options", "condition", "hint"),
    [
        ("proxy_model => 'small'", "HELIUM_CASCADE", "target_precision and target_recall are missing"),
        ("target_recall => 0.9", "HELIUM_CASCADE", "proxy_model and target_precision are missing"),
        ("proxy_model => 'small', target_recall => 0.9", "HELIUM_CASCADE", "target_precision is missing"),
        ("sample_rows => 100", "HELIUM_CASCADE", "proxy_model and target_precision and target_recall are missing"),
        (OPTIONS.replace("small", "smal"), "HELIUM_UNKNOWN_MODEL", "Did you mean small?"),
        (OPTIONS.replace("small", "smollm2-135m"), "HELIUM_CASCADE", "the model itself"),
        (OPTIONS.replace("0.9", "1.0"), "HELIUM_OPTION_OUT_OF_RANGE", "above 0 and below 1"),
        (OPTIONS.replace("0.9", "0"), "HELIUM_OPTION_OUT_OF_RANGE", "above 0 and below 1"),
        (OPTIONS.replace("0.9", "'high'"), "HELIUM_OPTION_TYPE", "a number"),
        (OPTIONS.replace("'small'", "body"), "HELIUM_OPTION_NOT_CONSTANT", "proxy_model"),
        (OPTIONS.replace("0.9", "rand()"), "HELIUM_OPTION_NOT_CONSTANT", "target_precision"),
        (f"{OPTIONS}, sample_rows => 0", "HELIUM_OPTION_OUT_OF_RANGE", "1 to 4096"),
        (f"{OPTIONS}, sample_rows => 5000", "HELIUM_OPTION_OUT_OF_RANGE", "spark.helium.cascade.windowRows"),
        (f"{OPTIONS}, sample_rows => 35", "HELIUM_CASCADE", "Set sample_rows to 36 or more"),
        (f"{OPTIONS}, temperature => 0.7", "HELIUM_CASCADE", "temperature 0.7"),
        (f"{OPTIONS}, temperature => 0.7, seed => 1", "HELIUM_CASCADE", "Leave temperature or the cascade out"),
        (OPTIONS.replace("small", "far"), "HELIUM_CASCADE", "an endpoint, which gives no scores"),
        (f"{OPTIONS}, proxyModel => 'other'", "HELIUM_CONFLICTING_OPTIONS", "proxy"),
    ],
)
def test_mistakes(
    spark: SparkSession, set_setting: Callable[[str, str], None], options: str, condition: str, hint: str
) -> None:
    set_setting("spark.helium.models.far.engine", "openai")
    with pytest.raises(AnalysisException) as error:
        spark.sql(f"SELECT ai_filter('{QUESTION}', body, {options}) FROM items").schema  # noqa: B018
    assert error.value.getCondition() == condition
    assert hint in str(error.value)


def test_the_least_sample_is_the_learners(spark: SparkSession) -> None:
    # 36 true rows show a recall of 0.9, and one less shows nothing, whatever their scores.
    rows = [Label(i / 100, True) for i in range(36)]
    assert learn(rows, TARGET, TARGET) != Thresholds()
    assert learn(rows[1:], TARGET, TARGET) == Thresholds()


def test_other_functions_have_no_cascade(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as error:
        spark.sql("SELECT ai_classify(body, array('a', 'b'), proxy_model => 'small') FROM items").schema  # noqa: B018
    assert error.value.getCondition() == "HELIUM_UNKNOWN_OPTION"
