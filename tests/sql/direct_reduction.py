"""A reduction with ``vllm.LLM``, without spark_helium: reads a job as JSON from standard input, prints answers."""

from __future__ import annotations

import json
import os
import sys

from tests.sql.by_hand import reduce_by_hand


def main() -> None:
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    job = json.load(sys.stdin)
    llm = LLM(**job["engine"])
    params = SamplingParams(**job["sampling"])
    tokenizer = llm.get_tokenizer()
    calls = 0

    def chat(prompt: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}]

    def ask(prompts: list[str]) -> list[str]:
        nonlocal calls
        calls += len(prompts)
        return [output.outputs[0].text for output in llm.chat(list(map(chat, prompts)), params, use_tqdm=False)]

    def prompt_tokens(prompt: str) -> int:
        text = tokenizer.apply_chat_template(chat(prompt), tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    answers = reduce_by_hand(job["groups"], job["instruction"], job["budget"], ask, prompt_tokens)
    print("\nANSWERS " + json.dumps({"answers": answers, "calls": calls}))


if __name__ == "__main__":
    main()
