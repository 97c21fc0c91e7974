"""Search over orders of calls: beam search, annealing, and branch and bound.

A solution is a list of (call, worker) in which every call stands after all that it reads; each worker runs its calls in
that sequence. Every order that can run at all is such a list. All searches are deterministic, and bounded by a number
of steps that the caller derives from the size of the workload, never by a clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from spark_helium.trt.orders import Sequences, least_usages, tail_costs
from spark_helium.trt.token_steps import NO_CALL, Workload


@dataclass(frozen=True, slots=True)
class Solution:
    """Calls in one sequence, the worker of each call, and the makespan in the workload's unit."""

    sequence: tuple[int, ...]
    on: tuple[int, ...]
    makespan: int

    def sequences(self, workers: int) -> Sequences:
        """Per worker its calls, first to last."""
        return [[call for call in self.sequence if self.on[call] == w] for w in range(workers)]


class OrderSearch:
    """Searches the orders of one workload.

    Parameters
    ----------
    workload: at least one call. Usages of all pairs of calls are computed: O(calls^2 x workers) time and memory.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.size = len(workload)
        self.workers = len(workload.workers)
        # Row -1 of a list is its last: what comes after no call.
        self._usage = [
            [workload.usages_after(w, before) for before in [*range(self.size), NO_CALL]] for w in range(self.workers)
        ]
        self._delay = workload.delay
        self._tails = tail_costs(workload)
        self._least = least_usages(workload)

    # --- what a solution costs

    def makespan(self, sequence: Sequence[int], on: Sequence[int]) -> int:
        """The completion of the last call. O(calls + reads)."""
        return max(self._run(sequence, on)[0])

    def _run(self, sequence: Sequence[int], on: Sequence[int]) -> tuple[list[int], int]:
        """Per worker its last completion, and the sum of the completions of all calls.

        The second tells apart orders of equal makespan: the one that is done earlier on the whole leaves more room.
        """
        usage, delay, reads = self._usage, self._delay, self.workload.reads
        free = [0] * self.workers
        last = [NO_CALL] * self.workers
        released = [0] * self.size
        total = 0
        for call in sequence:
            w = on[call]
            at = free[w]
            for read in reads[call]:
                if released[read] > at:
                    at = released[read]
            at += usage[w][last[w]][call]
            free[w] = at
            last[w] = call
            released[call] = at + delay[w][call]
            total += at
        return free, total

    def solution(self, sequences: Sequences) -> Solution:
        """The solution that gives every worker these calls, which must be an order that can run."""
        on = [0] * self.size
        for w, calls in enumerate(sequences):
            for call in calls:
                on[call] = w
        left = [list(reversed(calls)) for calls in sequences]
        done: set[int] = set()
        sequence: list[int] = []
        while len(sequence) < self.size:
            before = len(sequence)
            for calls in left:
                while calls and all(read in done for read in self.workload.reads[calls[-1]]):
                    done.add(calls[-1])
                    sequence.append(calls.pop())
            assert len(sequence) > before, "the sequences of the workers wait for each other"
        return self._solution(sequence, on)

    def _solution(self, sequence: Sequence[int], on: Sequence[int]) -> Solution:
        return Solution(tuple(sequence), tuple(on), self.makespan(sequence, on))

    # --- beam search

    def beam(self, width: int) -> Solution:
        """The best of ``width`` partial orders at a time, each extended by every call that it allows on every worker.

        Partial orders are compared by a lower bound of what they lead to: the longest chain still to run, and the work
        still to do spread over all workers. O(calls^2 x workers x width).
        """
        states = [_Partial.start(self)]
        for _ in range(self.size):
            best: dict[tuple[int, tuple[int, ...], tuple[int, ...]], _Partial] = {}
            for state in states:
                for child in state.children(self):
                    key = (child.done, child.last, child.free)
                    known = best.get(key)
                    if known is None or child.rank < known.rank:
                        best[key] = child
            states = sorted(best.values(), key=lambda child: child.rank)[:width]
        return self._solution(*states[0].history(self.size))

    # --- branch and bound

    def exact(self, best: Solution, nodes: int) -> tuple[Solution, bool]:
        """A solution at least as good as ``best``, and whether it is proven optimal after looking at ``nodes`` nodes.

        Depth first, the lowest bound first; a partial order is dropped when its bound is no better than the best
        solution, or when another with the same calls done and the same last calls is nowhere behind it.
        """
        seen: dict[tuple[int, tuple[int, ...]], list[tuple[int, ...]]] = {}
        stack = [_Partial.start(self)]
        while stack:
            if nodes <= 0:
                return best, False
            nodes -= 1
            state = stack.pop()
            if state.bound >= best.makespan:
                continue
            if state.depth == self.size:
                best = self._solution(*state.history(self.size))
                continue
            times = state.times(self)
            known = seen.setdefault((state.done, state.last), [])
            if any(all(a <= b for a, b in zip(other, times, strict=True)) for other in known):
                continue
            known.append(times)
            children = [child for child in state.children(self) if child.bound < best.makespan]
            stack.extend(sorted(children, key=lambda child: child.rank, reverse=True))
        return best, True

    # --- annealing

    def anneal(self, start: Solution, steps: int, seed: int = 0, heat: float = 0.02) -> Solution:
        """The best solution on a random walk of ``steps`` moves from ``start``.

        A move takes a few neighbouring calls to another place, exchanges two calls, or gives one call, two, or a row's
        calls to another worker. One that makes things worse by ``x`` is kept with probability exp(-x / temperature),
        the temperature falling from ``heat`` times the makespan to nothing. O(steps x calls).
        """
        rng = random.Random(seed)
        size, reads = self.size, self.workload.reads
        sequence, on = list(start.sequence), list(start.on)
        weight = 0.05 / size
        best = start
        free, total = self._run(sequence, on)
        cost = max(free) + weight * total
        hot = heat * start.makespan
        for step in range(steps):
            new, new_on = sequence, on
            kind = rng.random()
            if self.workers > 1 and kind < 0.25:
                new_on = self._other_worker(rng, on, kind)
            if kind < 0.9:
                moved = self._moved(rng, sequence)
                if moved is None:
                    continue
                new = moved
            else:
                first, second = sorted((rng.randrange(size), rng.randrange(size)))
                new = sequence[:]
                new[first], new[second] = new[second], new[first]
                if not _follows_reads(new[first : second + 1], reads):
                    continue
            free, total = self._run(new, new_on)
            makespan = max(free)
            new_cost = makespan + weight * total
            worse = new_cost - cost
            if worse > 0:
                temperature = hot * (1 - step / steps) ** 2
                if temperature <= 0 or rng.random() >= math.exp(-worse / temperature):
                    continue
            sequence, on, cost = new, new_on, new_cost
            if makespan < best.makespan:
                best = Solution(tuple(new), tuple(new_on), makespan)
        return best

    def _other_worker(self, rng: random.Random, on: list[int], kind: float) -> list[int]:
        on = on[:]
        call, w = rng.randrange(self.size), rng.randrange(self.workers)
        if kind < 0.05:
            row = self.workload.calls[call].id.row
            for other, its in enumerate(self.workload.calls):
                if its.id.row == row:
                    on[other] = w
        elif kind < 0.1:
            other = rng.randrange(self.size)
            on[call], on[other] = on[other], on[call]
        else:
            on[call] = w
        return on

    def _moved(self, rng: random.Random, sequence: list[int]) -> list[int] | None:
        """One to four neighbours moved to any other place between what they read and what reads them."""
        first = rng.randrange(self.size)
        length = 1 if rng.random() < 0.6 else rng.randint(2, 4)
        run, rest = sequence[first : first + length], sequence[:first] + sequence[first + length :]
        low = high = first
        stop = {read for call in run for read in self.workload.reads[call]}
        while low > 0 and rest[low - 1] not in stop:
            low -= 1
        stop = {reader for call in run for reader in self.workload.readers[call]}
        end = len(rest)
        while high < end and rest[high] not in stop:
            high += 1
        at = rng.randint(low, high)
        if at == first:
            return None
        rest[at:at] = run
        return rest


def _follows_reads(window: Sequence[int], reads: Sequence[Sequence[int]]) -> bool:
    """Whether no call of a part of a sequence stands before one of the same part that it reads."""
    later = set(window)
    for call in window:
        later.discard(call)
        if not later.isdisjoint(reads[call]):
            return False
    return True


@dataclass(slots=True)
class _Partial:
    """The beginning of an order. ``ready``: calls all of whose reads are in it. ``work``: least usage of the others."""

    done: int
    free: tuple[int, ...]
    last: tuple[int, ...]
    released: list[int]
    ready: tuple[int, ...]
    chain: int
    work: int
    bound: int
    rank: tuple[int, int, int]
    depth: int
    call: int
    worker: int
    before: _Partial | None

    @classmethod
    def start(cls, search: OrderSearch) -> _Partial:
        load = search.workload
        ready = tuple(call for call in load.topological if not load.reads[call])
        nothing = (0,) * search.workers
        last = (NO_CALL,) * search.workers
        work = sum(search._least)
        return cls(0, nothing, last, [0] * search.size, ready, 0, work, 0, (0, 0, 0), 0, NO_CALL, 0, None)

    def children(self, search: OrderSearch) -> list[_Partial]:
        load, workers = search.workload, search.workers
        children = []
        for w in range(workers):
            # Workers that are alike and have done nothing yet are one and the same.
            if any(self._same(search, v, w) for v in range(w)):
                continue
            row = search._usage[w][self.last[w]]
            for call in self.ready:
                children.append(self._child(search, load, w, call, row[call]))
        return children

    def _same(self, search: OrderSearch, v: int, w: int) -> bool:
        load = search.workload
        return (
            self.last[v] == self.last[w] == NO_CALL
            and load.speed[v] == load.speed[w]
            and load.workers[v].kv_capacity == load.workers[w].kv_capacity
        )

    def _child(self, search: OrderSearch, load: Workload, w: int, call: int, usage: int) -> _Partial:
        at = max(self.free[w], self.released[call]) + usage
        free = (*self.free[:w], at, *self.free[w + 1 :])
        last = (*self.last[:w], call, *self.last[w + 1 :])
        done = self.done | 1 << call
        ready = tuple(other for other in self.ready if other != call)
        released = self.released
        readers = load.readers[call]
        if readers:
            released = released[:]
            until = at + search._delay[w][call]
            opened = []
            for reader in readers:
                if released[reader] < until:
                    released[reader] = until
                if all(done >> read & 1 for read in load.reads[reader]):
                    opened.append(reader)
            ready = (*ready, *opened)
        work = self.work - search._least[call]
        earliest = min(free)
        chain = max(self.chain, at + search._tails[call])
        slack = 0
        for other in ready:
            begin = released[other] if released[other] > earliest else earliest
            slack += begin
            ends = begin + search._least[other] + search._tails[other]
            if ends > chain:
                chain = ends
        spread = -(-(sum(free) + work) // search.workers)
        bound = max(chain, spread, *free)
        rank = (bound, spread, slack)
        return _Partial(done, free, last, released, ready, chain, work, bound, rank, self.depth + 1, call, w, self)

    def times(self, search: OrderSearch) -> tuple[int, ...]:
        """When workers and ready calls are free; of two states with equal calls done, never later is never worse."""
        return (*self.free, *(self.released[call] for call in range(search.size) if not self.done >> call & 1))

    def history(self, size: int) -> tuple[list[int], list[int]]:
        sequence: list[int] = []
        on = [0] * size
        state: _Partial | None = self
        while state is not None and state.before is not None:
            sequence.append(state.call)
            on[state.call] = state.worker
            state = state.before
        sequence.reverse()
        return sequence, on
