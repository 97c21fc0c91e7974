"""Where there is a network: gathers all that the GPU machine needs into one folder.

::

    PACK/benchmarks/gpu/     joins and runs the rest, with the standard library alone
    PACK/wheels/             vLLM's CUDA build, pyspark and all that they need, uv, and this package with its jar
    PACK/checkout.tar.gz     the sources that git knows, for the benchmarks, with the jar
    PACK/java.tar.gz         a Java runtime with the modules that Spark loads, made with jlink from the JDK here
    PACK/model/              configuration and tokenizer, no weights (``model.py``)
    PACK/tables/             tables of the benchmarks, if --data gives any
    PACK/manifest.json       hashes; and for what it was made
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import model, pieces
from benchmarks.gpu.pieces import PackError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIREMENTS, LOCK = HERE / "requirements.in", HERE / "requirements.lock"
PYTHON = "3.12"  # of the lock
GLIBC = 35  # 2.35, that of Ubuntu 22.04; some wheels want more than 2.28
PLATFORM = f"x86_64-manylinux_2_{GLIBC}"
# What Spark 4.3 loads; it asks for jdk.incubator.vector by name, which ready-made runtimes leave out.
MODULES = (
    "java.se", "jdk.unsupported", "jdk.incubator.vector", "jdk.security.auth", "jdk.security.jgss", "jdk.crypto.ec",
    "jdk.management", "jdk.zipfs", "jdk.net",
)  # fmt: skip
# All that runs before the pack's environment exists.
STARTERS = ("__init__.py", "__main__.py", "pieces.py", "run.py")


@dataclass(frozen=True)
class Request:
    """What to pack.

    Attributes
    ----------
    directory: of the pack; must be empty or new.
    python: version of the other machine's Python, as ``3.12``.
    piece_mib: size of the largest piece; 0: nothing is cut.
    wheels, java: whether to pack them.
    installed: a ``pip freeze`` of the other machine, whose packages are used where their versions fit.
    java_home: the JDK to make the runtime from; None: the one of ``java``.
    data: folder of tables.
    shape: of the model.
    """

    directory: Path
    python: str = PYTHON
    piece_mib: float = 0.0
    wheels: bool = True
    java: bool = True
    installed: Path | None = None
    java_home: Path | None = None
    data: Path | None = None
    shape: str = "qwen3-8b"


def pack(request: Request, tokenizer: Path | None = None) -> dict[str, object]:
    """Make a pack; returns its manifest. ``tokenizer``: see ``model.write``; None: the built-in model's.

    Raises
    ------
    PackError
        The directory is in use, or something could not be made or downloaded.
    """
    target = request.directory
    if target.exists() and any(target.iterdir()):
        raise PackError(f"{target} is not empty; give a new directory")
    starters = target / "benchmarks" / "gpu"
    starters.mkdir(parents=True)
    (target / "benchmarks" / "__init__.py").touch()
    for name in STARTERS:
        shutil.copy(HERE / name, starters / name)
    model.write(target / "model", tokenizer or built_in_tokenizer(), request.shape)
    _checkout(target / "checkout.tar.gz")
    if request.data is not None:
        (target / "tables").mkdir()
        for table in request.data.glob("*.parquet"):
            shutil.copy(table, target / "tables" / table.name)
    if request.java:
        _java(target / "java.tar.gz", request.java_home)
    if request.wheels:
        _wheels(request, target / "wheels")
    commit = _git("rev-parse", "--short", "HEAD").strip()
    return pieces.write_manifest(
        target, int(request.piece_mib * (1 << 20)),
        python=request.python, platform=PLATFORM, beside_installed=request.installed is not None,
        model=request.shape, commit=commit,
    )  # fmt: skip


def lock() -> None:
    """Resolve ``requirements.in`` anew into ``requirements.lock``; versions that still fit stay."""
    _resolve(LOCK, PYTHON)


def left_out(wanted: Iterable[str], installed: Iterable[str]) -> list[str]:
    """Pins of ``wanted`` that a machine with ``installed`` still lacks; both as lines ``name==version``.

    >>> left_out(["Torch==2.11.0", "ray_x==1.0"], ["torch==2.11.0+cu130", "ray-x==1.1"])
    ['ray_x==1.0']
    """
    there = {_normal(line) for line in installed}
    return [line for line in wanted if _normal(line) not in there]


def _normal(pin: str) -> tuple[str, str]:
    # A local version says how a package was built (2.11.0+cu130); the pin of the lock has none.
    name, _, version = pin.partition("==")
    return re.sub(r"[-_.]+", "-", name.strip()).lower(), version.strip().partition("+")[0]


def pins(text: str) -> list[str]:
    """The lines ``name==version`` of a lock or of ``pip freeze``."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in text.splitlines())
    return [line for line in lines if re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)]


