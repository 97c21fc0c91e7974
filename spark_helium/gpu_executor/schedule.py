"""In which order the calls of the running queries should get an engine, and what is learned for it.

The order itself is made by :class:`~spark_helium.trt.ranking.Ranking` over the operator level of the templated radix
tree; here it is fed with call graphs, rows and results, and asked again from time to time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from spark_helium.call_graph import Call, CallGraph
from spark_helium.gpu_executor.engines.base import EngineInfo, EngineResult
from spark_helium.gpu_executor.static_prefix import StaticPrefixes
from spark_helium.trt.graph_operators import operators_of
from spark_helium.trt.ranking import DispatchOrder, Ranking
from spark_helium.trt.token_steps import Worker
from spark_helium.trt.tree import OperatorId, TemplatedRadixTree

REVISE_SECONDS = 2.0  # least time between two looks at the order, which take some milliseconds each
FIRST_ROWS = 100.0  # rows that are expected of a query before more have come


@dataclass(slots=True)
class _Query:
    has_order: bool  # whether its calls can be put in more than one order of operators
    streams: int = 0
    rows_left: int = 0


class Schedule:
    """The schedule of one engine. Only the dispatcher's thread uses it.

    The tree holds the graphs of all running queries. While each of them is one call, there is nothing to rank: the
    order is by prefixes alone, and nothing need be learned for it.
    """

    def __init__(self, info: EngineInfo, prefixes: StaticPrefixes, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefixes = prefixes
        self._clock = clock
        self._tree = TemplatedRadixTree(info.block_size)
        worker = Worker(info.model, max(1, info.kv_blocks * info.block_size))
        self._ranking = Ranking(self._tree, [worker])
        self._queries: dict[Hashable, _Query] = {}
        self._orderable = 0  # queries of more than one call
        self._is_new = False
        self._looked_at = -REVISE_SECONDS

    @property
    def order(self) -> DispatchOrder:
        """The order that holds now."""
        return self._ranking.order

    def begin(
        self, query: Hashable, graph: CallGraph, here: Callable[[Call], bool] = lambda _: True, salt: str = ""
    ) -> None:
        """A stream of a query's call graph begins. The graph's operators are rendered when it is the first.

        ``here`` says whether a call is one of this engine's; what others compute costs this one nothing. Prompts of
        another ``salt`` share nothing with the graph's.
        """
        known = self._queries.get(query)
        if known is None:
            beginnings = [self._prefixes.of(call) if here(call) else None for call in graph.calls]
            self._tree.add(query, operators_of(graph, query, beginnings, salt=salt), FIRST_ROWS)
            known = self._queries[query] = _Query(len(graph.calls) > 1)
            self._orderable += known.has_order
            self._is_new |= known.has_order
        known.streams += 1

    def end(self, query: Hashable) -> None:
        """A stream of a query's call graph is over."""
        known = self._queries.get(query)
        if known is not None:
            known.streams -= 1
            if known.streams == 0:
                del self._queries[query]
                self._orderable -= known.has_order
                self._tree.remove(query)
                self._is_new &= bool(self._queries)

    def expect(self, query: Hashable, rows: int) -> None:
        """So many more rows of a query have arrived, or fewer are left to do."""
        known = self._queries.get(query)
        if known is not None:
            known.rows_left += rows
            self._tree.expect(query, max(FIRST_ROWS, known.rows_left))

    def observe(self, operator: OperatorId, result: EngineResult) -> None:
        """An operator's call was answered."""
        if self._orderable and operator.query in self._queries and result.error is None:
            self._ranking.observe(operator, result.prompt_tokens, result.output_tokens)

    def observe_guard(self, operator: OperatorId, passed: int, total: int) -> None:
        """An operator's guard was true for ``passed`` of ``total`` rows."""
        if self._orderable and operator.query in self._queries:
            self._ranking.observe_guard(operator, passed, total)

    @property
    def is_due(self) -> bool:
        """Whether it is time to :meth:`revise` the order."""
        if not self._orderable:
            return False
        return self._is_new or self._clock() - self._looked_at >= REVISE_SECONDS

    def revise(self) -> bool:
        """Look at the order anew; whether it changed."""
        self._looked_at = self._clock()
        is_new, self._is_new = self._is_new, False
        return (is_new or self._ranking.is_stale) and self._ranking.revise()
