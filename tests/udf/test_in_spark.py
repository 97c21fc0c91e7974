"""The worker inside a real Spark, without Catalyst: PySpark's own iterator UDF stands in for the EvalLLM node."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import psutil
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as sf
from pyspark.sql import types as t

from spark_helium.call_graph import Call, CallGraph, InputRef, Message, Sampling
from tests.gpu_executor.daemons import DaemonDirectory, daemon_directory, until
from tests.udf.test_worker import TAIL

GRAPH = CallGraph((Call(0, "m", (Message("user", (InputRef(0),)),), Sampling(16)),), 1)
TYPE = t.StructType([t.StructField("c0", t.StringType()), *TAIL])


@pytest.fixture(scope="module")
def directory() -> Iterator[DaemonDirectory]:
    with daemon_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def spark(directory: DaemonDirectory) -> Iterator[SparkSession]:
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "64").getOrCreate()
    yield session
    session.stop()


def ask(directory: DaemonDirectory, **settings: str):
    task = {
        "graph": json.loads(GRAPH.to_json()),
        "settings": directory.texts(**settings),
        "application": "app",
        "return_type": json.loads(TYPE.json()),
    }
    text = json.dumps(task)

    @sf.arrow_udf(TYPE)
    def ask_udf(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        from spark_helium.udf.entry import load

        yield from load(text)[0](batches)

    return ask_udf


def test_answers_counts_and_owner(spark: SparkSession, directory: DaemonDirectory):
    values = [(i, None if i % 5 == 0 else f"row {i}") for i in range(500)]
    frame = spark.createDataFrame(values, "id int, body string").repartition(4)
    rows = frame.select("id", ask(directory)("body").alias("out")).select("id", "out.*").collect()
    assert sorted(row.id for row in rows) == list(range(500))
    assert all((row.c0 is None) == (row.id % 5 == 0) for row in rows)
    assert len({row.c0 for row in rows if row.c0}) > 300
    assert sum(row.usage.calls_sent for row in rows if row.usage) == 400
    assert all(row.failure is None for row in rows)
    status = directory.status(directory.settings())
    assert status.rows_answered == 500
    (owner,) = status.owners
    assert psutil.Process(owner).name() == "java"
    again = frame.select("id", ask(directory)("body").alias("out")).select("id", "out.*").collect()
    assert {row.id: row.c0 for row in again} == {row.id: row.c0 for row in rows}
    assert sum(row.usage.answers_from_cache for row in again if row.usage) == 400


def test_cancelled_job_aborts_its_calls(spark: SparkSession, directory: DaemonDirectory):
    slow = {"simulator_decode_micros_per_token": "1e8"}
    # Rows of its own: those of another test are answered on disk.
    frame = spark.createDataFrame([(f"slow row {i}",) for i in range(100)], "body string").repartition(2)
    failed: list[Exception] = []

    def query() -> None:
        spark.sparkContext.setJobGroup("slow", "a query that is cancelled", interruptOnCancel=True)
        try:
            frame.select(ask(directory, **slow)("body").alias("out")).select("out.c0").collect()
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=query)
    thread.start()
    settings = directory.settings(**slow)

    def in_flight() -> int:
        try:
            return directory.status(settings).calls_in_flight
        except AssertionError:
            return -1

    until(lambda: in_flight() == 100, "the calls", 30)
    spark.sparkContext.cancelJobGroup("slow")
    # Spark itself takes spark.python.task.killTimeout (2 s) and up to 2 s more until it hangs up on its worker.
    assert until(lambda: in_flight() == 0, "the abort") < 6.0
    thread.join(10)
    assert failed


def test_early_limit_leaves_nothing_behind(spark: SparkSession, directory: DaemonDirectory):
    frame = spark.range(0, 1_000_000, 1, 1).select(sf.col("id").cast("string").alias("body"))
    limited = frame.select(ask(directory, stream_max_in_flight="64")("body").alias("out")).select("out.c0").limit(3)
    assert len(limited.collect()) == 3
    settings = directory.settings()
    until(lambda: directory.status(settings).streams == 0, "the end of the stream", 5.0)
    assert directory.status(settings).rows_answered < 20_000
