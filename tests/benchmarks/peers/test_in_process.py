"""Peers whose engine runs in their own process, on a fake vLLM and on the real one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.peers import environments
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
from tests.benchmarks.peers import jobs

ROWS = 12
IN_PROCESS = [name for name, peer in environments.PEERS.items() if peer.in_process]
# The conversation as jobs.model() reads it.
TEMPLATE = "{% for m in messages %}{% if not loop.first %}|{% endif %}{{ m.role }}:{{ m.content }}{% endfor %}"


def run(name: str, folder: Path, path: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    python = environments.python_of(name)
    if python is None:
        pytest.skip(f"{name}: {environments.why_not(name)}")
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    if path:
        variables["PYTHONPATH"] = str(path)
    command = [str(python), str(environments.runner_of(name)), str(folder)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers = pq.read_table(folder / "answers.parquet").to_pylist()
    return answers, json.loads((folder / "result.json").read_text())


def engine(model_path: str, kv_bytes: int) -> dict[str, Any]:
    sizes = {"block_size": 32, "max_model_len": 1024, "kv_cache_bytes": kv_bytes, "max_num_seqs": 64}
    return {"model_path": model_path, "dtype": "float32", **sizes}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_on_a_fake_engine_answers_are_those_of_python(name: str, tmp_path: Path) -> None:
    alphabet = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    bytewise = Tokenizer(BPE(vocab=alphabet, merges=[]))
    bytewise.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    rows = jobs.rows(ROWS)
    jobs.write(tmp_path, "http://nowhere/v1", rows, engine=engine(str(tmp_path / "model"), 1 << 20))
    answers, result = run(name, tmp_path, Path(__file__).parent / "fake_vllm")
    wanted = sorted((jobs.expected(row) for row in rows), key=lambda row: row["row"])
    assert answers == wanted
    said = [value for row in wanted for step, value in row.items() if step != "row" and value is not None]
    assert result["engine"]["calls"] == len(said)
    assert result["engine"]["output_tokens"] == len("".join(said))
    assert result["warm_up_calls"] == 0
    assert result["seconds"] > 0


@pytest.mark.engine
@pytest.mark.parametrize("name", IN_PROCESS)
def test_the_real_engine_calls_where_it_should_and_keeps_to_choices(name: str, tmp_path: Path) -> None:
    rows = jobs.rows(4)
    path = models.resolve("smollm2-135m", Settings())
    jobs.write(tmp_path, "http://nowhere/v1", rows, engine=engine(path, 200 << 20))
    answers, result = run(name, tmp_path)
    assert [row["row"] for row in answers] == sorted(row["row"] for row in rows)
    for row in answers:
        assert row["kind"] in ("good", "bad")
        assert (row["blame"] is None) == (row["reply"] is None) == (row["kind"] != "bad")
        assert all(row[step] for step in ("praise", "more", "verdict"))
    calls = sum(value is not None for row in answers for step, value in row.items() if step != "row")
    assert result["engine"]["calls"] == calls
    assert calls < result["engine"]["output_tokens"] <= 5 * calls
    assert 0 <= result["engine"]["cached_prompt_tokens"] < result["engine"]["prompt_tokens"]
