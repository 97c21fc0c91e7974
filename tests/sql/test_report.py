"""``spark_helium.explain``: on classic and Connect sessions, with and without running the query."""

from __future__ import annotations

from pyspark.sql import SparkSession

import spark_helium

YES = "choices => array('yes', 'no')"


def test_what_is_expected_and_what_the_rules_did(spark: SparkSession) -> None:
    df = spark.sql(
        f"SELECT id, llm('r {{0}}', id % 10, {YES}) AS a, llm('r {{}}', id % 10, {YES}) AS b FROM range(200)"
    )
    report = spark_helium.explain(df)
    [node] = report.nodes
    [estimate] = node.calls
    assert (estimate.multiplicity, estimate.calls, estimate.distinct_prompts, estimate.measured) == (2, 200, 10, True)
    assert estimate.prompt_tokens > estimate.shared_prefix_tokens > 0
    assert node.actual is None
    assert "MergeEqualCalls" in {note.rule for note in report.did}
    assert "PlaceByPrefix" in {note.rule for note in node.declined}
    assert "EvalLLM 2 calls" in report.before
    assert "EvalLLM 1 call\n" in report.after
    assert "expected 200 calls, 10 distinct prompts" in str(report)


def test_estimates_beside_actuals(spark: SparkSession) -> None:
    df = spark.sql(f"SELECT llm('analyzed {{0}}', id % 7, {YES}) AS a FROM range(70)")
    report = spark_helium.explain(df, analyze=True)
    [node] = report.nodes
    assert node.actual is not None
    assert (node.actual["calls_requested"], node.actual["calls_sent"]) == (70, 7)
    assert node.calls[0].distinct_prompts == 7
    assert "expected in all: 70 calls, 7 sent to the engine" in str(report)
    assert "actual:          70 calls, 7 sent to the engine" in str(report)


def test_prompt_templates_once_per_function_and_model(spark: SparkSession) -> None:
    df = spark.sql(
        f"""SELECT llm('r {{{{{{0}}}}}} {{0}}', id, {YES}) AS a, llm('r {{{{{{0}}}}}} {{0}}', id + 1, {YES}) AS b,
                   llm('r', model => 'org/other') AS c, llm('r {{}}', id, system => 'Be brief.') AS d FROM range(3)"""
    )
    report = spark_helium.explain(df)
    assert {(t.function, t.model, t.template) for t in report.templates} == {
        ("llm", "smollm2-135m", "r {{{0}}} {0}"),
        ("llm", "org/other", "r"),
        ("llm", "smollm2-135m", "system: Be brief.\nuser: r {0}"),
    }
    assert len(report.templates) == 3
    assert "== Prompt templates ==" in str(report)
    assert "llm on org/other:\n    r\n" in str(report)
    assert "prompt template" in report._repr_html_()


def test_in_a_notebook(spark: SparkSession) -> None:
    page = spark_helium.explain(spark.sql("SELECT llm('<b>{0}', id) AS a FROM range(3)"))._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<table>" in page


def test_without_calls(spark: SparkSession) -> None:
    report = spark_helium.explain(spark.range(3))
    assert report.nodes == ()
    assert "no rule applied" in str(report)


def test_no_view_is_left_behind(spark: SparkSession) -> None:
    spark_helium.explain(spark.range(3))
    assert not [t.name for t in spark.catalog.listTables() if t.name.startswith("helium_explain_")]
