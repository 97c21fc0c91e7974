"""A model directory with Qwen3-8B's shape and no weights, for vLLM's ``load_format=dummy``.

What a query costs depends on shapes and lengths, not on what the weights say. The shape is that of the ``config.json``
that Qwen publishes with Qwen3-8B (Hugging Face, ``Qwen/Qwen3-8B``). The tokenizer is the built-in model's, as no
download is needed for it, with further tokens up to Qwen's vocabulary.

Answers of random weights are noise, so they must have fixed lengths, and be texts of about as many tokens as were
generated, because later prompts read them:

* The only token that ends an answer, ``<|never|>``, stands in no prompt and in no chat template, and there is no other
  in ``generation_config.json``. All systems read both files, so that none needs an option, and guided decoding, which
  ends an answer with that token once a choice is complete, works. Random weights take it as they take any token, once
  in 151,936 on average; every other answer has ``max_tokens`` tokens.
* Each further token is written as a word of the built-in vocabulary, which is one token when it is read again; the
  number before the word, which keeps tokens apart, is removed by the decoder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# The published configuration; parameters: 8.2e9.
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "max_window_layers": 36,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "use_cache": True,
    "transformers_version": "4.51.0",
}
# The same architecture as small as it goes, to try the steps on a CPU.
TINY: dict[str, Any] = QWEN3_8B | {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 256, "max_window_layers": 2,
}  # fmt: skip
SHAPES = {"qwen3-8b": QWEN3_8B, "tiny": TINY}

NEVER = "<|never|>"
_NUMBERED = r"^~\d+~"
_WORD = re.compile(r"Ġ[a-z]{3,}")


def write(directory: Path, tokenizer: Path, shape: str = "qwen3-8b") -> Path:
    """Write ``directory``; ``tokenizer`` is one with ``tokenizer.json`` and a chat template. Returns ``directory``.

    Raises
    ------
    ValueError
        The tokenizer is no byte-level BPE, or has more tokens than the shape.
    """
    config = SHAPES[shape]
    directory.mkdir(parents=True, exist_ok=True)
    said = json.loads((tokenizer / "tokenizer_config.json").read_text())
    template = tokenizer / "chat_template.jinja"
    chat = template.read_text() if template.is_file() else said["chat_template"]
    files = {
        "config.json": {**config, "bos_token_id": None, "eos_token_id": config["vocab_size"] - 1},
        "generation_config.json": {"eos_token_id": config["vocab_size"] - 1},
        "tokenizer.json": padded(json.loads((tokenizer / "tokenizer.json").read_text()), config["vocab_size"]),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": NEVER, "pad_token": NEVER,
            "model_max_length": config["max_position_embeddings"],
        },
    }  # fmt: skip
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, ensure_ascii=False) + "\n")
    (directory / "chat_template.jinja").write_text(chat)
    return directory


def padded(tokenizer: dict[str, Any], size: int) -> dict[str, Any]:
    """A byte-level ``tokenizer.json`` with tokens up to ``size``, the last of which is ``NEVER``."""
    model, decoder = tokenizer["model"], tokenizer["decoder"]
    if model["type"] != "BPE" or decoder["type"] != "ByteLevel":
        raise ValueError(f"the tokenizer is {model['type']} with the decoder {decoder['type']}, not byte-level BPE")
    vocabulary: dict[str, int] = dict(model["vocab"])
    used = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    first = max(used) + 1
    if first >= size:
        raise ValueError(f"the tokenizer has {first} tokens, and the model only {size}")
    words = [token for token in vocabulary if _WORD.fullmatch(token)]
    if not words:
        raise ValueError("the tokenizer has no words to write further tokens with")
    for token in range(first, size - 1):
        vocabulary[f"~{token}~{words[token % len(words)]}"] = token
    never = {
        "id": size - 1, "content": NEVER, "special": True,
        "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    }  # fmt: skip
    unnumbered = {"type": "Replace", "pattern": {"Regex": _NUMBERED}, "content": ""}
    return {
        **tokenizer,
        "model": {**model, "vocab": vocabulary},
        "added_tokens": [*tokenizer["added_tokens"], never],
        "decoder": {"type": "Sequence", "decoders": [unnumbered, decoder]},
    }


def kv_bytes_per_token(config: Any, bytes_per_number: int = 2) -> int:
    """Keys and values of all layers, for one token; ``config`` is a configuration of transformers.

    For Qwen3-8B in bfloat16 2 * 36 * 8 * 128 * 2 = 147,456.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head * bytes_per_number)
