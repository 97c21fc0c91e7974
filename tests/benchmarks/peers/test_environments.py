"""Environments are built from their locks, built again when a lock changes, and say why they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import environments
from benchmarks.peers.environments import BuildError, Peer


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of peers whose locks need no registry: ``tiny`` and ``twin`` share one, ``heavy`` has another."""
    for name in ("tiny", "heavy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "requirements.lock").write_text("# nothing\n")
    known = {"tiny": Peer("tiny", ("json",)), "heavy": Peer("heavy", ("json",)), "twin": Peer("tiny", ("json",))}
    known["told"] = Peer("told", reason="it needs a licence")
    monkeypatch.setattr(environments, "PEERS", known)
    monkeypatch.setattr(environments, "_HERE", tmp_path)
    monkeypatch.delenv("SPARK_HELIUM_PEERS", raising=False)
    return tmp_path


def test_what_was_never_built_says_how_to_build_it(peers: Path) -> None:
    assert environments.python_of("tiny") is None
    assert "make bench-peers" in str(environments.why_not("tiny"))


def test_a_built_environment_is_isolated_and_is_kept(peers: Path) -> None:
    python = environments.build("tiny")
    assert python == environments.python_of("tiny") == environments.python_of("twin")
    assert environments.why_not("tiny") is None
    said = subprocess.run([str(python), "-c", "import pyspark"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in said.stderr
    kept = python.parent / "kept"
    kept.touch()
    assert environments.build("twin") == python
    assert kept.exists()


def test_a_changed_lock_makes_the_environment_count_as_missing_until_it_is_built_again(peers: Path) -> None:
    old = environments.build("tiny").parent / "old"
    old.touch()
    (peers / "tiny" / "requirements.lock").write_text("# nothing else\n")
    assert environments.python_of("tiny") is None
    assert "lock changed" in str(environments.why_not("tiny"))
    environments.build("tiny")
    assert environments.why_not("tiny") is None
    assert not old.exists()


def test_a_lock_that_cannot_be_installed_gives_the_reason_and_does_not_keep_the_others(peers: Path) -> None:
    lock = peers / "heavy" / "requirements.lock"
    lock.write_text(f"gone @ file://{peers}/gone-1.0-py3-none-any.whl\n")
    reasons = environments.build_all()
    assert reasons["tiny"] is reasons["twin"] is None
    assert "gone-1.0" in str(reasons["heavy"])
    assert reasons["told"] == "it needs a licence"
    assert environments.python_of("heavy") is None
    assert not (peers / ".environments" / "heavy").exists()
    # The reason was that lock's.
    lock.write_text("# nothing\n")
    assert "gone-1.0" not in str(environments.why_not("heavy"))
    assert environments.build("heavy").exists()


def test_what_installs_but_does_not_load_is_not_built(peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environments.PEERS, "tiny", Peer("tiny", ("no_such_module",)))
    with pytest.raises(BuildError, match="no_such_module"):
        environments.build("tiny")
    assert "no_such_module" in str(environments.why_not("tiny"))


def test_a_failure_is_tried_again_by_the_next_build(peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = peers / "late-1.0-py3-none-any.whl"
    (peers / "tiny" / "requirements.lock").write_text(f"late @ file://{wheel}\n")
    with pytest.raises(BuildError):
        environments.build("tiny")
    _write_wheel(wheel)
    assert environments.build("tiny").exists()


def test_a_peer_that_is_only_listed_says_why(peers: Path) -> None:
    with pytest.raises(BuildError, match="licence"):
        environments.build("told")
    assert environments.python_of("told") is None


def test_an_unknown_name_is_answered_with_those_there_are(peers: Path) -> None:
    with pytest.raises(ValueError, match="tiny, heavy, twin, told"):
        environments.python_of("tinny")


def test_environments_may_stand_elsewhere(peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_HELIUM_PEERS", str(peers / "elsewhere"))
    assert environments.build("tiny").is_relative_to(peers / "elsewhere")


def test_the_command_builds_all_and_fails_only_where_one_should_have_been_built(
    peers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers"])
    assert command.main() == 0
    assert "told: cannot run: it needs a licence" in capsys.readouterr().out
    (peers / "heavy" / "requirements.lock").write_text(f"gone @ file://{peers}/gone-1.0-py3-none-any.whl\n")
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "heavy: cannot run" in said
    assert "twin: /" in said


@pytest.mark.parametrize("name", [n for n, p in environments.PEERS.items() if not p.reason])
def test_every_peer_pins_exactly_what_it_asks_for(name: str) -> None:
    folder = environments.runner_of(name).parents[1] / environments.PEERS[name].environment
    lines = (folder / "requirements.lock").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for line in (folder / "requirements.in").read_text().splitlines():
        if not line.startswith("#"):
            package, _, version = line.partition("==")
            assert pinned[package.partition("[")[0]] == version
    assert environments.runner_of(name).is_file()


def _write_wheel(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("late.py", "")
        wheel.writestr("late-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
        wheel.writestr("late-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("late-1.0.dist-info/RECORD", "")
