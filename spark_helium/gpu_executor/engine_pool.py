"""The daemon's engines, one per model, started when a call first needs them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from spark_helium.errors import HeliumError
from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Engine
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


class RunningEngine:
    """An engine that is there, and what the daemon keeps for it.

    Attributes
    ----------
    queue: calls that are rendered and wait for their turn.
    schedule: the order in which the operators of the running queries should get it.
    pins: chooses the prefixes that its KV cache keeps.
    load: what it has to do.
    prefixes: what its KV cache is likely to hold, by the prompts that were sent.
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


@dataclass(slots=True, eq=False)
class EngineSlot:
    """A model's engine, or the wait for it.

    Attributes
    ----------
    waiting: calls for an engine that is not there yet.
    running: what comes with the engine.
    """

    model: str
    started: float = 0.0
    waiting: list[CallGroup] = field(default_factory=list)
    running: RunningEngine | None = None


@dataclass(slots=True)
class StartFailure:
    """Why a model's engine did not come up, and for which queries that holds."""

    reason: str
    at: float
    queries: set[str] = field(default_factory=set)


class EnginePool:
    """Engines by model.

    The dispatcher's thread calls everything here. Only ``create`` runs on a thread of its own, so that an
    engine that takes a minute to come up keeps nobody waiting but the streams that need it; ``post`` brings
    its outcome back to the dispatcher's thread.

    Parameters
    ----------
    create: makes a model's engine; may take long and may raise.
    post: runs a function on the dispatcher's thread.
    on_ready, on_failed: told the outcome of a start, on the dispatcher's thread.
    last_words: called before a start; what it returns gives, after a failure, the log written since.
    """

    def __init__(
        self,
        create: Callable[[str], Engine],
        post: Callable[[Callable[[], object]], None],
        on_ready: Callable[[EngineSlot], None],
        on_failed: Callable[[EngineSlot, str], None],
        last_words: Callable[[], Callable[[], str]] = lambda: lambda: "",
    ) -> None:
        self._create = create
        self._post = post
        self._on_ready = on_ready
        self._on_failed = on_failed
        self._last_words = last_words
        self._slots: dict[str, EngineSlot] = {}
        self._failures: dict[str, StartFailure] = {}
        self._closed = False
        self.live: tuple[Engine, ...] = ()  # replaced, never changed: read by other threads to wake engines

    def slot(self, model: str, query: str) -> EngineSlot | StartFailure:
        """The model's slot; starts the engine on first use, and again only for a query that saw no failure."""
        slot = self._slots.get(model)
        if slot is not None:
            return slot
        failure = self._failures.get(model)
        if failure is not None:
            recent = time.monotonic() - failure.at < ANONYMOUS_RETRY_SECONDS
            if query in failure.queries or (not query and recent):
                return failure
        slot = self._slots[model] = EngineSlot(model, started=time.monotonic())
        threading.Thread(target=self._start, args=(slot,), name=f"start {model}", daemon=True).start()
        return slot

    def _start(self, slot: EngineSlot) -> None:
        log.info("starting the engine of model %r", slot.model)
        words_since = self._last_words()
        try:
            engine = self._create(slot.model)
        except BaseException as e:
            log.error("the engine of model %r did not start", slot.model, exc_info=not isinstance(e, HeliumError))
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
        self._failures.pop(slot.model, None)
        self.live = tuple(running.engine for _, running in self.running())
        log.info("engine of model %r is ready after %.1f s: %s", slot.model, time.monotonic() - slot.started, info)
        self._on_ready(slot)

    def _failed(self, slot: EngineSlot, reason: str) -> None:
        self._slots.pop(slot.model, None)
        queries = {group.stream.query for group in slot.waiting if group.stream.query}
        self._failures[slot.model] = StartFailure(reason, time.monotonic(), queries)
        self._on_failed(slot, reason)

    def remove(self, slot: EngineSlot) -> None:
        """Drop a dead engine; the next stream that needs its model starts another."""
        if self._slots.get(slot.model) is slot:
            del self._slots[slot.model]
        self.live = tuple(running.engine for _, running in self.running())
        if slot.running is not None:
            # Closing a dead engine may hang on its processes; nothing waits for that.
            threading.Thread(target=slot.running.engine.close, name=f"close {slot.model}", daemon=True).start()

    def running(self) -> list[tuple[EngineSlot, RunningEngine]]:
        """The engines that are there, with their slots."""
        return [(slot, slot.running) for slot in self._slots.values() if slot.running is not None]

    def starting(self) -> Iterator[EngineSlot]:
        """Slots whose engine is not there yet."""
        return (slot for slot in list(self._slots.values()) if slot.running is None)

    def status(self) -> tuple[EngineStatus, ...]:
        """The state of every engine."""
        out = []
        for slot in self._slots.values():
            running = slot.running
            if running is None:
                out.append(EngineStatus(slot.model, "starting"))
            else:
                info, pins = running.engine.info, running.engine.pins
                out.append(
                    EngineStatus(
                        slot.model,
                        "ready",
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
                    )
                )
        out.extend(EngineStatus(model, "failed") for model in self._failures if model not in self._slots)
        return tuple(out)

    def close(self) -> None:
        """Stop every engine."""
        self._closed = True
        for slot in self._slots.values():
            if slot.running is not None:
                slot.running.engine.close()
        self._slots.clear()
        self.live = ()
