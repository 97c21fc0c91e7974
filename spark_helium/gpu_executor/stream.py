"""One task's rows while the dispatcher works on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from spark_helium.call_conditions import evaluate
from spark_helium.call_graph import Call, CallGraph, CallTask, Constraint
from spark_helium.call_parts import InputRef
from spark_helium.gpu_executor.budget import Budget
from spark_helium.gpu_executor.call_template import CallTemplate, Cells, Column, FlawedCellError
from spark_helium.gpu_executor.cascade_stage import Asks, CascadeStage, Place, ProxyCalls
from spark_helium.gpu_executor.filter_order import FIRST_WINDOW, LARGEST_WINDOW, CallOrder
from spark_helium.gpu_executor.graph_state import GraphState
from spark_helium.gpu_executor.isolation import answer_scope, kv_salt
from spark_helium.gpu_executor.messages import Counters, Fatal
from spark_helium.gpu_executor.unrolled import UnrolledCalls


@dataclass(slots=True)
class Answers:
    """Finished rows of a stream, in order of completion.

    ``texts[k][p]`` is the answer of call ``k`` for row ``rows[p]``; None is NULL, or a failure when
    ``reasons[k]`` has ``p``. ``truncated[k]`` are the positions whose answer ended at ``max_tokens``.
    ``pinned_tokens``: what the stream's calls had pinned so far.
    """

    rows: list[int]
    texts: list[list[str | None]]
    reasons: list[dict[int, str]]
    truncated: list[list[int]]
    counters: Counters
    pinned_tokens: int = 0

    @classmethod
    def empty(cls, calls: int) -> Answers:
        """No rows yet, of a graph with this many calls."""
        return cls([], [[] for _ in range(calls)], [{} for _ in range(calls)], [[] for _ in range(calls)], Counters())


@dataclass(slots=True, eq=False)
class RowBatch:
    """Rows that arrived together, column-wise, and how far each of them is.

    ``open_calls[i]``: calls of row ``i`` that are not settled; the row is finished at 0.
    ``open_inputs[k][i]``: unsettled calls that prompt or guard of call ``k`` of row ``i`` read; it may start at 0.
    ``orders[i]``: what the calls of row ``i`` wait for, where that differs from row to row.
    ``unrolled[k]``: the calls that a composite call ``k`` makes for the rows.
    ``proxies[k]``: the calls that the proxy of call ``k`` gets for the rows.
    """

    first: int
    size: int
    inputs: list[Column]
    answers: list[list[str | None]]
    open_calls: list[int]
    open_inputs: list[list[int]]
    orders: list[CallOrder] | None = None
    reasons: dict[tuple[int, int], str] = field(default_factory=dict)
    truncated: set[tuple[int, int]] = field(default_factory=set)
    unrolled: dict[int, UnrolledCalls] = field(default_factory=dict)
    proxies: dict[int, ProxyCalls] = field(default_factory=dict)


# Whose calls: a batch's own, those of a composite call, or those of a proxy.
Origin = RowBatch | UnrolledCalls | ProxyCalls


@dataclass(slots=True)
class CallGroup:
    """Rows of one batch whose call ``call`` can start; or what a composite call may have to plan, without rows."""

    stream: Stream
    batch: Origin
    call: int
    rows: list[int]


def _with_room_for_choices(call: Call) -> Call:
    """The call with ``max_tokens`` that no choice can exceed: a byte of text takes one token at most, the end one.

    It costs nothing, because the engine stops where a choice ends, and half a choice is of no use to anybody.
    """
    if call.constraint is None or not call.constraint.choices or call.task is not CallTask.GENERATE:
        return call
    longest = max(len(choice.encode(errors="replace")) for choice in call.constraint.choices) + 1
    if longest <= call.sampling.max_tokens:
        return call
    return replace(call, sampling=replace(call.sampling, max_tokens=longest))


_CHOICE_CUT_OFF = (
    "the answer was cut off before it was a whole choice, as the prompt leaves too little room in the model's context; "
    "shorten the prompt or choose a model with a longer context"
)


def _cut_off(constraint: Constraint, max_tokens: int) -> str:
    """Why an answer that ended early is not what choices or a regex allow."""
    # A choice always gets the tokens it needs: what cut it off is the end of the context.
    if constraint.choices is not None:
        return _CHOICE_CUT_OFF
    return f"the answer was cut off at max_tokens = {max_tokens}; raise max_tokens"


class Stream:
    """One task's stream, as the dispatcher sees it.

    The dispatcher's thread owns it from the moment it is opened. ``deliver`` is called on that thread with
    answers, and last with a :class:`Fatal` if the stream fails; it must not block.
    """

    def __init__(
        self,
        graph: CallGraph,
        deliver: Callable[[Answers | Fatal], None],
        *,
        cache: bool = True,
        query: str = "",
        start_timeout: float = 600.0,
        pin_min_tokens: int = 0,
        expected_calls: int = 0,
        retries: int = 0,
        retry_backoff: float = 0.0,
        budget: Budget | None = None,
        cascade_rows: int = 0,
        ordered: bool = True,
        namespace: str = "",
        isolated: bool = False,
    ) -> None:
        self.graph = graph = replace(graph, calls=tuple(map(_with_room_for_choices, graph.calls)))
        self.cache = cache = cache and not isolated  # whether answers are shared with other queries
        self.query = query
        self.scope = answer_scope(namespace, "" if cache else query)
        self.kv_salt = kv_salt(namespace, query, isolated=isolated)
        self.start_timeout = start_timeout
        self.account = query or f"stream {id(self)}"  # who is charged for the calls
        self.pin_min_tokens = pin_min_tokens
        self.expected_calls = expected_calls
        self.retries = retries
        self.retry_backoff = retry_backoff
        self.budget = budget or Budget()
        self.ordered = ordered
        self.pinned_tokens = 0  # of the shared beginnings of its calls
        self.closed = False
        self.templates = [CallTemplate(call) for call in graph.calls]
        self.state = GraphState(graph)  # the dispatcher puts the one of the query's other tasks here
        self.stages = {
            template.call.index: CascadeStage(template, cascade_rows, lambda: self.counters)
            for template in self.templates
            if template.call.cascade is not None
        }
        self._deliver = deliver
        self._arrived = self._published = 0
        self._backlog: deque[tuple[RowBatch, int]] = deque()  # batches with the first row that has not begun
        self._window = FIRST_WINDOW
        self._finished = Answers.empty(len(graph.calls))

    @property
    def counters(self) -> Counters:
        """Counts since the last publication."""
        return self._finished.counters

    @property
    def has_news(self) -> bool:
        """Whether rows finished since the last publication."""
        return bool(self._finished.rows)

    @property
    def unfinished(self) -> int:
        """Rows that have arrived and are not published."""
        return self._arrived - self._published

    @property
    def has_backlog(self) -> bool:
        """Whether rows have arrived that have not begun."""
        return bool(self._backlog)

    def arrive(self, inputs: list[Column], size: int) -> list[CallGroup]:
        """Take in rows; returns the calls that can start. Calls that are NULL from the start are settled.

        Where filters may be re-ordered only a window of rows begins; the others wait for :meth:`more`.
        """
        calls = self.graph.calls
        dependencies, filters = self.state.planned.dependencies, self.state.filters
        batch = RowBatch(
            first=self._arrived,
            size=size,
            inputs=inputs,
            answers=[[None] * size for _ in calls],
            open_calls=[len(calls)] * size,
            open_inputs=[[len(read)] * size if read or filters else [] for read in dependencies],
            orders=[self.state.planned] * size if filters else None,
        )
        self._arrived += size
        if not calls:
            self._finished.rows.extend(range(batch.first, self._arrived))
        if filters is None:
            return self._begin(batch, self.state.planned, range(size))
        self._backlog.append((batch, 0))
        return self.more() if len(self._backlog) == 1 else []

    def more(self) -> list[CallGroup]:
        """Begin the next window of rows that wait, in the order of filters that is best by now."""
        groups: list[CallGroup] = []
        while self._backlog and not groups:
            filters = self.state.filters
            assert filters is not None, "only filters make rows wait"
            batch, start = self._backlog.popleft()
            stop = min(batch.size, start + self._window)
            if stop < batch.size:
                self._backlog.appendleft((batch, stop))
            self._window = min(2 * self._window, LARGEST_WINDOW)
            filters.revise()
            groups = self._begin(batch, filters.current, range(start, stop))
        return groups

    def end(self) -> list[CallGroup]:
        """No more rows will come; returns the calls that waited for that."""
        return [group for k, stage in self.stages.items() for group in self._asking(k, stage.end(self._arrived))]

    def template(self, group: CallGroup) -> CallTemplate:
        """What writes the prompts of a group."""
        return group.batch.template if isinstance(group.batch, ProxyCalls) else self.templates[group.call]

    def call(self, group: CallGroup) -> Call:
        """The call that a group asks for."""
        return self.template(group).call

    def _starting(self, batch: RowBatch, k: int, rows: list[int]) -> list[CallGroup]:
        """Rows whose call ``k`` has all that it reads. A cascade says when and whom they ask."""
        stage = self.stages.get(k)
        return [CallGroup(self, batch, k, rows)] if stage is None else self._asking(k, stage.reach(batch, rows))

    def _asking(self, k: int, asks: Asks) -> list[CallGroup]:
        def by_batch(places: list[Place]) -> dict[int, tuple[RowBatch, list[int]]]:
            batches: dict[int, tuple[RowBatch, list[int]]] = {}
            for batch, row in places:
                batches.setdefault(batch.first, (batch, []))[1].append(row)
            return batches

        groups = [CallGroup(self, batch, k, rows) for batch, rows in by_batch(asks.main).values()]
        for batch, rows in by_batch(asks.proxy).values():
            proxy = batch.proxies.get(k)
            if proxy is None:
                proxy = batch.proxies[k] = ProxyCalls(batch, self.stages[k].proxy)
            groups.append(CallGroup(self, proxy, k, rows))
        return groups

    def _begin(self, batch: RowBatch, order: CallOrder, window: range) -> list[CallGroup]:
        """The calls of a window of rows that can start."""
        inputs = batch.inputs
        if batch.orders is not None and order is not self.state.planned:
            for row in window:
                batch.orders[row] = order
            for open_inputs, read in zip(batch.open_inputs, order.dependencies, strict=True):
                open_inputs[window.start : window.stop] = [len(read)] * len(window)
        groups = []
        for template, guard, read in zip(self.templates, order.guards, order.dependencies, strict=True):
            if read:
                continue
            k = template.call.index
            rows = list(window)
            if isinstance(guard, InputRef):
                rows = [row for row in rows if inputs[guard.index][row]]
            for column in (inputs[index] for index in template.inputs):
                if None in column:
                    rows = [row for row in rows if column[row] is not None]
            if template.nullable:
                rows = [row for row in rows if not template.is_null(inputs, batch.answers, row)]
            if guard is not None and not isinstance(guard, InputRef):
                rows = [row for row in rows if self._guard_is_true(batch, k, row)]
            if rows:
                groups += self._starting(batch, k, rows)
            if len(rows) < len(window):
                present = set(rows)
                for row in window:
                    if row not in present:
                        groups.extend(self.settle(batch, k, row))
        return groups

    def unrolled(self, batch: Origin, k: int, rows: Sequence[int]) -> UnrolledCalls:
        """The calls of the composite call ``k``, which can start for ``rows``."""
        if isinstance(batch, UnrolledCalls):
            return batch
        assert isinstance(batch, RowBatch), "a proxy's calls are no composite ones"
        unrolled = batch.unrolled.get(k)
        if unrolled is None:
            unrolled = batch.unrolled[k] = UnrolledCalls(batch, self.graph.calls[k])
        unrolled.begin(rows)
        return unrolled

    def settle(
        self,
        batch: Origin,
        k: int,
        row: int,
        text: str | None = None,
        truncated: bool = False,
        reason: str = "",
    ) -> list[CallGroup]:
        """Call ``k`` of a row has its answer, is NULL, or failed. Returns the calls that can start now.

        An answer that was cut off before it was what its constraint allows is a failure here already: calls that read
        it must see the NULL that SQL sees. Of a composite call the row is the number of one of its calls.
        """
        if isinstance(batch, UnrolledCalls):
            outcome = batch.settle(row, text, truncated, reason)
            if outcome is None:
                return [CallGroup(self, batch, k, [])] if batch.has_more else []
            return self.settle(batch.batch, k, outcome.row, outcome.text, outcome.truncated, outcome.reason)
        if isinstance(batch, ProxyCalls):
            # A failure of the proxy is none of the row's: the main model answers it.
            decided = self.stages[k].scored(batch.batch, row, None if reason else text)
            if isinstance(decided, str):
                return self.settle(batch.batch, k, row, decided)
            return self._asking(k, decided)
        if reason:
            self.counters.calls_failed += 1
        if truncated:
            batch.truncated.add((k, row))
            constraint = self.graph.calls[k].constraint
            if text is not None and constraint is not None and not constraint.allows(text):
                text, reason = None, _cut_off(constraint, self.graph.calls[k].sampling.max_tokens)
                self.counters.calls_failed += 1
        batch.answers[k][row] = text
        if reason:
            batch.reasons[k, row] = reason
        opened: list[CallGroup] = []
        settled = [k]  # and calls that are NULL because of it; not by recursion, as a chain may have any length
        while settled:
            current = settled.pop()
            stage = self.stages.get(current)
            if stage is not None:
                opened += self._asking(current, stage.settled(batch, row, text if current == k else None))
            for reader in self._order(batch, row).readers[current]:
                batch.open_inputs[reader][row] -= 1
                if batch.open_inputs[reader][row] == 0:
                    null = self.templates[reader].is_null(batch.inputs, batch.answers, row)
                    if null or not self._guard_is_true(batch, reader, row):
                        settled.append(reader)
                    else:
                        opened += self._starting(batch, reader, [row])
            batch.open_calls[row] -= 1
        if batch.open_calls[row] == 0:
            self._finish(batch, row)
        return opened

    def _order(self, batch: RowBatch, row: int) -> CallOrder:
        return self.state.planned if batch.orders is None else batch.orders[row]

    def _guard_is_true(self, batch: RowBatch, k: int, row: int) -> bool:
        """Whether the guard lets the call run. A guard that cannot be evaluated is a failure of the call."""
        guard = self._order(batch, row).guards[k]
        if guard is None:
            return True
        try:
            passed = evaluate(guard, Cells(batch.inputs, batch.answers, row)) is True
            self.state.guarded(k, passed)
            return passed
        except FlawedCellError as e:
            reason = str(e)
        except Exception as e:  # this thread serves all streams: a wrong graph must not end it
            reason = f"the guard could not be evaluated: {type(e).__name__}: {e}"
        batch.reasons[k, row] = reason
        self.counters.calls_failed += 1
        return False

    def _finish(self, batch: RowBatch, row: int) -> None:
        finished = self._finished
        if self.state.filters is not None:
            self.state.filters.observe_row(Cells(batch.inputs, batch.answers, row))
        if batch.truncated or batch.reasons:
            position = len(finished.rows)
            for k in range(len(finished.texts)):
                if (k, row) in batch.truncated:
                    finished.truncated[k].append(position)
                reason = batch.reasons.pop((k, row), None)
                if reason is not None:
                    finished.reasons[k][position] = reason
        finished.rows.append(batch.first + row)
        for texts, answers in zip(finished.texts, batch.answers, strict=True):
            texts.append(answers[row])
            answers[row] = None  # a finished row keeps nothing alive while its batch still has others

    def publish(self) -> int:
        """Hand over what finished since the last time; returns the number of rows."""
        finished = self._finished
        if finished.rows:
            self._finished = Answers.empty(len(self.graph.calls))
            finished.pinned_tokens = self.pinned_tokens
            self._published += len(finished.rows)
            self._deliver(finished)
        return len(finished.rows)

    def fail(self, fatal: Fatal) -> None:
        """Give up the stream."""
        if not self.closed:
            self.publish()
            self.closed = True
            self._deliver(fatal)
