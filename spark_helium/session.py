"""Prepare a SparkSession builder: the jar, the extension and the settings."""

from __future__ import annotations

import os
import sys
from typing import Any

from pyspark.sql import SparkSession

from spark_helium import conf
from spark_helium.catalyst_rules import jar
from spark_helium.errors import ConfigurationError

EXTENSION = "org.apache.spark.sql.helium.HeliumExtensions"


def configure(builder: SparkSession.Builder, **options: Any) -> SparkSession.Builder:
    """Add spark_helium to a session builder, on top of what is set there already.

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
        A setting is unknown or its value bad, or a session without spark_helium is running already.
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
        _refuse_foreign_context()
        path = str(jar.locate())
        builder.config("spark.jars", _appended(given.get("spark.jars"), path))
        builder.config("spark.sql.extensions", _appended(given.get("spark.sql.extensions"), EXTENSION))
        # The workers of a local session need this package, so they take the Python that has it.
        settings.setdefault("spark.helium.worker.python", sys.executable)
    for key, value in settings.items():
        builder.config(key, value)
    return builder


def _brings_its_server(given: dict[str, Any]) -> bool:
    remote = str(given.get("spark.remote") or os.environ.get("SPARK_REMOTE") or "")
    return not remote or remote.startswith("local")


def _appended(before: Any, item: str) -> str:
    items = [part.strip() for part in str(before or "").split(",") if part.strip()]
    return ",".join(items if item in items else [*items, item])


def _refuse_foreign_context() -> None:
    """A session that runs without the extension would be handed out again, and know no ``llm()``."""
    try:
        from pyspark import SparkContext
    except ImportError:  # the client-only distribution of PySpark has no context
        return
    context = SparkContext._active_spark_context
    if context is not None and EXTENSION not in (context.getConf().get("spark.sql.extensions") or ""):
        raise ConfigurationError(
            "a Spark session without spark_helium is running in this process, and Spark would hand it out again; "
            "call spark.stop() on it first, or configure() the builder that starts it"
        )
