"""Scores, vectors and token counts from SQL to the real engine, with the built-in model's real weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.conf import Settings
from spark_helium.demo import table
from spark_helium.functions import ai_count_tokens, ai_score, ai_similarity
from spark_helium.gpu_executor import models
from tests.gpu_executor.engines.direct_tasks import ask

pytestmark = pytest.mark.engine

ROWS = 12
QUESTION = "Is this review positive? {0}"
BODIES = [review.body for review in table.load()[:ROWS]]


@pytest.fixture(scope="module")
def direct() -> dict[str, Any]:
    """What vLLM says to the same prompts and texts, in processes of its own, without spark_helium."""
    prompts = [f"Answer with yes or no.\n\n{QUESTION}".replace("{0}", body) for body in BODIES]
    return {
        "logprobs": ask({"prompts": prompts, "choices": ["yes", "no"]}),
        "vectors": ask({"texts": [*BODIES, "bad quality"]}),
    }


@pytest.fixture(scope="module")
def spark(direct: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    # After the direct runs: two engines at once would take the machine from each other.
    directory = tmp_path_factory.mktemp("e")
    builder = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
    )
    session = spark_helium.configure(
        builder, engine="vllm", executor_directory=str(directory), cache_directory=str(directory / "cache")
    ).getOrCreate()
    table.reviews(session).limit(ROWS).createOrReplaceTempView("reviews")
    yield session
    session.stop()


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        math.fsum(x * x for x in a) * math.fsum(y * y for y in b)
    )


def test_tokens_are_counted_before_any_model_is_there(spark: SparkSession) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.resolve("smollm2-135m", Settings()))
    with spark_helium.measure(spark) as run:
        rows = spark.table("reviews").select(ai_count_tokens("body").alias("n")).orderBy("review_id").collect()
    assert [row.n for row in rows] == [len(tokenizer(body)["input_ids"]) for body in BODIES]
    assert run.calls_requested == 0


def test_scores_order_the_reviews_as_vllms_log_probabilities_do(spark: SparkSession, direct: dict[str, Any]) -> None:
    expected = [math.exp(yes) / (math.exp(yes) + math.exp(no)) for yes, no in direct["logprobs"]]
    query = f"SELECT review_id, ai_score('{QUESTION}', body) AS score FROM reviews ORDER BY score DESC LIMIT 5"
    with spark_helium.measure(spark) as run:
        found = spark.sql(query).collect()
    ids = [review.review_id for review in table.load()[:ROWS]]
    by_score = sorted(zip(expected, ids, strict=True), reverse=True)[:5]
    assert [row.score for row in found] == pytest.approx([score for score, _ in by_score], abs=1e-5)
    assert [row.review_id for row in found] == [review for _, review in by_score]
    assert (run.calls_requested, run.calls_sent) == (ROWS, len(set(BODIES)))
    again = spark.table("reviews").orderBy(ai_score(QUESTION, "body").desc()).limit(5)
    with spark_helium.measure(spark) as run:
        assert [row.review_id for row in again.collect()] == [row.review_id for row in found]
    assert run.calls_sent == 0


def test_vectors_and_their_cosines_are_vllms(spark: SparkSession, direct: dict[str, Any]) -> None:
    *vectors, bad = direct["vectors"]
    query = "SELECT ai_embed(body) AS v, ai_similarity(body, 'bad quality') AS s FROM reviews ORDER BY review_id"
    with spark_helium.measure(spark) as run:
        rows = spark.sql(query).collect()
    assert run.calls_sent == len(set(BODIES)) + 1, "each text once"
    for row, vector in zip(rows, vectors, strict=True):
        assert row.v == pytest.approx(vector, abs=1e-5)
        assert row.s == pytest.approx(cosine(vector, bad), abs=1e-4)
    same = spark.table("reviews").select(ai_similarity("body", "body").alias("s")).collect()
    assert [row.s for row in same] == pytest.approx([1.0] * ROWS, abs=1e-5)
