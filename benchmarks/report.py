"""The report of a folder of results: ``report.md`` with tables, and plots beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.measure import Spread, geometric_mean, ratios
from benchmarks.systems.helium import OURS

COMPARISONS = ("relational", "workflows", "quality")
COUNTED = ("calls", "prompt_tokens", "cached_tokens", "output_tokens")

RANDOM_WEIGHTS = (
    "**The weights are random**: answers are noise of a fixed length, and a choice falls on whatever the noise prefers,"
    " often the same for all rows. Times, calls and tokens mean something here, answers do not."
)

Record = dict[str, Any]


def write(out: Path) -> Path:
    """Write the report of all results below ``out``; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    parts = ["# Benchmark results", *_about(out)]
    for suite in COMPARISONS:
        for folder in sorted((out / suite).glob("*")):
            records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
            if records:
                parts += _comparison(out, suite, folder.name, records)
    for suite, section in (("ablation", _ablation), ("schedule", _schedule), ("scale", _scale)):
        path = out / suite / f"{suite}.json"
        if path.exists():
            parts += section(out, json.loads(path.read_text()))
    if not plots.available():
        parts.append("There are no plots, as matplotlib is not installed: `pip install 'spark-helium[bench]'`.")
    report = out / "report.md"
    report.write_text("\n\n".join(parts) + "\n")
    return report


def _about(out: Path) -> list[str]:
    found = [json.loads(path.read_text()) for path in sorted(out.rglob("*.json"))]
    machines = {json.dumps(r["environment"], sort_keys=True) for r in found if "environment" in r}
    lines = []
    for text in sorted(machines):
        said = json.loads(text)
        versions = ", ".join(f"{name} {version}" for name, version in said["versions"].items())
        lines.append(
            f"- {said['cores']} cores, {said['processor']}; {'GPU: ' + said['gpu'] + '; ' if said.get('gpu') else ''}"
            f"{versions}; commit {said.get('commit', 'unknown')}"
        )
    return ["Measured on:\n\n" + "\n".join(lines)] if lines else ["There are no results here yet."]


def _comparison(out: Path, suite: str, kv: str, records: Sequence[Record]) -> list[str]:
    engine = records[0]["engine"]["kind"]
    parts = [f"## {suite}, {kv} KV space, {engine}"]
    if engine == "simulator":
        parts.append("The simulator costs nothing, so that times say nothing here; calls, tokens and answers do.")
    if records[0]["engine"].get("dummy_weights"):
        parts.append(RANDOM_WEIGHTS)
    seconds: dict[str, dict[str, Spread]] = {}
    faster: dict[str, dict[str, list[float]]] = {}
    for record in records:
        systems = _systems(record)
        seconds[record["case"]] = {name: _spread(record, name, "seconds") for name in systems}
        faster[record["case"]] = {
            name: ratios(record["rounds"], OURS, name) for name in systems if name != OURS and OURS in systems
        }
        parts.append(_case(record, systems))
    parts.append(_summary(faster))
    if plots.available():
        name = f"plots/{suite}-{kv}.svg"
        shown = {case: {n: Spread.of(v) for n, v in found.items() if v} for case, found in faster.items()}
        if any(shown.values()):
            plots.bars(out / name, shown, "seconds over those of spark_helium", line=1.0)
            parts.append(f"![times faster]({name})")
    return parts


def _systems(record: Record) -> list[str]:
    return list(dict.fromkeys(name for round_ in record["rounds"] for name in round_ if name != "load"))


def _values(record: Record, system: str, key: str) -> list[float]:
    return [round_[system][key] for round_ in record["rounds"] if system in round_ and key in round_[system]]


def _spread(record: Record, system: str, key: str) -> Spread:
    return Spread.of(_values(record, system, key))


