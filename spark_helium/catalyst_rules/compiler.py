"""Compiles the Scala sources beside this file into the jar that spark_helium adds to a Spark session.

The Scala compiler comes out of the pyspark wheel, so a JDK is all that a build needs. The jar records a digest
of everything that went into it; while the digest stays the same, nothing is compiled again. The build hook of
the Python package loads this module from a source tree that is not installed: it imports neither pyspark nor
anything else heavy.

From a shell::

    python -m spark_helium.catalyst_rules.compiler            # compile if a source changed
    python -m spark_helium.catalyst_rules.compiler --check    # only say whether the jar is up to date
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from spark_helium.errors import BuildError
from spark_helium.version import __version__

SOURCE_TREE = Path(__file__).resolve().parent
SCALA_BINARY_VERSION = "2.13"
MINIMUM_JAVA = 17

# build.sbt has the same flags.
SCALAC_FLAGS = (
    "-Werror",
    "-Xlint",
    "-deprecation",
    "-feature",
    "-unchecked",
    "-release",
    "17",
    "-encoding",
    "UTF-8",
)

# In a test, a pattern that does not match fails the test; `val Seq(a, b) = ...` is fine there.
TEST_SCALAC_FLAGS = (*SCALAC_FLAGS, "-Wconf:cat=other-match-analysis:s")

# One short compilation: the JVM's first compiler tier halves the processor time, deep patterns need stack.
_JVM_FLAGS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss8m", "-Xmx2g")

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MANIFEST = "META-INF/MANIFEST.MF"
_MOST_COMPILER_LINES = 200


@dataclass(frozen=True)
class PySpark:
    """The jars of the installed pyspark, found without importing it: compiler and class path at once."""

    jars: Path

    @classmethod
    def find(cls) -> PySpark:
        """The pyspark of this Python.

        Raises
        ------
        BuildError
            pyspark is missing, or it is the client-only package, which has no jars.
        """
        spec = importlib.util.find_spec("pyspark")
        if spec is None or not spec.submodule_search_locations:
            raise BuildError(
                f"cannot compile the Scala sources: {sys.executable} has no pyspark, whose wheel carries the Scala "
                "compiler; install it with: pip install 'pyspark>=4.3,<4.4'"
            )
        folders = [Path(spec.submodule_search_locations[0], "jars")]
        # spark-submit puts pyspark on the path as a zip of Python only, and says where the jars are.
        if os.environ.get("SPARK_HOME"):
            folders.append(Path(os.environ["SPARK_HOME"], "jars"))
        for folder in folders:
            if any(folder.glob("scala-compiler-*.jar")):
                return cls(folder)
        raise BuildError(
            f"cannot compile the Scala sources: no scala-compiler-*.jar in {' or '.join(map(str, folders))}; install "
            "the full pyspark package (pyspark-client has no jars): pip install 'pyspark>=4.3,<4.4'"
        )

    @cached_property
    def version(self) -> str:
        """Exact Spark version, such as ``4.3.0``."""
        prefix = f"spark-core_{SCALA_BINARY_VERSION}-"
        jar = max(self.jars.glob(f"{prefix}*.jar"), default=None)
        if jar is None:
            raise BuildError(f"cannot tell the Spark version: no {prefix}*.jar in {self.jars}; reinstall pyspark")
        return jar.stem.removeprefix(prefix)

    @cached_property
    def scala_version(self) -> str:
        """Exact Scala version of the compiler, such as ``2.13.18``."""
        jar = max(self.jars.glob("scala-compiler-*.jar"))
        return jar.stem.removeprefix("scala-compiler-")


def find_java() -> Path:
    """The ``java`` of a JDK or JRE that is new enough: below ``JAVA_HOME`` if that is set, else on the PATH.

    Raises
    ------
    BuildError
        There is none, or it is older than Java 17.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home, "bin", "java")
        if not java.is_file():
            raise BuildError(f"JAVA_HOME is {home!r}, but {java} does not exist; point it to a JDK 17 or newer")
    else:
        on_path = shutil.which("java")
        if on_path is None:
            raise BuildError(
                "cannot compile the Scala sources: no java on the PATH and JAVA_HOME is not set; "
                "install a JDK 17 or newer"
            )
        java = Path(on_path)
    version = _java_version(java)
    if version < MINIMUM_JAVA:
        raise BuildError(
            f"cannot compile the Scala sources: {java} is Java {version}, Spark 4 needs Java {MINIMUM_JAVA} or newer; "
            "install one and point JAVA_HOME to it"
        )
    return java


