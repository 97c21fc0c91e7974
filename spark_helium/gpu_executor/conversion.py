"""Turns a GGUF file into an ordinary checkpoint: ``python -m spark_helium.gpu_executor.conversion FILE DIRECTORY``.

A process of its own, so that the memory it needs is gone when the engine starts, and so that killing it
leaves nothing but a directory that nobody uses.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Changes with anything that changes the written files; part of the name of the directory they end up in.
VERSION = 1

REQUIREMENTS = ("torch", "transformers", "gguf", "accelerate")


def convert(source: Path, target: Path) -> None:
    """Write weights (float32), tokenizer and chat template of the GGUF file ``source`` to ``target``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = str(source.parent)
    # float32, because it is exact for every quantized format and answers then do not depend on the batch.
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype="float32"
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
