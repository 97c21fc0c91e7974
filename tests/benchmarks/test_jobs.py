from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.jobs import Job, Step, When, calls_of, fill, job_from_json

DEBATE = Job(
    (
        Step("first", "{question}", "Be {mood}."),
        Step("other", "{question} Really?", "Be calm."),
        Step("again", "They say {other}", history="first"),
        Step("last", "Sure?", history="again", when=When("other", "no"), choices=("yes", "no")),
    ),
    ("first", "last"),
)


def test_a_history_is_the_whole_conversation():
    values = {"question": "Why?", "mood": "brief", "first": "so", "other": "no", "again": "well"}
    assert DEBATE.messages(DEBATE.by_name["last"], values) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "They say no"},
        {"role": "assistant", "content": "well"},
        {"role": "user", "content": "Sure?"},
    ]


def test_levels_follow_what_a_conversation_reads():
    assert [[step.name for step in level] for level in DEBATE.levels()] == [["first", "other"], ["again"], ["last"]]
    assert DEBATE.needs(DEBATE.by_name["last"]) == ("first", "other", "again")


def test_a_condition_counts_calls():
    answers = {"first": "a", "other": "b", "again": "c"}
    assert calls_of(DEBATE, [{**answers, "other": "no"}, answers]) == 4 + 3


def test_braces():
    assert fill("{{{a}}} {b}", {"a": "{b}", "b": None}) == "{{b}} "


@pytest.mark.parametrize(
    ("steps", "outputs", "message"),
    [
        ((Step("a", "x", history="b"), Step("b", "x")), ("a",), "no earlier step"),
        ((Step("a", "x"), Step("a", "y")), ("a",), "two steps"),
        ((Step("a", "x"),), ("b",), "are no steps"),
    ],
)
def test_jobs_that_cannot_run(steps: tuple[Step, ...], outputs: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        Job(steps, outputs)


def test_files(tmp_path: Path):
    rows = pd.DataFrame({"question": ["a", None], "stars": [1, 2]})
    DEBATE.save(tmp_path, rows, server="http://s/v1", model="m", concurrency=3)
    body = json.loads((tmp_path / "job.json").read_text())
    assert job_from_json(body) == DEBATE
    assert (body["server"], body["model"], body["concurrency"]) == ("http://s/v1", "m", 3)
    written = pd.read_parquet(tmp_path / "rows.parquet")
    assert written.to_dict("list") == {"row": [0, 1], "question": ["a", None], "stars": ["1", "2"]}
