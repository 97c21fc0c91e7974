"""One Spark session that spark_helium and the pandas UDFs share, on two cores or, on a GPU machine, eight; and its
tables."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from pyspark.sql import DataFrame, SparkSession

import spark_helium
from benchmarks.engines import EngineSettings
from benchmarks.systems.base import Case

PARTITIONS = 2


class SparkTables:
    """Tables of the case at hand, cached, in a few partitions, their rows in the given order."""

    def __init__(self, spark: SparkSession, partitions: int = PARTITIONS) -> None:
        self.spark = spark
        self._partitions = partitions
        self._case: Case | None = None
        self._views: dict[str, DataFrame] = {}

    def of(self, case: Case) -> dict[str, DataFrame]:
        if case is not self._case:
            for view in self._views.values():
                view.unpersist()
            self._views = {}
            for name, frame in case.frames.items():
                rows = self.spark.createDataFrame(frame)
                self._views[name] = rows.repartition(self._partitions).cache()
                self._views[name].count()
            self._case = case
        return self._views

    def plan(self, df: DataFrame) -> None:
        """Plan a query without running it, so that the JVM has compiled what the clock will see."""
        df._jdf.queryExecution().executedPlan()


@contextlib.contextmanager
def spark_session(engine: EngineSettings, **more: str) -> Iterator[SparkSession]:
    """A session whose daemon has the settings of ``engine``. The prompt cache is off unless ``more`` says so."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # for the pandas UDFs
    with tempfile.TemporaryDirectory(prefix="hb", ignore_cleanup_errors=True) as directory:
        options = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.sql.shuffle.partitions": str(engine.partitions),
            "spark.sql.warehouse.dir": f"{directory}/warehouse",
            "spark.helium.cache.enabled": "false",
            "spark.helium.cache.disk.enabled": "false",
            "spark.helium.executor.directory": f"{directory}/d",
            **engine.options(),
            **more,
        }
        builder = SparkSession.builder.master(f"local[{engine.partitions}]")
        for key, value in options.items():
            builder = builder.config(key, value)
        spark = spark_helium.configure(builder).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        try:
            yield spark
        finally:
            spark.stop()
            from spark_helium.cli import main

            with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                main(["stop", "--set", f"executor.directory={directory}/d"])
