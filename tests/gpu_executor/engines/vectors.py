"""Embeddings as engines write them."""

from __future__ import annotations

import json

import numpy as np


def vector(text: str) -> list[float]:
    """The numbers of an embedding, which are 32-bit floats."""
    values: list[float] = np.array(json.loads(text), dtype=np.float32).tolist()
    return values