def _case(record: Record, systems: Sequence[str]) -> str:
    data = ", ".join(f"{table} ({source})" for table, source in record["data"].items())
    loads = [round_["load"]["average"] for round_ in record["rounds"]]
    lines = [
        f"### {record['title']}",
        f"{len(record['rounds'])} rounds; tables: {data}; load average after the rounds: {', '.join(map(str, loads))}.",
    ]
    header = ["system", "seconds", "times ours", "calls", "prompt tokens", "cached", "output tokens", "equal rows"]
    scored = any("score" in round_[name] for round_ in record["rounds"] for name in systems if name in round_)
    table = [header + (["right"] if scored else [])]
    for name in systems:
        over = ratios(record["rounds"], OURS, name)
        counts = [f"{_spread(record, name, key).median:,.0f}" for key in COUNTED]
        equal = _values(record, name, "equal to ours")
        row = [name, _shown(_spread(record, name, "seconds"), 2), _shown(Spread.of(over), 2) if over else "-", *counts]
        row.append(f"{100 * sum(equal) / len(equal):.1f} %" if equal else "-")
        if scored:
            row.append(", ".join(f"{100 * value:.1f} %" for value in _values(record, name, "score")))
        table.append(row)
    lines.append(_table(table))
    lines += [f"Not run: {name}: {reason}" for name, reason in record["not run"].items()]
    return "\n\n".join(lines)


