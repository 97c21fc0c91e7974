"""Fixtures that every suite shares: one Spark session per run, classic or Connect, on the simulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from pyspark.sql import SparkSession

import spark_helium
from tests.gpu_executor.daemons import stop_daemons

# For tests that run a UDF of their own; spark_helium's workers know their Python from configure().
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

# Time says nothing on a shared machine.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--session",
        choices=["classic", "connect"],
        default="classic",
        help="kind of Spark session that the tests of SQL and DataFrames run on",
    )
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        help="write the plans below tests/sql/golden anew instead of comparing with them",
    )


@pytest.fixture(scope="session")
def session_kind(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--session"))


@pytest.fixture(scope="session")
def spark(session_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session on the simulator, with a daemon, a prompt cache, a warehouse and a metastore of its own."""
    home = tmp_path_factory.mktemp("spark")
    builder = SparkSession.builder
    builder = builder.master("local[2]") if session_kind == "classic" else builder.remote("local[2]")
    builder = (
        builder.config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.warehouse.dir", str(home / "warehouse"))
    )
    session = spark_helium.configure(
        builder,
        engine="simulator",
        executor_directory=_short_directory(home),
        cache_directory=str(home / "cache"),
    ).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module", autouse=True)
def engines_end_with_their_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A real engine takes more than 2 GB: it does not wait for its idle time beside those of the next modules."""
    yield
    items = [item for item in request.session.items if item.path == request.path]
    if not any(item.get_closest_marker("engine") for item in items):
        return
    for directory in {alive.parent for alive in tmp_path_factory.getbasetemp().rglob("*.alive")}:
        stop_daemons(directory, 60)


def _short_directory(home: Path) -> str:
    """A Unix socket's path may have 107 bytes, and pytest's own directories can be longer than that."""
    return str(home / "d")


@pytest.fixture
def set_setting(spark: SparkSession) -> Iterator[Callable[[str, str], None]]:
    """Changes a setting of the shared session for one test."""
    before: dict[str, str | None] = {}

    def change(key: str, value: str) -> None:
        before.setdefault(key, spark.conf.get(key, None))
        spark.conf.set(key, value)

    yield change
    for key, value in before.items():
        if value is None:
            spark.conf.unset(key)
        else:
            spark.conf.set(key, value)
