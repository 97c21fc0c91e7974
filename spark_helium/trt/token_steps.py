"""Token steps: what an order of calls costs (Helium, arXiv 2603.16104, cost model over the call-level tree).

Call ``j`` with an answer of ``L`` tokens, right after call ``i`` on a worker with speed factor ``alpha`` and room for
``M`` tokens of KV:

* prefill: ``p`` = tokens of the prompt of ``j`` less the leading segments that it shares with ``i``; the whole prompt
  when ``j`` is first;
* usage: ``alpha * (L * p + L * (L + 1) / 2)``;
* delay: ``alpha * M * L`` from the completion of ``j`` to the start of whatever reads its answer, on any worker.

A call starts when the one before it on its worker has finished and the delays of all that it reads are over. The
makespan, the completion of the last call, is what a planner minimises.

Everything is exact: costs are integers in units of ``1 / Workload.scale`` token steps, where ``scale`` is the common
denominator of all ``alpha``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from spark_helium.errors import InstanceError, ScheduleError

NO_CALL = -1  # stands for "nothing before it" where the index of a call is asked for


class CallId(NamedTuple):
    """An operator and the row that it is applied to."""

    operator: str
    row: int

    def __str__(self) -> str:
        return f"{self.operator} of row {self.row}"


class Segment(NamedTuple):
    """A piece of a prompt. Equal keys mean equal text; ``tokens`` is its length."""

    key: Hashable
    tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its prompt, the expected length of its answer, and the calls whose answers it waits for."""

    id: CallId
    prompt: tuple[Segment, ...]
    output_tokens: int
    reads: tuple[CallId, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return sum(segment.tokens for segment in self.prompt)


@dataclass(frozen=True, slots=True)
class Worker:
    """One engine. ``kv_capacity`` in tokens; a larger ``alpha`` is a slower worker."""

    name: str
    kv_capacity: int
    alpha: Fraction = Fraction(1)


Order = Mapping[str, Sequence[CallId]]  # worker -> its calls, first to last


@dataclass(frozen=True, slots=True)
class Timing:
    """When the calls of an order run, in token steps. ``idle`` counts until the worker's own last call is done."""

    makespan: Fraction
    start: dict[CallId, Fraction]
    finish: dict[CallId, Fraction]
    busy: dict[str, Fraction]
    idle: dict[str, Fraction]


def shared_tokens(before: Sequence[Segment], after: Sequence[Segment]) -> int:
    """Tokens of the leading segments that two prompts have in common.

    >>> shared_tokens([Segment("system", 40), Segment("a", 9)], [Segment("system", 40), Segment("b", 7)])
    40
    """
    tokens = 0
    for ours, theirs in zip(before, after, strict=False):
        if ours.key != theirs.key:
            break
        tokens += ours.tokens
    return tokens


class Workload:
    """Calls and workers, indexed for planning.

    Calls are numbered in radix order: a depth-first walk of the call-level tree, children by first appearance. The
    calls below any node of the tree are therefore one range of numbers.

    Parameters
    ----------
    calls: all calls; ids are unique.
    workers: at least one; names are unique.

    Raises
    ------
    InstanceError
        An id or name appears twice, a call reads one that does not exist, or calls wait for each other in a circle.

    Attributes
    ----------
    calls: in radix order. ``index`` leads from an id to the number.
    output, prompt, triangle: per call L, prompt tokens, and L * (L + 1) / 2.
    reads, readers: per call the numbers of what it reads, and of what reads it.
    topological: numbers, each after all that it reads; as given where that does not decide.
    scale, speed: costs are in 1 / ``scale`` token steps; ``speed[w]`` is the worker's alpha in that unit.
    delay: per worker and call, from the call's completion to its readers' start.
    """

    def __init__(self, calls: Sequence[Call], workers: Sequence[Worker]) -> None:
        if not workers:
            raise InstanceError("no worker is given to schedule on; name at least one")
        self.workers = tuple(workers)
        _reject_repeats("worker", [worker.name for worker in workers])
        _reject_repeats("call", [call.id for call in calls])
        given = {call.id: place for place, call in enumerate(calls)}
        self.scale = math.lcm(*(worker.alpha.denominator for worker in workers))
        self.speed = [int(worker.alpha * self.scale) for worker in workers]
        self._index_tree(calls)
        self.index = {call.id: number for number, call in enumerate(self.calls)}
        self.output = [call.output_tokens for call in self.calls]
        self.prompt = [call.prompt_tokens for call in self.calls]
        self.triangle = [length * (length + 1) // 2 for length in self.output]
        self.reads: list[tuple[int, ...]] = []
        self.readers: list[list[int]] = [[] for _ in self.calls]
        for number, call in enumerate(self.calls):
            for read in call.reads:
                if read not in self.index:
                    raise InstanceError(f"{call.id} reads the answer of {read}, which is not among the calls")
            self.reads.append(tuple(sorted({self.index[read] for read in call.reads})))
            for earlier in self.reads[-1]:
                self.readers[earlier].append(number)
        self.topological = self._sorted_topologically([given[call.id] for call in self.calls])
        self.delay = [
            [self.speed[w] * worker.kv_capacity * length for length in self.output] for w, worker in enumerate(workers)
        ]

    def __len__(self) -> int:
        return len(self.calls)

    def _index_tree(self, calls: Sequence[Call]) -> None:
        """Number the calls in radix order, and keep per call the tree nodes above it as (first, end, tokens)."""
        children: list[dict[Hashable, int]] = [{}]
        ends_at: list[list[int]] = [[]]  # by node: places of the calls whose whole prompt it is
        paths: list[list[int]] = []
        for place, call in enumerate(calls):
            node, path = 0, []
            for segment in call.prompt:
                known = children[node].get(segment.key)
                if known is None:
                    known = children[node][segment.key] = len(children)
                    children.append({})
                    ends_at.append([])
                node = known
                path.append(node)
            ends_at[node].append(place)
            paths.append(path)
        order: list[int] = []
        first = [0] * len(children)
        end = [0] * len(children)
        stack = [0]
        while stack:  # by hand, as a prompt may have more segments than Python has stack
            node = stack.pop()
            if node < 0:
                end[~node] = len(order)
                continue
            first[node] = len(order)
            order.extend(ends_at[node])
            stack.append(~node)
            stack.extend(reversed(children[node].values()))
        self.calls = tuple(calls[place] for place in order)
        self._above: list[list[tuple[int, int, int]]] = []
        for place in order:
            tokens, above = 0, []
            for node, segment in zip(paths[place], calls[place].prompt, strict=True):
                tokens += segment.tokens
                above.append((first[node], end[node], tokens))
            self._above.append(above)

    def shared_with(self, before: int) -> list[int]:
        """Per call the tokens that it shares with call ``before``, which may be :data:`NO_CALL`. O(calls)."""
        shared = [0] * len(self.calls)
        if before != NO_CALL:
            for first, end, tokens in self._above[before]:
                shared[first:end] = [tokens] * (end - first)
        return shared

    def usage(self, worker: int, call: int, shared: int) -> int:
        """What a call costs a worker when it shares this many tokens with the one before it there."""
        return self.speed[worker] * (self.output[call] * (self.prompt[call] - shared) + self.triangle[call])

    def usages_after(self, worker: int, before: int) -> list[int]:
        """Per call its usage right after call ``before``, which may be :data:`NO_CALL`. O(calls)."""
        alpha = self.speed[worker]
        columns = zip(self.output, self.prompt, self.shared_with(before), self.triangle, strict=True)
        return [alpha * (length * (prompt - shared) + triangle) for length, prompt, shared, triangle in columns]

    def most_shared(self) -> list[int]:
        """Per call the most tokens that it shares with any other. O(calls), as only its neighbours can be it."""
        neighbours = [0]
        for before, after in itertools.pairwise(self.calls):
            neighbours.append(shared_tokens(before.prompt, after.prompt))
        neighbours.append(0)
        return [max(pair) for pair in itertools.pairwise(neighbours)]

    def _sorted_topologically(self, given: Sequence[int]) -> list[int]:
        open_reads = [len(reads) for reads in self.reads]
        layer = sorted((n for n, count in enumerate(open_reads) if not count), key=given.__getitem__)
        order: list[int] = []
        while layer:
            order.extend(layer)
            following = []
            for number in layer:
                for reader in self.readers[number]:
                    open_reads[reader] -= 1
                    if not open_reads[reader]:
                        following.append(reader)
            layer = sorted(following, key=given.__getitem__)
        if len(order) < len(self.calls):
            stuck = next(call.id for number, call in enumerate(self.calls) if open_reads[number])
            raise InstanceError(f"{stuck} waits, directly or not, for its own answer; break the circle of reads")
        return order

    # --- orders

    def numbers(self, order: Order) -> list[list[int]]:
        """Per worker, in the workload's sequence, the numbers of its calls.

        Raises
        ------
        ScheduleError
            A worker or call does not exist, or a call is missing or stands in the order twice.
        """
        names = [worker.name for worker in self.workers]
        for name in order:
            if name not in names:
                raise ScheduleError(f"the order has a worker {name!r}; the workload's are {', '.join(names)}")
        sequences: list[list[int]] = []
        seen: set[CallId] = set()
        for name in names:
            sequences.append([])
            for id_ in order.get(name, ()):
                if id_ not in self.index:
                    raise ScheduleError(f"the order has {CallId(*id_)}, which is not among the calls")
                if id_ in seen:
                    raise ScheduleError(f"the order has {CallId(*id_)} twice")
                seen.add(id_)
                sequences[-1].append(self.index[id_])
        if len(seen) < len(self.calls):
            missing = next(call.id for call in self.calls if call.id not in seen)
            raise ScheduleError(f"the order lacks {missing}, and {len(self.calls) - len(seen) - 1} more")
        return sequences

    def order(self, sequences: Sequence[Sequence[int]]) -> dict[str, list[CallId]]:
        """The inverse of :meth:`numbers`."""
        return {
            worker.name: [self.calls[number].id for number in sequence]
            for worker, sequence in zip(self.workers, sequences, strict=True)
        }

    def simulate(self, order: Order) -> Timing:
        """Run an order: each worker starts each call of its list as early as list, reads and delays allow. O(calls).

        Raises
        ------
        ScheduleError
            The order is not one of this workload (see :meth:`numbers`), or its workers wait for each other forever.
        """
        sequences = self.numbers(order)
        start: dict[int, int] = {}
        finish: dict[int, int] = {}
        released: dict[int, int] = {}
        free = [0] * len(sequences)
        busy = [0] * len(sequences)
        place = [0] * len(sequences)
        moved = True
        while moved:
            moved = False
            for w, sequence in enumerate(sequences):
                while place[w] < len(sequence):
                    call = sequence[place[w]]
                    if any(read not in released for read in self.reads[call]):
                        break
                    before = sequence[place[w] - 1] if place[w] else NO_CALL
                    shared = (
                        0 if before == NO_CALL else shared_tokens(self.calls[before].prompt, self.calls[call].prompt)
                    )
                    usage = self.usage(w, call, shared)
                    start[call] = max([free[w], *(released[read] for read in self.reads[call])])
                    free[w] = finish[call] = start[call] + usage
                    released[call] = finish[call] + self.delay[w][call]
                    busy[w] += usage
                    place[w] += 1
                    moved = True
        if len(finish) < len(self.calls):
            stuck = next(sequence[at] for sequence, at in zip(sequences, place, strict=True) if at < len(sequence))
            raise ScheduleError(
                f"no run can follow the order: {self.calls[stuck].id} stands before a call that it reads"
            )
        names = [worker.name for worker in self.workers]
        return Timing(
            makespan=self.steps(max(finish.values(), default=0)),
            start={self.calls[number].id: self.steps(at) for number, at in start.items()},
            finish={self.calls[number].id: self.steps(at) for number, at in finish.items()},
            busy={name: self.steps(units) for name, units in zip(names, busy, strict=True)},
            idle={name: self.steps(f - b) for name, f, b in zip(names, free, busy, strict=True)},
        )

    def steps(self, units: int) -> Fraction:
        """Token steps of a cost in the workload's unit."""
        return Fraction(units, self.scale)


def _reject_repeats(what: str, names: Sequence[Hashable]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise InstanceError(f"{what} {name} is given twice; ids are unique")
        seen.add(name)
