"""A private directory for a test's daemons and their prompt cache; all are stopped when the test is over."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spark_helium.conf import Settings
from spark_helium.gpu_executor import client, lifecycle
from spark_helium.gpu_executor.messages import Status

WAIT = 15.0


class DaemonDirectory:
    def __init__(self, path: Path, cache_home: Path) -> None:
        self.path = path
        self.cache = cache_home / "prompt-cache"

    def texts(self, **given: str) -> dict[str, str]:
        """Settings of the simulator as Spark would give them; names in Python spelling."""
        own = {"executor_directory": str(self.path), "cache_directory": str(self.cache)}
        return Settings({"engine": "simulator"} | own | given).to_text()

    def settings(self, **given: str) -> Settings:
        return Settings(self.texts(**given))

    def status(self, settings: Settings) -> Status:
        status = client.ping(lifecycle.DaemonFiles.of(settings))
        assert status is not None, "no daemon answers"
        return status

    def log(self, settings: Settings) -> str:
        return lifecycle.DaemonFiles.of(settings).log.read_text()


@contextmanager
def daemon_directory() -> Iterator[DaemonDirectory]:
    # Not pytest's tmp_path: with a test's name in it, a socket's path is too long.
    path, cache_home = (Path(tempfile.mkdtemp(prefix=prefix)) for prefix in ("hd-", "hc-"))
    try:
        yield DaemonDirectory(path, cache_home)
    finally:
        for files in lifecycle.known_daemons(path):
            if not client.stop(files):
                process = lifecycle.process_of(files)
                if process is not None:
                    os.kill(process, signal.SIGKILL)
            lifecycle.wait_until_gone(files, WAIT)
        shutil.rmtree(path)
        shutil.rmtree(cache_home)


def stop_daemons(directory: Path, seconds: float) -> None:
    """Stop every daemon that runs from the directory, and wait so long for each.

    Raises
    ------
    DaemonError
        One is still there.
    """
    for files in lifecycle.known_daemons(directory):
        client.stop(files)
        lifecycle.wait_until_gone(files, seconds)


def until(condition: Callable[[], object], what: str, seconds: float = WAIT) -> float:
    """Wait for ``condition``; returns how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start
