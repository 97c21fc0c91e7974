"""The call level of the templated radix tree: the prompts of one engine's calls, as tokens.

A radix tree's leaves, read from left to right, are its prompts in lexical order, and the node that two of them part at
is as deep as their common beginning is long. So the tree is kept as its leaves alone, sorted: what shares most with a
prompt stands right beside where the prompt belongs. Nothing is allocated per node; prompts are referred to, not copied.

Which call goes next: the one that shares most whole blocks with the call that went before
(longest-shared-prefix-first), and among equals one of the lowest rank; or the lowest rank before the longest prefix,
where the dispatch order of :mod:`~spark_helium.trt.ranking` says so.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from spark_helium.trt.templates import TOKEN_BYTES, Tokens, common_bytes
from spark_helium.trt.tree import OperatorId

CallKey = Hashable
_Leaf = tuple[Tokens, int]  # a prompt and the number of its call, which tells equal prompts apart

CHUNK = 512  # leaves per list; a list of twice as many is parted


class _Leaves:
    """Leaves in lexical order, as lists of up to ``2 * CHUNK``.

    add, remove: O(log n) comparisons and moving at most ``2 * CHUNK`` references. neighbours: O(log n) comparisons.
    """

    __slots__ = ("_chunks", "_last")

    def __init__(self, ordered: list[_Leaf] | None = None) -> None:
        """The given leaves, which must be sorted. O(n)."""
        given = ordered or []
        self._chunks = [given[k : k + CHUNK] for k in range(0, len(given), CHUNK)]
        self._last = [chunk[-1] for chunk in self._chunks]  # of each chunk

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __iter__(self) -> Iterator[_Leaf]:
        for chunk in self._chunks:
            yield from chunk

    def add(self, leaf: _Leaf) -> None:
        if not self._chunks:
            self._chunks.append([leaf])
            self._last.append(leaf)
            return
        k = min(bisect_left(self._last, leaf), len(self._chunks) - 1)
        chunk = self._chunks[k]
        insort(chunk, leaf)
        if len(chunk) > 2 * CHUNK:
            self._chunks[k : k + 1] = [chunk[:CHUNK], chunk[CHUNK:]]
            self._last[k : k + 1] = [chunk[CHUNK - 1], chunk[-1]]
        else:
            self._last[k] = chunk[-1]

    def remove(self, leaf: _Leaf) -> None:
        k = bisect_left(self._last, leaf)
        chunk = self._chunks[k]
        at = bisect_left(chunk, leaf)
        assert chunk[at] == leaf, "a leaf to remove is not where it belongs"
        del chunk[at]
        if chunk:
            self._last[k] = chunk[-1]
        else:
            del self._chunks[k], self._last[k]

    def neighbours(self, leaf: _Leaf) -> tuple[_Leaf | None, _Leaf | None]:
        """The last leaf before where ``leaf`` belongs, and the first from there on."""
        k = bisect_left(self._last, leaf)
        if k == len(self._chunks):
            return (self._last[-1] if self._last else None), None
        chunk = self._chunks[k]
        at = bisect_left(chunk, leaf)
        before = chunk[at - 1] if at else (self._last[k - 1] if k else None)
        return before, chunk[at]

    def check_integrity(self) -> None:
        assert all(self._chunks), "an empty chunk is left"
        assert all(len(chunk) <= 2 * CHUNK for chunk in self._chunks), "a chunk is too long"
        assert self._last == [chunk[-1] for chunk in self._chunks], "the last leaf of a chunk is another"
        leaves = list(self)
        assert leaves == sorted(set(leaves)), "leaves are out of order or there twice"


@dataclass(slots=True)
class _Waiting:
    call: CallKey
    operator: OperatorId
    leaf: _Leaf
    rank: int


class CallTree:
    """Calls of one engine: waiting, in flight, and the prompts that ran lately.

    Costs are for n calls in the tree. Comparing two prompts counts as one step: O(tokens), at memcmp's speed.

    Parameters
    ----------
    block_size: tokens per KV block.
    recent_tokens: how many tokens of finished prompts are remembered, the latest first to be kept; the engine's KV
        capacity is a good value, as what lies further back is likely evicted.
    """

    def __init__(self, block_size: int, recent_tokens: int = 0) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; a KV block holds at least one token")
        self.block_size = block_size
        self._block_bytes = block_size * TOKEN_BYTES
        self._recent_bytes = recent_tokens * TOKEN_BYTES
        self._ranks: dict[OperatorId, int] = {}
        self._prefix_first = True
        self._by_rank: dict[int, _Leaves] = {}
        self._waiting: dict[CallKey, _Waiting] = {}
        self._by_number: dict[int, CallKey] = {}
        self._resident = _Leaves()  # prompts in flight and recent ones
        self._in_flight: dict[CallKey, _Leaf] = {}
        self._recent: OrderedDict[int, Tokens] = OrderedDict()
        self._bytes_of_recent = 0
        self._at: _Leaf = (b"", -1)  # what went last
        self._next_number = 0

    # --- calls come and go

    def add(self, call: CallKey, tokens: Tokens, operator: OperatorId) -> None:
        """Make a call wait; its rank is that of its operator. O(log n).

        Raises
        ------
        ValueError
            The call waits or is in flight already, or ``tokens`` are no packed tokens.
        """
        if call in self._waiting or call in self._in_flight:
            raise ValueError(f"call {call!r} is in the tree already")
        if len(tokens) % TOKEN_BYTES:
            raise ValueError(f"{len(tokens)} bytes are no whole number of packed tokens")
        leaf = (tokens, self._next_number)
        self._next_number += 1
        rank = self._ranks.get(operator, 0)
        self._waiting[call] = _Waiting(call, operator, leaf, rank)
        self._by_number[leaf[1]] = call
        leaves = self._by_rank.get(rank)
        if leaves is None:
            leaves = self._by_rank[rank] = _Leaves()
        leaves.add(leaf)

    def pop(self, limit: int = 1) -> list[CallKey]:
        """Take up to ``limit`` calls in the order in which they should start; they are in flight then.

        O(limit * log n), and with prefixes before ranks O(limit * number of ranks * log n).
        """
        calls = []
        for call, leaf in self._take(limit):
            self._in_flight[call] = leaf
            self._resident.add(leaf)
            calls.append(call)
        return calls

    def take(self, limit: int = 1) -> list[CallKey]:
        """As :meth:`pop`, at the same cost, and the tree forgets the calls: for who needs no :meth:`shared_tokens`."""
        return [call for call, _ in self._take(limit)]

    def _take(self, limit: int) -> Iterator[tuple[CallKey, _Leaf]]:
        while self._by_rank and limit > 0:
            limit -= 1
            rank, leaf = self._next()
            leaves = self._by_rank[rank]
            leaves.remove(leaf)
            if not leaves:
                del self._by_rank[rank]
            call = self._by_number.pop(leaf[1])
            del self._waiting[call]
            self._at = leaf
            yield call, leaf

    def finish(self, call: CallKey) -> None:
        """A call in flight is done; its prompt is remembered among the recent ones. O(log n).

        Raises
        ------
        KeyError
            The call is not in flight.
        """
        tokens, number = self._in_flight.pop(call)
        self._recent[number] = tokens
        self._bytes_of_recent += len(tokens)
        while self._bytes_of_recent > self._recent_bytes:
            oldest, its = self._recent.popitem(last=False)
            self._bytes_of_recent -= len(its)
            self._resident.remove((its, oldest))

    def discard(self, call: CallKey) -> bool:
        """Forget a call that waits; one in flight becomes recent. Whether it was in the tree. O(log n)."""
        waiting = self._waiting.pop(call, None)
        if waiting is not None:
            leaves = self._by_rank[waiting.rank]
            leaves.remove(waiting.leaf)
            if not leaves:
                del self._by_rank[waiting.rank]
            del self._by_number[waiting.leaf[1]]
            return True
        if call in self._in_flight:
            self.finish(call)
            return True
        return False

    def set_order(self, ranks: Mapping[OperatorId, int], prefix_first: bool = True) -> None:
        """Calls go by these ranks from now on, lower first and 0 if not given, before or after prefixes. O(n)."""
        self._ranks = dict(ranks)
        self._prefix_first = prefix_first
        if all(self._ranks.get(waiting.operator, 0) == waiting.rank for waiting in self._waiting.values()):
            return
        by_rank: dict[int, list[_Leaf]] = {}
        for rank in sorted(self._by_rank):
            for leaf in self._by_rank[rank]:
                waiting = self._waiting[self._by_number[leaf[1]]]
                waiting.rank = self._ranks.get(waiting.operator, 0)
                by_rank.setdefault(waiting.rank, []).append(leaf)
        # Each list is a few sorted ones, one after the other, which sort() merges.
        self._by_rank = {rank: _Leaves(sorted(leaves)) for rank, leaves in by_rank.items()}

    def _next(self) -> tuple[int, _Leaf]:
        """The rank and leaf that go next."""
        ranks = sorted(self._by_rank)
        if not self._prefix_first or len(ranks) == 1:
            return ranks[0], self._closest(self._by_rank[ranks[0]])[1]
        closest = [self._closest(self._by_rank[rank]) for rank in ranks]
        best = max(range(len(ranks)), key=lambda k: closest[k][0])  # the first of them, which has the lowest rank
        return ranks[best], closest[best][1]

    def _closest(self, leaves: _Leaves) -> tuple[int, _Leaf]:
        """The leaf that shares most with what went last, and how many bytes; of equals the one further to the right."""
        before, after = leaves.neighbours(self._at)
        ours = self._at[0]
        shared = -1 if before is None else common_bytes(ours, before[0], self._block_bytes)
        if after is not None:
            with_after = common_bytes(ours, after[0], self._block_bytes)
            if with_after >= shared:
                return with_after, after
        assert before is not None, "no leaf is there to be closest"
        return shared, before

    # --- what a dispatcher asks

    def __len__(self) -> int:
        """Calls that wait."""
        return len(self._waiting)

    def __contains__(self, call: object) -> bool:
        """Whether a call waits or is in flight."""
        return call in self._waiting or call in self._in_flight

    @property
    def in_flight(self) -> int:
        """Number of calls in flight."""
        return len(self._in_flight)

    def shared_tokens(self, tokens: Tokens) -> int:
        """Tokens in whole blocks that a prompt begins with like one in flight or a recent one. O(log n)."""
        before, after = self._resident.neighbours((tokens, -1))
        both = (common_bytes(tokens, leaf[0], self._block_bytes) for leaf in (before, after) if leaf is not None)
        return max(both, default=0) // TOKEN_BYTES

    # --- for tests and idle moments

    def check_integrity(self) -> None:
        """Assert what must hold at any time. O(n log n)."""
        seen: list[_Leaf] = []
        for rank, leaves in self._by_rank.items():
            assert leaves, "a rank has no call"
            leaves.check_integrity()
            for leaf in leaves:
                waiting = self._waiting[self._by_number[leaf[1]]]
                assert (waiting.leaf, waiting.rank) == (leaf, rank), "a leaf stands under another rank"
                assert self._ranks.get(waiting.operator, 0) == rank, "a call has not the rank of its operator"
            seen.extend(leaves)
        assert len(seen) == len(self._waiting) == len(self._by_number), "calls that wait have lost their leaves"
        self._resident.check_integrity()
        resident = [*self._in_flight.values(), *((tokens, number) for number, tokens in self._recent.items())]
        assert sorted(resident) == list(self._resident), "prompts in flight and recent ones are others"
        assert self._bytes_of_recent == sum(map(len, self._recent.values())), "recent prompts are counted wrongly"
        assert self._bytes_of_recent <= self._recent_bytes, "too many recent prompts"
