"""Workloads for the planner, in the JSON form of ``spark-helium schedule``.

Reduced instances of the kinds that the Helium paper (arXiv 2603.16104) evaluates, with lengths drawn by a seed, and its
trading workflow at full size.

    python benchmarks/workloads/agents.py trading --rows 1 > trading.json
    spark-helium schedule trading.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from typing import Any

Instance = dict[str, Any]
Prompt = list[dict[str, Any]]


class Builder:
    """Collects statics, inputs and operators of one instance; lengths are drawn per text and, for rows, per row."""

    def __init__(self, name: str, rng: random.Random, rows: int, workers: int, kv_capacity: int = 8192) -> None:
        self.rng = rng
        self.rows = rows
        self.data: Instance = {
            "name": name,
            "queries": rows,
            "workers": [{"name": f"w{w}", "kv_capacity": kv_capacity, "alpha": 1} for w in range(workers)],
            "statics": {},
            "inputs": {},
            "operators": [],
        }

    def static(self, name: str, low: int, high: int | None = None) -> dict[str, Any]:
        self.data["statics"].setdefault(name, self.rng.randint(low, high or low))
        return {"static": name}

    def column(self, name: str, low: int, high: int | None = None, values: int | None = None) -> dict[str, Any]:
        """An input; with ``values`` rows have that many distinct values."""
        if name not in self.data["inputs"]:
            if values is None:
                self.data["inputs"][name] = {"len": [self.rng.randint(low, high or low) for _ in range(self.rows)]}
            else:
                lengths = [self.rng.randint(low, high or low) for _ in range(values)]
                chosen = [self.rng.randrange(values) for _ in range(self.rows)]
                self.data["inputs"][name] = {"len": [lengths[v] for v in chosen], "value": [f"v{v}" for v in chosen]}
        return {"input": name}

    def operator(self, name: str, prompt: Prompt, low: int, high: int | None = None) -> dict[str, Any]:
        spread = [self.rng.randint(low, high or low) for _ in range(self.rows)]
        self.data["operators"].append({"id": name, "prompt": prompt, "out_len": spread})
        return {"output": name}


def map_reduce(b: Builder, agents: int) -> None:
    context, question = b.column("context", 150, 500, values=b.rng.choice([1, 2, b.rows])), b.column("question", 15, 60)
    system, label = b.static("system", 16), b.static("label", 8)
    answers = []
    for k in range(agents):
        prompt = [system, context, question, b.static(f"role{k}", 6, 20)]
        answers += [label, b.operator(f"expert{k}", prompt, 150, 320)]
    b.operator("summary", [b.static("sum", 15, 60), context, question, *answers], 100, 260)


def debate(b: Builder, agents: int) -> None:
    question, system = b.column("question", 60, 400), b.static("system", 7, 60)
    first = []
    for k in range(agents):
        first.append([system, question, b.static(f"role{k}", 8, 20)])
        b.operator(f"first{k}", first[k], 150, 340)
    for k in range(agents):
        others = [{"output": f"first{j}"} for j in range(agents) if j != k]
        b.operator(f"second{k}", [*first[k], {"output": f"first{k}"}, b.static("revise", 17), *others], 150, 390)


def reflection(b: Builder, agents: int) -> None:
    document, question = b.column("document", 200, 600, values=b.rows), b.column("question", 10, 40)
    analyst = [b.static("analyst", 159), document, question]
    draft = b.operator("draft", analyst, 90, 160)
    notes: Prompt = []
    for k in range(max(agents - 1, 1)):
        prompt = [b.static("critic", 43), b.static(f"critic{k}", 40, 90), document, question, draft, *notes]
        notes.append(b.operator(f"critic{k}", prompt, 200, 400))
    b.operator("final", [*analyst, draft, b.static("fix", 34), *notes], 110, 170)


def refinement(b: Builder, agents: int) -> None:
    system, task = b.static("system", 6), b.static("task", 170)
    summary = b.operator("step0", [system, b.static("begin", 201), b.column("chunk0", 300, 800)], 100, 220)
    for k in range(1, agents):
        summary = b.operator(f"step{k}", [system, task, summary, b.column(f"chunk{k}", 300, 800)], 100, 300)


def parallel_chains(b: Builder, agents: int) -> None:
    item, reports = b.column("item", 100, 350), []
    for k in range(agents):
        system = b.static(f"system{k}", 200, 280)
        read = b.static("extract", 60, 170)
        prompts = [[system, read, item, b.column(f"chunk{c}", 200, 700)] for c in range(2)]
        notes = [b.operator(f"read{k}_{c}", prompt, 150, 450) for c, prompt in enumerate(prompts)]
        reports.append(b.operator(f"report{k}", [system, b.static("report", 167), item, *notes], 200, 512))
    b.operator("writer", [b.static("write", 240), item, *reports], 200, 512)


def small_trading(b: Builder, agents: int) -> None:
    stock, reports = b.column("stock", 3, 8), []
    for k in range(agents):
        prompt = [b.static(f"analyst{k}", 160, 850), stock, b.column(f"documents{k}", 300, 1500)]
        reports.append(b.operator(f"analyst{k}", prompt, 200, 512))
    views = {}
    for side in ("bull", "bear"):
        views[side] = [b.static(side, 180), stock, *reports, b.static("argue", 34)]
        b.operator(f"{side}1", views[side], 200, 512)
    for side, other in (("bull", "bear"), ("bear", "bull")):
        prompt = [*views[side], {"output": f"{side}1"}, b.static("they say", 9), {"output": f"{other}1"}]
        b.operator(f"{side}2", prompt, 200, 512)
    said = [{"output": f"{side}{k}"} for side in ("bull", "bear") for k in (1, 2)]
    b.operator("manager", [b.static("manager", 192), stock, *said], 200, 512)


KINDS: tuple[Callable[[Builder, int], None], ...] = (
    map_reduce,
    debate,
    reflection,
    refinement,
    parallel_chains,
    small_trading,
)


def reduced_instances(count: int, seed: int = 0) -> list[Instance]:
    """Instances with two to four agents and rows on one or two workers, every kind in turn."""
    instances = []
    for number in range(count):
        rng = random.Random(1000 * seed + number)
        kind = KINDS[number % len(KINDS)]
        agents, rows, workers = rng.randint(2, 4), rng.randint(2, 4), 1 + number // len(KINDS) % 2
        builder = Builder(f"{kind.__name__}-{agents}x{rows}-w{workers}-{number}", rng, rows, workers)
        kind(builder, agents)
        instances.append(builder.data)
    return instances


def trading(rows: int, workers: int = 1, *, traders: int = 8, kv_capacity: int = 478_560, seed: int = 0) -> Instance:
    """Analysts with documents, two rounds of bull and bear, traders with a risk debate each, a fund manager.

    With eight traders these are 88 operators. The four styles of traders stand in it twice each and are not merged.
    """
    b = Builder(f"trading-{traders}x{rows}-w{workers}", random.Random(seed), rows, workers, kv_capacity)
    stock, profile = b.column("stock", 3, 8), b.column("profile", 700, 800)
    documents = {
        "fu": (193, [(1500, 1700), (480, 560), (500, 600), (50, 120)]),
        "ma": (850, [(15_500, 15_900), (17_500, 17_900)]),
        "ne": (164, [(760, 860)] * 5),
        "so": (224, [(4300, 4800)] * 3),
    }
    reports: Prompt = []
    for name, (length, columns) in documents.items():
        system = b.static(f"{name} system", length)
        more = [b.static("about", 10), profile] if name == "fu" else []
        task, end = b.static("extract", 45), b.static("end", 1)
        notes = []
        for d, bounds in enumerate(columns):
            document = [b.static("document", 9), b.column(f"{name}_{d}", *bounds), end]
            notes.append(b.operator(f"{name}_{d}", [system, task, stock, *more, *document], 480, 512))
        prompt = [system, b.static("report", 5), stock, *more, b.static(f"{name} notes", 44), *notes]
        reports.append(b.operator(name, [*prompt, b.static("report end", 31)], 480, 512))
    reports = [part for report in reports for part in (b.static("label", 10), report)]
    views = {side: [b.static(side, 186), b.static("on", 6), stock, *reports, b.static("argue", 34)] for side in "bd"}
    for side in "bd":
        b.operator(f"{side}1", views[side], 480, 512)
    for side, other in ("bd", "db"):
        reply = [b.static("they say", 9), {"output": f"{other}1"}, b.static("reply", 16)]
        b.operator(f"{side}2", [*views[side], {"output": f"{side}1"}, *reply], 480, 512)
    said = {"derived": "dialogue", "from": ["b1", "d1", "b2", "d2"], "len": 2060}
    decision = b.operator("mg", [b.static("manager", 192), b.static("on", 6), stock, said], 480, 512)
    judges: Prompt = []
    for t in range(traders):
        style = b.static(f"style{t % 4}", 153, 164)
        plan = b.operator(f"t{t}", [style, b.static("trade", 20), stock, decision, b.static("trade end", 65)], 357, 512)
        views = {}
        for risk, length in (("risky", 125), ("safe", 92), ("neutral", 62)):
            end = [b.static("plan", 10), plan, b.static("judge", 77)]
            views[risk] = [b.static(risk, length), b.static("on", 6), stock, *reports, *end]
            b.operator(f"k{t}_{risk}", views[risk], 480, 512)
        round_one = [{"output": f"k{t}_{risk}"} for risk in views]
        for risk, view in views.items():
            b.operator(
                f"l{t}_{risk}", [*view, {"output": f"k{t}_{risk}"}, b.static("others", 48), *round_one], 480, 512
            )
        both = [f"{k}{t}_{risk}" for k in "kl" for risk in views]
        said = {"derived": f"risk dialogue {t}", "from": both, "len": 3080}
        judges.append(b.operator(f"j{t}", [b.static("judges", 209), b.static("on", 6), stock, said], 480, 512))
    b.operator("fm", [b.static("fund", 153), b.static("on", 6), stock, *judges, b.static("decide", 73)], 480, 512)
    return b.data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["trading", *(kind.__name__ for kind in KINDS)])
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.kind == "trading":
        instance = trading(args.rows, args.workers, seed=args.seed)
    else:
        builder = Builder(args.kind, random.Random(args.seed), args.rows, args.workers)
        next(kind for kind in KINDS if kind.__name__ == args.kind)(builder, args.agents)
        instance = builder.data
    json.dump(instance, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
