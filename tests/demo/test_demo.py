"""The table of the demo, and the demo itself on the simulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from spark_helium.demo import table
from tests.gpu_executor.daemons import stop_daemons


def test_table() -> None:
    rows = table.load()
    assert len(rows) >= 64
    assert [row.review_id for row in rows] == list(range(1, len(rows) + 1))
    assert len({row.body for row in rows}) == len(rows)
    assert {row.stars for row in rows} == {1, 2, 3, 4, 5}
    assert all(15 <= len(row.body.split()) <= 40 for row in rows)

    descriptions = {row.product: row.description for row in rows}
    assert 10 <= len(descriptions) <= 12
    assert all(25 <= len(text.split()) <= 40 for text in descriptions.values())
    # What the demo shows is that prompts of one product share their beginning.
    assert min(Counter(row.product for row in rows).values()) >= 4
    # So many rows reach the model, and no more.
    assert 25 <= sum(row.stars <= 3 for row in rows) <= 35


def run_on_the_simulator(home: str) -> str:
    """What the demo prints. Its daemon and its prompt cache are below ``home``, not those of whoever runs the tests."""
    done = subprocess.run(
        [sys.executable, "-m", "spark_helium.demo", "--engine", "simulator"],
        env={**os.environ, "XDG_RUNTIME_DIR": home, "XDG_CACHE_HOME": f"{home}/cache"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_on_the_simulator() -> None:
    with tempfile.TemporaryDirectory(prefix="hd-") as home:  # a short path, for the daemon's socket
        first, second = run_on_the_simulator(home), run_on_the_simulator(home)
        stop_daemons(Path(home) / f"helium-{os.getuid()}", 20)
    asked = sum(row.stars <= 3 for row in table.load())
    for said, sent in ((first, asked), (second, 0)):  # the second run finds the answers on disk
        counted = re.findall(r"^  (\w+) +\| (quality|delivery|price|service) +\| (\d+) *$", said, re.MULTILINE)
        assert {category for category, _, _ in counted} == {row.category for row in table.load()}
        assert sum(int(count) for _, _, count in counted) == asked
        assert re.search(r"EvalLLM 1 call\n(?: +\| .*\n)+.*Project.*\n.*Filter \(.*stars", said)
        assert re.search(rf"^ +{asked} calls requested$", said, re.MULTILINE)
        assert re.search(rf"^ +{sent} sent to the engine$", said, re.MULTILINE)
        assert re.search(rf"^ +{asked - sent} answered from the cache$", said, re.MULTILINE)
