"""An engine whose answers come when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from spark_helium.errors import EngineError
from spark_helium.gpu_executor.engines.base import (
    Engine,
    EngineInfo,
    EngineRequest,
    EngineResult,
    PromptRenderer,
    RenderedMessage,
    RenderError,
    Tokens,
    pack_tokens,
    token_count,
    unpack_tokens,
)


class PlainRenderer(PromptRenderer):
    """One token per character; text of a column that says so cannot be rendered."""

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        texts = ["|".join(f"{role}:" + "".join(t for t, _ in parts) for role, parts in c) for c in conversations]
        return [RenderError("cannot render this") if "unrenderable" in t else pack_tokens(map(ord, t)) for t in texts]


class ScriptedEngine(Engine):
    """Answers ``answer(prompt)``, the prompt in brackets.

    With ``hold`` set, an answer waits until its prompt is released.
    """

    def __init__(
        self,
        model: str = "m",
        max_model_len: int = 200,
        hold: Callable[[str], bool] = lambda _: False,
        max_num_seqs: int = 256,
        answer: Callable[[str], str] = lambda prompt: f"<{prompt}>",
    ):
        self.model = model
        self.max_num_seqs = max_num_seqs
        self.answer = answer
        self.max_model_len = max_model_len
        self.hold = hold
        self.submitted: list[str] = []
        self.aborted: list[str] = []
        self.closed = False
        self.dead = False
        self._open: dict[int, tuple[EngineRequest, str]] = {}
        self._released: set[str] = set()
        self._wake = threading.Event()

    @property
    def info(self) -> EngineInfo:
        fingerprint = f"print-{self.model}"
        return EngineInfo("scripted", self.model, fingerprint, self.max_model_len, 16, 100, "1", self.max_num_seqs)

    @property
    def renderer(self) -> PromptRenderer:
        return PlainRenderer()

    def release(self, *prompts: str) -> None:
        self._released.update(prompts)
        self._wake.set()

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if self.dead:
            raise EngineError("it lost its GPU")
        for request in requests:
            prompt = "".join(map(chr, unpack_tokens(request.tokens)))
            assert request.id not in self._open
            self._open[request.id] = (request, prompt)
            self.submitted.append(prompt)

    def poll(self, timeout: float) -> list[EngineResult]:
        results = self._take()
        if not results and timeout:
            self._wake.wait(timeout)
            self._wake.clear()
            results = self._take()
        return results

    def _take(self) -> list[EngineResult]:
        if self.dead:
            raise EngineError("it lost its GPU")
        out = []
        for id_, (request, prompt) in list(self._open.items()):
            if self.hold(prompt) and prompt not in self._released:
                continue
            del self._open[id_]
            if "refused" in prompt:
                out.append(EngineResult(id_, error="the engine refused it"))
            else:
                tokens = token_count(request.tokens)
                out.append(EngineResult(id_, self.answer(prompt), tokens, 2, 3, truncated="cut" in prompt))
        return out

    def abort(self, ids: Sequence[int]) -> None:
        for id_ in ids:
            self.aborted.append(self._open.pop(id_)[1])

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self.closed = True
