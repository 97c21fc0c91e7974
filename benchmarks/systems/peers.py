"""Other products, each in an environment of its own: a subprocess that reads a job and writes answers (``jobs.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.engines import GPU, SIMULATOR, EngineSettings, Server
from benchmarks.measure import Counts, Outcome
from benchmarks.peers import environments
from benchmarks.systems.base import Case, System, shown
from spark_helium.gpu_executor.engines.vllm_engine import CPU_MALLOC

TITLES = {
    "langgraph": "LangGraph",
    "daft": "Daft, own engine",
    "daft-http": "Daft, server",
    "ray": "Ray Data LLM, own engine",
    "ray-http": "Ray Data LLM, server",
    "lotus": "LOTUS",
}
SECONDS = 1800


class Peer(System):
    """A product that asks the server, or has the engine in its own process, with the same settings."""

    def __init__(self, server: Server, settings: EngineSettings, peer: str) -> None:
        self.name = TITLES.get(peer, peer)
        self._server = server
        self._settings = settings
        self._peer = peer
        self._in_process = environments.PEERS[peer].in_process

    def why_not(self, case: Case) -> str | None:
        if self._in_process and self._settings.kind == SIMULATOR:
            return "it runs its own vLLM, and the engine is the simulator"
        if self._in_process and self._settings.scale == GPU:
            return "it runs its own vLLM, and its environment has the CPU build"
        if self._in_process and self._settings.dummy_weights:
            return "it runs its own vLLM, which would look for weights"
        return environments.why_not(self._peer)

    def run(self, case: Case) -> Outcome:
        python = environments.python_of(self._peer)
        with tempfile.TemporaryDirectory(prefix="hj") as name:
            directory = Path(name)
            case.job.save(
                directory,
                case.rows,
                server=self._server.base_url,
                model=self._settings.model,
                concurrency=self._settings.sequences,
                engine=self._settings.of_peer() if self._in_process else None,
            )
            self._server.forget()
            before = self._server.counts()
            done = subprocess.run(
                [str(python), str(environments.runner_of(self._peer)), str(directory)],
                env={**CPU_MALLOC, **os.environ},  # as for the other engines of the run
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{self.name} ended with status {done.returncode}: {done.stderr[-1500:]}")
            said = json.loads((directory / "result.json").read_text())
            answers = pd.read_parquet(directory / "answers.parquet").sort_values("row").drop(columns="row")
        rows = pd.concat([case.rows.reset_index(drop=True), answers.reset_index(drop=True).astype(object)], axis=1)
        if self._in_process:
            used = said["engine"]
            counts = Counts(
                used.get("calls", 0), used["prompt_tokens"], used["cached_prompt_tokens"], used["output_tokens"]
            )
        else:
            counts = self._server.counts() - before
        notes = {"versions": said.get("versions", {}), "warm-up calls, counted": said.get("warm_up_calls", 0)}
        return Outcome(said["seconds"], counts, shown(case.finish(rows)), notes)
