"""The compiler over a source tree of its own, so that these tests need no Scala of the package."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spark_helium.catalyst_rules import compiler, jar
from spark_helium.catalyst_rules.compiler import PySpark, SourceTree
from spark_helium.errors import BuildError

# Reads a Spark class, so that a class path without pyspark's jars is an error.
GOOD = """
package org.apache.spark.sql.helium

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule

object Same extends Rule[LogicalPlan] {
  override def apply(plan: LogicalPlan): LogicalPlan = plan
}
"""
# A warning only: a pure expression in statement position.
WARNS = """
package org.apache.spark.sql.helium

object Warns {
  def one(): Int = {
    2
    1
  }
}
"""


def make_tree(folder: Path, source: str = GOOD) -> SourceTree:
    (folder / "rules").mkdir(parents=True)
    (folder / "resources" / "deep").mkdir(parents=True)
    (folder / "rules" / "Same.scala").write_text(source)
    (folder / "resources" / "settings.json").write_text("{}")
    (folder / "resources" / "deep" / "more.txt").write_text("more")
    return SourceTree(folder, version="1.2.3")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SourceTree:
    """A tree with its jar; tests that change it work on a copy."""
    tree = make_tree(tmp_path_factory.mktemp("built") / "tree")
    compiler.ensure_jar(tree)
    return tree


@pytest.fixture
def tree(built: SourceTree, tmp_path: Path) -> SourceTree:
    shutil.copytree(built.folder, tmp_path / "tree")
    return SourceTree(tmp_path / "tree", version=built.version)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Grows by one with every run of the Scala compiler."""
    runs: list[Path] = []
    compile_scala = compiler.compile_scala

    def counted(sources, classes, **rest):  # type: ignore[no-untyped-def]
        runs.append(classes)
        compile_scala(sources, classes, **rest)

    monkeypatch.setattr(compiler, "compile_scala", counted)
    return runs


def test_jar_holds_classes_resources_and_a_manifest(built: SourceTree) -> None:
    assert built.jar.name == "spark-helium_2.13-1.2.3.jar"
    with zipfile.ZipFile(built.jar) as archive:
        assert archive.namelist() == [
            "META-INF/MANIFEST.MF",
            "deep/more.txt",
            "org/apache/spark/sql/helium/Same$.class",
            "org/apache/spark/sql/helium/Same.class",
            "settings.json",
        ]
        manifest = archive.read("META-INF/MANIFEST.MF")
    assert all(len(line) <= 72 for line in manifest.splitlines(keepends=True))
    pyspark = PySpark.find()
    assert compiler.read_manifest(built.jar) == {
        "Manifest-Version": "1.0",
        "Implementation-Title": "spark-helium",
        "Implementation-Version": "1.2.3",
        "Spark-Version": pyspark.version,
        "Scala-Version": pyspark.scala_version,
        "Source-Digest": built.digest(pyspark),
    }
    assert re.fullmatch(r"4\.3\.\d+", jar.spark_version(built.jar))
    assert sorted(path.name for path in built.jar.parent.iterdir()) == [".lock", built.jar.name]


def test_java_reads_the_manifest(built: SourceTree, tmp_path: Path) -> None:
    reader = tmp_path / "Read.java"
    reader.write_text(
        "public class Read { public static void main(String[] a) throws Exception {"
        " System.out.print(new java.util.jar.JarFile(a[0]).getManifest().getMainAttributes()"
        '.getValue("Source-Digest")); } }'
    )
    java = compiler.find_java()
    if not java.resolve().with_name("javac").exists():
        # A JRE cannot run a source file; the Scala compiler can run the same line.
        pytest.fail("the tests need a JDK: javac is missing beside java")
    shown = subprocess.run([java, reader, built.jar], capture_output=True, text=True, check=True)
    assert shown.stdout == built.digest(PySpark.find())


def test_unchanged_tree_is_not_compiled_again(tree: SourceTree, compilations: list[Path]) -> None:
    before = tree.jar.stat().st_mtime_ns
    assert compiler.ensure_jar(tree) == tree.jar
    assert compilations == []
    assert tree.jar.stat().st_mtime_ns == before


def test_locate_compiles_a_stale_jar(tree: SourceTree, compilations: list[Path]) -> None:
    old = compiler.read_manifest(tree.jar)["Source-Digest"]
    (tree.folder / "rules" / "Same.scala").write_text(GOOD.replace("Same", "Other"))
    assert not tree.is_current(PySpark.find())
    assert jar.locate(tree) == tree.jar
    assert len(compilations) == 1
    assert compiler.read_manifest(tree.jar)["Source-Digest"] != old
    with zipfile.ZipFile(tree.jar) as archive:
        classes = [name for name in archive.namelist() if name.endswith(".class")]
    assert classes == ["org/apache/spark/sql/helium/Other$.class", "org/apache/spark/sql/helium/Other.class"]


@pytest.mark.parametrize("change", ["resource", "added", "removed", "renamed", "version", "damaged"])
def test_what_makes_a_jar_stale(tree: SourceTree, change: str) -> None:
    source = tree.folder / "rules" / "Same.scala"
    match change:
        case "resource":
            (tree.folder / "resources" / "settings.json").write_text("[]")
        case "added":
            (tree.folder / "Another.scala").write_text(GOOD)
        case "removed":
            (tree.folder / "resources" / "deep" / "more.txt").unlink()
        case "renamed":
            source.rename(tree.folder / "Same.scala")
        case "version":
            shutil.copy(tree.jar, tree.jar.with_name("spark-helium_2.13-2.0.0.jar"))
            tree = SourceTree(tree.folder, version="2.0.0")
        case "damaged":
            tree.jar.write_bytes(tree.jar.read_bytes()[:100])
    assert not tree.is_current(PySpark.find())


