from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from spark_helium.gpu_executor.engines.output_tap import OutputTap


def test_hears_children_even_after_the_block_and_passes_everything_on(capfd: pytest.CaptureFixture[str]) -> None:
    tap = OutputTap()
    code = "import sys; print('early', flush=True); sys.stdin.read(); print('late', file=sys.stderr)"
    with tap:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        os.write(1, b"own words\n")
    os.write(2, b"not for the tap\n")
    child.communicate()
    deadline = time.monotonic() + 10
    while "late" not in tap.lines() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(tap.lines()) == ["early", "late", "own words"]
    heard = capfd.readouterr()
    assert heard.out == ""
    assert sorted(heard.err.splitlines()) == ["early", "late", "not for the tap", "own words"]
