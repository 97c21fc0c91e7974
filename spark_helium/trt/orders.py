"""Orders that need no search: two fixed ones, and those of a dispatcher that decides when a worker is free.

They are where the planner's search begins, what the benchmarks compare with, and for workloads too large for a search
the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spark_helium.trt.token_steps import NO_CALL, Workload

Sequences = list[list[int]]  # per worker the numbers of its calls, first to last
Key = Callable[[int, int, int], tuple[int, int]]  # (worker, call, tokens shared with the call before) -> smaller first


def split_rows(workload: Workload) -> list[int]:
    """Per call the worker of its row: rows in contiguous ranges of about equal work by tokens. O(calls)."""
    work: dict[int, int] = {}
    for number, call in enumerate(workload.calls):
        usage = workload.output[number] * workload.prompt[number] + workload.triangle[number]
        work[call.id.row] = work.get(call.id.row, 0) + usage
    workers = len(workload.workers)
    total = max(sum(work.values()), 1)
    worker_of, before = {}, 0
    for row in sorted(work):
        worker_of[row] = min((2 * before + work[row]) * workers // (2 * total), workers - 1)
        before += work[row]
    return [worker_of[call.id.row] for call in workload.calls]


def operator_wise(workload: Workload) -> Sequences:
    """Operator after operator in topological sequence, the rows of each one after the other."""
    level = _operator_levels(workload)
    return _fixed(workload, lambda call: (level[workload.calls[call].id.operator], workload.calls[call].id.row))


def query_wise(workload: Workload) -> Sequences:
    """Row after row, the operators of each in topological sequence."""
    level = _operator_levels(workload)
    return _fixed(workload, lambda call: (workload.calls[call].id.row, level[workload.calls[call].id.operator]))


def longest_shared_prefix_first(workload: Workload) -> Sequences:
    """LSPF: of the calls that can start, the one that shares most with the call before; sorted after every call."""
    place = _places(workload)
    return dispatch(workload, lambda _, call, shared: (-shared, place[call]))


def urgent_first(workload: Workload, weight: int = 1) -> Sequences:
    """Of the calls that can start, the one that the end waits for longest.

    Counted in token steps: the time from the call's start to the end of all that follow from it, plus ``weight`` times
    what it saves by going right after the call before. What is saved comes to the good of all that follow, so that
    weights far above 1 are best where many calls wait. Helium counts the first in hops, and the second not at all.
    """
    place = _places(workload)
    output, speed = workload.output, workload.speed
    waits = [
        [tail + workload.usage(w, call, 0) for call, tail in enumerate(tail_costs(workload))]
        for w in range(len(workload.workers))
    ]

    def key(worker: int, call: int, shared: int) -> tuple[int, int]:
        return (-waits[worker][call] - weight * speed[worker] * output[call] * shared, place[call])

    return dispatch(workload, key)


def tail_costs(workload: Workload) -> list[int]:
    """Per call the least time from its completion to that of all that follow from it, had they workers of their own.

    A lower bound in any order: usages are counted on the fastest worker and with the most that a prompt can share.
    """
    least_delay = [min(delays) for delays in zip(*workload.delay, strict=True)]
    least = least_usages(workload)
    tails = [0] * len(workload)
    for call in reversed(workload.topological):
        after = [least[reader] + tails[reader] for reader in workload.readers[call]]
        tails[call] = least_delay[call] + max(after) if after else 0
    return tails


def least_usages(workload: Workload) -> list[int]:
    """Per call its usage on the fastest worker, right after the call that it shares most with."""
    fastest = min(workload.speed)
    columns = zip(workload.output, workload.prompt, workload.most_shared(), workload.triangle, strict=True)
    return [fastest * (length * (prompt - shared) + triangle) for length, prompt, shared, triangle in columns]


def dispatch(workload: Workload, key: Key, on: Sequence[int] | None = None) -> Sequences:
    """What a dispatcher does that gives a free worker the first by ``key`` of the calls that can start.

    O(calls x calls that can start at a time). With ``on``, calls have their workers already.
    """
    workers = range(len(workload.workers))
    free = [0] * len(workers)
    shared = [workload.shared_with(NO_CALL) for _ in workers]
    sequences: Sequences = [[] for _ in workers]
    released = [0] * len(workload)
    open_reads = [len(reads) for reads in workload.reads]
    can_start: list[list[int]] = [[] for _ in workers]  # per worker, calls whose reads all have a completion
    for call in workload.topological:
        if not open_reads[call]:
            for w in workers if on is None else (on[call],):
                can_start[w].append(call)
    left = len(workload)
    while left:
        w = min((w for w in workers if can_start[w]), key=free.__getitem__)
        now = [call for call in can_start[w] if released[call] <= free[w]]
        if not now:
            free[w] = min(released[call] for call in can_start[w])
            continue
        call = _first(now, key, w, shared[w])
        free[w] += workload.usage(w, call, shared[w][call])
        shared[w] = workload.shared_with(call)
        sequences[w].append(call)
        for v in workers if on is None else (w,):
            can_start[v].remove(call)
        left -= 1
        until = free[w] + workload.delay[w][call]
        for reader in workload.readers[call]:
            released[reader] = max(released[reader], until)
            open_reads[reader] -= 1
            if not open_reads[reader]:
                for v in workers if on is None else (on[reader],):
                    can_start[v].append(reader)
    return sequences


def _first(calls: Sequence[int], key: Key, worker: int, shared: Sequence[int]) -> int:
    return min(calls, key=lambda call: key(worker, call, shared[call]))


def _places(workload: Workload) -> list[int]:
    """Per call its place in the topological sequence, which decides between calls that are equal otherwise."""
    places = [0] * len(workload)
    for place, call in enumerate(workload.topological):
        places[call] = place
    return places


def _operator_levels(workload: Workload) -> dict[str, int]:
    """Operators in topological sequence."""
    return {
        name: k for k, name in enumerate(dict.fromkeys(workload.calls[n].id.operator for n in workload.topological))
    }


def _fixed(workload: Workload, key: Callable[[int], tuple[int, int]]) -> Sequences:
    on = split_rows(workload)
    sequences: Sequences = [[] for _ in workload.workers]
    for call in sorted(range(len(workload)), key=key):
        sequences[on[call]].append(call)
    return sequences
