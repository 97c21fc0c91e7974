"""A cascade on the real engine: the built-in model under two names, so that the proxy's scores are worth something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.demo import table
from spark_helium.functions import ai_filter

pytestmark = pytest.mark.engine

ROWS = 66
SAMPLE = 24
TARGET = 0.6
QUESTION = "Is this review positive? {0}"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    directory = tmp_path_factory.mktemp("c")
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.helium.models.small.path", "smollm2-135m")
    )
    session = spark_helium.configure(
        builder, engine="vllm", executor_directory=str(directory), cache_directory=str(directory / "cache")
    ).getOrCreate()
    bodies = list(dict.fromkeys(review.body for review in table.load()))[:ROWS]
    assert len(bodies) == ROWS
    session.createDataFrame(list(enumerate(bodies)), "id int, body string").coalesce(1).createOrReplaceTempView(
        "reviews"
    )
    yield session
    session.stop()


def test_the_proxy_decides_and_the_main_model_answers_the_rest(spark: SparkSession) -> None:
    column = ai_filter(
        QUESTION, "body", proxy_model="small", target_precision=TARGET, target_recall=TARGET, sample_rows=SAMPLE
    )
    df = spark.table("reviews").select("id", column.alias("positive"))
    with spark_helium.measure(spark) as run:
        answers = {row.id: row.positive for row in df.collect()}
    cascade = run.cascade
    print(run)
    assert cascade is not None
    assert (run.calls_requested, run.calls_failed, cascade.windows, cascade.labelled) == (ROWS, 0, 1, SAMPLE)
    assert run.calls_sent == ROWS + SAMPLE + cascade.by_main
    assert cascade.by_proxy > 0
    assert min(cascade.precision or 0.0, cascade.recall or 0.0) >= TARGET
    with spark_helium.measure(spark) as again:
        main = {
            row.id: row.positive
            for row in spark.table("reviews").select("id", ai_filter(QUESTION, "body").alias("positive")).collect()
        }
        assert {row.id: row.positive for row in df.collect()} == answers
    assert again.calls_sent == cascade.by_proxy, "what the cascade asked the main model is the call without one"
    right = sum(answers[i] and main[i] for i in main)
    assert right >= TARGET * sum(answers.values())
    assert right >= TARGET * sum(main.values())
    assert set(main.values()) == {True, False}
