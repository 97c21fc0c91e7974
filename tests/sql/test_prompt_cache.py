"""Answers that outlive the daemon, from SQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import spark_helium
from spark_helium.gpu_executor import client, lifecycle

YES = "choices => array('yes', 'no')"
# A chain: the second call's prompt is known only when the first one's answer is.
CHAIN = f"""
    SELECT id, llm('outlives {{0}} {{1}}', a, id % 10) AS b
    FROM (SELECT id, llm('outlives {{0}}', id % 10, {YES}) AS a FROM range(0, 200, 1, 4)) ORDER BY id
"""


@pytest.fixture
def new_daemon(spark: SparkSession) -> Callable[[], None]:
    """Ends the session's daemons; the next query starts another, as a new session would."""

    def stop() -> None:
        for files in lifecycle.known_daemons(Path(spark.conf.get("spark.helium.executor.directory"))):
            assert client.stop(files)
            lifecycle.wait_until_gone(files, 20)

    return stop


def test_a_new_daemon_makes_no_call_twice(spark: SparkSession, new_daemon: Callable[[], None]) -> None:
    with spark_helium.measure(spark) as first:
        answers = spark.sql(CHAIN).collect()
    new_daemon()
    with spark_helium.measure(spark) as second:
        assert spark.sql(CHAIN).collect() == answers
    assert first.calls_sent == 10 + 10, "ten first prompts, and a second one for each of them"
    assert second.calls_requested == second.answers_from_cache == first.calls_requested
    assert (second.calls_sent, second.prompt_tokens, second.calls_failed) == (0, 0, 0)


def test_switched_off_it_asks_anew_and_leaves_nothing(
    spark: SparkSession, new_daemon: Callable[[], None], set_setting: Callable[[str, str], None]
) -> None:
    query = f"SELECT llm('leaves nothing {{0}}', id, {YES}) AS a FROM range(10)"
    set_setting("spark.helium.cache.enabled", "false")
    for _ in range(2):
        with spark_helium.measure(spark) as off:
            spark.sql(query).collect()
        assert off.calls_sent == 10
    set_setting("spark.helium.cache.enabled", "true")
    new_daemon()
    with spark_helium.measure(spark) as on:
        spark.sql(query).collect()
    assert on.calls_sent == 10
