"""What Spark reads before it starts a session, and the JVM that may be running by then.

PySpark starts one JVM per process, by ``spark-submit``, and only that start puts ``spark.jars`` on the driver's
class path. All knowledge of that way, and of py4j, is in this module.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spark_helium.errors import ConfigurationError

JARS = "spark.jars"
_SUBMIT_ARGS = "PYSPARK_SUBMIT_ARGS"

# Options of spark-submit that no value follows; every other one takes the next word.
_SWITCHES = frozenset({"--help", "-h", "--supervise", "--usage-error", "--verbose", "-v", "--version"})
_LOAD_DEFAULTS = "--load-spark-defaults"


def running_jvm() -> Any | None:
    """The JVM that sessions of this process will live in; ``None`` as long as PySpark has to start one."""
    try:
        from pyspark import SparkContext
    except ImportError:  # the client-only distribution of PySpark has no JVM
        return None
    if SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ:
        return None
    SparkContext._ensure_initialized()  # under spark-submit: connects to the JVM that started this Python
    return SparkContext._jvm


def can_load(jvm: Any, class_name: str) -> bool:
    """Whether Spark would find the class, asked in the way in which Spark looks for an extension."""
    return bool(_utils(jvm).classIsLoadable(class_name))


def make_loadable(jvm: Any, class_name: str, path: Path) -> None:
    """Let a JVM that is up load a class of the jar, as ``spark-submit --jars`` would have done.

    Raises
    ------
    ConfigurationError
        The JVM was not started by spark-submit, so that its class path is fixed.
    """
    if can_load(jvm, class_name):
        return
    from py4j.java_gateway import is_instance_of
    from pyspark import SparkContext

    loader = _utils(jvm).getContextOrSparkClassLoader()
    # The loader that spark-submit makes for the application's jars and adds each of them to.
    if is_instance_of(SparkContext._gateway, loader, "org.apache.spark.util.MutableURLClassLoader"):
        loader.addURL(jvm.java.io.File(str(path)).toURI().toURL())
    if not can_load(jvm, class_name):
        raise ConfigurationError(
            f"cannot add {path} to the JVM that runs already: its class loader, {loader.getClass().getName()}, does "
            f"not load {class_name} from it; pass --jars {path} to spark-submit, or restart Python and call "
            "configure() before the first session starts"
        )


def _utils(jvm: Any) -> Any:
    return getattr(jvm, "org.apache.spark.util.Utils")


def settings_outside(jvm: Any | None) -> dict[str, str]:
    """The settings that a session gets without its builder, where the builder sets nothing else.

    They are in the JVM if it is up. If not, they are where spark-submit will find them: in ``PYSPARK_SUBMIT_ARGS``,
    in the file that it names, and in ``spark-defaults.conf``, the first of these first.
    """
    if jvm is not None:
        from pyspark import SparkConf

        return dict(SparkConf(_jvm=jvm).getAll())
    properties: dict[str, str] = {}
    files: list[str] = []
    jars, load_defaults = None, False
    for name, value, _ in _submit_options(_submit_words()):
        if name == "--jars":
            jars = value
        elif name == "--properties-file":
            files = [value]
        elif name == _LOAD_DEFAULTS:
            load_defaults = True
        else:
            properties[name] = value
    if jars is not None:  # comes before --conf spark.jars, wherever it stands
        properties[JARS] = jars
    defaults = {} if files and not load_defaults else _read_properties(_defaults_file())
    named = _read_properties(Path(files[0])) if files else {}
    return defaults | named | properties


def change_submitted_jars(change: Callable[[str], str]) -> None:
    """Rewrite the jars that ``PYSPARK_SUBMIT_ARGS`` names, if it names any.

    PySpark puts the builder's settings before these words, and the later ones win: without this the driver would
    start with the jars of the variable only.
    """
    words = _submit_words()
    named = {name: (value, at) for name, value, at in _submit_options(words)}
    value, at = named.get("--jars") or named.get(JARS) or ("", -1)
    if at >= 0:
        words[at] = words[at].removesuffix(value) + change(value)
        os.environ[_SUBMIT_ARGS] = shlex.join(words)


def _submit_words() -> list[str]:
    given = os.environ.get(_SUBMIT_ARGS, "")
    try:
        return shlex.split(given)
    except ValueError as e:
        raise ConfigurationError(
            f"cannot read {_SUBMIT_ARGS}={given!r}: {e}; quote its words as a shell would read them"
        ) from e


def _submit_options(words: list[str]) -> Iterator[tuple[str, str, int]]:
    """Name, value and the index of the word that ends in the value; ``--conf k=v`` has the name ``k``."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name, assigned, value = words[at].partition("=")
        if name == _LOAD_DEFAULTS:
            yield name, "", at
        elif name not in _SWITCHES:
            if not assigned:
                at += 1
                value = words[at] if at < len(words) else ""
            if name in ("--conf", "-c"):
                name, _, value = value.partition("=")
            yield name, value, at
        at += 1


def _defaults_file() -> Path:
    folder = os.environ.get("SPARK_CONF_DIR")
    if folder:
        return Path(folder, "spark-defaults.conf")
    try:
        from pyspark.find_spark_home import _find_spark_home

        return Path(_find_spark_home(), "conf", "spark-defaults.conf")
    except (ImportError, SystemExit):  # no Spark here: PySpark says so when the session starts
        return Path(os.devnull)


def _read_properties(path: Path) -> dict[str, str]:
    """A file of Java properties; one that is missing has none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # spark-submit decides what a file that it cannot read means
        return {}
    properties = {}
    for line in re.sub(r"\\\r?\n[ \t\f]*", "", text).splitlines():
        found = re.match(r"([^#!\s=:][^\s=:]*)(?:\s*[=:]\s*|\s+|$)(.*)", line.strip())
        if found:
            properties[found[1]] = re.sub(r"\\(.)", r"\1", found[2]).strip()
    return properties
