"""The dispatcher: rows of all streams in, calls to the engines, answers back. Knows nothing of sockets.

One thread owns all state here: streams, prompt cache, calls in flight, engines. Other threads talk to it only
through :meth:`Dispatcher.post`. Work moves in batches, so that no cost but the engine's is paid per call.

Where a row is::

    feed -> [NULL prompt? guard not true?] -> opened -> rendered -> [cached? equal call in flight?]
              ^                                                          |
              |                                                     ready queue -> engine -> settled
              |                                                                                |
              +------------------ calls that read this answer and now have all they read ------+

A composite call stands between "opened" and "rendered" as often as it makes calls (unrolled.py). A call with a cascade
waits before "opened" until it is known which model a row asks first (cascade_stage.py), and is opened again where the
proxy leaves the row to the main model.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from spark_helium.call_graph import Call, CallGraph, CallTask, Sampling
from spark_helium.errors import HeliumError
from spark_helium.gpu_executor.budget import Spending, Spendings
from spark_helium.gpu_executor.call_template import Column
from spark_helium.gpu_executor.cascade_stage import ProxyCalls
from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.engine_memory import EngineMemory
from spark_helium.gpu_executor.engine_pool import Create, EnginePool, EngineSlot, RunningEngine, StartFailure
from spark_helium.gpu_executor.engines.base import (
    EngineRequest,
    EngineResult,
    RenderError,
    RequestId,
    Tokens,
    kind_for,
    token_count,
)
from spark_helium.gpu_executor.engines.rendering import too_long
from spark_helium.gpu_executor.graph_state import GraphState
from spark_helium.gpu_executor.messages import Counters, DiskStatus, EngineStatus, Fatal
from spark_helium.gpu_executor.prompt_cache import COMPLETION, CacheKey, CallKeys, PromptCache
from spark_helium.gpu_executor.query_answers import QueryAnswers
from spark_helium.gpu_executor.retries import Backoff
from spark_helium.gpu_executor.stream import CallGroup, Origin, Stream
from spark_helium.gpu_executor.two_tier_cache import AnswerCache, TwoTierCache
from spark_helium.gpu_executor.unrolled import UnrolledCalls
from spark_helium.trt.tree import OperatorId

log = logging.getLogger(__name__)

CALLS_PER_TURN = 1024  # rendered and submitted before the engines are polled again
POLL_SECONDS = 0.05  # longest wait in one engine's poll; other threads cut it short with wake()
POLL_SECONDS_OF_SEVERAL = 0.002  # the same while several engines are busy, which take turns
RETRY_LOG_SECONDS = 10.0  # the log tells of calls that are tried again once in this time
IDLE_SECONDS = 0.25  # longest wait for work when no call is in flight
TIDY_SECONDS = 1.0  # between two looks at what nobody needs any more

# Who gets an answer: stream, batch, call, row of the batch; of a composite call, the number of one of its calls.
Waiter = tuple[Stream, Origin, int, int]


@dataclass(slots=True, eq=False)
class Flight:
    """A call on its way through an engine. The first waiter pays; later ones joined because their call is equal.

    ``kv_tokens`` is what the call is counted for in the engine, or None as long as it waits for its turn. ``failures``
    are those that may have passed, deaths of the engine included; ``rests`` says that it waits to be tried again.
    """

    request: EngineRequest
    tokens: Tokens
    account: str
    operator: OperatorId
    slot: EngineSlot
    running: RunningEngine
    key: CacheKey | None
    cache: AnswerCache | None
    waiters: list[Waiter]
    expected_output: float
    kv_tokens: int | None = None
    spending: Spending | None = None
    failures: int = 0
    rests: bool = False


@dataclass(frozen=True, slots=True)
class DispatcherStatus:
    """The dispatcher's part of the daemon's status."""

    calls_in_flight: int
    rows_answered: int
    counters: Counters
    cache_entries: int
    cache_bytes: int
    cache_hits: int
    cache_disk: DiskStatus | None
    engines: tuple[EngineStatus, ...]
    engine_swaps: int


class Dispatcher:
    """Runs the calls of all streams on the engines that ``create`` makes.

    Parameters
    ----------
    create: makes the engine of a model and kind; called on a thread of its own.
    cache_bytes: most memory of the prompt cache.
    last_words: see :class:`EnginePool`.
    disk: the prompt cache's tier on disk, if it has one; closed with the dispatcher.
    memory: which engines may be there together; None: all of them.
    """

    def __init__(
        self,
        create: Create,
        cache_bytes: int,
        last_words: Callable[[], Callable[[], str]] = lambda: lambda: "",
        disk: DiskTier | None = None,
        memory: EngineMemory | None = None,
    ) -> None:
        self.cache = TwoTierCache(PromptCache(cache_bytes), disk)
        self._query_answers = QueryAnswers(cache_bytes)
        self._inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._pool = EnginePool(create, self.post, self._engine_ready, self._engine_did_not_start, last_words, memory)
        self._resting: Backoff[Flight] = Backoff(time.monotonic)
        self._spendings = Spendings()
        self._told_of_retries = -RETRY_LOG_SECONDS
        self._ready: deque[CallGroup] = deque()
        self._opened: dict[tuple[int, int], CallGroup] = {}  # calls that can start, by batch and call
        self._flights: dict[int, Flight] = {}
        self._by_key: dict[CacheKey, Flight] = {}
        self._ids = itertools.count()
        self._streams: dict[Stream, dict[tuple[int, CallTask, Sampling], CallKeys]] = {}
        self._scheduled: dict[Stream, set[RunningEngine]] = {}  # engines whose schedule knows a stream's graph
        self._states: WeakValueDictionary[tuple[str, CallGraph], GraphState] = WeakValueDictionary()
        self._counters = Counters()
        self._rows_answered = 0
        self._stopping = False
        self._tidied = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    # --- for any thread

    def start(self) -> None:
        """Start the dispatcher's thread."""
        self._thread.start()

    def stop(self, reason: str, timeout: float = 10.0) -> None:
        """Fail what is open, stop the engines, end the thread."""
        self.post(lambda: self._stop(reason))
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the dispatcher's thread runs."""
        return self._thread.is_alive()

    def post(self, action: Callable[[], object]) -> None:
        """Run ``action`` on the dispatcher's thread, soon."""
        self._inbox.put(action)
        for engine in self._pool.live:
            engine.wake()

    def open(self, stream: Stream) -> None:
        """Begin a stream. Its ``deliver`` gets finished rows from now on."""
        self.post(lambda: self._open_stream(stream))

    def feed(self, stream: Stream, inputs: list[Column], size: int) -> None:
        """Take in ``size`` rows of a stream, one list of values per input column."""
        self.post(lambda: self._feed(stream, inputs, size))

    def end(self, stream: Stream) -> None:
        """Say that a stream gets no more rows; what it has is still answered."""
        self.post(lambda: None if stream.closed else self._open(self._of(stream, stream.end)))

    def close(self, stream: Stream) -> None:
        """End a stream: what it still has in the engines is aborted, unless other streams wait for the same call."""
        self.post(lambda: self._close(stream))

    def warm_up(self, model: str) -> None:
        """Start a model's engine before a call asks for it."""
        self.post(lambda: self._warm_up(model))

    def clear_cache(self, timeout: float = 60.0) -> bool:
        """Forget what the prompt cache holds, on disk as well; False if that took longer than ``timeout`` seconds."""
        cleared: queue.SimpleQueue[threading.Event] = queue.SimpleQueue()
        self.post(lambda: cleared.put(self.cache.clear()))
        try:
            return cleared.get(timeout=timeout).wait(timeout)
        except queue.Empty:
            return False

    def status(self, timeout: float = 5.0) -> DispatcherStatus:
        """A consistent view of the state.

        Raises
        ------
        queue.Empty
            The dispatcher's thread did not answer in time.
        """
        answer: queue.SimpleQueue[DispatcherStatus] = queue.SimpleQueue()
        self.post(lambda: answer.put(self._status()))
        return answer.get(timeout=timeout)

    # --- the dispatcher's thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._receive()
                self._call()
                self._dispatch()
                self._collect()
                self._publish()
                self._end_over_budget()
                self._make_room()
                self.cache.turn()
        except BaseException:
            log.critical("the dispatcher broke: please report this", exc_info=True)
            self._stop("the daemon broke; its log has the reason")
        finally:
            self.cache.close()  # first: engines take their time
            self._pool.close()

    def _receive(self) -> None:
        """Run what other threads posted; waits for it when there is nothing else to do."""
        idle = not (self._flights or self._ready or self._opened or any(map(self._may_begin_more, self._streams)))
        wait = IDLE_SECONDS if idle else self._seconds_of_rest()
        try:
            action = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            while True:
                action()
                action = self._inbox.get_nowait()
        except queue.Empty:
            pass
        now = time.monotonic()
        if now - self._tidied >= TIDY_SECONDS:
            self._tidied = now
            self._query_answers.forget_finished()
            self._spendings.forget_finished()
            self._give_up_late_engines()

    def _seconds_of_rest(self) -> float:
        """How long there is nothing to do, as all calls in flight wait to be tried again."""
        seconds = self._resting.seconds_to_next()
        if seconds is None or self._ready or self._opened:
            return 0.0
        at_work = any(running.load.calls or running.queue for _, running in self._pool.running())
        return 0.0 if at_work else min(seconds, IDLE_SECONDS)

    def _call(self) -> None:
        """Prepare the calls that can start, some at a time: an equal call in flight, or the cache, or the queue."""
        for stream in self._streams:
            if self._may_begin_more(stream):
                self._open(self._of(stream, stream.more))
        self._ready.extend(self._opened.values())
        self._opened.clear()
        budget = CALLS_PER_TURN
        while self._ready and budget > 0:
            group = self._ready.popleft()
            stream = group.stream
            if stream.closed:
                continue
            call = stream.call(group)
            slot = self._pool.slot(call.model, stream.query, kind_for(call.task))
            if isinstance(slot, StartFailure):
                self._fail(stream, slot.reason, call.model)
            elif slot.running is None or slot.drains:
                slot.waiting.append(group)
            elif call.composite is not None:
                budget -= max(1, self._unroll(slot, slot.running, group, budget))
            else:
                budget -= len(group.rows)
                self._prepare(slot, slot.running, group)

    def _prepare(self, slot: EngineSlot, running: RunningEngine, group: CallGroup) -> None:
        stream, batch, rows = group.stream, group.batch, group.rows
        assert not isinstance(batch, UnrolledCalls), "the calls of a composite call come rendered"
        template = stream.template(group)
        call = template.call
        of_rows = batch.batch if isinstance(batch, ProxyCalls) else batch
        try:
            prompts = template.render(running.engine.renderer, of_rows.inputs, of_rows.answers, rows)
        except Exception as e:
            self._could_not_render(stream, call, e)
            return
        if running.engine.info.instant:
            self._answer_at_once(slot, running, group, prompts)
            return
        self._begin(stream, slot, running, group)
        self._ask(slot, running, group, call, prompts)

    def _unroll(self, slot: EngineSlot, running: RunningEngine, group: CallGroup, most: int) -> int:
        """Ask what a composite call can ask now, looking at ``most`` texts; returns the number of calls."""
        stream, k = group.stream, group.call
        unrolled = stream.unrolled(group.batch, k, group.rows)
        try:
            asks, outcomes = unrolled.plan(running.engine.renderer, running.max_model_len, most)
        except Exception as e:
            self._could_not_render(stream, stream.graph.calls[k], e)
            return 0
        if group.rows:
            self._begin(stream, slot, running, group)
        for outcome in outcomes:
            self._settle(stream, unrolled.batch, k, outcome.row, text=outcome.text, reason=outcome.reason)
        for ask in asks:
            if not stream.closed:  # the engine may die of one of them
                self._ask(slot, running, CallGroup(stream, unrolled, k, ask.numbers), ask.call, ask.prompts)
        if unrolled.has_more:
            self._open([CallGroup(stream, unrolled, k, [])])
        return sum(len(ask.numbers) for ask in asks)

    def _could_not_render(self, stream: Stream, call: Call, error: Exception) -> None:
        log.error("rendering of %s failed", call.function, exc_info=error)
        self._fail(stream, f"the prompts could not be rendered: {type(error).__name__}: {error}", call.model)

    def _begin(self, stream: Stream, slot: EngineSlot, running: RunningEngine, group: CallGroup) -> None:
        """Rows come to a call."""
        stream.state.asked(group.call, len(group.rows))
        self._schedule(stream, slot, running)

    def _ask(
        self,
        slot: EngineSlot,
        running: RunningEngine,
        group: CallGroup,
        call: Call,
        prompts: Sequence[Tokens | RenderError],
    ) -> None:
        """Answer prompts from the cache, let them wait for equal ones in flight, or queue them."""
        stream, batch, k, rows = group.stream, group.batch, group.call, group.rows
        counters = stream.counters
        if k not in stream.stages:  # a cascade counts each row once, whomever it asks
            counters.calls_requested += len(rows) * call.multiplicity
        cache = self._cache_of(stream)
        keys = None if cache is None else self._keys(stream, running, call)
        limit, setting = running.max_prompt_bytes, f"spark.helium.{running.engine.info.engine}.maxModelLen"
        spending = self._spendings.of(stream)
        is_proxy = isinstance(batch, ProxyCalls)
        expected_output = 1.0 if is_proxy else stream.state.expected_output(k)
        operator = OperatorId(stream.state, k)
        flights: list[Flight] = []
        asked: list[tuple[int, Tokens, CacheKey | None]] = []  # row, prompt, key
        for row, prompt in zip(rows, prompts, strict=True):
            if isinstance(prompt, RenderError):
                self._settle(stream, batch, k, row, reason=prompt.reason)
            elif len(prompt) > limit:
                self._settle(
                    stream, batch, k, row, reason=too_long(token_count(prompt), running.max_model_len, setting)
                )
            else:
                asked.append((row, prompt, None if keys is None else keys.key(prompt)))
        known: dict[CacheKey, tuple[str, bool]] = {}
        if keys is not None and cache is not None:
            known = cache.get_many([key for _, _, key in asked if key is not None and key not in self._by_key])
        for row, prompt, key in asked:
            if key is not None:
                cached = known.get(key)
                if cached is not None:
                    counters.answers_from_cache += 1
                    self._settle(stream, batch, k, row, *cached)
                    continue
                equal = self._by_key.get(key)
                if equal is not None:
                    equal.waiters.append((stream, batch, k, row))
                    if equal.kv_tokens is None and not equal.rests:  # it waits in the queue
                        equal.running.queue.share(equal, stream.account)
                    continue
            if spending is not None and not spending.admit(token_count(prompt)):
                continue  # the stream ends when what was made before is answered
            number = next(self._ids)
            request = EngineRequest(number, prompt, call.sampling, call.constraint, task=call.task, salt=stream.kv_salt)
            waiters: list[Waiter] = [(stream, batch, k, row)]
            flight = Flight(
                request, prompt, stream.account, operator, slot, running, key, cache, waiters, expected_output,
                spending=spending,
            )  # fmt: skip
            self._flights[number] = flight
            if key is not None:
                self._by_key[key] = flight
            flights.append(flight)
        if flights and not running.dead:
            try:
                running.pins.before_submit(stream, call, len(flights))
            except Exception as e:  # an EngineError, or a bug of the engine's adapter
                self._engine_died(slot, e)
                return
        if running.dead:  # of an earlier one of the calls that were prepared together
            self._strand(slot, flights)
            return
        chained = bool(call.dependencies)
        for flight in flights:
            known_tokens = running.prefixes.known(flight.tokens, stream.kv_salt) if chained else 0
            fresh = chained and 2 * known_tokens >= token_count(flight.tokens)
            running.queue.add(flight, fresh=fresh, ordered=stream.ordered)

    def _answer_at_once(
        self, slot: EngineSlot, running: RunningEngine, group: CallGroup, prompts: Sequence[Tokens | RenderError]
    ) -> None:
        """Settle calls of an instant engine. They are no calls of a model: nothing is counted but failures."""
        stream, batch, k = group.stream, group.batch, group.call
        call = stream.graph.calls[k]
        rows: dict[RequestId, int] = {}
        requests: list[EngineRequest] = []
        for row, prompt in zip(group.rows, prompts, strict=True):
            if isinstance(prompt, RenderError):
                self._settle(stream, batch, k, row, reason=prompt.reason)
            else:
                request = EngineRequest(next(self._ids), prompt, call.sampling, call.constraint, task=call.task)
                rows[request.id] = row
                requests.append(request)
        try:
            running.engine.submit(requests)
            results = running.engine.poll(0)
        except Exception as e:
            self._engine_died(slot, e)
            self._fail(stream, f"the engine died: {e}", slot.model)
            return
        for result in results:
            self._settle(stream, batch, k, rows.pop(result.id), result.text, reason=result.error or "")
        assert not rows, f"an instant engine kept {len(rows)} calls waiting"

    def _schedule(self, stream: Stream, slot: EngineSlot, running: RunningEngine) -> None:
        """Let the engine's schedule know of the stream."""
        engines = self._scheduled[stream]
        if running not in engines:

            def here(call: Call) -> bool:
                models = (call.model,) if call.cascade is None else (call.model, call.cascade.model)
                return slot.model in models and kind_for(call.task) is slot.kind

            engines.add(running)
            running.schedule.begin(stream.state, stream.graph, here, stream.kv_salt)
            running.schedule.expect(stream.state, stream.unfinished)

    def _may_begin_more(self, stream: Stream) -> bool:
        """Whether rows of a stream's backlog can begin: nothing else of its graph waits for an engine."""
        return stream.has_backlog and not (
            any(running.queue.holds(stream.state) for _, running in self._pool.running())
            or any(group.stream is stream for group in self._ready)
            or any(group.stream is stream for group in self._opened.values())
            or any(group.stream is stream for slot in self._pool.slots() for group in slot.waiting)
        )

    def _dispatch(self) -> None:
        """Send what the engines have room for, in the order of their schedules."""
        for flight in self._resting.due():
            waits = flight.rests and not flight.running.dead  # else it went on when its engine died
            if waits and self._flights.get(flight.request.id) is flight:  # else nobody waits for it
                flight.rests = False
                flight.running.queue.add(flight, ordered=flight.waiters[0][0].ordered)
        for slot, running in self._pool.running():
            if running.schedule.is_due and len(running.queue) > running.load.room():
                self._revise(running)  # where all of them go at once there is no order to choose
            flights = running.queue.take(running.load.room, self._enter)
            if flights:
                try:
                    running.engine.submit([flight.request for flight in flights])
                except Exception as e:  # an EngineError, or a bug of the engine's adapter: no answer will come
                    self._engine_died(slot, e)

    def _revise(self, running: RunningEngine) -> None:
        for stream in self._streams:
            if running in self._scheduled[stream]:
                for k, passed, total in stream.state.take_guards():
                    running.schedule.observe_guard(OperatorId(stream.state, k), passed, total)
        if running.schedule.revise():
            running.queue.set_order(running.schedule.order)

    def _enter(self, flight: Flight) -> float:
        """Count a call as one in its engine; returns the tokens that are computed for it."""
        running, tokens = flight.running, flight.tokens
        computed = token_count(tokens) - running.prefixes.enter(tokens, flight.request.salt) + flight.expected_output
        flight.kv_tokens = int(computed)
        running.load.enter(flight.kv_tokens)
        return computed

    def _cache_of(self, stream: Stream) -> AnswerCache | None:
        """Where equal calls are looked up: the node's cache, or else the answers of the stream's own query."""
        if stream.cache:
            return self.cache
        return self._query_answers.of(stream.query) if stream.query else None

    def _keys(self, stream: Stream, running: RunningEngine, call: Call) -> CallKeys | None:
        """The cache keys of a call, or None when equal prompts need not give equal answers."""
        if not call.sampling.deterministic:
            return None
        of_calls, which = self._streams[stream], (call.index, call.task, call.sampling)
        keys = of_calls.get(which)
        if keys is None:
            kind = COMPLETION if call.task is CallTask.GENERATE else call.task.value
            keys = of_calls[which] = CallKeys(running.fingerprint, call.sampling, call.constraint, stream.scope, kind)
        return keys

    def _collect(self) -> None:
        """Settle what the engines finished; waits a moment when there is nothing else to do."""
        busy = [(slot, running) for slot, running in self._pool.running() if running.load.calls]
        now = time.monotonic()
        for slot, running in busy:
            running.last_used = now
            if self._ready or self._opened or not self._inbox.empty():
                wait = 0.0
            else:
                wait = POLL_SECONDS if len(busy) == 1 else POLL_SECONDS_OF_SEVERAL
            try:
                results = running.engine.poll(wait)
            except Exception as e:  # an EngineError, or a bug of the engine's adapter: no answer will come either way
                self._engine_died(slot, e)
                continue
            for result in results:
                flight = self._flights.pop(result.id, None)
                if flight is not None:  # None: aborted while its result was on the way
                    running.load.leave(flight.kv_tokens or 0)
                    if result.error is not None and result.retryable and self._try_later(flight, result):
                        continue
                    self._answer(flight, result)

    def _try_later(self, flight: Flight, result: EngineResult) -> bool:
        """Let a call whose failure may pass rest before its next attempt; False if it had its attempts."""
        retries = max(stream.retries for stream, *_ in flight.waiters)
        if flight.failures >= retries:
            if retries:
                result.error = f"{result.error} (tried {retries + 1} times; spark.helium.retries.max)"
            return False
        flight.failures += 1
        stream = flight.waiters[0][0]
        stream.counters.calls_retried += 1
        if (now := time.monotonic()) - self._told_of_retries > RETRY_LOG_SECONDS:
            self._told_of_retries = now
            log.info("calls fail and are tried again; one of %r: %s", flight.slot.model, result.error)
        old = flight.request
        flight.request = replace(old, id=next(self._ids))
        flight.kv_tokens, flight.rests = None, True
        self._flights[flight.request.id] = flight
        self._resting.wait(flight, flight.failures, stream.retry_backoff, result.retry_after)
        return True

    def _answer(self, flight: Flight, result: EngineResult) -> None:
        self._paid(flight, result.prompt_tokens + result.output_tokens)
        key = flight.key
        if key is not None:
            del self._by_key[key]
            if result.error is None and flight.cache is not None:
                flight.cache.put(key, result.text, result.truncated)
        paid = False
        for stream, batch, k, row in flight.waiters:
            counters = stream.counters
            if not paid:
                paid = True
                counters.calls_sent += 1
                counters.prompt_tokens += result.prompt_tokens
                counters.cached_prompt_tokens += result.cached_prompt_tokens
                counters.output_tokens += result.output_tokens
                if not isinstance(batch, ProxyCalls):
                    stream.state.answered(k, result)
                flight.running.schedule.observe(flight.operator, result)
            elif result.error is None:
                counters.answers_from_cache += 1
            if result.error is None:
                self._settle(stream, batch, k, row, result.text, result.truncated)
            else:
                self._settle(stream, batch, k, row, reason=result.error)

    def _settle(
        self,
        stream: Stream,
        batch: Origin,
        k: int,
        row: int,
        text: str | None = None,
        truncated: bool = False,
        reason: str = "",
    ) -> None:
        if not stream.closed:
            opened = self._of(stream, lambda: stream.settle(batch, k, row, text, truncated, reason))
            if opened:
                self._open(opened)

    def _open(self, groups: Sequence[CallGroup]) -> None:
        """Calls that can start from the next turn on; those of one batch and call are rendered together."""
        for group in groups:
            known = self._opened.setdefault((id(group.batch), group.call), group)
            if known is not group:
                known.rows.extend(group.rows)

    def _publish(self) -> None:
        """Hand finished rows to their streams."""
        for stream in self._streams:
            if stream.has_news:
                self._counters.add(stream.counters)
                rows = stream.publish()
                self._rows_answered += rows
                for running in self._scheduled[stream]:
                    running.schedule.expect(stream.state, -rows)

    @staticmethod
    def _paid(flight: Flight, used_tokens: int = 0) -> None:
        """The budget of the query that made the call hears what it used."""
        if flight.spending is not None:
            flight.spending.done(token_count(flight.tokens), used_tokens)

    def _end_over_budget(self) -> None:
        for stream in self._streams:
            spending = None if stream.closed else self._spendings.of(stream)
            if spending is not None and spending.ends:
                self._fail(stream, spending.over, kind="budget")

    def _make_room(self) -> None:
        """Close idle engines where others wait for their memory; those that are there do what they can first."""
        if self._pool.waits_for_memory and not self._ready and not self._opened:
            for running in self._pool.make_room({flight.running for flight in self._flights.values()}):
                for engines in self._scheduled.values():
                    engines.discard(running)

    # --- streams come and go

    def _open_stream(self, stream: Stream) -> None:
        self._streams[stream] = {}
        self._scheduled[stream] = set()
        if stream.query:
            stream.state = self._states.setdefault((stream.query, stream.graph), stream.state)
        self._query_answers.opened(stream.query)

    def _feed(self, stream: Stream, inputs: list[Column], size: int) -> None:
        if not stream.closed:
            for running in self._scheduled[stream]:
                running.schedule.expect(stream.state, size)
            self._open(self._of(stream, lambda: stream.arrive(inputs, size)))

    def _of(self, stream: Stream, work: Callable[[], list[CallGroup]]) -> list[CallGroup]:
        """What a stream's own work opens. Where it breaks, the stream fails, and the others go on."""
        try:
            return work()
        except Exception as e:
            log.exception("a stream of query %r broke: please report this", stream.query)
            self._fail(stream, f"the daemon could not go on with these rows: {type(e).__name__}: {e}")
            return []

    def _close(self, stream: Stream) -> None:
        stream.closed = True
        if self._streams.pop(stream, None) is not None:
            self._query_answers.closed(stream.query)
            for running in self._scheduled.pop(stream):
                running.schedule.end(stream.state)
        self._forget(stream)

    def _fail(self, stream: Stream, reason: str, model: str = "", kind: str = "daemon") -> None:
        """Give up a stream; it stays known until its own side closes it."""
        self._counters.add(stream.counters)
        stream.fail(Fatal(reason, model, kind))
        self._forget(stream)

    def _forget(self, stream: Stream) -> None:
        """Take a stream out of the calls in flight, and abort those that nobody else waits for."""
        orphans: dict[RunningEngine, list[RequestId]] = {}
        for number, flight in list(self._flights.items()):
            if any(waiter[0] is stream for waiter in flight.waiters):
                flight.waiters = [waiter for waiter in flight.waiters if waiter[0] is not stream]
                if not flight.waiters:
                    del self._flights[number]
                    self._paid(flight)
                    if flight.key is not None:
                        del self._by_key[flight.key]
                    if flight.rests:
                        pass
                    elif flight.kv_tokens is None:
                        flight.running.queue.discard(flight)
                    else:
                        flight.running.load.leave(flight.kv_tokens)
                        orphans.setdefault(flight.running, []).append(number)
        for running, ids in orphans.items():
            running.engine.abort(ids)
        for slot in self._pool.slots():
            slot.waiting = [group for group in slot.waiting if group.stream is not stream]

    # --- engines come and go

    def _warm_up(self, model: str) -> None:
        slot = self._pool.slot(model, "")
        if isinstance(slot, EngineSlot):
            slot.by_hand = True

    def _engine_ready(self, slot: EngineSlot) -> None:
        self._ready.extend(slot.waiting)
        slot.waiting = []
        stranded, slot.stranded = slot.stranded, []
        for flight in stranded:
            self._ask_again(flight, slot)

    def _ask_again(self, flight: Flight, slot: EngineSlot) -> None:
        """Queue a call, whose engine died, for the one in its place."""
        running = slot.running
        assert running is not None, "a call is asked again before its engine is there"
        if self._flights.get(flight.request.id) is not flight:
            return  # nobody waits for it any more
        if running.fingerprint != flight.running.fingerprint:
            reason = "the engine died, and the one in its place is another: its model or version changed meanwhile"
            self._lose([flight], reason)
            return
        flight.slot, flight.running, flight.rests = slot, running, False
        for stream in {waiter[0] for waiter in flight.waiters}:
            self._schedule(stream, slot, running)
        running.queue.add(flight, ordered=flight.waiters[0][0].ordered)

    def _engine_did_not_start(self, slot: EngineSlot, reason: str) -> None:
        self._lose(slot.stranded, reason)
        for stream in {group.stream for group in slot.waiting}:
            self._fail(stream, reason, slot.model)

    def _engine_died(self, slot: EngineSlot, error: Exception) -> None:
        """Ask the calls of a dead engine again, of another one, unless it died of them too often."""
        reason = str(error) if isinstance(error, HeliumError) else f"{type(error).__name__}: {error}"
        log.error("the engine of model %s died: %s", slot.name, reason, exc_info=error)
        assert slot.running is not None, "an engine died before it was there"
        slot.running.dead = True
        for engines in self._scheduled.values():
            engines.discard(slot.running)
        again, lost = [], []
        for flight in self._flights.values():
            if flight.slot is not slot:
                continue
            if flight.kv_tokens is not None and not flight.rests:  # it was in the engine, and may be why it died
                flight.failures += 1
                if flight.failures > max(stream.retries for stream, *_ in flight.waiters):
                    lost.append(flight)
                    continue
                flight.waiters[0][0].counters.calls_retried += 1
            again.append(flight)
        tries = max((flight.failures for flight in lost), default=0)
        times = f" ({tries} times; spark.helium.retries.max)" if tries > 1 else ""
        self._lose(lost, f"the engine died: {reason}{times}")
        again = [flight for flight in again if self._flights.get(flight.request.id) is flight]
        if again:
            self._strand(slot, again)
        else:
            self._pool.remove(slot)
        self._ready.extend(slot.waiting)  # what was held back, as it drained, finds another engine
        slot.waiting = []

    def _strand(self, dead: EngineSlot, flights: Sequence[Flight]) -> None:
        """Let calls wait for the engine that comes in the place of a dead one."""
        if not flights:
            return
        slot = self._pool.current(dead)
        if slot is dead or slot is None:
            slot = self._pool.replace(dead)
        for flight in flights:
            flight.kv_tokens, flight.rests = None, True
        if slot.running is None:
            slot.stranded.extend(flights)
        else:
            for flight in flights:
                self._ask_again(flight, slot)

    def _lose(self, flights: Sequence[Flight], reason: str) -> None:
        """Give up the streams of calls that no engine can answer."""
        for flight in flights:
            self._flights.pop(flight.request.id, None)
            self._paid(flight)
            if flight.key is not None:
                self._by_key.pop(flight.key, None)
        for stream, model in {waiter[0]: flight.slot.model for flight in flights for waiter in flight.waiters}.items():
            self._fail(stream, reason, model)

    def _give_up_late_engines(self) -> None:
        now = time.monotonic()
        for slot in self._pool.starting():
            stranded = {waiter[0] for flight in slot.stranded for waiter in flight.waiters}
            for stream in {group.stream for group in slot.waiting} | stranded:
                if now - slot.started > stream.start_timeout:
                    reason = (
                        f"the engine is not up after {stream.start_timeout:.0f} s and still starting; run the query "
                        "again later, or raise spark.helium.executor.startTimeout"
                    )
                    self._fail(stream, reason, slot.model)

    def _stop(self, reason: str) -> None:
        self._stopping = True
        for stream in list(self._streams):
            self._fail(stream, reason)

    def _status(self) -> DispatcherStatus:
        memory, disk = self.cache.memory, self.cache.disk
        return DispatcherStatus(
            calls_in_flight=len(self._flights),
            rows_answered=self._rows_answered,
            counters=self._counters,
            cache_entries=len(memory),
            cache_bytes=memory.bytes,
            cache_hits=self.cache.memory_hits,
            cache_disk=None if disk is None else disk.status(),
            engines=self._pool.status(),
            engine_swaps=self._pool.swaps,
        )
