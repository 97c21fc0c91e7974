"""Memory of the node daemon while a million rows stream through it, on the simulator.

Prompts are distinct, so that the prompt cache fills up to its limit and evicts. The greatest resident memory of the
daemon is read every tenth of a second; beside it stands what it was before the first row.

    python benchmarks/daemon_memory.py [--rows 1000000] [--partitions 2]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time

import psutil
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from throughput import PADDING, drain, timed

import spark_helium
from spark_helium.functions import llm


class Watch(threading.Thread):
    """Reads the resident memory of the daemon below a directory, in MB, until it is stopped."""

    def __init__(self, directory: str) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._stopped = threading.Event()
        self.now = self.most = 0.0

    def run(self) -> None:
        while not self._stopped.wait(0.1):
            self.now = sum(self._resident()) / 1e6
            self.most = max(self.most, self.now)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _resident(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if "spark_helium.gpu_executor.daemon" in command and self._directory in command:
                    found.append(process.memory_info().rss)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=2)
    args = parser.parse_args()

    builder = (
        SparkSession.builder.master(f"local[{args.partitions}]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
    )
    with tempfile.TemporaryDirectory() as directory:
        builder = builder.config("spark.helium.cache.directory", f"{directory}/cache")
        spark = spark_helium.configure(builder, engine="simulator", executor_directory=directory).getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        watch = Watch(directory)
        text = F.concat(F.col("id").cast("string"), F.lit(" " + PADDING))
        rows = spark.range(0, args.rows, 1, args.partitions).select(F.substring(text, 1, 180).alias("body"))
        question = llm("Good or bad? {0}", "body", max_tokens=4)
        drain(rows.limit(10).select(question))()
        watch.start()
        time.sleep(1)
        before = watch.now
        with spark_helium.measure(spark) as usage:
            seconds = timed(drain(rows.select(question)))
        watch.stop()
        spark.stop()
    result = {
        "rows": args.rows,
        "calls sent": usage.calls_sent,
        "rows per second": round(args.rows / seconds),
        "daemon before, MB": round(before),
        "daemon at most, MB": round(watch.most),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
