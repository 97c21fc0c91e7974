"""Which beginnings of prompts are worth their place in an engine's KV cache.

A prefix is worth the tokens that it saves times the calls that are expected to begin with it. What is expected is
what was seen: the calls of the queries that used it, half of them forgotten with each query that began since. So a
running query's prefixes come first, those of the queries before it stay as long as there is room, and what nobody
uses any more goes. The clock is the number of queries, so that the same queries give the same pins on any machine.

:class:`PinPolicy` decides and knows no engine. :class:`PinKeeper` watches the calls and tells its engine, which holds
the blocks (:mod:`.engines.pin_table`).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from spark_helium.call_graph import Call
from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Engine, Prefix, token_count
from spark_helium.gpu_executor.engines.prefix_cache import block_keys
from spark_helium.gpu_executor.static_prefix import StaticPrefixes
from spark_helium.gpu_executor.stream import Stream

FADING = 0.5  # what is left of a prefix's expected calls when another query begins
MOST_KNOWN = 256  # prefixes that one engine's policy remembers
_MOST_QUERIES = 256  # queries that it tells from new ones


@dataclass(slots=True)
class _Known:
    """A prefix of whole blocks: ``calls`` are expected as of the query with number ``at``."""

    prefix: Prefix
    calls: float
    at: int


class PinPolicy:
    """Chooses the prefixes to pin on one engine.

    Parameters
    ----------
    block_size: tokens per KV block; only whole blocks are pinned.
    budget: most blocks that all pins may hold together.
    """

    def __init__(self, block_size: int, budget: int) -> None:
        self.budget = budget
        self._block_size = block_size
        self._block_bytes = block_size * TOKEN_BYTES
        self._queries: OrderedDict[str, None] = OrderedDict()  # the latest last
        self._clock = 0
        self._known: dict[Prefix, _Known] = {}

    def begin(self, query: str) -> None:
        """A query makes calls. If it is a new one, every prefix loses value until it is used again."""
        if query in self._queries:
            self._queries.move_to_end(query)
            return
        self._clock += 1
        self._queries[query] = None
        if len(self._queries) > _MOST_QUERIES:
            self._queries.popitem(last=False)

    def called(self, prefix: Prefix, calls: int) -> float:
        """Calls begin with ``prefix``; how many more are expected to.

        The prefix is kept in mind as its whole blocks; a prefix without one is forgotten at once.
        """
        tokens = prefix.tokens[: len(prefix.tokens) // self._block_bytes * self._block_bytes]
        if not tokens:
            return 0.0
        prefix = Prefix(tokens, prefix.salt)
        known = self._known.get(prefix)
        if known is None:
            if len(self._known) >= MOST_KNOWN:
                del self._known[min(self._known.values(), key=self._rank).prefix]
            known = self._known[prefix] = _Known(prefix, 0.0, self._clock)
        known.calls = self._expected(known) + calls
        known.at = self._clock
        return known.calls

    def plan(self) -> list[Prefix]:
        """The prefixes to pin, the most valuable first, as many as the budget holds.

        A prefix is cut where the budget ends, at whole blocks: its head saves tokens, too. Blocks that two prefixes
        share are counted once. A prefix that saw one call saves nothing and is not pinned; one that saw more stays,
        however far it has faded, until others need its place.
        """
        chosen: dict[Prefix, None] = {}
        blocks: set[int] = set()
        for known in sorted(self._known.values(), key=self._rank, reverse=True):
            if known.calls <= 1:
                continue
            fitting = 0
            tokens, salt = known.prefix
            for key in block_keys(tokens, self._block_size, salt):
                if key not in blocks and len(blocks) == self.budget:
                    break
                blocks.add(key)
                fitting += 1
            if fitting:
                chosen.setdefault(Prefix(tokens[: fitting * self._block_bytes], salt))
        return list(chosen)

    def value(self, prefix: Prefix) -> float:
        """Tokens saved times calls expected, for a prefix of whole blocks."""
        known = self._known.get(prefix)
        return 0.0 if known is None else token_count(prefix.tokens) * self._expected(known)

    def _expected(self, known: _Known) -> float:
        return known.calls * FADING ** (self._clock - known.at)

    def _rank(self, known: _Known) -> tuple[float, int, Prefix]:
        # Equal values: the later used, then anything that does not change from run to run.
        return token_count(known.prefix.tokens) * self._expected(known), known.at, known.prefix


@dataclass(slots=True)
class _Use:
    """A stream's call. ``planned``: whether the pins were looked at anew on its account."""

    prefix: Prefix
    planned: bool = False


@dataclass(slots=True)
class _StreamUses:
    """``query``: the stream's query, or a name of its own where it has none. ``by_call``: by what writes prompts."""

    query: str
    by_call: dict[object, _Use] = field(default_factory=dict)


class PinKeeper:
    """Pins what the calls on their way to an engine have in common. The dispatcher's thread owns it."""

    def __init__(self, engine: Engine, prefixes: StaticPrefixes) -> None:
        self._engine = engine
        self._prefixes = prefixes
        self._policy = PinPolicy(engine.info.block_size, engine.pins.budget)
        self._pinned: list[Prefix] = []  # what the engine was told last
        self._uses: WeakKeyDictionary[Stream, _StreamUses] = WeakKeyDictionary()
        self._names = itertools.count()

    def before_submit(self, stream: Stream, call: Call, calls: int) -> None:
        """So many calls of a stream are about to be submitted.

        The first calls of a query, from the second one on, pin the beginning that they share. Nothing is computed for
        the pin: the first of these calls computes it, and the others find it in the cache already.
        """
        if not (stream.pin_min_tokens and self._policy.budget):
            return
        uses = self._uses.get(stream)
        if uses is None:
            uses = self._uses[stream] = _StreamUses(stream.query or f"stream {next(self._names)}")
        template = (call.index, call.messages)
        use = uses.by_call.get(template)
        if use is None:
            tokens = self._prefixes.of(call).tokens
            worth_it = token_count(tokens) >= stream.pin_min_tokens
            use = uses.by_call[template] = _Use(Prefix(tokens if worth_it else b"", stream.kv_salt))
        if not use.prefix.tokens:
            return
        self._policy.begin(uses.query)
        expected = self._policy.called(use.prefix, max(calls, stream.expected_calls))
        if expected > 1 and not use.planned:
            use.planned = True
            plan = self._policy.plan()
            own = (tokens for tokens, salt in plan if salt == use.prefix.salt)
            covered = (token_count(tokens) for tokens in own if use.prefix.tokens.startswith(tokens))
            stream.pinned_tokens += max(covered, default=0)
            if plan != self._pinned:
                self._pinned = plan
                self._engine.pin(plan)
