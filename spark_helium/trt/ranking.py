"""In which sequence the calls of the running queries should get the engine.

The dispatcher knows which calls are ready, and has two ways to choose among them: the one that shares most with the
call before, and where that does not decide the lowest rank (longest-shared-prefix-first with urgency for ties); or
the lowest rank first. Few ranks save prefill, many ranks start the longest chains first, and which is better depends
on how much waits. Ranks are made from the expected token steps between an operator's start and the end of its query:
a new rank where the next operator is less urgent by more than a threshold. Each way and threshold dispatches a small
sample of the work under the cost model of :mod:`~spark_helium.trt.token_steps`. Prefixes go first unless ranks are
clearly better.

The sample has few rows that stand for all that are expected, under a delay that is shorter by as much. What is expected
comes from the tree at first, and from what is observed later.

Helium (arXiv 2603.16104) ranks once, by hops instead of token steps, and keeps operators together that share a row's
text, however short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

from spark_helium.trt import orders
from spark_helium.trt.estimates import RunningMean
from spark_helium.trt.templates import Placeholder, symbol_tokens
from spark_helium.trt.token_steps import Call, CallId, Segment, Worker, Workload
from spark_helium.trt.tree import OperatorId, TemplatedRadixTree

SAMPLE_CALLS = 200  # of all queries together, unless there are more operators
THRESHOLDS = (0.3, 0.1, 0.03, 0.01, 0.0)  # shares of the longest time to the end
MOST_RANKS = 16  # with prefixes first: the dispatcher looks into every rank for each call
CLEARLY = Fraction(98, 100)
DRIFT = 0.2  # a mean that moved by this share of itself may change the order


@dataclass(frozen=True, slots=True)
class DispatchOrder:
    """Ranks of operators, lower first, and whether a longer shared prefix goes before a lower rank."""

    ranks: Mapping[OperatorId, int]
    prefix_first: bool = True


class Ranking:
    """The dispatch order of all operators in a tree, revised from observations.

    Parameters
    ----------
    tree: whose operators are ranked; queries may come and go at any time.
    workers: the engines that the operators run on, with their KV capacities.
    """

    def __init__(self, tree: TemplatedRadixTree, workers: Sequence[Worker]) -> None:
        self._tree = tree
        self._workers = tuple(workers)
        self._outputs: dict[OperatorId, RunningMean] = {}
        self._selectivities: dict[OperatorId, RunningMean] = {}
        self._columns: dict[Hashable, RunningMean] = {}  # by key of the placeholder
        self._order = DispatchOrder({})
        self._planned: dict[tuple[str, Hashable], float] = {}  # the estimates that the order is from

    @property
    def order(self) -> DispatchOrder:
        """Of the last :meth:`revise`."""
        return self._order

    # --- what is observed

    def observe(self, id_: OperatorId, prompt_tokens: float, output_tokens: float, calls: int = 1) -> None:
        """``calls`` calls of an operator are done; the tokens are those of all of them together. O(symbols).

        What the prompts have more or less than expected is ascribed to the operator's columns, in proportion.

        Raises
        ------
        KeyError, IndexError
            The operator is not in the tree.
        """
        operator = self._tree.operator(id_)
        if calls <= 0:
            return
        output = self._outputs.setdefault(id_, RunningMean(operator.output_tokens))
        output.observe(output_tokens, calls)
        self._tree.revise(id_, output_tokens=output.mean)
        columns = [s for s in operator.template.symbols if isinstance(s, Placeholder) and s.per_row]
        columns = [placeholder for placeholder in columns if self._answer_of(placeholder) is None]
        expected = sum(map(self._tokens, columns))
        if expected > 0:
            others = sum(map(self._tokens, operator.template.symbols)) - expected
            factor = max(prompt_tokens / calls - others, 0.0) / expected
            for placeholder in columns:
                mean = self._columns.setdefault(placeholder.key, RunningMean(placeholder.tokens))
                self._planned.setdefault(("column", placeholder.key), placeholder.tokens)
                mean.observe(calls * factor * mean.mean, calls)

    def observe_guard(self, id_: OperatorId, passed: int, total: int) -> None:
        """An operator's guard was true for ``passed`` of ``total`` rows. O(1).

        Raises
        ------
        KeyError, IndexError
            The operator is not in the tree.
        ValueError
            More rows passed than there were, or a number is negative.
        """
        if not 0 <= passed <= total:
            raise ValueError(f"{passed} of {total} rows cannot have passed a guard")
        operator = self._tree.operator(id_)
        mean = self._selectivities.setdefault(id_, RunningMean(operator.selectivity))
        mean.observe(passed, total)
        self._tree.revise(id_, selectivity=mean.mean)

    # --- what follows from it

    @property
    def is_stale(self) -> bool:
        """Whether a :meth:`revise` may change anything: queries came or went, or an estimate moved by :data:`DRIFT`.

        O(operators).
        """
        now = self._estimates()
        if now.keys() != self._planned.keys():
            return True
        return any(abs(value - self._planned[key]) > DRIFT * abs(self._planned[key]) for key, value in now.items())

    def revise(self) -> bool:
        """Compute the order anew; whether it changed. O(sample calls x calls that can start at a time)."""
        tree = self._tree
        known = set(tree)
        for means in (self._outputs, self._selectivities):
            for id_ in [id_ for id_ in means if id_ not in known]:
                del means[id_]
        columns = {s.key for id_ in known for s in tree.operator(id_).template.symbols if isinstance(s, Placeholder)}
        self._columns = {key: mean for key, mean in self._columns.items() if key in columns}
        self._planned = self._estimates()
        before, self._order = self._order, self._planned_order()
        return self._order != before

    def sample(self) -> Workload:
        """The work that the order is computed from. Call ids name operators by their place in the tree's iteration."""
        tree = self._tree
        needed = sum(tree.rows(id_.query) for id_ in tree)
        scale = min(1.0, SAMPLE_CALLS / needed) if needed else 1.0
        names = {id_: str(place) for place, id_ in enumerate(tree)}
        calls: list[Call] = []
        made: set[CallId] = set()
        for query in tree.queries:
            likelihoods = tree.likelihoods(query)
            rows = max(round(tree.rows(query) * scale), 1)
            for number, likelihood in enumerate(likelihoods):
                id_ = OperatorId(query, number)
                operator = tree.operator(id_)
                path = [
                    (key, isinstance(symbol, Placeholder) and symbol.per_row, round(self._tokens(symbol)))
                    for key, symbol in tree.path(id_)
                ]
                # Some rows make the call, and their answers together are as long as is expected of all rows.
                needing = math.ceil(rows * likelihood)
                output = round(operator.output_tokens * rows * likelihood / needing) if needing else 0
                for row in range(needing if output else 0):
                    prompt = tuple(Segment((key, query, row) if own else key, tokens) for key, own, tokens in path)
                    reads = (CallId(names[OperatorId(query, read)], row) for read in operator.reads)
                    known = tuple(read for read in reads if read in made)
                    calls.append(Call(CallId(names[id_], row), prompt, output, known))
                    made.add(calls[-1].id)
        workers = [replace(worker, kv_capacity=round(worker.kv_capacity * scale)) for worker in self._workers]
        return Workload(calls, workers)

    def _planned_order(self) -> DispatchOrder:
        ids = list(self._tree)
        if not ids:
            return DispatchOrder({})
        workload = self.sample()
        if not workload.calls:  # nothing is generated: what is left to go by are the prefixes
            return DispatchOrder({})
        places = [int(call.id.operator) for call in workload.calls]
        waits = [0] * len(ids)
        for call, tail in enumerate(orders.tail_costs(workload)):
            waits[places[call]] = max(waits[places[call]], tail + workload.usage(0, call, 0))
        candidates: list[list[int]] = [[0] * len(ids)]
        for threshold in THRESHOLDS:
            ranks = _ranks_by_gap(waits, threshold * max(waits))
            if ranks != candidates[-1]:
                candidates.append(ranks)

        def cost(ranks: Sequence[int], prefix_first: bool) -> Fraction:
            key = partial(_prefix_then_rank if prefix_first else _rank_then_prefix, [ranks[p] for p in places])
            return workload.simulate(workload.order(orders.dispatch(workload, key))).makespan

        by_prefix = [ranks for ranks in candidates if max(ranks) < MOST_RANKS][-1]
        least = min((cost(ranks, False), k) for k, ranks in enumerate(candidates))
        if least[0] < CLEARLY * cost(by_prefix, True):
            return DispatchOrder(dict(zip(ids, candidates[least[1]], strict=True)), prefix_first=False)
        return DispatchOrder(dict(zip(ids, by_prefix, strict=True)))

    def _answer_of(self, placeholder: Placeholder) -> OperatorId | None:
        match placeholder.key:
            case ("answer", query, int(number)) if query in self._tree:
                return OperatorId(query, number)
        return None

    def _tokens(self, symbol: bytes | Placeholder) -> float:
        """Expected tokens of a symbol, by what is known now."""
        if not isinstance(symbol, Placeholder):
            return symbol_tokens(symbol)
        answered = self._answer_of(symbol)
        if answered is not None:
            return self._tree.operator(answered).output_tokens
        mean = self._columns.get(symbol.key)
        return symbol.tokens if mean is None else mean.mean

    def _estimates(self) -> dict[tuple[str, Hashable], float]:
        tree = self._tree
        now: dict[tuple[str, Hashable], float] = {("column", key): mean.mean for key, mean in self._columns.items()}
        for query in tree.queries:
            now["rows", query] = tree.rows(query)
        for id_ in tree:
            operator = tree.operator(id_)
            now["output", id_] = operator.output_tokens
            now["selectivity", id_] = operator.selectivity
        return now


def _ranks_by_gap(waits: Sequence[int], gap: float) -> list[int]:
    """Per operator its rank: the most urgent first, a new rank where the next is less urgent by more than ``gap``."""
    ranks = [0] * len(waits)
    sequence = sorted(range(len(waits)), key=lambda place: (-waits[place], place))
    rank = 0
    for before, place in itertools.pairwise(sequence):
        if waits[before] - waits[place] > gap:
            rank += 1
        ranks[place] = rank
    return ranks


def _rank_then_prefix(ranks: Sequence[int], worker: int, call: int, shared: int) -> tuple[int, int]:
    return ranks[call], -shared


def _prefix_then_rank(ranks: Sequence[int], worker: int, call: int, shared: int) -> tuple[int, int]:
    return -shared, ranks[call]
