"""A cost model of one vLLM node with an H100, for curves of scaling: simulated times, never measured ones.

The hardware is NVIDIA's H100 SXM data sheet (80 GB of HBM3 at 3.35 TB/s, 989 TFLOP/s of dense BF16). The model is
Qwen3-8B by its published configuration: 8.2e9 parameters, 36 layers, 8 KV heads of 128, so 147,456 bytes of KV per
token in BF16. What a kernel reaches of a peak is an assumption: 50 % of the arithmetic in prefill, 70 % of the
bandwidth in decode.

A node computes the prompt tokens that are not in its KV cache, in prefill, and decodes in steps that read all weights
and the KV of all running sequences; prefill and decode share the GPU, so their times add. A node cannot be faster than
its daemon, whose time per row is measured on the machine that runs the benchmark.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Node:
    """Constants of a node; see the module's text for where they come from."""

    flops: float = 989e12
    flops_share: float = 0.5
    bandwidth: float = 3.35e12
    bandwidth_share: float = 0.7
    memory: float = 80e9
    memory_share: float = 0.9
    parameters: float = 8.2e9
    bytes_per_parameter: int = 2
    kv_bytes_per_token: int = 147_456
    activations: float = 4e9
    sequences: int = 256

    @property
    def prefill_seconds_per_token(self) -> float:
        """Two operations per parameter and token."""
        return 2 * self.parameters / (self.flops * self.flops_share)

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV fits beside weights and activations."""
        left = self.memory * self.memory_share - self.parameters * self.bytes_per_parameter - self.activations
        return int(left / self.kv_bytes_per_token)

    def decode_seconds(self, rows: float, prompt_tokens: float, output_tokens: float) -> float:
        """Time to decode ``rows`` answers, as many side by side as have room."""
        context = prompt_tokens + output_tokens / 2
        side_by_side = max(1.0, min(self.sequences, rows, self.kv_tokens / max(1.0, prompt_tokens + output_tokens)))
        weights = self.parameters * self.bytes_per_parameter
        read = weights + side_by_side * context * self.kv_bytes_per_token
        step = max(
            read / (self.bandwidth * self.bandwidth_share),
            side_by_side * self.prefill_seconds_per_token,
        )
        return math.ceil(rows / side_by_side) * output_tokens * step


@dataclass(frozen=True)
class Work:
    """Rows of reviews joined with products: a question's static text, a product's, a review's; and the answer.

    Attributes
    ----------
    rows_per_product: mean; products of a table are rows / rows_per_product.
    """

    static_tokens: int = 200
    product_tokens: int = 250
    review_tokens: int = 80
    output_tokens: int = 8
    rows_per_product: int = 50

    @property
    def prompt_tokens(self) -> int:
        return self.static_tokens + self.product_tokens + self.review_tokens


@dataclass(frozen=True)
class Run:
    """``seconds`` until the last node is done; ``hit_rate`` is the share of prompt tokens found in KV caches.

    ``bound`` says what the slowest node waits for: its GPU or its daemon.
    """

    seconds: float
    hit_rate: float
    bound: str


BY_PREFIX, AS_THEY_COME = "rows placed and ordered by prefix", "rows as they come"


def simulate(rows: int, nodes: int, policy: str, daemon_seconds_per_row: float, *, window: int = 16_384,
             node: Node | None = None, work: Work | None = None, seed: int = 0) -> Run:  # fmt: skip
    """Play a table through a cluster.

    ``BY_PREFIX``: products are divided among nodes, as ``PlaceByPrefix`` does, and the calls that wait in a daemon,
    ``window`` rows of its tasks, go product by product. ``AS_THEY_COME``: any row on any node, in the order of the
    table, which is shuffled. In both, a node keeps what it used last as far as it has room, the static text always.
    """
    node, work = node or Node(), work or Work()
    products = max(1, rows // work.rows_per_product)
    generator = np.random.default_rng(seed)
    room = max(1, (node.kv_tokens - node.sequences * (work.review_tokens + work.output_tokens)) // work.product_tokens)
    slowest, computed, bound = 0.0, 0.0, "GPU"
    for number in range(nodes):
        if policy == BY_PREFIX:
            mine = len(range(number, products, nodes))
            here = mine * work.rows_per_product
            draw = (generator.integers(0, max(1, mine), min(window, here - at)) for at in range(0, here, window))
            misses = _misses_by_window(draw, room) if mine else 0
        else:
            here = len(range(number, rows, nodes))
            # Least recently used with values drawn evenly: a product is there with the share of products that have
            # room.
            first = products * (1 - (1 - 1 / products) ** here)
            misses = first + (here - first) * max(0.0, 1 - room / products)
        tokens = work.static_tokens + misses * work.product_tokens + here * work.review_tokens
        gpu = tokens * node.prefill_seconds_per_token + node.decode_seconds(
            here, work.prompt_tokens, work.output_tokens
        )
        daemon = here * daemon_seconds_per_row
        computed += tokens
        if max(gpu, daemon) > slowest:
            slowest, bound = max(gpu, daemon), "GPU" if gpu >= daemon else "daemon"
    total = rows * work.prompt_tokens
    return Run(slowest, max(0.0, 1 - computed / total), bound)


def _misses_by_window(windows: object, room: int) -> int:
    """Products that must be computed when each window's rows go product by product through a cache of ``room``."""
    kept: OrderedDict[int, None] = OrderedDict()
    misses = 0
    for window in windows:  # type: ignore[attr-defined]
        for product in np.unique(window).tolist():
            if product in kept:
                kept.move_to_end(product)
            else:
                misses += 1
                kept[product] = None
                if len(kept) > room:
                    kept.popitem(last=False)
    return misses
