"""The peers' environments: built by uv from their locks, one folder each, and the reason where one cannot be.

An environment stands in ``benchmarks/peers/.environments`` (or in ``SPARK_HELIUM_PEERS``) and has a stamp of what it
was built from; one whose lock changed since counts as missing. A build that fails leaves the reason beside it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_OVERRIDES = _HERE.parents[1] / "requirements" / "overrides.txt"
_STAMP = ".built-from"


@dataclass(frozen=True)
class Peer:
    """``environment``: the folder of the lock, which two peers may share. ``imports``: what must load once built.

    ``in_process``: the engine runs in the peer's process, so that the job must say ``engine`` and no server counts.
    ``reason``: why there is no runner, for systems that are listed only.
    """

    environment: str
    imports: tuple[str, ...] = ()
    in_process: bool = False
    reason: str | None = None


PEERS = {
    "langgraph": Peer("langgraph", ("langgraph.graph", "langchain_openai", "pyarrow.parquet")),
    "daft": Peer("daft", ("daft.functions", "vllm", "pyarrow.parquet"), in_process=True),
    "daft-http": Peer("daft-http", ("daft.functions", "openai", "pyarrow.parquet")),
    "ray": Peer("ray", ("ray.data.llm", "vllm", "pyarrow.parquet"), in_process=True),
    "ray-http": Peer("ray", ("ray.data.llm", "aiohttp", "pyarrow.parquet")),
    "lotus": Peer(
        "lotus",
        reason="LOTUS has no runner: its operators put columns and an instruction into prompts of their own. "
        "They cannot ask the messages of a job, and figures of theirs would be those of other prompts",
    ),
}


class BuildError(RuntimeError):
    """An environment that could not be built; the message is the reason."""


def names() -> list[str]:
    """All peers, those that cannot run as well."""
    return list(PEERS)


def runner_of(name: str) -> Path:
    """The script that takes a job's folder."""
    _peer(name)
    return _HERE / name / "run.py"


def python_of(name: str) -> Path | None:
    """The interpreter of the peer's environment, or ``None``: ``why_not`` says the reason."""
    return None if why_not(name) else _folder(name) / "bin" / "python"


def why_not(name: str) -> str | None:
    """Why the peer cannot run, or ``None`` if it can."""
    peer = _peer(name)
    if peer.reason:
        return peer.reason
    lock = _lock(name)
    if not lock.is_file():
        return f"there is no {lock}: make bench-peers-lock writes it from requirements.in"
    failure = _failure(name)
    wanted = _fingerprint(name)
    if failure.is_file():
        of, _, reason = failure.read_text().partition("\n")
        if of == wanted:
            return reason.strip()
    stamp = _folder(name) / _STAMP
    if not stamp.is_file():
        return "its environment is not built: make bench-peers builds it"
    if stamp.read_text().strip() != wanted:
        return "its lock changed after its environment was built: make bench-peers builds it again"
    return None


def build(name: str) -> Path:
    """The peer's interpreter, once its environment agrees with its lock.

    Raises
    ------
    BuildError
        uv or an import failed, or the peer is listed only; ``why_not`` says the same from then on.
    """
    python = python_of(name)
    if python:
        return python
    peer = _peer(name)
    if peer.reason:
        raise BuildError(peer.reason)
    lock, folder = _lock(name), _folder(name)
    if not lock.is_file():
        raise BuildError(str(why_not(name)))
    shutil.rmtree(folder, ignore_errors=True)
    _failure(name).unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    try:
        _run([uv_program(), "venv", "--quiet", "--python", sys.executable, str(folder)])
        # The lock is the whole environment; what it leaves out on purpose must not come in again.
        command = [uv_program(), "pip", "install", "--quiet", "--python", str(python), "--no-deps", *torch_arguments()]
        _run([*command, "--requirements", str(lock)])
        for module in peer.imports:
            _run([str(python), "-c", f"import {module}"])
    except BuildError as error:
        _failure(name).write_text(f"{_fingerprint(name)}\n{error}\n")
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / _STAMP).write_text(_fingerprint(name) + "\n")
    return python


def build_all() -> dict[str, str | None]:
    """Every peer with the reason why it cannot run, or ``None``; one that fails does not keep the others."""
    for name in PEERS:
        try:
            build(name)
        except BuildError:
            continue
    return {name: why_not(name) for name in PEERS}


def lock(name: str) -> None:
    """Resolves ``requirements.in`` anew, as ``make lock`` does; versions that still fit stay.

    Raises
    ------
    BuildError
        The requirements contradict each other, or uv is not there.
    """
    source = _HERE / _peer(name).environment / "requirements.in"
    command = [uv_program(), "pip", "compile", str(source), "--quiet", "--no-annotate", "--override", str(_OVERRIDES)]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", *torch_arguments()]
    _run([*command, "--output-file", str(_lock(name))], UV_CUSTOM_COMPILE_COMMAND="make bench-peers-lock")


def torch_arguments() -> list[str]:
    """How uv finds the CPU build of torch where no folder of wheels holds it; see the Makefile."""
    return [] if _links() else ["--torch-backend=cpu"]


def _peer(name: str) -> Peer:
    try:
        return PEERS[name]
    except KeyError:
        raise ValueError(f"there is no peer {name!r}; there are {', '.join(PEERS)}") from None


def _environments() -> Path:
    return Path(os.environ.get("SPARK_HELIUM_PEERS") or _HERE / ".environments").absolute()


def _folder(name: str) -> Path:
    return _environments() / _peer(name).environment


def _failure(name: str) -> Path:
    return _environments() / f"{_peer(name).environment}.failed"


def _lock(name: str) -> Path:
    return _HERE / _peer(name).environment / "requirements.lock"


def _fingerprint(name: str) -> str:
    """Of all that decides what is in the environment: the lock, and the Python it is for."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return hashlib.sha256(f"{python}\n{_lock(name).read_text()}".encode()).hexdigest()


def uv_program() -> str:
    beside = Path(sys.executable).parent / "uv"  # the Makefile installs it into .venv
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if not found:
        raise BuildError("uv is not installed: make install puts it into .venv, or pip install uv")
    return found


def _links() -> str:
    """pip's folders of wheels, as uv does not read pip's configuration."""
    if "PIP_FIND_LINKS" in os.environ:
        return os.environ["PIP_FIND_LINKS"]
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _run(command: list[str], **variables: str) -> None:
    environment = {**os.environ, **variables}
    # The environment is the peer's alone: nothing of the caller's is to be imported there.
    environment.pop("PYTHONPATH", None)
    if _links():
        environment["UV_FIND_LINKS"] = _links()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        what = " ".join([Path(command[0]).name, *command[1:]])
        raise BuildError(f"`{what}` failed: {said[-1500:]}")