def _java_version(java: Path) -> int:
    try:
        shown = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError) as e:
        said = getattr(e, "stderr", None) or str(e)
        raise BuildError(f"{java} -version failed; install a JDK {MINIMUM_JAVA} or newer. It said: {said}") from e
    match = re.search(r'version "(?:1\.)?(\d+)', shown)
    if match is None:
        raise BuildError(f"cannot tell the version of {java} from {shown.strip()!r}; point JAVA_HOME to a JDK 17")
    return int(match.group(1))


@dataclass(frozen=True)
class SourceTree:
    """A folder of Scala sources, with ``resources/`` that go into the jar as they are and ``jars/`` for the result."""

    folder: Path = SOURCE_TREE
    version: str = __version__

    @property
    def jar(self) -> Path:
        """Where the jar is or will be."""
        return self.folder / "jars" / f"spark-helium_{SCALA_BINARY_VERSION}-{self.version}.jar"

    def sources(self) -> list[Path]:
        """Every Scala source, sorted; empty in an installed wheel."""
        return sorted(self.folder.rglob("*.scala"))

    def resources(self) -> dict[str, Path]:
        """Name inside the jar to file, sorted by name."""
        root = self.folder / "resources"
        files = (path for path in root.rglob("*") if path.is_file())
        return dict(sorted((path.relative_to(root).as_posix(), path) for path in files))

    def digest(self, pyspark: PySpark) -> str:
        """SHA-256 over everything that decides the bytes of the jar."""
        digest = hashlib.sha256()

        def add(name: str, content: bytes) -> None:
            # Lengths keep two different sets of files from running together into the same bytes.
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)

        for source in self.sources():
            add(source.relative_to(self.folder).as_posix(), source.read_bytes())
        for name, path in self.resources().items():
            add(f"resources/{name}", path.read_bytes())
        add("flags", " ".join(SCALAC_FLAGS).encode())
        add("versions", f"{self.version} {pyspark.version} {pyspark.scala_version}".encode())
        return digest.hexdigest()

    def is_current(self, pyspark: PySpark) -> bool:
        """Whether the jar exists and was compiled from exactly this tree."""
        return self.jar.is_file() and read_manifest(self.jar).get("Source-Digest") == self.digest(pyspark)


def ensure_jar(tree: SourceTree | None = None) -> Path:
    """The jar of ``tree``, compiled first when a source, a resource, a flag or pyspark changed since.

    Two processes may call this at once: one compiles, the other waits and finds the jar.

    Raises
    ------
    BuildError
        No Java, no pyspark, no sources, or the compiler refused the sources; its own lines are in the message.
    """
    tree = tree or SourceTree()
    pyspark = PySpark.find()
    if tree.is_current(pyspark):
        return tree.jar
    sources = tree.sources()
    if not sources:
        raise BuildError(f"no Scala sources below {tree.folder}; reinstall spark-helium or use a complete checkout")
    tree.jar.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(tree.jar.parent / ".lock"):
        if not tree.is_current(pyspark):
            _build(tree, sources, pyspark)
    return tree.jar


def _build(tree: SourceTree, sources: Sequence[Path], pyspark: PySpark) -> None:
    # The digest is taken first: a source that is saved during the compilation makes the jar stale, not wrong.
    manifest = {
        "Manifest-Version": "1.0",
        "Implementation-Title": "spark-helium",
        "Implementation-Version": tree.version,
        "Spark-Version": pyspark.version,
        "Scala-Version": pyspark.scala_version,
        "Source-Digest": tree.digest(pyspark),
    }
    java = find_java()
    print(f"spark-helium: compiling {len(sources)} Scala sources for Spark {pyspark.version} ...", file=sys.stderr)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=tree.jar.parent, prefix=".build-") as scratch:
        classes = Path(scratch, "classes")
        compile_scala(sources, classes, pyspark=pyspark, java=java, cwd=tree.folder)
        entries = {path.relative_to(classes).as_posix(): path for path in classes.rglob("*") if path.is_file()}
        finished = Path(scratch, tree.jar.name)
        _write_jar(finished, manifest, {**entries, **tree.resources()})
        finished.replace(tree.jar)
    for older in tree.jar.parent.glob("spark-helium_*.jar"):
        if older != tree.jar:
            older.unlink(missing_ok=True)
    print(f"spark-helium: wrote {tree.jar.name} in {time.monotonic() - started:.0f} s", file=sys.stderr)


