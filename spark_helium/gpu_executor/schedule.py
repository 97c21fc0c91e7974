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
class _Rows:
    users: int = 0
    left: int = 0


class Schedule:
    """The schedule of one engine. Only the dispatcher's thread uses it.

    Queries whose graphs are one call each need no ranks: with nothing but these, the order is by prefixes alone.
    """

    def __init__(self, info: EngineInfo, prefixes: StaticPrefixes, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefixes = prefixes
        self._clock = clock
        self._tree = TemplatedRadixTree(info.block_size)
        worker = Worker(info.model, max(1, info.kv_blocks * info.block_size))
        self._ranking = Ranking(self._tree, [worker])
        self._rows: dict[Hashable, _Rows] = {}
        self._is_new = False
        self._looked_at = -REVISE_SECONDS

    @property
    def order(self) -> DispatchOrder:
        """The order that holds now."""
        return self._ranking.order

    def begin(self, query: Hashable, graph: CallGraph, here: Callable[[Call], bool] = lambda _: True) -> None:
        """A stream of a query's call graph begins. The graph's operators are rendered when it is the first.

        ``here`` says whether a call is one of this engine's; what others compute costs this one nothing.
        """
        if len(graph.calls) < 2:
            return
        rows = self._rows.get(query)
        if rows is None:
            beginnings = [self._prefixes.of(call) if here(call) else None for call in graph.calls]
            self._tree.add(query, operators_of(graph, query, beginnings), FIRST_ROWS)
            rows = self._rows[query] = _Rows()
            self._is_new = True
        rows.users += 1

    def end(self, query: Hashable) -> None:
        """A stream of a query's call graph is over."""
        rows = self._rows.get(query)
        if rows is not None:
            rows.users -= 1
            if rows.users == 0:
                del self._rows[query]
                self._tree.remove(query)
                self._is_new &= bool(self._rows)

    def expect(self, query: Hashable, rows: int) -> None:
        """So many more rows of a query have arrived, or fewer are left to do."""
        known = self._rows.get(query)
        if known is not None:
            known.left += rows
            self._tree.expect(query, max(FIRST_ROWS, known.left))

    def observe(self, operator: OperatorId, result: EngineResult) -> None:
        """An operator's call was answered."""
        if operator.query in self._rows and result.error is None:
            self._ranking.observe(operator, result.prompt_tokens, result.output_tokens)

    def observe_guard(self, operator: OperatorId, passed: int, total: int) -> None:
        """An operator's guard was true for ``passed`` of ``total`` rows."""
        if operator.query in self._rows:
            self._ranking.observe_guard(operator, passed, total)

    @property
    def is_due(self) -> bool:
        """Whether it is time to :meth:`revise` the order."""
        return self._is_new or (bool(self._rows) and self._clock() - self._looked_at >= REVISE_SECONDS)

    def revise(self) -> bool:
        """Look at the order anew; whether it changed."""
        self._looked_at = self._clock()
        is_new, self._is_new = self._is_new, False
        return (is_new or self._ranking.is_stale) and self._ranking.revise()
