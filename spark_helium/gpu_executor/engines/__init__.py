"""Inference engines behind one interface, :class:`~spark_helium.gpu_executor.engines.base.Engine`."""

from __future__ import annotations

from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError
from spark_helium.gpu_executor.engines.base import Engine


def create(model: str, settings: Settings) -> Engine:
    """Start the engine that ``settings["engine"]`` names for ``model``; returns when it is ready for calls.

    Raises
    ------
    EngineError
        The engine could not start.
    ModelNotFoundError
        The model does not lead to weights.
    MissingDependencyError
        The engine's package is not installed.
    """
    # Imported here: torch and vLLM load in the daemon that needs them, nowhere else.
    match settings["engine"]:
        case "simulator":
            from spark_helium.gpu_executor.engines.simulator import SimulatorEngine

            return SimulatorEngine(model, settings)
        case "vllm":
            from spark_helium.gpu_executor.engines.vllm_engine import VllmEngine

            return VllmEngine(model, settings)
        case other:
            raise ConfigurationError.unknown("engine", other, ("simulator", "vllm"))
