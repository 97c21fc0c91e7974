from __future__ import annotations

import subprocess
import sys

from spark_helium.conf import Settings
from spark_helium.gpu_executor.engines import create
from spark_helium.gpu_executor.engines.base import EngineKind
from spark_helium.gpu_executor.engines.simulator import SimulatorEngine
from spark_helium.gpu_executor.engines.tokenizer_engine import TokenizerEngine


def test_creates_the_engine_that_the_settings_name() -> None:
    engine = create("any name", Settings({"spark.helium.engine": "simulator"}))
    assert isinstance(engine, SimulatorEngine)
    assert (engine.info.engine, engine.info.model) == ("simulator", "any name")


def test_loads_neither_torch_nor_vllm_before_they_are_needed() -> None:
    code = (
        "import sys; from spark_helium.conf import Settings; from spark_helium.gpu_executor.engines import create;"
        "import spark_helium.gpu_executor.models;"
        "[create('m', Settings({'spark.helium.engine': 'simulator'}), k) for k in ('generate', 'embed', 'tokenize')];"
        "print(sorted({'torch', 'vllm', 'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_counts_tokens_without_a_model() -> None:
    engine = create("any name", Settings({"spark.helium.engine": "simulator"}), EngineKind.TOKENIZE)
    assert isinstance(engine, TokenizerEngine)
    assert engine.info.instant
