"""What a node learns of one call graph while a query runs it."""

from __future__ import annotations

from spark_helium.call_graph import CallGraph
from spark_helium.gpu_executor.engines.base import EngineResult
from spark_helium.gpu_executor.filter_order import FilterOrder
from spark_helium.trt.estimates import RunningMean

FIRST_GUESS = 32  # output tokens of a call that nobody has seen answered, where max_tokens allows more


class GraphState:
    """Shared by a query's tasks on a node. Only the dispatcher's thread uses it.

    Attributes
    ----------
    planned: the planner's order of the calls.
    filters: the order of the graph's filters; None where there is nothing to order, and where a cascade would decide
        otherwise for other rows, so that a task tried again must see the same ones.
    """

    def __init__(self, graph: CallGraph) -> None:
        filters = FilterOrder(graph)
        self.planned = filters.current
        is_free = filters.is_free and all(call.cascade is None for call in graph.calls)
        self.filters = filters if is_free else None
        self._outputs = [RunningMean(float(min(FIRST_GUESS, call.sampling.max_tokens))) for call in graph.calls]
        self._guards: dict[int, list[int]] = {}

    def expected_output(self, call: int) -> float:
        """Tokens that an answer of the call is expected to have."""
        return self._outputs[call].mean

    def guarded(self, call: int, passed: bool) -> None:
        """The guard of a call was looked at for a row."""
        counts = self._guards.setdefault(call, [0, 0])
        counts[0] += passed
        counts[1] += 1

    def take_guards(self) -> list[tuple[int, int, int]]:
        """Calls, rows for which their guards were true, and all rows that were looked at, since the last time."""
        counts, self._guards = self._guards, {}
        return [(call, passed, total) for call, (passed, total) in counts.items()]

    def asked(self, call: int, rows: int) -> None:
        """``rows`` rows asked for the call."""
        if self.filters is not None:
            self.filters.observe_calls(call, rows)

    def answered(self, call: int, result: EngineResult) -> None:
        """An engine answered the call."""
        if result.error is None:
            self._outputs[call].observe(result.output_tokens)
            if self.filters is not None:
                computed = result.prompt_tokens - result.cached_prompt_tokens + result.output_tokens
                self.filters.observe_tokens(call, computed)
