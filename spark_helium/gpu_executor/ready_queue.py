"""Calls that are ready and wait for their turn in an engine: which goes next.

The engine's own queue is kept short (:class:`EngineLoad`), so that the order of what waits can still change. It is
decided in three steps:

1. Between queries: start-time fair queueing (Goyal et al., SIGCOMM 1996) by tokens to compute. The query with the
   least virtual time goes next, and keeps its turn for a run of calls, so that their common prefix is used.
2. Within a query: a call whose prompt goes on from what its row has just computed, as that is in the engine's KV cache.
3. Else the next in the query's radix tree of waiting calls (:class:`~spark_helium.trt.call_tree.CallTree`): prompts
   with a common prefix side by side, and operators by their rank in the schedule.

Calls of a query with ``spark.helium.schedule.enabled=false`` keep the order in which they became ready instead.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from spark_helium.gpu_executor.engines.base import EngineInfo, Tokens
from spark_helium.trt.call_tree import CallTree
from spark_helium.trt.ranking import DispatchOrder
from spark_helium.trt.tree import OperatorId

RUN_OF_A_QUERY = 32  # calls that a query may send before another one's turn
SPARE_CALLS = 8  # calls that wait in the engine, so that it never runs dry between two turns of the dispatcher
SPARE_SHARE = 0.125  # the same for engines with many places, as a share of these


class ReadyCall(Hashable, Protocol):
    """What the queue asks of a call: its prompt, whose it is, and which operator of the schedule it belongs to."""

    tokens: Tokens
    account: str
    operator: OperatorId


C = TypeVar("C", bound=ReadyCall)


@dataclass(slots=True, eq=False)
class _Query(Generic[C]):
    """``fresh``: calls that go on from what was just computed; the last one goes first, its prefix is the freshest.
    ``unordered``: calls that go in the order of their arrival; a dict, so that one can be dropped.
    """

    virtual_time: float
    tree: CallTree
    fresh: list[C] = field(default_factory=list)
    unordered: dict[C, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.fresh) + len(self.tree) + len(self.unordered)

    def take(self, most: int) -> list[C]:
        if self.fresh:
            taken = self.fresh[-most:]
            del self.fresh[-most:]
            return taken[::-1]
        if self.unordered:
            first = list(itertools.islice(self.unordered, most))
            for call in first:
                del self.unordered[call]
            return first
        return self.tree.take(most)  # type: ignore[return-value]  # the tree knows them as keys only


class ReadyQueue(Generic[C]):
    """The calls that wait for one engine. Only the dispatcher's thread uses it.

    Parameters
    ----------
    block_size: tokens per KV block of the engine.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._order = DispatchOrder({})
        self._queries: dict[str, _Query[C]] = {}
        self._virtual_time = 0.0
        self._ahead: dict[str, float] = {}  # queries with nothing to do that have had more than their share
        self._waiting: Counter[Hashable] = Counter()  # by the query of their operators: a graph of a query
        self._turn: str | None = None
        self._left_of_turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._queries.values()))

    def __bool__(self) -> bool:
        return bool(self._queries)

    def holds(self, graph: Hashable) -> bool:
        """Whether a call waits whose operator belongs to this graph."""
        return graph in self._waiting

    def add(self, call: C, *, fresh: bool = False, ordered: bool = True) -> None:
        """Take in a call that has become ready; ``fresh``: its prompt goes on from what its row has just computed.

        With ``ordered=False`` it goes when all that became ready before it are gone, whatever its prompt is.
        O(log n) comparisons of prompts for n calls of the query, or O(1) for a fresh or an unordered one.
        """
        entry = self._queries.get(call.account)
        if entry is None:
            # A query that comes, or comes back, does not claim the time in which it had nothing to do.
            start = max(self._virtual_time, self._ahead.pop(call.account, 0.0))
            entry = self._queries[call.account] = _Query(start, CallTree(self._block_size))
            entry.tree.set_order(self._order.ranks, self._order.prefix_first)
        self._waiting[call.operator.query] += 1
        if not ordered:
            entry.unordered[call] = None
        elif fresh:
            entry.fresh.append(call)
        else:
            entry.tree.add(call, call.tokens, call.operator)

    def share(self, call: C, account: str) -> None:
        """Another query asks the same as a call that waits: it goes with the query that has less to do before it."""
        if account == call.account:
            return
        other = self._queries.get(account)
        if other is None or len(other) < len(self._queries[call.account]):
            ordered = call not in self._queries[call.account].unordered
            self.discard(call)
            call.account = account
            self.add(call, ordered=ordered)

    def take(self, room: Callable[[], int], enter: Callable[[C], float]) -> list[C]:
        """The calls that go to the engine now, in order.

        Parameters
        ----------
        room: how many more calls the engine has room for.
        enter: counts a call as one in the engine; returns the tokens that it will compute for it.
        """
        taken: list[C] = []
        while self._queries and (most := room()) > 0:
            account = self._next_query()
            entry = self._queries[account]
            calls = entry.take(min(most, self._left_of_turn))
            self._left_of_turn -= len(calls)
            entry.virtual_time += sum(map(enter, calls))
            for call in calls:
                self._count_out(call)
            taken += calls
            self._forget_empty(account)
        return taken

    def discard(self, call: C) -> None:
        """Forget a call that waits. O(log n)."""
        entry = self._queries[call.account]
        if call in entry.unordered:
            del entry.unordered[call]
        elif not entry.tree.discard(call):
            entry.fresh.remove(call)
        self._count_out(call)
        self._forget_empty(call.account)

    def set_order(self, order: DispatchOrder) -> None:
        """Let calls go by this order from now on. O(n)."""
        if order != self._order:
            self._order = order
            for entry in self._queries.values():
                entry.tree.set_order(order.ranks, order.prefix_first)

    def check_integrity(self) -> None:
        """Assert that the books balance."""
        for account, entry in self._queries.items():
            assert entry, f"query {account} is kept without calls"
            entry.tree.check_integrity()
        assert sum(self._waiting.values()) == len(self), "graphs know other calls"
        assert all(self._waiting.values()), "a graph without calls is left"

    def _next_query(self) -> str:
        turn = self._turn
        if turn is None or turn not in self._queries or self._left_of_turn <= 0:
            turn = self._turn = min(self._queries, key=lambda name: self._queries[name].virtual_time)
            self._left_of_turn = RUN_OF_A_QUERY
        self._virtual_time = max(self._virtual_time, self._queries[turn].virtual_time)
        return turn

    def _count_out(self, call: C) -> None:
        graph = call.operator.query
        self._waiting[graph] -= 1
        if not self._waiting[graph]:
            del self._waiting[graph]

    def _forget_empty(self, account: str) -> None:
        entry = self._queries[account]
        if not entry:
            del self._queries[account]
            self._ahead = {name: time for name, time in self._ahead.items() if time > self._virtual_time}
            self._ahead[account] = entry.virtual_time


class EngineLoad:
    """How full an engine is, as far as the daemon can tell: calls, and tokens of their KV.

    Parameters
    ----------
    info: the engine's places and KV blocks.
    """

    def __init__(self, info: EngineInfo) -> None:
        self._most_calls = info.max_num_seqs + max(SPARE_CALLS, int(SPARE_SHARE * info.max_num_seqs))
        self._most_tokens = info.kv_blocks * info.block_size
        self.calls = 0
        self.tokens = 0

    def room(self) -> int:
        """How many more calls would run, or be among the few that wait in the engine: at least one where it is idle.

        A call is taken to need as much KV as the mean of those in the engine.
        """
        places = self._most_calls - self.calls
        if self.tokens <= 0:
            return min(places, SPARE_CALLS)
        mean = self.tokens / self.calls
        return max(0, min(places, int((self._most_tokens - self.tokens) / mean) + SPARE_CALLS))

    def enter(self, tokens: int) -> None:
        """A call goes to the engine."""
        self.calls += 1
        self.tokens += tokens

    def leave(self, tokens: int) -> None:
        """A call is done, or was aborted."""
        self.calls -= 1
        self.tokens -= tokens
