"""Finds the jar with the Catalyst rules that belongs to this installation of spark_helium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spark_helium.errors import BuildError

if TYPE_CHECKING:
    from spark_helium.catalyst_rules.compiler import SourceTree


def locate(tree: SourceTree | None = None) -> Path:
    """The jar to add to a Spark session.

    An installed wheel carries it. In a checkout, where the Scala sources are, it is compiled first when it is
    missing or older than they are.

    Parameters
    ----------
    tree
        Where to look; by default beside this file.

    Raises
    ------
    BuildError
        There is no jar, or the sources of a checkout cannot be compiled.
    """
    # Imported here: `python -m spark_helium.catalyst_rules.compiler` must not find itself imported already.
    from spark_helium.catalyst_rules import compiler

    tree = tree or compiler.SourceTree()
    if tree.sources():
        return compiler.ensure_jar(tree)
    if not tree.jar.is_file():
        raise BuildError(
            f"this installation of spark-helium has no jar: {tree.jar} is missing; "
            "reinstall it: pip install --force-reinstall --no-deps spark-helium"
        )
    return tree.jar


def spark_version(jar: Path) -> str:
    """The exact Spark version that ``jar`` was compiled for.

    Raises
    ------
    BuildError
        ``jar`` cannot be read, or spark-helium did not build it.
    """
    from spark_helium.catalyst_rules import compiler

    version = compiler.read_manifest(jar).get("Spark-Version")
    if not version:
        raise BuildError(f"{jar} is not a jar of spark-helium (its manifest has no Spark-Version); reinstall it")
    return version
