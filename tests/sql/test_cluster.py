"""Rows and calls on a Spark cluster of several processes: two executors that stand for two nodes.

``local-cluster`` starts executors as processes of their own, which get the jar from the driver and start their own
Python workers. All of it is one host, and a host has one daemon; here each executor's workers get a runtime directory
of their own, where they start a daemon that the other executor does not see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import spark_helium

from . import oracle

TEMPLATE = "{0} and then {1}"
PARTITIONS = 8

# Arguments: the settings and the template. Prints what `Run` holds, by name.
PROGRAM = """
import json
import sys
from collections.abc import Iterator

import psutil
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.functions import llm

builder = SparkSession.builder.master("local-cluster[2,1,2048]")
for key, value in json.loads(sys.argv[1]).items():
    builder = builder.config(key, value)
spark = spark_helium.configure(builder, engine="simulator").getOrCreate()


def here(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    # Runs in the task of the calls, and adds which partition and which executor that is.
    executor = next(p.pid for p in psutil.Process().parents() if p.name().startswith("java"))
    partition = TaskContext.get().partitionId()
    for batch in batches:
        added = [pa.array([number] * batch.num_rows, pa.int32()) for number in (partition, executor)]
        yield pa.RecordBatch.from_arrays([*batch.columns, *added], [*batch.schema.names, "partition", "executor"])


def run(p: Column, q: Column, partitions: int = 1) -> dict[str, object]:
    df = spark.range(0, 1000, 1, partitions).select(p.alias("p"), q.cast("string").alias("q"))
    df = df.withColumn("a", llm(sys.argv[2], "p", "q"))
    placed = df.mapInArrow(here, "p string, q string, answer string, partition int, executor int")
    with spark_helium.measure(spark) as usage:
        rows = [row.asDict() for row in placed.collect()]
    return {"rows": rows, "sent": usage.calls_sent}


ID = F.col("id")
results = {}
spark.conf.set("spark.helium.cluster.engines", "2")
results["hot"] = run(F.when(ID % 10 < 9, F.lit("hot")).otherwise(F.concat(F.lit("cold "), ID % 7)), ID)
results["equal"] = run(F.concat(F.lit("equal "), ID % 10), ID % 60)
spark.conf.set("spark.helium.optimizer.placeByPrefix.enabled", "false")
results["not placed"] = run(F.concat(F.lit("not placed "), ID % 10), ID % 60, partitions=8)
spark.conf.unset("spark.helium.optimizer.placeByPrefix.enabled")
spark.conf.set("spark.helium.cluster.engines", "0")
results["one host"] = run(F.concat(F.lit("one host "), ID % 10), ID)
print("RESULTS", json.dumps(results))
spark.stop()
"""


@dataclass(frozen=True)
class Row:
    p: str
    q: str
    answer: str
    partition: int
    executor: int


@dataclass(frozen=True)
class Run:
    """The rows of one query, with where their calls ran, and how many calls the engines got."""

    rows: list[Row]
    sent: int

    @property
    def sizes(self) -> Counter[int]:
        """Rows by partition."""
        return Counter(row.partition for row in self.rows)

    @property
    def executors(self) -> set[int]:
        return {row.executor for row in self.rows}

    @property
    def prompts(self) -> set[tuple[str, str]]:
        return {(row.p, row.q) for row in self.rows}


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    # A short path: that of a Unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hc") as home:
        results = run_program(Path(home))
    return {name: Run([Row(**row) for row in of["rows"]], of["sent"]) for name, of in results.items()}


def run_program(home: Path) -> dict[str, Any]:
    settings = {
        "spark.helium.cache.disk.enabled": "false",  # what one node answered must not help the other
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # More than the two cores: of two partitions none can have more than twice the mean.
        "spark.default.parallelism": str(PARTITIONS),
        # Both executors are there when the first query is planned.
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
        # So often that the driver has to read our accumulator from heartbeats, too.
        "spark.executor.heartbeatInterval": "1s",
        "spark.helium.worker.python": str(python_of_two_nodes(home)),
    }
    environment = {
        "PYTHONPATH": str(Path(spark_helium.__file__).parents[1]),
        "PYSPARK_PYTHON": sys.executable,  # of mapInArrow
        "SPARK_HOME": str(spark_home(home)),
    }
    program = home / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), json.dumps(settings), TEMPLATE],
        env={**os.environ, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    return json.loads(said[-1].removeprefix("RESULTS "))


def python_of_two_nodes(home: Path) -> Path:
    """A Python that sees another runtime directory under each executor.

    Spark runs an executor, and its workers, in a directory that is named by the executor's number.
    """
    python = home / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'export XDG_RUNTIME_DIR="{home}/$(basename "$PWD")"\n'
        'mkdir -p -m 700 "$XDG_RUNTIME_DIR"\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o700)
    return python


def spark_home(home: Path) -> Path:
    """A home for Spark of our own: ``local-cluster`` makes the executors' directories in it."""
    import pyspark

    installed = Path(pyspark.__file__).parent
    own = home / "spark"
    own.mkdir()
    for part in ("bin", "jars", "python", "sbin"):
        if (installed / part).exists():
            (own / part).symlink_to(installed / part)
    return own


def test_a_small_input_in_one_partition_is_spread_over_the_engines(runs: dict[str, Run]) -> None:
    run = runs["hot"]
    assert len(run.executors) == 2
    assert len(run.sizes) == PARTITIONS  # adaptive execution, which is on, would make them one


def test_a_frequent_leading_column_does_not_skew_the_partitions(runs: dict[str, Run]) -> None:
    run = runs["hot"]
    assert Counter(row.p == "hot" for row in run.rows)[True] == 900
    assert max(run.sizes.values()) <= 2 * 1000 / PARTITIONS


def test_equal_prompts_are_sent_once_over_both_engines(runs: dict[str, Run]) -> None:
    assert len(runs["equal"].prompts) == 60
    assert len(runs["equal"].executors) == 2
    assert runs["equal"].sent == 60
    # Else each engine would have had to answer each of them.
    assert len(runs["not placed"].executors) == 2
    assert runs["not placed"].sent == 2 * 60


def test_two_executors_of_one_host_are_one_engine(runs: dict[str, Run]) -> None:
    assert len(runs["one host"].sizes) == 1
    assert runs["one host"].sent == len(runs["one host"].prompts) == 1000


@pytest.mark.parametrize("name", ["hot", "equal", "not placed", "one host"])
def test_the_answers_are_those_of_the_prompts(runs: dict[str, Run], name: str) -> None:
    rows = runs[name].rows
    assert len(rows) == 1000
    assert all(row.answer == oracle.llm(TEMPLATE, row.p, row.q) for row in rows)
