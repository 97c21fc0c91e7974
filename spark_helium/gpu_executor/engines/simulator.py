"""A deterministic engine without a model: for tests, for planning, and for measuring everything around it.

What is real: the answers obey the constraint (:mod:`.answers`), prompts are tokens, a prefix is cached in
whole blocks with least-recently-used eviction unless a pin holds it (:mod:`.prefix_cache`), calls queue for a bounded
number of sequences. Running calls hold no blocks, so calls never wait for KV, and pins never give way. What is a
model is time::

    arrival ──waits──▶ prefill: one prompt at a time ──▶ decode: all sequences side by side ──▶ result
                       uncached tokens × prefillMicros    output tokens × decodeMicros

A call waits until one of ``maxNumSeqs`` places is free and no other prompt is in prefill; of those that
wait, the lowest priority number goes first, then the earliest. It holds its place until its last token.
In real time results become ready on the clock. Otherwise polling jumps to the next result, and only
:attr:`SimulatorEngine.virtual_seconds` moves.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush

from spark_helium.conf import Settings
from spark_helium.errors import EngineError
from spark_helium.gpu_executor.engines.answers import Plan, plan_for
from spark_helium.gpu_executor.engines.base import (
    TOKEN_BYTES,
    Engine,
    EngineInfo,
    EngineKind,
    EngineRequest,
    EngineResult,
    PinStatus,
    Prefix,
    PromptRenderer,
    RenderedMessage,
    RenderError,
    RequestId,
    Tokens,
    pin_budget,
)
from spark_helium.gpu_executor.engines.prefix_cache import PrefixCache
from spark_helium.gpu_executor.engines.rendering import ROLE_PATTERN, bad_role, too_long

_VERSION = "1"

# Text is cut into tokens of 4 UTF-8 bytes, the last one filled up with 0xFF. The special tokens end in three
# 0xFF and begin with a byte that UTF-8 never uses, so no text can spell one.
_BEGIN = b"\xf8\xff\xff\xff"
_BODY = b"\xf9\xff\xff\xff"
_END = b"\xfa\xff\xff\xff"
_FILL = (b"", b"\xff\xff\xff", b"\xff\xff", b"\xff")


def encode_text(text: str) -> Tokens:
    """The simulator's tokens of ``text``."""
    data = text.encode()
    return data + _FILL[len(data) % TOKEN_BYTES]


class SimulatorRenderer(PromptRenderer):
    """A chat template of three special tokens: begin, role, body, content, end; then begin, assistant, body."""

    def __init__(self) -> None:
        self._headers: dict[str, Tokens] = {}
        self._generation_prompt = self._header("assistant")

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        headers = self._headers
        generation_prompt = self._generation_prompt
        rendered: list[Tokens | RenderError] = []
        for messages in conversations:
            parts: list[bytes] = []
            try:
                for role, segments in messages:
                    content = "".join([text for text, _ in segments]).encode()
                    parts += (headers.get(role) or self._header(role), content, _FILL[len(content) % TOKEN_BYTES], _END)
                if not parts:
                    raise ValueError("the conversation has no messages")
                parts.append(generation_prompt)
                rendered.append(b"".join(parts))
            except UnicodeEncodeError as e:
                rendered.append(RenderError(f"the prompt is not valid Unicode: {e.reason} at character {e.start}"))
            except ValueError as e:
                rendered.append(RenderError(str(e)))
        return rendered

    def _header(self, role: str) -> Tokens:
        if not re.fullmatch(ROLE_PATTERN, role):
            raise ValueError(bad_role(role))
        if len(self._headers) >= 64:
            self._headers.clear()  # roles may come from a column: do not keep all that were ever seen
        header = self._headers[role] = _BEGIN + encode_text(role) + _BODY
        return header


