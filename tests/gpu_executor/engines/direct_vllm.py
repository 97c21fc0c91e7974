"""What vLLM answers without spark_helium: reads a job as JSON from standard input, prints the answers."""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    job = json.load(sys.stdin)
    llm = LLM(**job["engine"])
    conversations = [[{"role": "user", "content": prompt}] for prompt in job["prompts"]]
    answers = []
    for sampling in job["samplings"]:
        choices = sampling.pop("choices", None)
        structured = StructuredOutputsParams(choice=choices) if choices else None
        params = SamplingParams(**sampling, structured_outputs=structured)
        outputs = llm.chat(conversations, params, use_tqdm=False)
        answers.append([output.outputs[0].text for output in outputs])
    print("\nANSWERS " + json.dumps(answers))


if __name__ == "__main__":
    main()
