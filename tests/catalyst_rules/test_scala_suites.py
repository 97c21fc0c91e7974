"""Runs the Scala suites in ``scala/`` against the jar of this checkout; ``sbt test`` runs the same ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spark_helium.catalyst_rules import compiler, jar

HERE = Path(__file__).resolve().parent


def test_scala_suites(tmp_path: Path) -> None:
    done = compiler.run_suites(
        HERE / "scala", jar=jar.locate(), scratch=tmp_path, jvm_options=HERE / "jvm-options.txt", timeout=600
    )
    if done.returncode != 0:
        pytest.fail(f"RunSuites ended with status {done.returncode}:\n{done.stdout[-20_000:]}", pytrace=False)
    assert re.search(r"^[1-9]\d* passed, 0 failed$", done.stdout, re.MULTILINE), done.stdout[-2_000:]
