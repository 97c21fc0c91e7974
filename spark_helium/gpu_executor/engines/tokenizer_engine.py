"""Counts the tokens of texts: an engine without a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, EngineError, MissingDependencyError, ModelNotFoundError
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.engines.base import (
    Engine,
    EngineInfo,
    EngineRequest,
    EngineResult,
    PromptRenderer,
    RequestId,
    token_count,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_LIMIT = 1 << 29  # tokens; no text comes near it


class TokenizerEngine(Engine):
    """Answers with the number of tokens that the renderer gave, as soon as it is asked.

    Parameters
    ----------
    engine: the engine whose model the tokenizer belongs to.
    model: the model's name.
    renderer: gives the tokens of a text, and nothing around them.
    """

    def __init__(self, engine: str, model: str, renderer: PromptRenderer) -> None:
        self._info = EngineInfo(
            engine=engine,
            model=model,
            fingerprint="",
            max_model_len=_NO_LIMIT,
            block_size=1,
            kv_blocks=0,
            version="",
            instant=True,
        )
        self._renderer = renderer
        self._results: list[EngineResult] = []
        self._awake = threading.Event()
        self._closed = False

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self._check_open()
        self._results += [EngineResult(request.id, str(token_count(request.tokens))) for request in requests]

    def poll(self, timeout: float) -> list[EngineResult]:
        self._check_open()
        if not self._results:
            self._awake.wait(max(timeout, 0.0))
            self._awake.clear()
        results, self._results = self._results, []
        return results

    def abort(self, ids: Sequence[RequestId]) -> None:
        gone = set(ids)
        self._results = [result for result in self._results if result.id not in gone]

    def wake(self) -> None:
        self._awake.set()

    def close(self) -> None:
        self._closed = True
        self._results = []
        self._awake.set()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the tokenizer is closed")


def load_tokenizer(model: str, settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer that vLLM would take for ``model``, without vLLM and without weights in memory.

    Raises
    ------
    MissingDependencyError
        The package transformers is not installed.
    ModelNotFoundError
        The model does not lead to a tokenizer.
    ConfigurationError
        ``spark.helium.vllm.extraArgs`` is not a JSON object.
    """
    from spark_helium.gpu_executor.engines.vllm_engine import hub_offline

    try:
        extra = json.loads(settings["vllm.extraArgs"])
    except ValueError as e:
        raise ConfigurationError(f"spark.helium.vllm.extraArgs is not a JSON object: {e}") from e
    path = extra.get("tokenizer") or models.resolve(model, settings)
    try:
        from transformers import AutoTokenizer

        with hub_offline(is_local=True) if Path(path).is_dir() else nullcontext():
            return AutoTokenizer.from_pretrained(
                path,
                revision=extra.get("tokenizer_revision") or extra.get("revision"),
                trust_remote_code=bool(extra.get("trust_remote_code")),
            )
    except ImportError as e:
        raise MissingDependencyError(
            f"counting the tokens of model {model!r} needs the package transformers, which cannot be imported: {e}. "
            "Install it with: pip install transformers"
        ) from e
    except (OSError, ValueError, KeyError) as e:
        raise ModelNotFoundError(
            f"the tokenizer of model {model!r} cannot be loaded: check the name or path, and that this node can reach "
            f"the hub. transformers said: {' '.join(str(e).split())[:300]}"
        ) from e
