from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spark_helium import session, spark_launch
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
def _nothing_set_or_running(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "_refuse_foreign_context", lambda jvm: None)
    monkeypatch.setattr(spark_launch, "running_jvm", lambda: None)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.delenv("PYSPARK_SUBMIT_ARGS", raising=False)
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


def test_on_top_of_what_spark_submit_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text(
        "# spark.jars /no.jar\nspark.jars  /default.jar\nspark.sql.extensions=com.example.A,\\\n  com.example.B\n"
        "spark.helium.worker.python: /usr/bin/python\n"
    )
    ours = str(jar.locate())
    options = configured(RecordingBuilder())
    assert options == {
        "spark.jars": f"/default.jar,{ours}",
        "spark.sql.extensions": f"com.example.A,com.example.B,{session.EXTENSION}",
    }
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--conf spark.sql.extensions=com.example.C --verbose pyspark-shell")
    options = configured(RecordingBuilder())
    assert options["spark.sql.extensions"] == f"com.example.C,{session.EXTENSION}"
    assert options["spark.jars"] == f"/default.jar,{ours}"
    options = configured(RecordingBuilder(spark__jars="/b.jar", spark__sql__extensions="com.example.D"))
    assert options["spark.sql.extensions"] == f"com.example.D,{session.EXTENSION}"
    assert options["spark.jars"] == f"/b.jar,{ours}"


@pytest.mark.parametrize("load_defaults", [False, True])
def test_a_properties_file_stands_for_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, load_defaults: bool
) -> None:
    (tmp_path / "spark-defaults.conf").write_text("spark.jars /default.jar\nspark.a default\n")
    (tmp_path / "mine.conf").write_text("spark.a mine\n")
    switch = "--load-spark-defaults " if load_defaults else ""
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", f"--properties-file {tmp_path / 'mine.conf'} {switch}pyspark-shell")
    found = {"spark.a": "mine"} | ({"spark.jars": "/default.jar"} if load_defaults else {})
    assert spark_launch.settings_outside(None) == found


@pytest.mark.parametrize(
    ("words", "jars", "after"),
    [
        ("--jars /a.jar -v pyspark-shell --jars /x.jar", "/a.jar", "--jars /a.jar,{} -v pyspark-shell --jars /x.jar"),
        ("--jars=/a.jar pyspark-shell", "/a.jar", "--jars=/a.jar,{} pyspark-shell"),
        ("-c spark.jars=/a.jar pyspark-shell", "/a.jar", "-c spark.jars=/a.jar,{} pyspark-shell"),
        ("--conf=spark.jars=/a.jar pyspark-shell", "/a.jar", "--conf=spark.jars=/a.jar,{} pyspark-shell"),
        ("--jars /a.jar --conf spark.jars=/c.jar x", "/a.jar", "--jars /a.jar,{} --conf spark.jars=/c.jar x"),
        ("--name 'an app' pyspark-shell", "", "--name 'an app' pyspark-shell"),
    ],
)
def test_jars_of_the_submit_arguments(monkeypatch: pytest.MonkeyPatch, words: str, jars: str, after: str) -> None:
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", words)
    ours = str(jar.locate())
    for _ in range(2):
        assert configured(RecordingBuilder())["spark.jars"] == (f"{jars},{ours}" if jars else ours)
        assert shlex.split(os.environ["PYSPARK_SUBMIT_ARGS"]) == shlex.split(after.format(ours))


def test_the_same_jar_as_a_uri_is_not_added_again() -> None:
    uri = jar.locate().as_uri()
    assert configured(RecordingBuilder(spark__jars=uri))["spark.jars"] == uri


def test_submit_arguments_with_an_open_quote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--name 'app pyspark-shell")
    with pytest.raises(ConfigurationError, match="PYSPARK_SUBMIT_ARGS=.*No closing quotation"):
        configured(RecordingBuilder())


def test_a_remote_server_gets_only_settings() -> None:
    options = configured(RecordingBuilder(spark__remote="sc://example:15002"), model="a/b")
    assert options == {"spark.remote": "sc://example:15002", "spark.helium.model": "a/b"}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {"engin": "vllm"}, "did you mean 'engine'"),
        ({}, {"engine": "magic"}, "one of vllm, openai, simulator"),
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


def test_a_jvm_that_takes_no_jar(monkeypatch: pytest.MonkeyPatch) -> None:
    import py4j.java_gateway

    loader = SimpleNamespace(getClass=lambda: SimpleNamespace(getName=lambda: "com.example.Loader"))
    utils = SimpleNamespace(classIsLoadable=lambda name: False, getContextOrSparkClassLoader=lambda: loader)
    monkeypatch.setattr(spark_launch, "_utils", lambda jvm: utils)
    monkeypatch.setattr(py4j.java_gateway, "is_instance_of", lambda *of: False)
    with pytest.raises(ConfigurationError, match=r"com.example.Loader.*pass --jars /x.jar to spark-submit, or restart"):
        spark_launch.make_loadable(object(), session.EXTENSION, Path("/x.jar"))


PROLOGUE = """
import spark_helium
from pyspark.sql import SparkSession
from spark_helium.errors import ConfigurationError

def builder():
    return SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")

def check():
    spark = spark_helium.configure(builder(), engine="simulator").getOrCreate()
    print("TYPE", spark.sql("SELECT llm('{0}?', 'why') AS answer").schema["answer"].dataType)
    print("EXTENSIONS", spark.conf.get("spark.sql.extensions"))
"""


def run_program(tmp_path: Path, body: str, *command: str, **environment: str) -> str:
    """Runs ``body`` as a program in a process of its own, by ``command`` or Python; what it printed."""
    program = tmp_path / "program.py"
    program.write_text(PROLOGUE + textwrap.dedent(body))
    package = Path(session.__file__).parents[1]
    environment = {"PYTHONPATH": str(package), "PYSPARK_PYTHON": sys.executable, **environment}
    done = subprocess.run(
        [*(command or [sys.executable]), str(program)],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_under_spark_submit(tmp_path: Path) -> None:
    import pyspark

    submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
    # Its Python has pyspark from a zip, and its JVM is up before configure() is called.
    said = run_program(tmp_path, "check()", submit, "--conf", "spark.sql.extensions=com.example.Other")
    assert "TYPE StringType()" in said
    assert f"EXTENSIONS com.example.Other,{session.EXTENSION}" in said


def test_after_a_session_without_it(tmp_path: Path) -> None:
    said = run_program(
        tmp_path,
        """
        plain = builder().getOrCreate()
        try:
            check()
        except ConfigurationError as e:
            print("REFUSED", e)
        plain.stop()
        check()
        """,
    )
    assert "REFUSED a Spark session without spark_helium is running" in said
    assert "TYPE StringType()" in said


def test_jars_of_the_submit_arguments_leave_ours_on_the_class_path(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.jar", "w") as other:
        other.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\n\r\n")
    said = run_program(tmp_path, "check()", PYSPARK_SUBMIT_ARGS=f"--jars {tmp_path / 'other.jar'} pyspark-shell")
    assert "TYPE StringType()" in said


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
