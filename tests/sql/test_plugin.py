"""The Spark plugin on a cluster of two executor processes: daemons before tasks, health, GPUs, the end of things.

As in ``test_cluster.py``, executors may stand for nodes. GPUs are addresses that a discovery script makes up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import spark_helium
from spark_helium.gpu_executor import lifecycle

from .test_cluster import python_of_two_nodes, spark_home

# Arguments: the master, the settings, and the part to run. Prints what it saw as JSON.
PROGRAM = '''
import json
import os
import signal
import sys
import time

import psutil
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import spark_helium
from spark_helium.functions import llm

builder = SparkSession.builder.master(sys.argv[1])
for key, value in json.loads(sys.argv[2]).items():
    builder = builder.config(key, value)
spark = spark_helium.configure(builder, engine="simulator").getOrCreate()
board = spark._jvm.org.apache.spark.sql.helium.nodes.HealthBoard


def health():
    return {h["executor"]: h for h in json.loads(board.json())}


def wait(condition, seconds=60):
    """The health for which the condition holds."""
    end = time.monotonic() + seconds
    while not condition(seen := health()):
        assert time.monotonic() < end, f"not within {seconds} s; last {seen}"
        time.sleep(0.05)
    return seen


def all_up(executors):
    def condition(seen):
        daemons = [d for h in seen.values() for d in h["daemons"]]
        return len(seen) == executors and daemons and all(d["state"] == "up" for d in daemons)
    return condition


def daemon_of(seen, executor):
    (daemon,) = seen[executor]["daemons"]
    return daemon


def pids(seen):
    return {executor: daemon_of(seen, executor)["status"]["pid"] for executor in seen}


def supervisors():
    """Process ids, by that of the executor."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if "spark_helium.gpu_executor.supervisor" in process.cmdline():
                found[process.ppid()] = process.pid
        except psutil.Error:
            pass
    return found


def where(batches):
    """Adds the executor, and the GPUs of the task, to rows."""
    executor = next(p.pid for p in psutil.Process().parents() if p.name().startswith("java"))
    given = TaskContext.get().resources().get("gpu")
    for batch in batches:
        added = [[executor] * batch.num_rows, [",".join(given.addresses) if given else ""] * batch.num_rows]
        yield pa.RecordBatch.from_arrays([*batch.columns, *map(pa.array, added)], [*batch.schema.names, "e", "g"])


def ask(rows=40, partitions=2):
    """Rows of a query, with where they were before an exchange, and where their calls were."""
    df = spark.range(0, rows, 1, partitions).withColumn("p", F.concat(F.lit(str(time.time())), F.col("id")))
    df = df.mapInArrow(where, "id long, p string, e long, g string").withColumnsRenamed({"e": "e0", "g": "g0"})
    df = df.repartition(partitions).withColumn("a", llm("{0}!", "p"))
    df = df.mapInArrow(where, "id long, p string, e0 long, g0 string, a string, e long, g string")
    return [row.asDict() for row in df.collect()]


def nodes():
    saw = {"before": wait(lambda s: all_up(2)(s) and all(
        [e["state"] for e in daemon_of(s, x)["status"]["engines"]] == ["ready"] for x in s))}
    saw["rows"] = ask()
    saw["after"] = wait(lambda s: sum(daemon_of(s, x)["status"]["rows_answered"] for x in s) >= 40)
    killed = pids(saw["after"])["0"]
    os.kill(killed, signal.SIGKILL)
    saw["again"] = wait(lambda s: all_up(2)(s) and pids(s)["0"] != killed)
    saw["rows again"] = ask()
    time.sleep(2.5)  # the sink's period
    # An executor that is killed takes its supervisor with it, and its daemon; another executor comes.
    children = supervisors()
    executor, lost = next(iter(children.items()))
    os.kill(executor, signal.SIGKILL)
    wait(lambda s: "2" in s and all_up(2)(s))
    end = time.monotonic() + 15
    while psutil.pid_exists(lost) and time.monotonic() < end:
        time.sleep(0.05)
    saw["lost"] = psutil.pid_exists(lost)
    saw["last"] = health()
    saw["children"] = list(supervisors().values())
    return saw


