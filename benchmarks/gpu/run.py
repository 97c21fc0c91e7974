"""On the GPU machine: joins a pack, makes its environment without a network, and runs ``spark-helium bench``.

Only the standard library, Python 3.11 or newer: nothing else is there before the environment exists.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import pieces
from benchmarks.gpu.pieces import PackError

STAMP = ".built-from"


def run(pack: Path, work: Path, suite: str, out: Path, minutes: float, more: Sequence[str]) -> int:
    """Run a suite of a pack; ``minutes`` counts from here, joining and installing included. Returns its exit status.

    Raises
    ------
    PackError
        The pack is damaged, is for another Python, or cannot be installed.
    """
    began = time.monotonic()
    manifest = prepare(pack, work)
    left = minutes - (time.monotonic() - began) / 60 if minutes else 0.0
    if minutes and left <= 0:
        raise PackError(f"the {minutes:g} minutes were over before the suite began; run it again, {work} is ready now")
    print(f"ready after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    command = [str(work / "venv/bin/python"), "-m", "spark_helium.cli", "bench", suite, "--scale", "gpu"]
    command += ["--model", str(work / "model"), "--dummy-weights", "--out", str(out.absolute())]
    command += ["--minutes", f"{left:.2f}"] if minutes else []
    if (work / "tables").is_dir():
        command += ["--data", str(work / "tables")]
    status = subprocess.run([*command, *more], cwd=work / "checkout", env=environment(work), check=False).returncode
    if status == 0:
        _note(out, {"weights": "random", "model": manifest["model"], "commit": manifest["commit"]})
    return status


def prepare(pack: Path, work: Path) -> dict[str, Any]:
    """Join, check, unpack and install; what an earlier call has done is left alone. Returns the manifest."""
    manifest = pieces.read_manifest(pack)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest["python"] != here:
        raise PackError(
            f"the pack is for Python {manifest['python']}, and this is {here} ({sys.executable}); "
            f"use python{manifest['python']} here, or pack again with --python {here}"
        )
    work.mkdir(parents=True, exist_ok=True)
    stamp = pieces.sha256(pack / pieces.MANIFEST)
    if (work / STAMP).is_file() and (work / STAMP).read_text() == stamp:
        return manifest
    pieces.join(pack, work)
    for name in ("checkout", "java"):
        if (work / f"{name}.tar.gz").is_file():
            shutil.rmtree(work / name, ignore_errors=True)
            with tarfile.open(work / f"{name}.tar.gz") as archive:
                archive.extractall(work / name, filter="data")
    _install(work, beside_installed=manifest["beside_installed"])
    (work / STAMP).write_text(stamp)
    return manifest


def _install(work: Path, *, beside_installed: bool) -> None:
    wheels = sorted((work / "wheels").glob("*.whl"))
    uv = _uv(work, wheels)
    shutil.rmtree(work / "venv", ignore_errors=True)
    quietly = [str(uv), "--quiet", "--offline", "--no-config"]
    site = ["--system-site-packages"] if beside_installed else []
    _call([*quietly, "venv", "--python", sys.executable, *site, str(work / "venv")])
    # All wheels and nothing else: the pack was resolved where there was a network.
    python = str(work / "venv/bin/python")
    install = [*quietly, "pip", "install", "--python", python, "--no-index", "--no-deps"]
    _call([*install, *(str(wheel) for wheel in wheels)])


def _uv(work: Path, wheels: Sequence[Path]) -> Path:
    """uv's program out of its wheel: it needs neither pip nor ensurepip, and unpacks wheels side by side."""
    target = work / "uv"
    for wheel in wheels:
        if wheel.name.startswith("uv-"):
            with zipfile.ZipFile(wheel) as archive:
                program = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
                target.write_bytes(archive.read(program))
            target.chmod(0o755)
            return target
    raise PackError(f"{work / 'wheels'} has no wheel of uv; pack again")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise PackError(f"`{' '.join(command[:7])} ...` failed: {said}")


def environment(work: Path) -> dict[str, str]:
    """The variables of the suite: its own Java and Python, and no look at the network."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    variables["PATH"] = f"{work / 'venv/bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    variables["PYTHONPATH"] = str(work / "checkout")
    variables["PYSPARK_PYTHON"] = str(work / "venv/bin/python")
    # Greedy answers need no sampler, and FlashInfer's would be compiled on its first use.
    variables.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if (work / "java").is_dir():
        variables["JAVA_HOME"] = str(work / "java")
    return variables


def _note(out: Path, said: dict[str, Any]) -> None:
    """Into every result: what the pack was made of, as there is no checkout with a commit here."""
    for path in out.rglob("*.json"):
        record = json.loads(path.read_text())
        if "environment" in record:
            record["environment"] |= said
            path.write_text(json.dumps(record, indent=1) + "\n")