def _summary(faster: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    names = list(dict.fromkeys(name for found in faster.values() for name in found))
    table = [["against", "geometric mean", "mean", "least", "greatest", "cases"]]
    for name in names:
        medians = {case: Spread.of(found[name]).median for case, found in faster.items() if found.get(name)}
        if not medians:
            continue
        worst, best = min(medians, key=lambda c: medians[c]), max(medians, key=lambda c: medians[c])
        values = list(medians.values())
        table.append([
            name, f"{geometric_mean(values):.2f}", f"{sum(values) / len(values):.2f}",
            f"{medians[worst]:.2f} ({worst})", f"{medians[best]:.2f} ({best})", str(len(values)),
        ])  # fmt: skip
    return "Times faster than each, medians of the ratios within a round:\n\n" + _table(table)


def _ablation(out: Path, record: Record) -> list[str]:
    variants = record["variants"]
    base = variants[0]
    queries = list(next((r[base] for r in record["rounds"] if base in r), ()))
    if not queries:
        return []

    def total(round_: Mapping[str, Any], variant: str, key: str = "seconds") -> float:
        return sum(query[key] for query in round_[variant].values())

    table = [["off", "seconds of the session", "times everything on", "calls", "computed prompt tokens"]]
    over: dict[str, Spread] = {}
    for variant in variants:
        rounds = [r for r in record["rounds"] if variant in r and base in r]
        if not rounds:
            continue
        over[variant] = Spread.of(total(r, variant) / total(r, base) for r in rounds)
        computed = [total(r, variant, "prompt_tokens") - total(r, variant, "cached_tokens") for r in rounds]
        table.append([
            variant, _shown(Spread.of(total(r, variant) for r in rounds), 1), _shown(over[variant], 2),
            f"{Spread.of(total(r, variant, 'calls') for r in rounds).median:,.0f}",
            f"{Spread.of(computed).median:,.0f}",
        ])  # fmt: skip
    each = [["off", *queries]]
    for variant in over:
        rounds = [r for r in record["rounds"] if variant in r and base in r]
        row = [Spread.of(r[variant][q]["seconds"] / r[base][q]["seconds"] for r in rounds).median for q in queries]
        each.append([variant, *(f"{value:.2f}" for value in row)])
    parts = [
        f"## Ablation, {record['engine']['kind']}, {record['engine']['kv']} KV space",
        f"{len(record['rounds'])} rounds of a session of {len(queries)} queries over {record['rows']} rows.",
        _table(table),
        "Times everything on, by query:\n\n" + _table(each),
    ]
    if plots.available():
        plots.bars(out / "plots/ablation.svg", {name: {"session": s} for name, s in over.items()},
                   "seconds over those with everything on", line=1.0)  # fmt: skip
        parts.append("![ablation](plots/ablation.svg)")
    return parts


def _schedule(out: Path, record: Record) -> list[str]:
    gaps = record["reduced"]["gaps"]
    table = [["order", "mean gap", "largest"]]
    for name, values in sorted(gaps.items(), key=lambda item: sum(item[1])):
        table.append([name, f"{sum(values) / len(values):.2f} %", f"{max(values):.2f} %"])
    parts = [
        "## Schedule",
        (
            f"Gap to the best known order in token steps, {record['instances']} instances; the best is proven for "
            f"{record['reduced']['proven']} of them."
        ),
        _table(table),
    ]
    if plots.available():
        shown = {name: {"gap": Spread(sum(v) / len(v), min(v), max(v))} for name, v in gaps.items()}
        plots.bars(out / "plots/schedule.svg", shown, "gap to the best known order, %")
        parts.append("![schedule](plots/schedule.svg)")
    return parts


def _scale(out: Path, record: Record) -> list[str]:
    def micro(spread: Mapping[str, float]) -> str:
        return _shown(Spread(*(1e6 * spread[k] for k in ("median", "least", "most"))), 0)

    planning = [["rows", "planning, ms"]]
    planning += [[f"{p['rows']:,}", _shown(Spread(*(1e3 * p["seconds"][k] for k in ("median", "least", "most"))), 0)]
                 for p in record["planning"]]  # fmt: skip
    scheduling = [["engines", "ranking 88 operators, microseconds", "placing a row, microseconds"]]
    scheduling += [[str(s["nodes"]), micro(s["ranking_seconds"]), f"{1e6 * s['place_seconds']:.0f}"]
                   for s in record["scheduling"]]  # fmt: skip
    parts = [
        "## Scale",
        (
            "Measured here: the path through Spark, the daemon and the simulator takes "
            f"{micro(record['daemon']['seconds_per_row'])} microseconds a row "
            f"({record['daemon']['rows']:,} rows, one node)."
        ),
        _table(planning),
        _table(scheduling),
        (
            "**Modelled, not measured**: nodes with one H100 each (`benchmarks/h100.py` has the constants and their "
            "sources)."
        ),
    ]
    policies = list(dict.fromkeys(c["policy"] for c in record["curves"]))
    sizes = sorted({c["rows"] for c in record["curves"] if c["kind"] == "strong"})
    for kind in ("strong", "weak"):
        rows = [c for c in record["curves"] if c["kind"] == kind]
        nodes = sorted({c["nodes"] for c in rows})
        table = [["policy", "rows", *(f"{n} nodes: s, hits, bound" for n in nodes)]]
        for policy in policies:
            for size in sizes if kind == "strong" else [None]:
                found = {c["nodes"]: c for c in rows if c["policy"] == policy and size in (None, c["rows"])}
                cells = [
                    f"{c['seconds']:,.1f}, {100 * c['hit_rate']:.0f} %, {c['bound']}"
                    for c in map(found.get, nodes)
                    if c
                ]
                table.append([policy, "per node" if size is None else f"{size:,}", *cells])
        parts.append(f"{kind.capitalize()} scaling:\n\n" + _table(table))
        if plots.available():
            largest = sizes[-1] if kind == "strong" else None
            series = {
                policy: [
                    (c["nodes"], c["seconds"]) for c in rows if c["policy"] == policy and largest in (None, c["rows"])
                ]
                for policy in policies
            }
            title = f"{kind} scaling, modelled H100 nodes" + (f", {largest:,} rows" if largest else "")
            plots.curves(out / f"plots/scale-{kind}.svg", series, "nodes", "seconds", title)
            parts.append(f"![{kind} scaling](plots/scale-{kind}.svg)")
    return parts


def _shown(spread: Spread, digits: int) -> str:
    if spread.least == spread.most:
        return f"{spread.median:,.{digits}f}"
    return f"{spread.median:,.{digits}f} ({spread.least:,.{digits}f} to {spread.most:,.{digits}f})"


def _table(rows: Iterable[Sequence[str]]) -> str:
    header, *body = rows
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])
