from __future__ import annotations

import threading

import pytest

from spark_helium.call_graph import CallTask, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, EngineError, ModelNotFoundError
from spark_helium.gpu_executor.engines.base import EngineRequest, pack_tokens
from spark_helium.gpu_executor.engines.simulator import SimulatorTextRenderer
from spark_helium.gpu_executor.engines.tokenizer_engine import TokenizerEngine, load_tokenizer

NONE = Sampling(max_tokens=0)


def engine() -> TokenizerEngine:
    return TokenizerEngine("simulator", "m", SimulatorTextRenderer(whole=False))


def request(number: int, tokens: int) -> EngineRequest:
    return EngineRequest(number, pack_tokens(range(tokens)), NONE, task=CallTask.COUNT_TOKENS)


def test_answers_as_soon_as_it_is_asked() -> None:
    counter = engine()
    assert counter.info.instant
    counter.submit([request(1, 3), request(2, 0), request(3, 7)])
    counter.abort([3, 99])
    results = counter.poll(0)
    assert [(result.id, result.text) for result in results] == [(1, "3"), (2, "0")]
    assert {(result.prompt_tokens, result.output_tokens) for result in results} == {(0, 0)}, "no model was asked"
    assert counter.poll(0) == []


def test_waiting_for_nothing_ends_when_woken() -> None:
    counter = engine()
    threading.Timer(0.05, counter.wake).start()
    assert counter.poll(10) == []


def test_is_closed_for_good() -> None:
    counter = engine()
    counter.close()
    counter.close()
    with pytest.raises(EngineError, match="closed"):
        counter.submit([request(1, 1)])
    with pytest.raises(EngineError, match="closed"):
        counter.poll(0)


def test_a_model_without_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model directory"):
        load_tokenizer(str(tmp_path / "nothing"), Settings())
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="the tokenizer of model .* cannot be loaded: check the name"):
        load_tokenizer(str(tmp_path), Settings())
    with pytest.raises(ConfigurationError, match="extraArgs is not a JSON object"):
        load_tokenizer(str(tmp_path), Settings({"spark.helium.vllm.extraArgs": "{nope}"}))
