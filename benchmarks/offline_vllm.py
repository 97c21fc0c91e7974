"""vLLM's offline ``LLM`` in a process of its own, for benchmarks: jobs in on standard input, seconds out.

The first line is the engine's arguments as JSON. Each further line is a list of prompts, given as the text of one
user's message behind one system message, and the most output tokens; the answer is one line of JSON with the seconds
of ``LLM.generate`` and the tokens. Prompts are rendered and tokenised before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from spark_helium.gpu_executor.engines.vllm_engine import is_cpu_build, set_environment


class OfflineVllm:
    """The other end: starts the process, and closes it as a context manager."""

    def __init__(self, engine: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._say(engine)
        assert self._hear() == "ready"

    def generate(self, system: str, users: Sequence[str], max_tokens: int) -> dict[str, float]:
        """Seconds, prompt tokens, cached prompt tokens and output tokens of one ``LLM.generate``."""
        self._say({"system": system, "users": list(users), "max_tokens": max_tokens})
        said: dict[str, float] = self._hear()
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _say(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("SAYS "):
                return json.loads(line.removeprefix("SAYS "))
        assert self._process.stderr is not None
        raise RuntimeError("vLLM ended: " + self._process.stderr.read()[-2000:])


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    set_environment(on_cpu=is_cpu_build())  # what spark_helium's own engine runs with
    from vllm import LLM, SamplingParams

    def say(message: object) -> None:
        print("\nSAYS " + json.dumps(message), flush=True)

    llm = LLM(**json.loads(sys.stdin.readline()))
    tokenizer = llm.get_tokenizer()
    say("ready")
    for line in sys.stdin:
        job = json.loads(line)
        conversations = [
            [{"role": "system", "content": job["system"]}, {"role": "user", "content": user}] for user in job["users"]
        ]
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
        prompts = [{"prompt_token_ids": tokenizer(t, add_special_tokens=False)["input_ids"]} for t in texts]
        began = time.perf_counter()
        outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=job["max_tokens"]), use_tqdm=False)
        say(
            {
                "seconds": time.perf_counter() - began,
                "prompt_tokens": sum(len(o.prompt_token_ids) for o in outputs),
                "cached_prompt_tokens": sum(o.num_cached_tokens or 0 for o in outputs),
                "output_tokens": sum(len(o.outputs[0].token_ids) for o in outputs),
            }
        )


if __name__ == "__main__":
    main()
