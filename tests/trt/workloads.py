"""Workloads for the tests of the planner, and the plainest possible scorer and solver to compare with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations, product
from typing import Any

from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.token_steps import Call, CallId, Order, Segment, Worker, Workload


def two_agents(rows: int, *, workers: int = 1, kv_capacity: int = 1000) -> dict[str, Any]:
    """The two-agent workflow of the Helium paper's Fig. 4: op3 reads op1 and shares its beginning with op2."""
    question = {"input": "q"}
    return {
        "name": "two agents",
        "queries": rows,
        "workers": [{"name": f"w{w}", "kv_capacity": kv_capacity} for w in range(workers)],
        "statics": {"a1": 40, "a2": 60, "ans": 10, "rev": 12},
        "inputs": {"q": {"len": 100}},
        "operators": [
            {"id": "op1", "prompt": [{"static": "a1"}, question, {"static": "ans"}], "out_len": 50},
            {"id": "op2", "prompt": [{"static": "a2"}, question, {"static": "ans"}], "out_len": 50},
            {
                "id": "op3",
                "prompt": [{"static": "a2"}, question, {"static": "rev"}, {"output": "op1"}],
                "out_len": 50,
            },
        ],
    }


def calls(*texts: str) -> list[CallId]:
    """Ids from texts as ``op1.0``."""
    return [CallId(operator, int(row)) for operator, _, row in (text.rpartition(".") for text in texts)]


def random_workload(rng: random.Random, size: int, workers: int = 1, *, letters: int = 3) -> Workload:
    """``size`` calls with short prompts over few texts, reading earlier ones, on workers that may differ."""
    lengths = {letter: rng.choice([0, 1, 5, 40, 200]) for letter in range(letters)}
    made: list[Call] = []
    for k in range(size):
        prompt = tuple(Segment(letter, lengths[letter]) for letter in rng.choices(range(letters), k=rng.randrange(4)))
        reads = tuple(rng.sample([call.id for call in made], rng.choice([0, 0, 1, min(2, len(made))])) if made else ())
        made.append(Call(CallId("op", k), prompt, rng.choice([0, 1, 7, 30]), reads))
    alphas = [Fraction(1), Fraction(1), Fraction(1, 3), Fraction(5, 2)]
    return Workload(made, [Worker(f"w{w}", rng.choice([0, 20, 100]), rng.choice(alphas)) for w in range(workers)])


def plain_makespan(workload: Workload, sequences: Sequence[Sequence[int]]) -> Fraction | None:
    """The makespan by the definition, call after call in whatever order works; None if no run can follow the order."""
    finish: dict[int, Fraction] = {}
    ready: dict[int, Fraction] = {}
    for _ in range(len(workload.calls)):
        for worker, sequence in zip(workload.workers, sequences, strict=True):
            for before, call in zip([None, *sequence], sequence, strict=False):
                reads = [workload.index[id_] for id_ in workload.calls[call].reads]
                if call in finish or any(read not in ready for read in reads):
                    continue
                if before is not None and before not in finish:
                    continue
                prompt = [segment.tokens for segment in workload.calls[call].prompt]
                length = workload.calls[call].output_tokens
                if before is not None:
                    pairs = zip(workload.calls[before].prompt, workload.calls[call].prompt, strict=False)
                    for ours, theirs in pairs:
                        if ours.key != theirs.key:
                            break
                        prompt.remove(theirs.tokens)
                usage = worker.alpha * (length * sum(prompt) + Fraction(length * (length + 1), 2))
                start = max([Fraction(0), *(ready[read] for read in reads)])
                if before is not None:
                    start = max(start, finish[before])
                finish[call] = start + usage
                ready[call] = finish[call] + worker.alpha * worker.kv_capacity * length
    if len(finish) < len(workload.calls):
        return None
    return max(finish.values(), default=Fraction(0))


def best_makespan(workload: Workload) -> Fraction:
    """The optimum, by trying every order and every worker for every call; for a handful of calls."""
    best = None
    size, workers = len(workload), len(workload.workers)
    for order in permutations(range(size)):
        if any(order.index(read) > order.index(call) for call in order for read in workload.reads[call]):
            continue
        for chosen in product(range(workers), repeat=size):
            sequences = [[call for call in order if chosen[call] == w] for w in range(workers)]
            makespan = plain_makespan(workload, sequences)
            if makespan is not None and (best is None or makespan < best):
                best = makespan
    assert best is not None, "a workload without circles has an order"
    return best


def makespan(instance: dict[str, Any], order: Order) -> Fraction:
    return workload_from_json(instance).simulate(order).makespan
