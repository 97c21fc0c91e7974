"""What vLLM says to scores and embeddings without spark_helium: reads a job as JSON, prints the answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

OURS = {
    "dtype": "float32", "max_model_len": 4096, "block_size": 32, "max_num_seqs": 64, "enforce_eager": True,
    "kv_cache_memory_bytes": 1 << 30,
}  # fmt: skip


def ask(job: dict[str, Any]) -> list[list[float]]:
    """vLLM's own answers for the built-in model, from a process of its own."""
    from spark_helium.conf import Settings
    from spark_helium.gpu_executor import models

    job["engine"] = {"model": models.resolve("smollm2-135m", Settings()), **OURS}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    found = re.search(r"^ANSWERS (.*)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stderr[-2000:]
    answers: list[list[float]] = json.loads(found.group(1))
    return answers


def scores(job: dict[str, Any]) -> list[list[float]]:
    """Per prompt, the log-probabilities of the choices' tokens at the first place of the answer."""
    from vllm import LLM, SamplingParams

    llm = LLM(**job["engine"], max_logprobs=-1)
    tokenizer = llm.get_tokenizer()
    tokens = [tokenizer.encode(choice, add_special_tokens=False)[0] for choice in job["choices"]]
    conversations = [[{"role": "user", "content": prompt}] for prompt in job["prompts"]]
    outputs = llm.chat(conversations, SamplingParams(max_tokens=1, temperature=0.0, logprobs=-1), use_tqdm=False)
    return [[output.outputs[0].logprobs[0][token].logprob for token in tokens] for output in outputs]


def embeddings(job: dict[str, Any]) -> list[list[float]]:
    from vllm import LLM

    llm = LLM(**job["engine"], runner="pooling")
    return [output.outputs.embedding for output in llm.embed(job["texts"], use_tqdm=False)]


def main() -> None:
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    job = json.load(sys.stdin)
    answers = scores(job) if "prompts" in job else embeddings(job)
    print("\nANSWERS " + json.dumps(answers))


if __name__ == "__main__":
    main()
