"""A pack without wheels is made here and used by the standard library alone, in another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import pack, pieces
from benchmarks.gpu import run as runner
from benchmarks.gpu.pieces import PackError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    request = pack.Request(folder, HERE, piece_mib=0.25, wheels=False, java=False)
    manifest = pack.pack(request, small_tokenizer)
    assert manifest["commit"]
    return folder


def test_what_is_packed(packed: Path, tmp_path: Path):
    assert max(path.stat().st_size for path in packed.rglob("*") if path.is_file()) <= 1 << 18
    manifest = pieces.join(packed, tmp_path)
    assert len(manifest["files"]["checkout.tar.gz"]["pieces"]) > 1
    assert json.loads((tmp_path / "model/config.json").read_text())["num_hidden_layers"] == 36
    shutil.unpack_archive(tmp_path / "checkout.tar.gz", tmp_path / "checkout", filter="data")
    assert (tmp_path / "checkout/benchmarks/command.py").is_file()
    assert list((tmp_path / "checkout/spark_helium/catalyst_rules/jars").glob("*.jar"))


def test_a_directory_in_use_is_refused(packed: Path):
    with pytest.raises(PackError, match="not empty"):
        pack.pack(pack.Request(packed))


def test_the_pack_runs_with_the_standard_library_alone(packed: Path, tmp_path: Path):
    # -S: no site-packages; the folder of the pack is the only place to import from.
    asked = [sys.executable, "-S", "-E", "-m", "benchmarks.gpu", "run", ".", "relational", "--work", str(tmp_path)]
    done = subprocess.run(asked, cwd=packed, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has no wheel of uv" in done.stderr  # so far it came without one, and no further
    assert (tmp_path / "checkout/benchmarks/command.py").is_file()


def test_another_python_is_refused(tmp_path: Path):
    (tmp_path / "pack").mkdir()
    pieces.write_manifest(tmp_path / "pack", python="3.1")
    with pytest.raises(PackError, match=f"pack is for Python 3.1, and this is {HERE}.*pack again with --python {HERE}"):
        runner.prepare(tmp_path / "pack", tmp_path / "work")


def _wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def test_run_installs_and_runs_the_suite(tmp_path: Path):
    """uv is a script that writes its arguments down and makes a Python that does the same for the suite."""
    folder = tmp_path / "pack"
    said = tmp_path / "said"
    out = tmp_path / "out"
    (out / "relational").mkdir(parents=True)
    (out / "relational" / "x.json").write_text('{"environment": {"cores": 16}}')
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "python $* PWD=$PWD PATH=$PATH" >> {said}\n')
    uv = f"""#!/bin/sh
echo "uv $*" >> {said}
for last; do :; done
case "$*" in *" venv "*) mkdir -p $last/bin; cp {python} $last/bin/python; chmod +x $last/bin/python;; esac
"""
    _wheel(folder / "wheels", "uv", {"uv-1.0.data/scripts/uv": uv})
    _wheel(folder / "wheels", "vllm", {})
    pieces.write_manifest(folder, python=HERE, beside_installed=False, model="qwen3-8b", commit="abc")
    asked = ["run", str(folder), "relational", "--out", str(out), "--minutes", "9", "--", "--rounds", "1"]
    (folder / "unpacked" / "checkout").mkdir(parents=True)
    assert command.main(asked) == 0
    lines = said.read_text().splitlines()
    assert len(lines) == 3
    work = folder / "unpacked"
    assert "--offline" in lines[0]
    assert lines[0].endswith(f"venv --python {sys.executable} {work}/venv")
    assert "--no-index --no-deps" in lines[1]
    assert lines[1].endswith("uv-1.0-py3-none-any.whl " + str(work / "wheels/vllm-1.0-py3-none-any.whl"))
    assert f"bench relational --scale gpu --model {work}/model --dummy-weights --out {out} --minutes " in lines[2]
    assert 8.5 < float(lines[2].partition("--minutes ")[2].partition(" ")[0]) <= 9
    assert "--rounds 1 PWD=" in lines[2]
    assert f"PWD={work}/checkout PATH={work}/venv/bin:" in lines[2]
    assert json.loads((out / "relational" / "x.json").read_text())["environment"] == {
        "cores": 16, "weights": "random", "model": "qwen3-8b", "commit": "abc",
    }  # fmt: skip
    assert command.main(asked) == 0
    assert len(said.read_text().splitlines()) == 4, "a second run installs nothing"


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main(["run", str(tmp_path), "relational"]) == 1
    assert "is no pack" in capsys.readouterr().err


def test_left_out():
    wanted = ["torch==2.13.0", "ray-x==1.0", "numpy==2.3.1"]
    assert pack.left_out(wanted, pack.pins("torch==2.13.0+cu130\nRay_X==1.0\nnumpy==2.3.0\n-e git+x\n")) == [
        "numpy==2.3.1"
    ]


def test_the_lock_has_what_the_package_needs():
    names = {pin.partition("==")[0] for pin in pack.pins(pack.LOCK.read_text())}
    assert {"vllm", "torch", "pyspark", "google-re2", "openai", "uv", "xgrammar", "nvidia-cublas"} <= names
    # An older cuda-python overwrites modules of cuda-bindings.
    [cuda] = [pin for pin in pack.pins(pack.LOCK.read_text()) if pin.startswith("cuda-python==")]
    assert int(cuda.partition("==")[2].partition(".")[0]) >= 13
    assert not any("+cpu" in pin for pin in pack.pins(pack.LOCK.read_text()))
