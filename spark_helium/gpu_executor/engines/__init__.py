"""Inference engines behind one interface, :class:`~spark_helium.gpu_executor.engines.base.Engine`."""

from __future__ import annotations

from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError
from spark_helium.gpu_executor.engines.base import Engine, EngineKind


def create(model: str, settings: Settings, kind: EngineKind = EngineKind.GENERATE) -> Engine:
    """Start the engine of ``model``; returns when it is ready for calls.

    It is the one that the model's declaration names, or else ``settings["engine"]``.

    ``kind`` is what it is to do. To count tokens takes the model's tokenizer alone.

    Raises
    ------
    EngineError
        The engine could not start.
    ModelNotFoundError
        The model does not lead to weights.
    MissingDependencyError
        The engine's package is not installed.
    """
    model, settings = settings.of_model(model)
    # Imported here: torch and vLLM load in the daemon that needs them, nowhere else.
    match settings["engine"]:
        case "simulator":
            from spark_helium.gpu_executor.engines.simulator import SimulatorEngine, SimulatorTextRenderer

            if kind is EngineKind.TOKENIZE:
                from spark_helium.gpu_executor.engines.tokenizer_engine import TokenizerEngine

                return TokenizerEngine("simulator", model, SimulatorTextRenderer(whole=False))
            return SimulatorEngine(model, settings, kind)
        case "vllm":
            if kind is EngineKind.TOKENIZE:
                from spark_helium.gpu_executor.engines.rendering import TextRenderer
                from spark_helium.gpu_executor.engines.tokenizer_engine import TokenizerEngine, load_tokenizer

                return TokenizerEngine("vllm", model, TextRenderer(load_tokenizer(model, settings), whole=False))
            from spark_helium.gpu_executor.engines.vllm_engine import VllmEngine

            return VllmEngine(model, settings, kind)
        case "openai":
            from spark_helium.gpu_executor.engines.openai_engine import OpenAIEngine

            if kind is not EngineKind.GENERATE:
                raise ConfigurationError(
                    f"the model {model!r} is an endpoint (spark.helium.engine = openai) and answers chat completions "
                    "only: give scores, embeddings and token counts a model with another engine"
                )
            return OpenAIEngine(model, settings)
        case other:
            raise ConfigurationError.unknown("engine", other, ("openai", "simulator", "vllm"))
