"""The daemon's engines, one per model and kind, started when a call first needs them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from spark_helium.errors import HeliumError
from spark_helium.gpu_executor.engine_memory import EngineMemory, Need
from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Engine, EngineKind
from spark_helium.gpu_executor.engines.prefix_cache import PrefixCache
from spark_helium.gpu_executor.messages import EngineStatus
from spark_helium.gpu_executor.pins import PinKeeper
from spark_helium.gpu_executor.ready_queue import EngineLoad, ReadyQueue
from spark_helium.gpu_executor.schedule import Schedule
from spark_helium.gpu_executor.static_prefix import StaticPrefixes
from spark_helium.gpu_executor.stream import CallGroup

log = logging.getLogger(__name__)

# Queries that carry no id cannot be told apart; between two attempts for such ones passes at least this long.
ANONYMOUS_RETRY_SECONDS = 10.0

Create: TypeAlias = Callable[[str, EngineKind], Engine]


class RunningEngine:
    """An engine that is there, and what the daemon keeps for it.

    Attributes
    ----------
    queue: calls that are rendered and wait for their turn.
    schedule: the order in which the operators of the running queries should get it.
    pins: chooses the prefixes that its KV cache keeps.
    load: what it has to do.
    prefixes: what its KV cache is likely to hold, by the prompts that were sent.
    last_used: when it last had a call.
    dead: whether it died; what is asked of it goes to the one that comes in its place.
    """

    def __init__(self, engine: Engine) -> None:
        info = engine.info
        self.engine = engine
        # Where a prompt leaves no room for max_tokens, its answer depends on the length of the context.
        self.fingerprint = f"{info.engine}\0{info.fingerprint}\0{info.max_model_len}"
        self.max_model_len = info.max_model_len
        self.max_prompt_bytes = (info.max_model_len - 1) * TOKEN_BYTES
        self.queue: ReadyQueue[Any] = ReadyQueue(info.block_size)
        static_prefixes = StaticPrefixes(engine.renderer)
        self.schedule = Schedule(info, static_prefixes)
        self.pins = PinKeeper(engine, static_prefixes)
        self.load = EngineLoad(info)
        self.prefixes = PrefixCache(max(1, info.kv_blocks), info.block_size)
        self.last_used = time.monotonic()
        self.dead = False


@dataclass(slots=True, eq=False)
class EngineSlot:
    """A model's engine of one kind, or the wait for it.

    Attributes
    ----------
    started: when its start began; infinity as long as it waits for memory.
    waiting: calls for an engine that is not there yet, or that drains.
    stranded: calls that were in an engine that died; they go to this one, which starts in its place.
    running: what comes with the engine.
    need: memory that it is expected to take, once that is known.
    waits_since: since when it waits for memory, or None.
    by_hand: whether a person asked for it, so that it starts though no call waits.
    drains: whether it takes no new calls, as another engine has waited long for its memory.
    """

    model: str
    kind: EngineKind = EngineKind.GENERATE
    started: float = 0.0
    waiting: list[CallGroup] = field(default_factory=list)
    stranded: list[Any] = field(default_factory=list)
    running: RunningEngine | None = None
    need: Need = field(default_factory=Need)
    waits_since: float | None = None
    ready_at: float = math.inf
    by_hand: bool = False
    drains: bool = False
    busy: bool = False

    @property
    def last_used(self) -> float:
        """When it last had a call; infinity while it has one, or is not up yet."""
        return math.inf if self.busy or self.running is None else self.running.last_used

    @property
    def key(self) -> tuple[str, EngineKind]:
        """What the pool knows it by."""
        return self.model, self.kind

    @property
    def name(self) -> str:
        """The engine, for people."""
        return repr(self.model) if self.kind is EngineKind.GENERATE else f"{self.model!r} ({self.kind})"


@dataclass(slots=True)
class StartFailure:
    """Why a model's engine did not come up, and for which queries that holds."""

    reason: str
    at: float
    queries: set[str] = field(default_factory=set)


