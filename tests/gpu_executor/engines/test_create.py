from __future__ import annotations

import subprocess
import sys

from spark_helium.conf import Settings
from spark_helium.gpu_executor.engines import create
from spark_helium.gpu_executor.engines.simulator import SimulatorEngine


def test_creates_the_engine_that_the_settings_name() -> None:
    engine = create("any name", Settings({"spark.helium.engine": "simulator"}))
    assert isinstance(engine, SimulatorEngine)
    assert (engine.info.engine, engine.info.model) == ("simulator", "any name")


def test_loads_neither_torch_nor_vllm_before_they_are_needed() -> None:
    code = (
        "import sys; from spark_helium.conf import Settings; from spark_helium.gpu_executor.engines import create;"
        "import spark_helium.gpu_executor.models;"
        "create('m', Settings({'spark.helium.engine': 'simulator'}));"
        "print(sorted({'torch', 'vllm', 'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
