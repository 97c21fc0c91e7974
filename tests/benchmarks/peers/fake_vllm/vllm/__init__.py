"""As much of vLLM as Daft's and Ray's executors use; an engine that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from prometheus_client import Counter
from replies import reply_to
from transformers import AutoTokenizer

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams

__all__ = ["AsyncEngineArgs", "AsyncLLMEngine", "SamplingParams"]

_CALLS = Counter("vllm:request_success", "calls")
_PROMPT = Counter("vllm:prompt_tokens", "bytes, for once")
_HITS = Counter("vllm:prefix_cache_hits", "none")
_OUTPUT = Counter("vllm:generation_tokens", "bytes")


class AsyncEngineArgs(SimpleNamespace):
    def create_engine_config(self) -> Any:
        parallel = SimpleNamespace(pipeline_parallel_size=1)
        return SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=self.max_num_seqs), parallel_config=parallel
        )


class AsyncLLMEngine:
    """``engines``: how many this process made; a second one would have the first one's memory again."""

    engines = 0

    def __init__(self, model: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen: set[str] = set()
        self._tokenizer = AutoTokenizer.from_pretrained(model)

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs, stat_loggers: Any = None) -> AsyncLLMEngine:
        assert args.block_size == 32
        assert args.kv_cache_memory_bytes == 1 << 20
        assert args.enable_prefix_caching
        cls.engines += 1
        assert cls.engines == 1
        return cls(args.model)

    def shutdown(self) -> None:
        pass

    async def do_log_stats(self) -> None:
        pass

    async def generate(
        self,
        prompt: str | dict[str, Any],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: None = None,
        tokenization_kwargs: dict[str, Any] | None = None,
    ) -> AsyncIterator[RequestOutput]:
        # The real engine belongs to one event loop and knows requests by their names.
        self._loop = self._loop or asyncio.get_running_loop()
        assert self._loop is asyncio.get_running_loop()
        assert request_id not in self._seen
        self._seen.add(request_id)
        assert sampling_params.temperature == 0
        assert sampling_params.max_tokens == 5 or prompt == "user:Hello"
        if isinstance(prompt, str):
            assert tokenization_kwargs == {"add_special_tokens": False}
            text, tokens = prompt, self._tokenizer.encode(prompt)
        else:
            tokens = list(prompt["prompt_token_ids"])
            text = self._tokenizer.decode(tokens)
        await asyncio.sleep(0.005)
        chosen = sampling_params.structured_outputs
        reply = reply_to(text, chosen.choice if chosen else None)
        output = RequestOutput(text, tokens, reply, self._tokenizer.encode(reply))
        _CALLS.inc()
        _PROMPT.inc(len(tokens))
        _OUTPUT.inc(len(output.outputs[0].token_ids))
        yield output
