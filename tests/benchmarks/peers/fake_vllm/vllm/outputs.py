from __future__ import annotations

from types import SimpleNamespace


class RequestOutput:
    finished = True
    metrics = prompt_logprobs = None
    num_cached_tokens = 1

    def __init__(self, prompt: str, prompt_token_ids: list[int], text: str, token_ids: list[int]) -> None:
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.outputs = [SimpleNamespace(text=text, token_ids=token_ids, logprobs=None)]


class PoolingRequestOutput:
    pass