def test_jar_of_an_older_version_goes(tree: SourceTree) -> None:
    newer = SourceTree(tree.folder, version="2.0.0")
    compiler.ensure_jar(newer)
    assert [path.name for path in tree.jar.parent.glob("*.jar")] == ["spark-helium_2.13-2.0.0.jar"]


def test_same_sources_give_the_same_bytes(built: SourceTree, tmp_path: Path) -> None:
    elsewhere = make_tree(tmp_path / "another-place")
    assert compiler.ensure_jar(elsewhere).read_bytes() == built.jar.read_bytes()


def test_two_at_once_compile_once(tmp_path: Path, compilations: list[Path]) -> None:
    tree = make_tree(tmp_path / "tree")
    with ThreadPoolExecutor(2) as pool:
        jars = list(pool.map(lambda _: compiler.ensure_jar(tree), range(2)))
    assert jars == [tree.jar, tree.jar]
    assert len(compilations) == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (WARNS, "a pure expression does nothing"),
        (GOOD.replace("= plan", "= 1"), "type mismatch"),
    ],
    ids=["warning", "error"],
)
def test_compiler_lines_are_in_the_error_and_the_old_jar_stays(tree: SourceTree, source: str, said: str) -> None:
    before = tree.jar.read_bytes()
    (tree.folder / "rules" / "Same.scala").write_text(source)
    with pytest.raises(BuildError) as caught:
        compiler.ensure_jar(tree)
    assert said in str(caught.value)
    assert re.search(r"^rules/Same\.scala:\d+: (error|warning): ", str(caught.value), re.MULTILINE)
    assert tree.jar.read_bytes() == before
    assert not [path for path in tree.jar.parent.iterdir() if path.name.startswith(".build-")]


def test_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no java on the PATH and JAVA_HOME is not set; install a JDK 17"):
        compiler.ensure_jar(make_tree(tmp_path / "tree"))


def test_current_jar_needs_no_java(tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jar.locate(tree) == tree.jar


def test_java_home_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BuildError, match=rf"JAVA_HOME is '{re.escape(str(tmp_path))}', but .* does not exist"):
        compiler.find_java()


def fake_java(home: Path, version_line: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return java


@pytest.mark.parametrize(
    ("line", "major"),
    [('java version "1.8.0_402"', 8), ('openjdk version "11.0.22" 2024-01-16', 11), ('openjdk version "16"', 16)],
)
def test_old_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, major: int) -> None:
    fake_java(tmp_path, line)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(BuildError, match=rf"is Java {major}, Spark 4 needs Java 17 or newer"):
        compiler.find_java()


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_java(tmp_path / "home", 'openjdk version "21.0.2" 2024-01-16')
    fake_java(tmp_path / "path", 'openjdk version "11.0.22" 2024-01-16')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert compiler.find_java() == java


def test_no_pyspark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"has no pyspark.*pip install 'pyspark>=4\.3,<4\.4'"):
        compiler.ensure_jar(make_tree(tmp_path / "tree"))


def test_pyspark_in_a_zip_has_its_jars_in_spark_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = PySpark.find()
    with zipfile.ZipFile(tmp_path / "pyspark.zip", "w") as archive:
        archive.writestr("pyspark/__init__.py", "")
    program = "from spark_helium.catalyst_rules.compiler import PySpark; print(PySpark.find().jars)"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "pyspark.zip"))
    monkeypatch.setenv("SPARK_HOME", str(installed.jars.parent))
    shown = subprocess.run([sys.executable, "-c", BARE_PACKAGE + program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(installed.jars)


def test_jars_without_spark(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot tell the Spark version: no spark-core_2\.13-\*\.jar in"):
        _ = PySpark(tmp_path).version


def test_pyspark_without_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_HOME", raising=False)
    (tmp_path / "pyspark").mkdir()
    (tmp_path / "pyspark" / "__init__.py").touch()
    program = "from spark_helium.catalyst_rules.compiler import PySpark; PySpark.find()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-c", BARE_PACKAGE + program], env=environment, capture_output=True, text=True, check=False
    )
    assert "pyspark-client has no jars" in shown.stderr


def test_installed_wheel_without_jar(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"has no jar: .* is missing; reinstall it"):
        jar.locate(SourceTree(tmp_path, version="1.2.3"))


def test_installed_wheel_uses_its_jar(tree: SourceTree, compilations: list[Path]) -> None:
    shutil.rmtree(tree.folder / "rules")
    shutil.rmtree(tree.folder / "resources")
    assert jar.locate(tree) == tree.jar
    assert compilations == []


def test_spark_version_of_a_foreign_jar(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jar"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\n\r\n")
    with pytest.raises(BuildError, match="no Spark-Version"):
        jar.spark_version(foreign)
    with pytest.raises(BuildError, match="no Spark-Version"):
        jar.spark_version(tmp_path / "missing.jar")


# What the build hook does: the modules that compile, without the package's own __init__.
BARE_PACKAGE = f"""
import sys, types
package = types.ModuleType("spark_helium")
package.__path__ = [{str(compiler.SOURCE_TREE.parent)!r}]
sys.modules["spark_helium"] = package
"""


def test_compiler_imports_nothing_heavy() -> None:
    program = (
        BARE_PACKAGE
        + "import spark_helium.catalyst_rules.compiler as c; c.PySpark.find().version\n"
        + "print({'pyspark', 'torch', 'vllm', 'pyarrow', 'pandas', 'numpy'} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