def _wheels(request: Request, folder: Path) -> None:
    folder.mkdir()
    if request.python == PYTHON and request.installed is None:
        wanted = pins(LOCK.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            resolved = Path(name, "requirements.lock")
            there = pins(request.installed.read_text()) if request.installed else []
            # uv keeps the versions of a lock that is there, where they fit. Torch decides the version of vLLM, and not
            # the other way round: it is most of what need not be carried.
            resolved.write_text("".join(f"{_public(line)}\n" for line in there))
            _resolve(resolved, request.python, [_public(line) for line in there if _normal(line)[0] == "torch"])
            wanted = left_out(pins(resolved.read_text()), there)
    # pip takes exactly the tags that it is told, so all that the platform may have.
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
    tags += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--implementation", "cp", "--python-version", request.python]
    for tag in tags:
        command += ["--platform", tag]
    sources = [pin for pin in wanted if _normal(pin)[0] in SOURCES_ONLY]
    _call([*command, *(pin for pin in wanted if pin not in sources)])
    if wrong := [path.name for path in folder.glob("torch-*+cpu*")]:
        raise PackError(f"pip took the CPU build {wrong[0]}; take the folder that has it out of pip's find-links")
    for pin in sources:
        _call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), pin])
    _call([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)])


# Published as sources alone, and pure Python, so that a wheel made here runs there.
SOURCES_ONLY = frozenset({"pyspark"})


def _public(pin: str) -> str:
    return pin.partition("+")[0]


def _resolve(target: Path, python: str, constraints: Iterable[str] = ()) -> None:
    from benchmarks.peers.environments import uv_program

    command = [
        uv_program(),
        "pip",
        "compile",
        str(REQUIREMENTS),
        "--quiet",
        "--no-annotate",
        "--python-version",
        python,
    ]
    command += ["--python-platform", PLATFORM, "--output-file", str(target), "--only-binary", ":all:"]
    for name in SOURCES_ONLY:
        command += ["--no-binary", name]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{line}\n" for line in constraints)
        file.flush()
        _call([*command, "--constraint", file.name], UV_CUSTOM_COMPILE_COMMAND="python -m benchmarks.gpu lock")


def _checkout(target: Path) -> None:
    from spark_helium.catalyst_rules.compiler import ensure_jar

    jar = ensure_jar()
    names = [*_git("ls-files", "-z", "benchmarks", "spark_helium", "pyproject.toml", "README.md").split("\0")]
    with tarfile.open(target, "w:gz") as archive:
        for path in [*(ROOT / name for name in names if name), jar]:
            if path.is_file():  # a file that was removed is still known to git
                archive.add(path, path.relative_to(ROOT).as_posix())


def _java(target: Path, home: Path | None) -> None:
    found = home / "bin" / "java" if home else Path(shutil.which("java") or "java")
    if home is None and os.environ.get("JAVA_HOME"):
        found = Path(os.environ["JAVA_HOME"], "bin", "java")
    jlink = found.resolve().with_name("jlink")
    if not jlink.is_file():
        raise PackError(f"there is no {jlink}: give a JDK 17 or newer with --java DIR, or say --no-java")
    with tempfile.TemporaryDirectory() as name:
        made = Path(name, "java")
        command = [str(jlink), "--add-modules", ",".join(MODULES), "--strip-java-debug-attributes"]
        _call([*command, "--no-header-files", "--no-man-pages", "--compress", "2", "--output", str(made)])
        shown = subprocess.run([str(made / "bin/java"), "-version"], capture_output=True, text=True, check=True).stderr
        version = re.search(r'version "(\d+)', shown)
        if version is None or int(version[1]) < 17:
            raise PackError(f"{jlink} makes a Java that is too old; Spark 4 needs 17: {shown.splitlines()[0]}")
        with tarfile.open(target, "w:gz", dereference=True) as archive:
            archive.add(made, ".")


def built_in_tokenizer() -> Path:
    from spark_helium.conf import Settings
    from spark_helium.gpu_executor import models

    return Path(models.resolve("smollm2-135m", Settings({})))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


def _call(command: list[str], **variables: str) -> None:
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise PackError(f"`{' '.join([Path(command[0]).name, *command[1:6]])} ...` failed: {said}")
