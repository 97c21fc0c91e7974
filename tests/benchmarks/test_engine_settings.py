"""What all engines of a run are told, on a CPU and on a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import command
from benchmarks.engines import EngineSettings
from benchmarks.gpu import model
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(model.QWEN3_8B))
    return tmp_path


@pytest.mark.parametrize(("kv", "tokens"), [("small", 16_384), ("ample", 98_304)])
def test_the_kv_space_of_a_gpu_is_in_tokens_of_the_model(directory: Path, kv: str, tokens: int):
    engine = EngineSettings("vllm", kv, 1024, str(directory), "gpu", dummy_weights=True)
    settings = Settings(engine.options())  # checks every key and value
    extra = json.loads(settings["vllm.extraArgs"])
    assert extra == {"kv_cache_memory_bytes": tokens * 147_456, "load_format": "dummy"}
    arguments = engine.vllm_arguments()
    assert arguments["kv_cache_memory_bytes"] == tokens * 147_456
    assert arguments["load_format"] == "dummy"
    assert arguments["dtype"] == "bfloat16"
    assert arguments["max_num_seqs"] == engine.sequences == 32 * engine.partitions


def test_a_cpu_has_no_further_arguments():
    options = EngineSettings("vllm", "small").options()
    assert options["spark.helium.vllm.kvCacheSpace"] == str(184 << 20)
    assert "spark.helium.vllm.extraArgs" not in options


def test_a_model_directory_is_made_absolute(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(directory.parent)
    options = argparse.Namespace(engine="vllm", model=directory.name, scale="gpu", dummy_weights=True)
    assert command.engine_settings(options, "small", 1024).model == str(directory)


def test_quality_needs_weights(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="are noise"):
        command.main(["quality", "--dummy-weights", "--out", str(tmp_path)])
