"""What a user gets who installs the package."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from spark_helium.catalyst_rules import compiler, jar
from spark_helium.version import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built by hatchling out of this checkout without a build environment of its own."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return folder


def test_import_is_cheap() -> None:
    program = (
        "import sys, spark_helium, spark_helium.functions\n"
        "print(sorted({'torch', 'vllm', 'transformers', 'pyarrow.flight'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_wheel_carries_the_jar_and_no_sources(dist: Path) -> None:
    with zipfile.ZipFile(dist / f"spark_helium-{__version__}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
        inside = wheel.read(f"spark_helium/catalyst_rules/jars/{jar.locate().name}")
    assert inside == jar.locate().read_bytes()
    assert sum(name.endswith(".jar") for name in names) == 1
    assert not [name for name in names if name.endswith(".scala") or name.startswith("tests/")]
    assert {
        "spark_helium/py.typed",
        "spark_helium/catalyst_rules/resources/spark-helium-settings.json",
        "spark_helium/demo/reviews.json",
        f"spark_helium-{__version__}.dist-info/licenses/LICENSE",
    } <= names


def test_sdist_carries_the_sources_and_no_jar(dist: Path) -> None:
    top = f"spark_helium-{__version__}"
    with tarfile.open(dist / f"{top}.tar.gz") as sdist:
        names = {name.removeprefix(f"{top}/") for name in sdist.getnames()}
    scala = {path.relative_to(ROOT).as_posix() for path in compiler.SourceTree().sources()}
    assert scala
    assert scala <= names
    assert {"build.sbt", "hatch_build.py", "Makefile", "requirements/cpu.lock", "project/build.properties"} <= names
    assert not [name for name in names if name.endswith(".jar")]


def test_wheel_works_where_there_is_no_checkout(dist: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(dist / f"spark_helium-{__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path)
    program = "from spark_helium.catalyst_rules import jar; j = jar.locate(); print(j); print(jar.spark_version(j))"
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    path, version = shown.stdout.split()
    assert Path(path).is_relative_to(tmp_path)
    assert version == compiler.PySpark.find().version
