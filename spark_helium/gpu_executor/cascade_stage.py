"""Which rows of a task's call with a cascade ask the proxy, and which the main model: the way of a row.

::

    rows ──gather──▶ window is there ──┬── sample ──▶ main model and proxy ──▶ thresholds
                                       │                                           │
                                       └── the others wait ◀───────────────────────┘
                                               │
                                             proxy ── sure ──▶ the proxy's answer
                                               └── not sure, or failed ──▶ the main model's answer

Rows are taken in *windows* of so many rows in a row of the stream, and each window learns for itself. So the targets
hold however the rows are ordered (a table sorted by date has other rows at its end), what waits is bounded, and no
task needs to know of others. Nothing depends on when answers come: the window of a row is its place in the stream,
and the sample is the prompts of a window with the smallest hashes, each once. A task that is tried again with the
same rows decides the same.

The targets of :mod:`.cascade` hold for each window, where each of its different prompts counts once; the hash stands
for chance.

A window is for the main model alone where its different prompts are fewer than :data:`LEAST_SAMPLES` samples, and
what the sample leaves of it where thresholds decide less than :data:`LEAST_DECIDED` of the sample: there the proxy
could not save what asking it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import TYPE_CHECKING, TypeAlias

from spark_helium.call_graph import Call, CallTask, Sampling
from spark_helium.gpu_executor.call_template import CallTemplate
from spark_helium.gpu_executor.cascade import Achieved, Label, Thresholds, achieved, learn
from spark_helium.gpu_executor.messages import Counters

if TYPE_CHECKING:
    from spark_helium.gpu_executor.stream import RowBatch

LEAST_SAMPLES = 2  # different prompts of a window, in samples, from which on the proxy is asked
LEAST_DECIDED = 0.1  # share of a sample's prompts that thresholds decide, from which on the proxy is asked for more
MILLIONTHS = 1e6  # thresholds travel as whole numbers

Place: TypeAlias = "tuple[RowBatch, int]"


class ProxyCalls:
    """The proxy's calls for rows of one batch; to the dispatcher what a batch is for the main model's calls."""

    def __init__(self, batch: RowBatch, template: CallTemplate) -> None:
        self.batch = batch
        self.template = template


@dataclass(slots=True)
class Asks:
    """Rows that ask a model now."""

    main: list[Place] = field(default_factory=list)
    proxy: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class _Sampled:
    """A row that both models see; None: not answered yet, or failed."""

    score: float | None = None
    is_true: bool | None = None


@dataclass(slots=True)
class _Window:
    """``seen``: rows that reached the call, or will not. ``rows`` wait, first for the window and then for thresholds.

    ``missing``: scores and labels of the sample that are not there yet. ``at_proxy``: rows that thresholds will decide.
    """

    seen: int = 0
    rows: list[tuple[Place, bytes]] = field(default_factory=list)
    sample: dict[int, _Sampled] = field(default_factory=dict)
    missing: int = 0
    thresholds: Thresholds | None = None
    at_proxy: int = 0
    started: bool = False


def proxy_call(call: Call) -> Call:
    """The call as the proxy gets it: how probable the first choice is."""
    assert call.cascade is not None, f"call {call.index} has no cascade"
    score = Sampling(max_tokens=1)
    return replace(call, model=call.cascade.model, task=CallTask.SCORE, sampling=score, multiplicity=1, cascade=None)


class CascadeStage:
    """The cascade of one call of one stream. The dispatcher's thread owns it.

    Parameters
    ----------
    template: of the call.
    window_rows: rows of a window; 0: all rows of the stream.
    counters: where to count.
    """

    def __init__(self, template: CallTemplate, window_rows: int, counters: Callable[[], Counters]) -> None:
        call = template.call
        assert call.cascade is not None, f"call {call.index} has no cascade"
        assert call.constraint is not None, f"call {call.index} has no choices"
        assert call.constraint.choices is not None, f"call {call.index} has no choices"
        self.proxy = CallTemplate(proxy_call(call))
        self._template = template
        self._cascade = call.cascade
        self._yes, self._no = call.constraint.choices
        self._window_rows = window_rows
        self._counters = counters
        self._total: int | None = None
        self._windows: dict[int, _Window] = {}
        self._done: set[int] = set()

    def reach(self, batch: RowBatch, rows: Sequence[int]) -> Asks:
        """Rows whose call can start."""
        asks = Asks()
        self._counters().calls_requested += len(rows) * self._template.call.multiplicity
        digests = self._template.digests(batch.inputs, batch.answers, rows)
        for row, digest in zip(rows, digests, strict=True):
            number = self._number(batch, row)
            window = self._windows.setdefault(number, _Window())
            assert not window.started, f"row {batch.first + row} came to a window that is full"
            window.rows.append(((batch, row), digest))
            self._see(number, window, asks)
        return asks

    def settled(self, batch: RowBatch, row: int, text: str | None) -> Asks:
        """The call of a row has its final answer, is NULL, or failed. Of other rows that may be news."""
        asks = Asks()
        number = self._number(batch, row)
        if number in self._done:
            return asks
        window = self._windows.setdefault(number, _Window())
        if not window.started:  # the row passes the call by
            self._see(number, window, asks)
        elif (sampled := window.sample.get(batch.first + row)) is not None:
            sampled.is_true = {self._yes: True, self._no: False}.get(text) if text is not None else None
            self._heard(number, window, asks)
        return asks

    def scored(self, batch: RowBatch, row: int, text: str | None) -> str | Asks:
        """The proxy's score of a row, None if it failed. Returns the row's answer, or rows that ask a model now."""
        asks = Asks()
        number = self._number(batch, row)
        window = self._windows[number]
        score = _score(text)
        if window.thresholds is None:
            window.sample[batch.first + row].score = score
            self._heard(number, window, asks)
            return asks
        says = None if score is None else window.thresholds.decide(score)
        window.at_proxy -= 1
        if not window.at_proxy:
            self._finish(number)
        if says is None:
            self._counters().cascade_by_main += 1
            asks.main.append((batch, row))
            return asks
        self._counters().cascade_by_proxy += 1
        return self._yes if says else self._no

    def end(self, rows: int) -> Asks:
        """The stream has ``rows`` rows, all of which arrived: its last window is there."""
        asks = Asks()
        self._total = rows
        for number, window in list(self._windows.items()):
            self._start_if_whole(number, window, asks)
        return asks

    def _number(self, batch: RowBatch, row: int) -> int:
        return (batch.first + row) // self._window_rows if self._window_rows else 0

    def _see(self, number: int, window: _Window, asks: Asks) -> None:
        window.seen += 1
        self._start_if_whole(number, window, asks)

    def _start_if_whole(self, number: int, window: _Window, asks: Asks) -> None:
        size = self._window_rows or math.inf
        if self._total is not None:
            size = min(size, self._total - number * self._window_rows)
        if not window.started and window.seen >= size:
            window.started = True
            self._start(number, window, asks)

    def _start(self, number: int, window: _Window, asks: Asks) -> None:
        """All rows of a window are there: choose the sample."""
        digests = {digest for _, digest in window.rows}
        if len(digests) < LEAST_SAMPLES * self._cascade.sample:
            self._all_to_main(number, window, asks)
            return
        chosen = set(nsmallest(self._cascade.sample, digests))
        new = set(chosen)  # of equal prompts one stands for all: the others are no draws of their own
        waiting = []
        for place, digest in window.rows:
            if digest not in chosen:
                waiting.append((place, digest))
                continue
            asks.main.append(place)
            self._counters().cascade_labelled += 1
            if digest in new:
                new.remove(digest)
                batch, row = place
                window.sample[batch.first + row] = _Sampled()
                asks.proxy.append(place)
        window.rows = waiting
        window.missing = 2 * len(window.sample)

    def _heard(self, number: int, window: _Window, asks: Asks) -> None:
        """A score or a label of the sample is there; the last one gives the thresholds."""
        window.missing -= 1
        if window.missing:
            return
        labels = [
            Label(sampled.score, sampled.is_true)
            for sampled in window.sample.values()
            if sampled.score is not None and sampled.is_true is not None
        ]
        thresholds = learn(labels, self._cascade.precision, self._cascade.recall)
        result = achieved(labels, thresholds)
        if result.decided < LEAST_DECIDED * len(window.sample):
            thresholds = Thresholds()
            result = achieved(labels, thresholds)
        self._count(result, thresholds)
        window.sample.clear()
        if thresholds == Thresholds() or not window.rows:
            self._all_to_main(number, window, asks)
            return
        window.thresholds = thresholds
        window.at_proxy = len(window.rows)
        asks.proxy += [place for place, _ in window.rows]
        window.rows.clear()

    def _all_to_main(self, number: int, window: _Window, asks: Asks) -> None:
        self._counters().cascade_by_main += len(window.rows)
        asks.main += [place for place, _ in window.rows]
        self._finish(number)

    def _finish(self, number: int) -> None:
        self._done.add(number)
        del self._windows[number]

    def _count(self, result: Achieved, thresholds: Thresholds) -> None:
        counters = self._counters()
        counters.cascade_windows += 1
        counters.cascade_found += result.found
        counters.cascade_right += result.right
        counters.cascade_true += result.true
        if math.isfinite(thresholds.lower):
            counters.cascade_lowers += 1
            counters.cascade_lower_sum += round(thresholds.lower * MILLIONTHS)
        if math.isfinite(thresholds.upper):
            counters.cascade_uppers += 1
            counters.cascade_upper_sum += round(thresholds.upper * MILLIONTHS)


def _score(text: str | None) -> float | None:
    """The number that an engine wrote as a score; None where it is none."""
    try:
        score = math.nan if text is None else float(text)
    except ValueError:
        return None
    return score if math.isfinite(score) else None
