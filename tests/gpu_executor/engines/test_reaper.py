from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from spark_helium.gpu_executor.engines.reaper import Reaper

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_ends_the_children_of_a_killed_parent() -> None:
    code = (
        "import subprocess, sys, time; from spark_helium.gpu_executor.engines.reaper import Reaper;"
        f"child = subprocess.Popen({SLEEP!r}); reaper = Reaper([child.pid]);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as words:
        pid = int(words.readline())
    time.sleep(0.5)
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_closing_ends_what_is_left_and_spares_everyone_else() -> None:
    watched, other = subprocess.Popen(SLEEP), subprocess.Popen(SLEEP)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    try:
        reaper = Reaper([watched.pid, gone.pid])
        time.sleep(0.5)
        assert watched.poll() is None
        reaper.close()
        assert watched.wait(timeout=20) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (watched, other):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
