"""The table of the demo, and the demo itself on the simulator."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

from spark_helium.demo import table


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


def test_demo_on_the_simulator() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spark_helium.demo", "--engine", "simulator"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked = sum(row.stars <= 3 for row in table.load())
    counted = re.findall(r"^  (\w+) +\| (quality|delivery|price|service) +\| (\d+) *$", done.stdout, re.MULTILINE)
    assert {category for category, _, _ in counted} == {row.category for row in table.load()}
    assert sum(int(count) for _, _, count in counted) == asked
    assert re.search(r"EvalLLM 1 call\n(?: +\| .*\n)+.*Project.*\n.*Filter \(.*stars", done.stdout)
    assert re.search(rf"^ +{asked} calls requested$", done.stdout, re.MULTILINE)
