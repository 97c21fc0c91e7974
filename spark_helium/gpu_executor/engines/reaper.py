"""Ends child processes whose parent was killed: ``python reaper.py PID...`` waits for the end of its input.

vLLM's engine process does not notice that the process it serves is gone, and would keep its memory for ever.
So the parent starts a reaper, tells it the children, and holds the other end of its input; however the
parent ends, the system closes that. Standard library only: it runs isolated, and stays small.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Reaper:
    """Watches over ``pids`` for this process until :meth:`close`, which also ends those that are left."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *map(str, pids)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the parent's group must not end it first
        )

    def close(self) -> None:
        assert self._process.stdin is not None, "the reaper was started without a pipe"
        self._process.stdin.close()
        self._process.wait()


def _identity(pid: int) -> str:
    """When the process started, so that another one with the same number is not taken for it; empty if gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self").exists():
            return ""
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "" if fields[0] == "Z" else fields[19]


def _main(pids: Sequence[int]) -> None:
    started = {pid: _identity(pid) for pid in pids}
    sys.stdin.buffer.read()
    for pid, identity in started.items():
        if identity and _identity(pid) == identity:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main([int(text) for text in sys.argv[1:]])