class SimulatorTextRenderer(PromptRenderer):
    """The tokens of the messages' text, without a template. See :class:`.rendering.TextRenderer`."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        rendered: list[Tokens | RenderError] = []
        for messages in conversations:
            text = "".join([part for _, segments in messages for part, _ in segments])
            if self._whole and not text:
                rendered.append(RenderError("an empty text has no embedding; leave it out, for example with nullif()"))
                continue
            try:
                rendered.append(encode_text(text))
            except UnicodeEncodeError as e:
                rendered.append(RenderError(f"the prompt is not valid Unicode: {e.reason} at character {e.start}"))
        return rendered


class SimulatorEngine(Engine):
    """See the module's text for the model that it follows. An embedding is a prefill without decode."""

    def __init__(self, model: str, settings: Settings, kind: EngineKind = EngineKind.GENERATE) -> None:
        given = settings.with_prefix("simulator.")
        self._prefill_seconds = given["prefillMicrosPerToken"] / 1e6
        self._decode_seconds = given["decodeMicrosPerToken"] / 1e6
        self._max_num_seqs: int = given["maxNumSeqs"]
        self._real_time: bool = given["realTime"]
        self._refused: bytes = given["failPattern"].encode()
        self._block_size: int = given["blockSize"]
        self._max_model_len: int = min(given["maxModelLen"], given["kvBlocks"] * self._block_size)
        if kind is EngineKind.GENERATE:
            self._pins = pin_budget(
                settings["kv.pin.budget"], given["kvBlocks"], self._block_size, max_model_len=self._max_model_len
            )
        else:
            self._pins = PinStatus("texts to embed share no beginning")
        self._cache = PrefixCache(given["kvBlocks"], self._block_size, self._pins.budget)
        self._info = EngineInfo(
            engine="simulator",
            model=model,
            fingerprint=f"simulator-{_VERSION}",
            max_model_len=self._max_model_len,
            block_size=self._block_size,
            kv_blocks=given["kvBlocks"],
            version=_VERSION,
            max_num_seqs=self._max_num_seqs,
        )
        self._renderer: PromptRenderer = (
            SimulatorRenderer() if kind is EngineKind.GENERATE else SimulatorTextRenderer(whole=True)
        )
        self._started = time.monotonic()
        self._clock = 0.0
        self._prefill_free = 0.0
        self._sequence = 0  # breaks ties in both heaps by arrival
        self._waiting: list[tuple[int, int, EngineRequest, Plan]] = []
        self._running: list[tuple[float, int, EngineResult, Prefix]] = []
        self._ready: list[EngineResult] = []
        self._wake = threading.Event()
        self._closed = False

    @property
    def virtual_seconds(self) -> float:
        """Seconds on the simulated clock since the engine was made."""
        return self._clock

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if self._closed:
            raise EngineError("the simulator is closed")
        self._advance(self._now())
        last_sampling = last_constraint = last_task = plan = None
        for request in requests:
            # A batch mostly shares one call's sampling and constraint; comparing them by value would cost
            # as much as answering.
            if (
                plan is None
                or request.sampling is not last_sampling
                or request.constraint is not last_constraint
                or request.task is not last_task
            ):
                last_sampling, last_constraint, last_task = request.sampling, request.constraint, request.task
                try:
                    plan = plan_for(last_sampling, last_constraint, last_task)
                except ValueError as e:
                    plan = None
                    self._refuse(request, str(e))
                    continue
            prompt_tokens = len(request.tokens) // TOKEN_BYTES
            if prompt_tokens >= self._max_model_len:
                setting = "spark.helium.simulator.maxModelLen"
                self._refuse(request, too_long(prompt_tokens, self._max_model_len, setting))
            elif self._refused and self._refused in request.tokens:
                self._refuse(request, "the simulator refuses this prompt (spark.helium.simulator.failPattern)")
            else:
                self._sequence += 1
                heappush(self._waiting, (request.priority, self._sequence, request, plan))

    def poll(self, timeout: float) -> list[EngineResult]:
        deadline = time.monotonic() + timeout
        while True:
            if self._closed:
                raise EngineError("the simulator is closed")
            self._advance(self._now())
            while not self._real_time and not self._ready and (self._waiting or self._running):
                self._advance(self._next_event())
            if self._ready:
                ready, self._ready = self._ready, []
                return ready
            remaining = deadline - time.monotonic()
            if self._wake.wait(max(0.0, min(remaining, self._next_event() - self._now()))):
                self._wake.clear()
                return []
            if remaining <= 0:
                return []

    def abort(self, ids: Sequence[RequestId]) -> None:
        gone = set(ids)
        self._waiting = [entry for entry in self._waiting if entry[2].id not in gone]
        heapify(self._waiting)
        self._running = [entry for entry in self._running if entry[2].id not in gone]
        heapify(self._running)
        self._ready = [result for result in self._ready if result.id not in gone]

    def pin(self, prefixes: Sequence[Prefix]) -> None:
        if not self._pins.reason:
            self._cache.pin(prefixes)

    @property
    def pins(self) -> PinStatus:
        table = self._cache.pins
        return replace(self._pins, pins=table.pinned, blocks=table.blocks, released=table.released)

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._waiting, self._running, self._ready = [], [], []
        self._wake.set()

    # -- time ---------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self._started if self._real_time else self._clock

    def _next_event(self) -> float:
        """When the next call ends or starts; infinity if nothing is under way."""
        ends = self._running[0][0] if self._running else math.inf
        return min(ends, self._next_start())

    def _next_start(self) -> float:
        if not self._waiting or len(self._running) >= self._max_num_seqs:
            return math.inf
        return max(self._prefill_free, self._clock)

    def _advance(self, now: float) -> None:
        """Play everything that happens up to ``now``, in order of time."""
        waiting, running = self._waiting, self._running
        while waiting or running:
            ends = running[0][0] if running else math.inf
            starts = self._next_start()
            # On a tie the end comes first: it frees a place and puts the answer's blocks into the cache.
            if min(ends, starts) > now:
                break
            if ends <= starts:
                self._clock, _, result, sequence = heappop(running)
                self._finish(result, sequence)
            else:
                self._clock = starts
                _, _, request, plan = heappop(waiting)
                self._start(request, plan)
        self._clock = max(self._clock, now)

    def _start(self, request: EngineRequest, plan: Plan) -> None:
        tokens = request.tokens
        prompt_tokens = len(tokens) // TOKEN_BYTES
        cached = self._cache.enter(tokens, request.salt)
        self._prefill_free = self._clock + (prompt_tokens - cached) * self._prefill_seconds
        salt = b"" if plan.deterministic else (request.id & (1 << 64) - 1).to_bytes(8, "big")
        try:
            text, output_tokens, truncated = plan.answer(tokens, self._max_model_len - prompt_tokens, salt)
        except ValueError as e:
            self._refuse(request, str(e))
            return
        result = EngineResult(request.id, text, prompt_tokens, cached, output_tokens, truncated)
        ends = self._prefill_free + output_tokens * self._decode_seconds
        self._sequence += 1
        heappush(self._running, (ends, self._sequence, result, Prefix(tokens, request.salt)))

    def _finish(self, result: EngineResult, prompt: Prefix) -> None:
        # The last token of an answer is never fed back, so it stays out of the cache.
        size = self._block_size
        if (result.prompt_tokens + result.output_tokens - 1) // size > result.prompt_tokens // size:
            data = result.text.encode()
            kept = (result.output_tokens - 1) * TOKEN_BYTES
            self._cache.extend(prompt.tokens + data[:kept], prompt.salt)
        self._ready.append(result)

    def _refuse(self, request: EngineRequest, reason: str) -> None:
        self._ready.append(EngineResult(request.id, prompt_tokens=len(request.tokens) // TOKEN_BYTES, error=reason))