def gpus():
    saw = {"before": wait(all_up(2))}
    saw["rows"] = ask()
    time.sleep(1)
    saw["after"] = health()
    running = pids(saw["after"]).values()
    saw["environments"] = {pid: psutil.Process(pid).environ().get("CUDA_VISIBLE_DEVICES") for pid in running}
    return saw


def dynamic():
    rows = ask()
    wait(lambda s: any(h["daemons"] for h in s.values()))
    return {"rows": rows, "after": health(), "supervisors": supervisors()}


try:
    print("RESULTS", json.dumps(globals()[sys.argv[3]]()))
finally:
    spark.stop()
'''

PLUGIN = {
    "spark.plugins": "org.apache.spark.sql.helium.HeliumPlugin",
    "spark.helium.plugin.healthInterval": "300ms",
    "spark.helium.cache.disk.enabled": "false",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.executor.memory": "600m",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
}


@contextmanager
def home_directory() -> Iterator[Path]:
    # A short path: that of a Unix socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hp") as home:
        yield Path(home)


def run_program(home: Path, part: str, master: str, settings: dict[str, str]) -> tuple[dict[str, Any], str]:
    """What the program saw, and what it logged."""
    environment = {
        "PYTHONPATH": str(Path(spark_helium.__file__).parents[1]),
        "PYSPARK_PYTHON": sys.executable,  # of mapInArrow
        "SPARK_HOME": str(spark_home(home)),
    }
    program = home / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(program), master, json.dumps(PLUGIN | settings), part],
        env={**os.environ, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    said = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    return json.loads(said[-1].removeprefix("RESULTS ")), done.stderr


def daemons_in(health: dict[str, Any]) -> list[dict[str, Any]]:
    return [daemon for node in health.values() for daemon in node["daemons"]]


def pids(health: dict[str, Any]) -> set[int]:
    return {daemon["status"]["pid"] for daemon in daemons_in(health)}


def runtime_directories(home: Path) -> list[Path]:
    return [path for path in home.glob(f"*/helium-{os.getuid()}") if path.is_dir()]


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[dict[str, Any], str, Path]]:
    """Two executors that stand for two nodes."""
    with home_directory() as home:
        (home / "metrics").mkdir()
        settings = {
            "spark.helium.worker.python": str(python_of_two_nodes(home)),
            "spark.metrics.conf.executor.sink.csv.class": "org.apache.spark.metrics.sink.CsvSink",
            "spark.metrics.conf.executor.sink.csv.period": "1",
            "spark.metrics.conf.executor.sink.csv.unit": "seconds",
            "spark.metrics.conf.executor.sink.csv.directory": str(home / "metrics"),
        }
        saw, log = run_program(home, "nodes", "local-cluster[2,1,2048]", settings)
        yield saw, log, home


def test_each_node_has_a_daemon_before_a_task_comes(nodes: tuple[dict[str, Any], str, Path]) -> None:
    saw, _, home = nodes
    assert len(pids(saw["before"])) == 2
    assert all(daemon["status"]["rows_answered"] == 0 for daemon in daemons_in(saw["before"]))
    assert {Path(daemon["log"]).parent for daemon in daemons_in(saw["before"])} <= set(runtime_directories(home))


def test_tasks_use_that_daemon(nodes: tuple[dict[str, Any], str, Path]) -> None:
    saw, _, home = nodes
    assert len({row["e"] for row in saw["rows"]}) == 2
    assert len(saw["rows"]) == 40
    assert pids(saw["after"]) == pids(saw["before"])
    assert sum(daemon["status"]["rows_answered"] for daemon in daemons_in(saw["after"])) == 40
    assert all(len(list(directory.glob("*.log"))) == 1 for directory in runtime_directories(home))


def test_a_killed_daemon_is_noticed_and_back(nodes: tuple[dict[str, Any], str, Path]) -> None:
    saw, log, _ = nodes
    (killed,) = pids(saw["after"]) - pids(saw["again"])
    assert f"is down: process {killed} was killed or crashed" in log
    assert len(saw["rows again"]) == 40


def test_health_is_in_the_metrics_of_spark(nodes: tuple[dict[str, Any], str, Path]) -> None:
    _, _, home = nodes

    def most(gauge: str) -> list[int]:
        # The greatest value of each executor, those of the two that were there all the time.
        files = (home / "metrics").glob(f"*.[01].plugin.org.apache.spark.sql.helium.HeliumPlugin.{gauge}.csv")
        return [max(int(line.split(",")[1]) for line in file.read_text().splitlines()[1:]) for file in files]

    assert most("up") == [1, 1]
    assert most("enginesReady") == [1, 1]
    assert sum(most("rowsAnswered")) >= 40
    assert min(most("kvTokensMax")) > 0


def test_the_end_of_an_executor_ends_its_child_and_its_daemon(nodes: tuple[dict[str, Any], str, Path]) -> None:
    saw, _, home = nodes
    assert not saw["lost"]
    assert len(saw["last"]) == len(saw["children"]) == 2
    assert "2" in saw["last"]  # the executor that came for it
    assert not any(lifecycle.known_daemons(directory) for directory in runtime_directories(home))


def test_two_executors_of_a_host_share_a_daemon() -> None:
    with home_directory() as home:
        settings = {"spark.helium.executor.directory": str(home / "d")}
        saw, _ = run_program(home, "gpus", "local-cluster[2,1,2048]", settings)
        assert len(daemons_in(saw["before"])) == 2
        assert len(pids(saw["before"])) == 1
        assert pids(saw["after"]) == pids(saw["before"])
        assert list(saw["environments"].values()) == [os.environ.get("CUDA_VISIBLE_DEVICES")]


def gpu_settings(home: Path) -> dict[str, str]:
    """Workers with a GPU each: the script gives the next number each time."""
    script = home / "gpus.sh"
    script.write_text(
        f'#!/bin/sh\nn=0\nwhile ! mkdir "{home}/gpu$n" 2>/dev/null; do n=$((n + 1)); done\n'
        'echo "{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"$n\\"]}"\n'
    )
    script.chmod(0o700)
    return {
        "spark.helium.executor.directory": str(home / "d"),
        "spark.worker.resource.gpu.amount": "1",
        "spark.worker.resource.gpu.discoveryScript": str(script),
    }


@pytest.mark.parametrize("by_profile", [True, False], ids=["tasks ask", "only executors ask"])
def test_executors_with_a_gpu_each_have_a_daemon_each(by_profile: bool) -> None:
    with home_directory() as home:
        settings = gpu_settings(home) | {"spark.executor.resource.gpu.amount": "1"}
        if by_profile:
            settings["spark.helium.resources.taskGpus"] = "0.5"
        saw, _ = run_program(home, "gpus", "local-cluster[2,1,2048]", settings)
        assert sorted(daemon["gpus"] for daemon in daemons_in(saw["before"])) == ["0", "1"]
        # The tasks looked for these, and for no others.
        assert pids(saw["after"]) == pids(saw["before"])
        assert sum(daemon["status"]["rows_answered"] for daemon in daemons_in(saw["after"])) == len(saw["rows"])
        assert sorted(saw["environments"].values()) == ["0", "1"]
        assert len(list((home / "d").glob("*.log"))) == 2
        # Only the stage with calls asked for GPUs.
        assert {row["g0"] for row in saw["rows"]} == {""}
        assert {row["g"] for row in saw["rows"]} == ({"0", "1"} if by_profile else {""})


def test_with_dynamic_allocation_calls_run_where_gpus_are_and_other_stages_elsewhere() -> None:
    with home_directory() as home:
        settings = gpu_settings(home) | {
            "spark.helium.resources.taskGpus": "1",
            "spark.executor.cores": "1",
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            "spark.dynamicAllocation.maxExecutors": "2",
        }
        saw, _ = run_program(home, "dynamic", "local-cluster[2,2,2048]", settings)
        rows = saw["rows"]
        assert len(rows) == 40
        assert {row["g0"] for row in rows} == {""}
        assert {row["g"] for row in rows} <= {"0", "1"}
        assert {row["e0"] for row in rows}.isdisjoint(row["e"] for row in rows)
        assert {daemon["gpus"] for daemon in daemons_in(saw["after"])} <= {"0", "1"}
        # An executor without a GPU has no daemon.
        assert {int(pid) for pid in saw["supervisors"]}.isdisjoint(row["e0"] for row in rows)
