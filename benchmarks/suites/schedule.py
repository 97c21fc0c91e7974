"""Orders of calls under the token-step cost model, without an engine: see ``benchmarks/schedules.py``, which does the
work."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import schedules
from benchmarks.compare import environment

DEFAULT_INSTANCES = 48
SEED = 1


def run(options: argparse.Namespace) -> None:
    """Run the suite; ``--rows`` is the number of instances. Writes ``OUT/schedule/schedule.json``."""
    record = {
        "suite": "schedule",
        "instances": options.rows or DEFAULT_INSTANCES,
        "reduced": schedules.reduced(options.rows or DEFAULT_INSTANCES, SEED),
        "trading": schedules.trading_graph(),
        "call_tree": schedules.call_tree(),
        "environment": environment(),
    }
    path = Path(options.out) / "schedule" / "schedule.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
