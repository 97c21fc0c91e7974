from __future__ import annotations

import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spark_helium import session
from spark_helium.catalyst_rules import jar
from spark_helium.errors import ConfigurationError


class RecordingBuilder:
    """What ``configure`` needs of a builder; ``SparkSession.builder`` itself is one object per process."""

    def __init__(self, **options: Any) -> None:
        self._options: dict[str, Any] = {k.replace("__", "."): v for k, v in options.items()}

    def config(self, key: str, value: Any) -> RecordingBuilder:
        self._options[key] = value
        return self


@pytest.fixture(autouse=True)
def _no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_refuse_foreign_context", lambda: None)
    monkeypatch.delenv("SPARK_REMOTE", raising=False)


def configured(builder: RecordingBuilder, **options: Any) -> dict[str, Any]:
    return session.configure(builder, **options)._options  # type: ignore[arg-type, attr-defined, no-any-return]


def test_on_top_of_what_is_set() -> None:
    before = RecordingBuilder(spark__jars="/a.jar", spark__sql__extensions="com.example.Other", spark__app__name="x")
    options = configured(before, engine="simulator", cache_enabled=False)
    assert options["spark.jars"] == f"/a.jar,{jar.locate()}"
    assert options["spark.sql.extensions"] == f"com.example.Other,{session.EXTENSION}"
    assert options["spark.app.name"] == "x"
    assert options["spark.helium.engine"] == "simulator"
    assert options["spark.helium.cache.enabled"] == "false"
    assert options["spark.helium.worker.python"] == sys.executable


def test_twice_is_once() -> None:
    builder = RecordingBuilder()
    assert configured(builder) == configured(builder)


def test_a_remote_server_gets_only_settings() -> None:
    options = configured(RecordingBuilder(spark__remote="sc://example:15002"), model="a/b")
    assert options == {"spark.remote": "sc://example:15002", "spark.helium.model": "a/b"}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {"engin": "vllm"}, "did you mean 'engine'"),
        ({}, {"engine": "magic"}, "one of vllm, simulator"),
        ({"spark__helium__engin": "vllm"}, {}, "unknown setting"),
        ({"spark__helium__maxTokens": "0"}, {}, "at least 1"),
    ],
)
def test_bad_settings(given: dict[str, str], options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        configured(RecordingBuilder(**given), **options)


def test_a_session_without_the_extension_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import pyspark

    foreign = SimpleNamespace(getConf=lambda: {"spark.sql.extensions": "com.example.Other"})
    monkeypatch.setattr(pyspark.SparkContext, "_active_spark_context", foreign)
    with pytest.raises(ConfigurationError, match="spark.stop"):
        configured(RecordingBuilder())


def start_session(path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Starts a plain session in a process of its own: no ``configure``, as a user of the jar alone would."""
    script = textwrap.dedent(
        f"""
        from pyspark.sql import SparkSession
        builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.jars", {str(path)!r}).config("spark.sql.extensions", {session.EXTENSION!r})
        for key, value in {settings!r}.items():
            builder = builder.config(key, value)
        spark = builder.getOrCreate()
        print("STARTED", spark.conf.get("spark.helium.engine"))
        """
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


def test_the_jar_alone_is_enough() -> None:
    done = start_session(jar.locate(), **{"spark.helium.engine": "simulator"})
    assert "STARTED simulator" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spark.helium.engine", "magic", "HELIUM_SETTING_INVALID"),
        ("spark.helium.cash.enabled", "true", "Did you mean spark.helium.cache.enabled?"),
    ],
)
def test_a_bad_setting_stops_the_session_from_starting(key: str, value: str, message: str) -> None:
    done = start_session(jar.locate(), **{key: value})
    assert done.returncode != 0
    assert message in done.stderr
    assert key in done.stderr


def test_another_spark_version_is_a_clear_error(tmp_path: Path) -> None:
    other = tmp_path / "other.jar"
    with zipfile.ZipFile(jar.locate()) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "META-INF/MANIFEST.MF":
                lines = data.decode().splitlines()
                data = (
                    "\r\n".join(
                        "Spark-Version: 4.1.3" if line.startswith("Spark-Version") else line for line in lines
                    ).encode()
                    + b"\r\n"
                )
            target.writestr(name, data)
    done = start_session(other)
    assert done.returncode != 0
    assert "HELIUM_INCOMPATIBLE_SPARK" in done.stderr
    assert "was built for Spark 4.1.3, and this session runs Spark 4.3.0" in done.stderr
