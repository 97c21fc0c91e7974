"""Each peer whose environment is built answers a job as Python does, through a fake server."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.peers import environments
from tests.benchmarks.peers import jobs
from tests.gpu_executor.chat_endpoint import endpoint

ROWS, CONCURRENCY = 12, 4
SERVED = [name for name, peer in environments.PEERS.items() if not peer.in_process and not peer.reason]


@dataclass
class Ran:
    answers: list[dict[str, Any]]
    result: dict[str, Any]
    requests: list[dict[str, Any]]
    most_open: int


@pytest.fixture(scope="module", params=SERVED)
def peer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if environments.python_of(name) is None:
        pytest.skip(f"{name}: {environments.why_not(name)}")
    return name


@pytest.fixture(scope="module")
def ran(peer: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run(peer, tmp_path_factory.mktemp(peer), jobs.rows(ROWS))


def run(name: str, folder: Path, rows: list[dict[str, Any]], **job: Any) -> Ran:
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HTTPServer, "request_queue_size", 128)  # some peers open many connections at once
        with endpoint(jobs.answer) as server:
            jobs.write(folder, server.url, rows, CONCURRENCY, **job)
            command = [str(environments.python_of(name)), str(environments.runner_of(name)), str(folder)]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers = pq.read_table(folder / "answers.parquet")
    assert set(map(str, answers.schema.types[1:])) == {"string"}
    result = json.loads((folder / "result.json").read_text())
    return Ran(answers.to_pylist(), result, server.requests, server.most_open)


def test_answers_are_those_of_the_job_where_it_calls_and_null_elsewhere(ran: Ran) -> None:
    assert ran.answers == sorted((jobs.expected(row) for row in jobs.rows(ROWS)), key=lambda row: row["row"])


def test_no_call_is_made_twice_or_for_nothing(ran: Ran) -> None:
    wanted = [jobs.expected(row) for row in jobs.rows(ROWS)]
    calls = sum(value is not None for row in wanted for step, value in row.items() if step != "row")
    assert len(ran.requests) == calls + ran.result["warm_up_calls"]


def test_requests_are_greedy_and_as_long_as_the_job_says(ran: Ran) -> None:
    for request in ran.requests[ran.result["warm_up_calls"] :]:
        assert request["model"] == "m"
        assert request["temperature"] == 0
        assert request.get("max_tokens", request.get("max_completion_tokens")) == 5


def test_as_many_requests_are_open_as_the_job_says(peer: str, tmp_path: Path) -> None:
    step = {"name": "only", "user": "{review}", "max_tokens": 5}
    ran = run(peer, tmp_path, jobs.rows(4 * CONCURRENCY), steps=[step], outputs=["only"])
    assert len(ran.answers) == 4 * CONCURRENCY
    # Daft looks at the number after it has sent a call.
    assert 1 < ran.most_open <= CONCURRENCY + 1


def test_the_result_says_how_long_and_with_what(ran: Ran) -> None:
    assert ran.result["seconds"] > 0
    assert ran.result["versions"]["python"]
    assert len(ran.result["versions"]) > 1
