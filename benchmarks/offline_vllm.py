"""vLLM's offline ``LLM`` in a process of its own, for benchmarks: jobs in on standard input, seconds out.

The first line is the engine's arguments as JSON. Each further line is a list of calls, each a conversation, the most
output tokens and perhaps choices, or ``null`` to empty the prefix cache; the answer is one line of JSON with the texts,
the seconds of one ``LLM.generate`` and the tokens. Prompts are rendered, tokenised and sorted before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Self

from spark_helium.gpu_executor.engines.vllm_engine import CPU_MALLOC, is_cpu_build, set_environment


class OfflineVllm:
    """The other end: starts the process, and closes it as a context manager."""

    def __init__(self, engine: dict[str, Any]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**CPU_MALLOC, **os.environ},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        self._say(engine)
        assert self._hear() == "ready"

    def generate(self, system: str, users: Sequence[str], max_tokens: int) -> dict[str, float]:
        """Seconds, prompt tokens, cached prompt tokens and output tokens of one ``LLM.generate``."""
        said = self.ask([(_conversation(system, user), max_tokens, None) for user in users])
        del said["texts"]
        return said

    def ask(self, calls: Sequence[tuple[list[dict[str, str]], int, list[str] | None]]) -> dict[str, Any]:
        """The same for conversations with their most output tokens and choices; and ``texts``, in their order."""
        self._say(list(calls))
        said: dict[str, Any] = self._hear()
        return said

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._say(None)
        assert self._hear() == "forgot"

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
    from vllm.sampling_params import StructuredOutputsParams

    def say(message: object) -> None:
        print("\nSAYS " + json.dumps(message), flush=True)

    llm = LLM(**json.loads(sys.stdin.readline()))
    tokenizer = llm.get_tokenizer()
    say("ready")
    for line in sys.stdin:
        calls = json.loads(line)
        if calls is None:
            llm.reset_prefix_cache()
            say("forgot")
            continue
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c, _, _ in calls]
        ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        order = sorted(range(len(calls)), key=ids.__getitem__)
        params = []
        for k in order:
            _, max_tokens, choices = calls[k]
            structured = StructuredOutputsParams(choice=choices) if choices else None
            params.append(SamplingParams(temperature=0.0, max_tokens=max_tokens, structured_outputs=structured))
        prompts = [{"prompt_token_ids": ids[k]} for k in order]
        began = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        answers = [""] * len(calls)
        for k, output in zip(order, outputs, strict=True):
            answers[k] = output.outputs[0].text
        say(
            {
                "texts": answers,
                "seconds": seconds,
                "prompt_tokens": sum(len(o.prompt_token_ids) for o in outputs),
                "cached_prompt_tokens": sum(o.num_cached_tokens or 0 for o in outputs),
                "output_tokens": sum(len(o.outputs[0].token_ids) for o in outputs),
            }
        )


def _conversation(system: str, user: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


if __name__ == "__main__":
    main()