def compile_scala(
    sources: Iterable[Path],
    classes: Path,
    *,
    pyspark: PySpark | None = None,
    java: Path | None = None,
    classpath: Sequence[Path] = (),
    cwd: Path | None = None,
    flags: Sequence[str] = SCALAC_FLAGS,
) -> None:
    """Compile ``sources`` against pyspark's jars into the folder ``classes``, warnings as errors.

    Parameters
    ----------
    classpath
        Jars besides those of pyspark.
    cwd
        Folder that the compiler's messages name the sources from.
    flags
        What the compiler is strict about.

    Raises
    ------
    BuildError
        The compiler found an error or a warning.
    """
    pyspark = pyspark or PySpark.find()
    java = java or find_java()
    cwd = (cwd or Path.cwd()).resolve()
    classes.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([*(str(p.resolve()) for p in classpath), str(pyspark.jars / "*")])
    names = [os.path.relpath(source.resolve(), cwd) for source in sources]
    command: list[str | Path] = [java, *_JVM_FLAGS, "-cp", path, "scala.tools.nsc.Main", "-usejavacp"]
    command += ["-d", str(classes.resolve()), *flags, *names]
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        if len(lines) > _MOST_COMPILER_LINES:
            lines = [*lines[:_MOST_COMPILER_LINES], f"... and {len(lines) - _MOST_COMPILER_LINES} more lines"]
        raise BuildError(
            f"the Scala compiler refused the sources below {cwd} (warnings count as errors); "
            "fix what it names and build again:\n" + "\n".join(lines)
        )


def run_suites(
    folder: Path, *, jar: Path, scratch: Path, jvm_options: Path, names: Sequence[str] = (), timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Compile the Scala tests in ``folder`` against ``jar`` and run ``RunSuites`` over them.

    Parameters
    ----------
    scratch
        An empty folder for the test classes, also the working directory of the run.
    jvm_options
        File with options for the JVM that runs the tests, in the form of java's ``@file``.
    names
        Suites to run; empty for all.

    Returns
    -------
    subprocess.CompletedProcess
        Exit status and what the suites printed, standard error included, in ``stdout``.
    """
    pyspark, java = PySpark.find(), find_java()
    sources = sorted(folder.rglob("*.scala"))
    if not sources:
        raise BuildError(f"no Scala tests below {folder}")
    classes = scratch / "test-classes"
    compile_scala(sources, classes, pyspark=pyspark, java=java, classpath=[jar], cwd=folder, flags=TEST_SCALAC_FLAGS)
    path = os.pathsep.join([str(classes), str(jar), str(pyspark.jars / "*")])
    main = "org.apache.spark.sql.helium.testing.RunSuites"
    command: list[str | Path] = [java, f"@{jvm_options.resolve()}", "-cp", path, main, *names]
    return subprocess.run(
        command,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )


def read_manifest(jar: Path) -> dict[str, str]:
    """Main attributes of the jar's manifest; empty when it is not a readable jar."""
    try:
        with zipfile.ZipFile(jar) as archive:
            text = archive.read(_MANIFEST).decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile):
        return {}
    joined = text.replace("\r\n", "\n").replace("\n ", "")
    return dict(line.split(": ", 1) for line in joined.splitlines() if ": " in line)


def _manifest_bytes(attributes: Mapping[str, str]) -> bytes:
    # The format allows 72 bytes a line, its end included; a longer one goes on after a space.
    lines: list[str] = []
    for key, value in attributes.items():
        rest = f"{key}: {value}"
        lines.append(rest[:70])
        rest = rest[70:]
        while rest:
            lines.append(" " + rest[:69])
            rest = rest[69:]
    return ("\r\n".join([*lines, "", ""])).encode()


def _write_jar(jar: Path, manifest: Mapping[str, str], entries: Mapping[str, Path]) -> None:
    # Fixed times, order and permissions: the same sources give the same bytes.
    with zipfile.ZipFile(jar, "w") as archive:
        _add(archive, _MANIFEST, _manifest_bytes(manifest))
        for name in sorted(entries):
            _add(archive, name, entries[name].read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m spark_helium.catalyst_rules.compiler``."""
    parser = argparse.ArgumentParser(
        prog="python -m spark_helium.catalyst_rules.compiler",
        description="Compile the Scala sources of spark-helium into its jar, if they changed; warnings are errors.",
    )
    parser.add_argument("--check", action="store_true", help="only say whether the jar is up to date (exit status 1)")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            tree = SourceTree()
            current = tree.is_current(PySpark.find())
            print(f"{tree.jar}: {'up to date' if current else 'missing or out of date'}")
            return 0 if current else 1
        print(ensure_jar())
        return 0
    except BuildError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
