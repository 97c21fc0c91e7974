"""The engines of a benchmark: one behind an OpenAI server, one in spark_helium's daemon, one offline; same settings.

All three are up before a clock starts. What the server did is read from its own metrics.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.model import kv_bytes_per_token
from benchmarks.measure import Counts
from benchmarks.simulator_server import SimulatorServer
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.engines.vllm_engine import CPU_MALLOC

MODEL = "smollm2-135m"
VLLM, SIMULATOR = "vllm", "simulator"
# KV space of the CPU engine. SmolLM2-135M in float32 takes 46,080 bytes a token.
KV_BYTES = {"small": 184 << 20, "ample": 1 << 30}
SIMULATED_TOKENS = {"small": 4_096, "ample": 23_296}
CPU, GPU = "cpu", "gpu"
# KV space on a GPU, in tokens: with Qwen3-8B in bfloat16, 147,456 bytes a token, 2.4 and 14.5 GB. Two engines with
# ample space and 16.4 GB of weights each fit 80 GB, three with small; three with ample want 141 GB.
GPU_KV_TOKENS = {"small": 16_384, "ample": 98_304}
START_SECONDS = 600


@dataclass(frozen=True)
class EngineSettings:
    """What all engines of a run have in common.

    Attributes
    ----------
    kind: ``vllm`` or ``simulator``.
    kv: ``small``, room for about 4,000 tokens, so that a prefix may be evicted before its next row comes; or ``ample``,
        about 23,000. On a GPU 16,384 and 98,304.
    model: a built-in name, a directory, or a name on the hub.
    scale: ``cpu`` or ``gpu``: what the engine can hold and run side by side.
    dummy_weights: random ones, so that the model needs no file of weights.
    """

    kind: str = SIMULATOR
    kv: str = "ample"
    max_model_len: int = 2048
    model: str = MODEL
    scale: str = CPU
    dummy_weights: bool = False

    @property
    def sequences(self) -> int:
        """Most that the engine runs at once; as many requests a client keeps open."""
        return 256 if self.scale == GPU else 64

    @property
    def partitions(self) -> int:
        """Tasks of Spark; with 32 threads each the pandas UDF has as many requests open as others on a GPU."""
        return 8 if self.scale == GPU else 2

    def options(self) -> dict[str, str]:
        """spark_helium's settings, by full key."""
        if self.kind == SIMULATOR:
            tokens = GPU_KV_TOKENS if self.scale == GPU else SIMULATED_TOKENS
            return {
                "spark.helium.engine": SIMULATOR,
                "spark.helium.simulator.blockSize": "32",
                "spark.helium.simulator.kvBlocks": str(tokens[self.kv] // 32),
                "spark.helium.simulator.maxNumSeqs": str(self.sequences),
                "spark.helium.simulator.maxModelLen": str(self.max_model_len),
            }
        extra: dict[str, Any] = {"load_format": "dummy"} if self.dummy_weights else {}
        options = {
            "spark.helium.engine": VLLM,
            "spark.helium.model": self.model,
            "spark.helium.vllm.maxModelLen": str(self.max_model_len),
        }
        if self.scale == GPU:
            # The KV space is the same whatever the GPU has; the fraction is only what must be free at the start.
            extra["kv_cache_memory_bytes"] = GPU_KV_TOKENS[self.kv] * self._kv_bytes_per_token()
            options |= {
                "spark.helium.vllm.dtype": "bfloat16",
                "spark.helium.vllm.maxNumSeqs": str(self.sequences),
                "spark.helium.vllm.gpuMemoryUtilization": "0.2",
            }
        else:
            options["spark.helium.vllm.kvCacheSpace"] = str(KV_BYTES[self.kv])
        if extra:
            options["spark.helium.vllm.extraArgs"] = json.dumps(extra)
        return options

    def _kv_bytes_per_token(self) -> int:
        from transformers import AutoConfig

        # To find a built-in model no setting of the engine is needed but that a directory may lack weights.
        where = models.resolve(self.model, Settings({"spark.helium.vllm.extraArgs": '{"load_format": "dummy"}'}))
        return kv_bytes_per_token(AutoConfig.from_pretrained(where))

    def vllm_arguments(self) -> dict[str, Any]:
        """Arguments of vLLM that say what spark_helium's own engine is told."""
        from spark_helium.gpu_executor.engines.vllm_engine import engine_arguments, is_cpu_build

        settings = Settings(self.options())
        arguments = engine_arguments(models.resolve(self.model, settings), settings, on_cpu=is_cpu_build())
        # How the daemon orders its own calls; statistics cost next to nothing and are what we read.
        return {k: v for k, v in arguments.items() if k not in ("scheduling_policy", "disable_log_stats")}

    def of_peer(self) -> dict[str, Any]:
        """The same for a product that runs vLLM in its own process."""
        arguments = self.vllm_arguments()
        named = {"model": "model_path", "kv_cache_memory_bytes": "kv_cache_bytes"}
        wanted = ("model", "block_size", "max_model_len", "kv_cache_memory_bytes", "dtype", "max_num_seqs")
        return {named.get(name, name): arguments[name] for name in wanted if name in arguments}


class Server:
    """A running OpenAI server."""

    def __init__(self, address: str) -> None:
        self.address = address

    @property
    def base_url(self) -> str:
        return f"{self.address}/v1"

    def counts(self) -> Counts:
        """Totals since the server began."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=60) as reply:
            lines = reply.read().decode().splitlines()

        def total(name: str) -> int:
            return int(sum(float(v.rsplit(" ", 1)[1]) for v in lines if v.startswith((f"{name}{{", f"{name} "))))

        return Counts(
            calls=total("vllm:request_success_total"),
            prompt_tokens=total("vllm:prompt_tokens_total"),
            cached_tokens=total("vllm:prefix_cache_hits_total"),
            output_tokens=total("vllm:generation_tokens_total"),
        )

    def forget(self) -> None:
        """Empty the prefix cache, so that no system finds what the one before it computed."""
        request = urllib.request.Request(f"{self.address}/reset_prefix_cache", method="POST")
        urllib.request.urlopen(request, timeout=60).close()


@contextlib.contextmanager
def running_server(settings: EngineSettings) -> Iterator[Server]:
    """A server with the settings, as long as the block runs.

    Raises
    ------
    RuntimeError
        It did not come up; the message has the end of its log.
    """
    if settings.kind == SIMULATOR:
        with SimulatorServer(Settings(settings.options())) as simulator:
            yield Server(simulator.address)
        return
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    port = _free_port()
    command += ["--port", str(port), "--served-model-name", settings.model, "--disable-uvicorn-access-log"]
    for name, value in settings.vllm_arguments().items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            command += [flag] if value else []
        else:
            command += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    environment = {
        **CPU_MALLOC,
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    environment["VLLM_SERVER_DEV_MODE"] = "1"  # for reset_prefix_cache
    # As spark_helium's own engine: else the server would compute with one core less, and its threads be bound to cores.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError("the server did not start: " + log.read().decode(errors="replace")[-2000:])
                time.sleep(1)
            yield Server(address)
        finally:
            process.terminate()
            process.wait(60)


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
