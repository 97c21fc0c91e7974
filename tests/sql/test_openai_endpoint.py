"""Calls to an OpenAI-compatible endpoint from SQL: everything around the engine is as with a local one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_executor.chat_endpoint import Endpoint, Reply, echo, endpoint, error
from tests.gpu_executor.daemons import stop_daemons

KEY = "sk-canary-5f0e4c1d2b3a"
ROOT = Path(__file__).parents[2]


class Job:
    """What an application on an endpoint printed, wrote and asked."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.busy = True
        with endpoint(self.answer) as self.endpoint:
            environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug", "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, "-m", "tests.sql.openai_job", str(home), self.endpoint.url],
                capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=300,
            )  # fmt: skip
            self.output = done.stdout + done.stderr
            stop_daemons(home / "d", 30)
        found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
        assert found is not None, self.output[-3000:]
        self.result: dict[str, Any] = json.loads(found.group(1))

    def answer(self, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        if "bad" in text and text.startswith("Answer"):
            return error(400, f"what is that? Your key {KEY} is fine")
        if "busy" in text and self.busy:
            self.busy = False
            return error(503, f"overloaded, {KEY}", retry_after_ms="5")
        return echo(body)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("o"))


def asked(serving: Endpoint, beginning: str) -> list[str]:
    texts = [body["messages"][-1]["content"] for body in serving.requests]
    return [text for text in texts if text.startswith(beginning)]


def test_answers_one_bad_row_and_retries(job: Job) -> None:
    answers = job.result["answers"]
    assert [row[0] for row in answers] == list(range(40))
    for number, response, message, choice, here in answers:
        body = f"row {number % 10}" + (" bad" if number == 7 else "") + (" busy" if number == 3 else "")
        assert (choice, here is not None) == ("yes", True)
        if number == 7:
            assert response is None
            assert "status 400: what is that? Your key (the API key) is fine" in message
        else:
            assert (response, message) == (f"<Answer {body}>", None)
    counts = job.result["counts"]
    assert (counts["calls_failed"], counts["calls_retried"]) == (1, 1)
    assert counts["prompt_tokens"] > counts["cached_prompt_tokens"] > 0


def test_equal_calls_are_made_once_and_answers_are_kept(job: Job) -> None:
    # 12 different bodies and four calls for each, three of them to the endpoint; 40 rows ask for them.
    assert job.result["counts"]["calls_sent"] == 4 * 12
    for beginning in ("Keep", "Choose", "Answer"):
        good = [text for text in asked(job.endpoint, beginning) if not text.endswith(" bad")]
        retried = [text for text in set(good) if good.count(text) > 1]
        assert all("busy" in text for text in retried), "the report's run asked again for what was answered"


def test_the_endpoint_gets_messages_of_the_model_that_was_declared(job: Job) -> None:
    assert {body["model"] for body in job.endpoint.requests} == {"org/remote-model"}
    assert set(job.endpoint.keys) == {KEY}
    assert job.endpoint.most_open <= 4


def test_a_permanent_failure_ends_the_query_with_its_reason(job: Job) -> None:
    assert "HELIUM_CALL_FAILED" in job.result["failure"]
    assert "status 400" in job.result["failure"]


def test_the_key_is_nowhere(job: Job) -> None:
    """Not in plans, errors, reports and the application's log, nor in any file: event log, daemon's log, cache."""
    assert KEY not in job.output
    files = [path for path in job.home.rglob("*") if path.is_file()]
    kinds = {path.relative_to(job.home).parts[0] for path in files}
    assert {"events", "d", "cache"} <= kinds, "the test looks at nothing"
    assert any("SparkListenerTaskEnd" in path.read_text(errors="replace") for path in files)
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
