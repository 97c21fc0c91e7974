"""When the calls of a graph run, and how a filter's conditions are re-ordered by what the rows show.

The planner orders the conditions of a filter over answers by its estimates (OrderLLMFilters.scala) and tells it with
guards: a call runs for the rows that the conditions before it have let through. As any order keeps the same rows, the
daemon may change it for rows that have not begun, once it has seen what a condition costs and how many rows pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spark_helium.call_conditions import And, Condition, condition_references, evaluate
from spark_helium.call_graph import Call, CallGraph
from spark_helium.call_parts import CallRef, Row
from spark_helium.gpu_executor.call_template import FlawedCellError

LEAST_OBSERVED = 16  # rows that a condition must have been looked at for before its place changes
LEAST_GAIN = 0.1  # share of the expected cost that another order must save; observations are noisy
FIRST_WINDOW = 32  # rows that begin before the first look at the order; later windows double
LARGEST_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class CallOrder:
    """What each call of a graph waits for.

    Attributes
    ----------
    filters: positions of the graph's filters in the order of their evaluation.
    guards: by call, the condition under which it runs.
    dependencies: by call, the calls whose answers prompt or guard read.
    readers: by call, the calls that have it among their dependencies.
    """

    filters: tuple[int, ...]
    guards: tuple[Condition | None, ...]
    dependencies: tuple[tuple[int, ...], ...]
    readers: tuple[tuple[int, ...], ...]


def planned_order(graph: CallGraph) -> CallOrder:
    """The order that the planner chose."""
    guards = [call.guard for call in graph.calls]

    def place(position: int) -> tuple[int, int]:
        condition = graph.filters[position]
        guarded = (set(conjuncts(guards[k])) for k in _needed(graph.calls, guards, condition))
        return max((len(parts.intersection(graph.filters)) for parts in guarded), default=0), position

    return _order(graph.calls, sorted(range(len(graph.filters)), key=place), guards)


class FilterOrder:
    """The order of one graph's filters in one query, shared by the query's tasks on a node.

    Only the dispatcher's thread uses it.

    A condition's rank is the tokens, per row, of the calls that it needs and that no condition before it needs, by
    the share of rows that it drops: the lowest goes first, which is best for conditions that are independent.
    """

    def __init__(self, graph: CallGraph) -> None:
        self._graph = graph
        self.current = planned_order(graph)
        free = set(graph.filters)
        self._own_guards = [
            _conjunction([part for part in conjuncts(call.guard) if part not in free]) for call in graph.calls
        ]
        self._needs = [_needed(graph.calls, self._own_guards, condition) for condition in graph.filters]
        self._reads = [_called(condition) for condition in graph.filters]
        self._rows = [0] * len(graph.calls)
        self._tokens = [0] * len(graph.calls)
        self._evaluated = [0] * len(graph.filters)
        self._passed = [0] * len(graph.filters)

    @property
    def is_free(self) -> bool:
        """Whether there is anything to order."""
        return len(set(self._needs)) > 1

    def observe_calls(self, call: int, rows: int) -> None:
        """``rows`` rows asked for a call."""
        self._rows[call] += rows

    def observe_tokens(self, call: int, tokens: int) -> None:
        """An engine computed so many prompt and output tokens for a call; equal and cached calls cost nothing."""
        self._tokens[call] += tokens

    def observe_row(self, row: Row) -> None:
        """A row is finished: the conditions whose answers are all there let it pass or not."""
        for position, condition in enumerate(self._graph.filters):
            if all(not row.is_null(CallRef(k)) for k in self._reads[position]):
                with contextlib.suppress(FlawedCellError):  # Spark decides on such a row
                    self._passed[position] += evaluate(condition, row) is True
                    self._evaluated[position] += 1

    def revise(self) -> bool:
        """Take a cheaper order for the rows to come, if there is one. Returns whether there was."""
        if not self.is_free or sum(count >= LEAST_OBSERVED for count in self._evaluated) < 2:
            return False
        best = self._best()
        if self._cost(best) > (1 - LEAST_GAIN) * self._cost(self.current.filters):
            return False
        self.current = self._order_of(best)
        return True

    def _pass_rate(self, position: int) -> float:
        return (self._passed[position] + 1) / (self._evaluated[position] + 2)

    def _tokens_per_row(self, calls: frozenset[int]) -> float:
        return sum(self._tokens[k] / max(1, self._rows[k]) for k in calls)

    def _best(self) -> tuple[int, ...]:
        observed = [count >= LEAST_OBSERVED for count in self._evaluated]
        left = [p for p in range(len(observed)) if observed[p]]
        known: frozenset[int] = frozenset()
        chosen: list[int] = []
        while left:
            ranks = [
                (self._tokens_per_row(self._needs[p] - known) / (1 - self._pass_rate(p)), place)
                for place, p in enumerate(left)
            ]
            position = left.pop(min(ranks)[1])
            known |= self._needs[position]
            chosen.append(position)
        # What conditions in front of them keep from being looked at stays behind these, in the order that holds.
        return (*chosen, *(p for p in self.current.filters if not observed[p]))

    def _cost(self, filters: Sequence[int]) -> float:
        """Tokens expected per row."""
        known: frozenset[int] = frozenset()
        share, cost = 1.0, 0.0
        for position in filters:
            cost += share * self._tokens_per_row(self._needs[position] - known)
            known |= self._needs[position]
            share *= self._pass_rate(position)
        return cost + share * self._tokens_per_row(frozenset(range(len(self._graph.calls))) - known)

    def _order_of(self, filters: Sequence[int]) -> CallOrder:
        guards = []
        for k, own in enumerate(self._own_guards):
            before = []
            for position in filters:
                if k in self._needs[position]:
                    break
                before.append(self._graph.filters[position])
            guards.append(_conjunction([*before, *conjuncts(own)]))
        return _order(self._graph.calls, filters, guards)


def conjuncts(condition: Condition | None) -> Iterator[Condition]:
    """The conditions that AND joins, nested ones too."""
    if isinstance(condition, And):
        for part in condition.conditions:
            yield from conjuncts(part)
    elif condition is not None:
        yield condition


def _conjunction(conditions: Sequence[Condition]) -> Condition | None:
    return None if not conditions else conditions[0] if len(conditions) == 1 else And(tuple(conditions))


def _called(condition: Condition | None) -> frozenset[int]:
    references = () if condition is None else condition_references(condition)
    return frozenset(ref.index for ref in references if isinstance(ref, CallRef))


def _needed(calls: Sequence[Call], guards: Sequence[Condition | None], condition: Condition) -> frozenset[int]:
    """The calls that must run, or be passed over, before the condition can be looked at."""
    found: set[int] = set()
    left = list(_called(condition))
    while left:
        k = left.pop()
        if k not in found:
            found.add(k)
            left.extend(_read_by(calls[k], guards[k]))
    return frozenset(found)


def _read_by(call: Call, guard: Condition | None) -> frozenset[int]:
    return frozenset(ref.index for ref in call.prompt_references() if isinstance(ref, CallRef)) | _called(guard)


def _order(calls: Sequence[Call], filters: Sequence[int], guards: Sequence[Condition | None]) -> CallOrder:
    dependencies = [tuple(sorted(_read_by(call, guard))) for call, guard in zip(calls, guards, strict=True)]
    readers: list[list[int]] = [[] for _ in calls]
    for k, read in enumerate(dependencies):
        for other in read:
            readers[other].append(k)
    return CallOrder(tuple(filters), tuple(guards), tuple(dependencies), tuple(map(tuple, readers)))
