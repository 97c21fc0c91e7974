from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StructuredOutputsParams:
    choice: list[str]


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    structured_outputs: StructuredOutputsParams | None = None
