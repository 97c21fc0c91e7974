"""Prepare a SparkSession builder: the jar, the extension and the settings."""

from __future__ import annotations

import os
import posixpath
import sys
from typing import Any

from pyspark.sql import SparkSession

from spark_helium import conf, spark_launch
from spark_helium.catalyst_rules import jar
from spark_helium.errors import ConfigurationError

EXTENSION = "org.apache.spark.sql.helium.HeliumExtensions"
_EXTENSIONS = "spark.sql.extensions"
_WORKER_PYTHON = "spark.helium.worker.python"


def configure(builder: SparkSession.Builder, **options: Any) -> SparkSession.Builder:
    """Add spark_helium to a session builder, on top of what is set already: there, or where spark-submit finds it.

    It works before the first session, in a program that ``spark-submit`` runs, and after ``spark.stop()``.
    With a remote Spark Connect server only the settings are sent: the jar and the extension belong in the
    server's own configuration. A ``local`` Connect server is started with them.

    Parameters
    ----------
    builder
        ``SparkSession.builder``, with any of the user's own settings.
    **options
        Settings by their Python spelling: ``model="smollm2-135m"``, ``engine="simulator"``,
        ``cache_enabled=False`` for ``spark.helium.cache.enabled``, and so on.

    Returns
    -------
    SparkSession.Builder
        The same builder.

    Raises
    ------
    ConfigurationError
        A setting is unknown or its value bad, a session without spark_helium is running already, or the JVM that
        will run the session takes no jar.
    BuildError
        In a checkout: the jar cannot be compiled.

    Examples
    --------
    >>> builder = configure(SparkSession.builder.appName("reviews"), engine="simulator")
    """
    settings = {conf.full_key(name): conf.to_text(value) for name, value in options.items()}
    given = dict(getattr(builder, "_options", {}))
    conf.Settings({k: v for k, v in given.items() if k.startswith(conf.PREFIX)} | settings)

    if _brings_its_server(given):
        jvm = spark_launch.running_jvm()
        _refuse_foreign_context(jvm)
        path = jar.locate()
        outside = spark_launch.settings_outside(jvm)
        if jvm is None:
            spark_launch.change_submitted_jars(lambda before: _appended(before, str(path)))
        else:
            spark_launch.make_loadable(jvm, EXTENSION, path)
        # A builder's value hides the one from outside, so ours starts with it.
        before = outside | given
        builder.config(spark_launch.JARS, _appended(before.get(spark_launch.JARS), str(path)))
        builder.config(_EXTENSIONS, _appended(before.get(_EXTENSIONS), EXTENSION))
        # The workers of a local session need this package, so they take the Python that has it.
        if _WORKER_PYTHON not in before:
            settings.setdefault(_WORKER_PYTHON, sys.executable)
    for key, value in settings.items():
        builder.config(key, value)
    return builder


def _brings_its_server(given: dict[str, Any]) -> bool:
    remote = str(given.get("spark.remote") or os.environ.get("SPARK_REMOTE") or "")
    return not remote or remote.startswith("local")


def _appended(before: Any, item: str) -> str:
    items = [part.strip() for part in str(before or "").split(",") if part.strip()]
    # By file name: Spark rewrites paths to URIs, and refuses two jars of one name.
    names = {posixpath.basename(part) for part in items}
    return ",".join(items if posixpath.basename(item) in names else [*items, item])


def _refuse_foreign_context(jvm: Any | None) -> None:
    """A session that runs without the extension would be handed out again, and know no ``llm()``."""
    try:
        from pyspark import SparkContext
    except ImportError:  # the client-only distribution of PySpark has no context
        return
    context = SparkContext._active_spark_context
    if context is None:
        return
    # Where the jar was missing, Spark started without the extension that it was told to load.
    named = EXTENSION in (context.getConf().get(_EXTENSIONS) or "")
    if not named or (jvm is not None and not spark_launch.can_load(jvm, EXTENSION)):
        raise ConfigurationError(
            "a Spark session without spark_helium is running in this process, and Spark would hand it out again; "
            "call spark.stop() on it first, then configure() and getOrCreate(); or configure() the builder that "
            "starts it"
        )