class EnginePool:
    """Engines by model and kind.

    The dispatcher's thread calls everything here. Only ``create`` runs on a thread of its own, so that an
    engine that takes a minute to come up keeps nobody waiting but the streams that need it; ``post`` brings
    its outcome back to the dispatcher's thread.

    Parameters
    ----------
    create: makes a model's engine of a kind; may take long and may raise.
    post: runs a function on the dispatcher's thread.
    on_ready, on_failed: told the outcome of a start, on the dispatcher's thread.
    last_words: called before a start; what it returns gives, after a failure, the log written since.
    memory: which engines may be there together; None: all of them.

    Attributes
    ----------
    swaps: engines that were closed to make room for others.
    """

    def __init__(
        self,
        create: Create,
        post: Callable[[Callable[[], object]], None],
        on_ready: Callable[[EngineSlot], None],
        on_failed: Callable[[EngineSlot, str], None],
        last_words: Callable[[], Callable[[], str]] = lambda: lambda: "",
        memory: EngineMemory | None = None,
    ) -> None:
        self._create = create
        self._memory = memory
        self.swaps = 0
        self._post = post
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._last_words = last_words
        self._slots: dict[tuple[str, EngineKind], EngineSlot] = {}
        self._failures: dict[tuple[str, EngineKind], StartFailure] = {}
        self._closed = False
        self.live: tuple[Engine, ...] = ()  # replaced, never changed: read by other threads to wake engines

    def slot(self, model: str, query: str, kind: EngineKind = EngineKind.GENERATE) -> EngineSlot | StartFailure:
        """The model's slot; starts the engine on first use, and again only for a query that saw no failure."""
        slot = self._slots.get((model, kind))
        if slot is not None:
            return slot
        failure = self._failures.get((model, kind))
        if failure is not None:
            recent = time.monotonic() - failure.at < ANONYMOUS_RETRY_SECONDS
            if query in failure.queries or (not query and recent):
                return failure
        slot = self._slots[model, kind] = EngineSlot(model, kind, started=time.monotonic())
        if self._memory is None or kind is EngineKind.TOKENIZE:
            self._begin(slot)
        else:
            threading.Thread(
                target=self._size, args=(slot, self._memory), name=f"size {slot.name}", daemon=True
            ).start()
        return slot

    def _size(self, slot: EngineSlot, memory: EngineMemory) -> None:
        need = memory.need_of(slot.model)  # reads files, and may unpack the model first
        self._post(lambda: self._sized(slot, need, memory))

    def _sized(self, slot: EngineSlot, need: Need, memory: EngineMemory) -> None:
        if self._closed:
            return
        slot.need = need
        if not need.fits(memory.limit):
            log.warning(
                "model %s is expected to need %s, and %s are there (spark.helium.executor.memory); it is tried alone",
                slot.name, need, memory.limit,
            )  # fmt: skip
        # What needs nothing takes nothing from those that wait.
        if (need.counts and self.waits_for_memory) or not memory.fits(need, self._residents(slot)):
            log.info("model %s needs %s and waits until others are idle", slot.name, need)
            slot.waits_since, slot.started = time.monotonic(), math.inf
        else:
            self._begin(slot)

    @property
    def waits_for_memory(self) -> bool:
        """Whether an engine waits until others are idle."""
        return any(slot.waits_since is not None for slot in self._slots.values())

    def _residents(self, beside: EngineSlot) -> list[EngineSlot]:
        return [slot for slot in self._slots.values() if slot is not beside and slot.waits_since is None]

    def make_room(self, busy: Collection[RunningEngine]) -> list[RunningEngine]:
        """Let the engine that has waited longest start, if others are idle; returns those that were closed for it.

        Parameters
        ----------
        busy: engines that have a call, in them or on its way to them.
        """
        for slot in list(self._slots.values()):
            if slot.waits_since is not None and not slot.waiting and not slot.by_hand:
                del self._slots[slot.key]  # who needed it is gone
        waiting = [(slot.waits_since, slot) for slot in self._slots.values() if slot.waits_since is not None]
        if not waiting or self._memory is None:
            self._stop_draining()
            return []
        since, slot = min(waiting, key=lambda entry: entry[0])
        residents, now = self._residents(slot), time.monotonic()
        for other in residents:
            other.busy = other.running in busy
        room = self._memory.room_for(slot.need, residents, now, now - since)
        for other in room.drain:
            # Each has had its turn: one that comes up only to drain would swap for ever with the one that waits.
            if not other.drains and other.running is not None and now - other.ready_at >= self._memory.patience:
                log.info("model %s takes no new calls, as %s has waited long for its memory", other.name, slot.name)
                other.drains = True
        return [] if room.close is None else self._swap(slot, room.close)

    def _stop_draining(self) -> None:
        for slot in self._slots.values():
            if slot.drains:
                slot.drains = False
                self._on_ready(slot)

    def _swap(self, slot: EngineSlot, others: Sequence[EngineSlot]) -> list[RunningEngine]:
        closed = []
        for other in others:
            assert other.running is not None, "an engine that is not up is closed"
            log.info(
                "closing the idle engine of model %s (%s) to make room for model %s (%s)",
                other.name, other.need, slot.name, slot.need,
            )  # fmt: skip
            closed.append(other.running)
            del self._slots[other.key]
            if other.waiting:  # its turn comes again
                again = self._slots[other.key] = EngineSlot(
                    other.model, other.kind, math.inf, other.waiting, need=other.need
                )
                again.waits_since = time.monotonic()
        self.swaps += len(closed)
        self.live = tuple(running.engine for _, running in self.running())
        self._stop_draining()
        slot.waits_since, slot.started = None, time.monotonic()
        self._begin(slot, [running.engine for running in closed])
        return closed

    def _begin(self, slot: EngineSlot, instead_of: Sequence[Engine] = ()) -> None:
        start = threading.Thread(target=self._start, args=(slot, instead_of), name=f"start {slot.name}", daemon=True)
        start.start()

    def _start(self, slot: EngineSlot, instead_of: Sequence[Engine]) -> None:
        for engine in instead_of:
            try:
                engine.close()
            except Exception:
                log.warning("an engine did not close in order", exc_info=True)
        log.info("starting the engine of model %s", slot.name)
        words_since = self._last_words()
        try:
            engine = self._create(slot.model, slot.kind)
        except BaseException as e:
            log.error("the engine of model %s did not start", slot.name, exc_info=not isinstance(e, HeliumError))
            if isinstance(e, HeliumError):
                reason = str(e)  # the engine has looked into it: its message carries the cause
            else:
                words = words_since()
                reason = f"{type(e).__name__}: {e}" + (
                    f"\nThe last words of the daemon's log:\n{words}" if words else ""
                )
            self._post(lambda: self._failed(slot, reason))
        else:
            self._post(lambda: self._ready(slot, engine))

    def _ready(self, slot: EngineSlot, engine: Engine) -> None:
        if self._closed:
            engine.close()
            return
        info = engine.info
        slot.running = RunningEngine(engine)
        slot.ready_at = time.monotonic()
        self._failures.pop(slot.key, None)
        self.live = tuple(running.engine for _, running in self.running())
        log.info("engine of model %s is ready after %.1f s: %s", slot.name, time.monotonic() - slot.started, info)
        self._on_ready(slot)

    def _failed(self, slot: EngineSlot, reason: str) -> None:
        self._slots.pop(slot.key, None)
        queries = {group.stream.query for group in slot.waiting if group.stream.query}
        self._failures[slot.key] = StartFailure(reason, time.monotonic(), queries)
        self._on_failed(slot, reason)

    def remove(self, slot: EngineSlot) -> None:
        """Drop a dead engine; the next stream that needs its model starts another."""
        if self._slots.get(slot.key) is slot:
            del self._slots[slot.key]
        self.live = tuple(running.engine for _, running in self.running())
        if slot.running is not None:
            # Closing a dead engine may hang on its processes; nothing waits for that.
            threading.Thread(target=slot.running.engine.close, name=f"close {slot.name}", daemon=True).start()

    def replace(self, slot: EngineSlot) -> EngineSlot:
        """Start another engine in the place of a dead one, once that has let go of its memory."""
        assert slot.running is not None, "only what was there can have died"
        new = self._slots[slot.key] = EngineSlot(slot.model, slot.kind, time.monotonic(), need=slot.need)
        self.live = tuple(running.engine for _, running in self.running())
        self._begin(new, [slot.running.engine])
        return new

    def current(self, slot: EngineSlot) -> EngineSlot | None:
        """The slot that the model's calls go to now, if there is one."""
        return self._slots.get(slot.key)

    def running(self) -> list[tuple[EngineSlot, RunningEngine]]:
        """The engines that are there, with their slots."""
        return [(slot, slot.running) for slot in self._slots.values() if slot.running is not None]

    def slots(self) -> list[EngineSlot]:
        """All slots."""
        return list(self._slots.values())

    def starting(self) -> Iterator[EngineSlot]:
        """Slots whose engine is not there yet."""
        return (slot for slot in list(self._slots.values()) if slot.running is None)

    def status(self) -> tuple[EngineStatus, ...]:
        """The state of every engine."""
        out = []
        for slot in self._slots.values():
            running = slot.running
            if running is None:
                state = "starting" if slot.waits_since is None else "waits for memory"
                out.append(EngineStatus(slot.model, state, kind=slot.kind, memory=slot.need.bytes))
            else:
                info, pins = running.engine.info, running.engine.pins
                out.append(
                    EngineStatus(
                        slot.model,
                        "ready",
                        kind=slot.kind,
                        engine=info.engine,
                        version=info.version,
                        max_model_len=info.max_model_len,
                        kv_blocks=info.kv_blocks,
                        block_size=info.block_size,
                        calls_in_flight=running.load.calls,
                        pins=pins.pins,
                        pin_blocks=pins.blocks,
                        pin_tokens=pins.blocks * info.block_size,
                        pin_budget=pins.budget,
                        pins_released=pins.released,
                        pin_reason=pins.reason,
                        memory=slot.need.bytes,
                        calls_waiting=len(running.queue),
                        kv_tokens=running.load.tokens,
                    )
                )
        out.extend(
            EngineStatus(model, "failed", kind=kind)
            for model, kind in self._failures
            if (model, kind) not in self._slots
        )
        return tuple(out)

    def close(self) -> None:
        """Stop every engine."""
        self._closed = True
        for slot in self._slots.values():
            if slot.running is not None:
                slot.running.engine.close()
        self._slots.clear()
        self.live = ()
