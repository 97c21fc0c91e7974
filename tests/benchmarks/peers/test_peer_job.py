"""What all peers agree on: templates, which calls a row makes, and with which messages."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.peers import environments
from tests.benchmarks.peers import jobs


def _load() -> ModuleType:
    """By path, as the runners do."""
    path = environments.runner_of("langgraph").parents[1] / "shared" / "peer_job.py"
    spec = importlib.util.spec_from_file_location("peer_job", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_job"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


peer_job = _load()


def parsed(*steps: dict[str, Any], columns: tuple[str, ...] = ("a", "b")) -> Any:
    told = {"server": "http://x/v1", "model": "m", "concurrency": 2, "outputs": [steps[-1]["name"]]}
    return peer_job.parse({**told, "steps": [{"max_tokens": 1, **step} for step in steps]}, columns)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no slot", "no slot"),
        ("", ""),
        ("{a}", "1"),
        ("{a}{b}", "1{2}"),
        ("{{a}} {a}", "{a} 1"),
        ("{{{a}}}", "{1}"),
        ("}}{{", "}{"),
        ("{odd name}", "3"),
    ],
)
def test_render(template: str, text: str) -> None:
    assert peer_job.render(template, {"a": "1", "b": "{2}", "odd name": "3"}) == text


def test_a_null_in_a_slot_makes_the_whole_text_null() -> None:
    assert peer_job.render("x {a}", {"a": None}) is None


@pytest.mark.parametrize("template", ["{a", "a}", "{}", "{a!r}", "{a:>3}", "{ }"])
def test_a_template_that_cannot_be_read_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        peer_job.parts(template)


def test_slots_are_named_once_in_order() -> None:
    assert peer_job.slots("{b} {a} {b} {{c}}") == ["b", "a"]
    assert peer_job.slots(None) == []


def test_levels_put_a_step_behind_all_that_it_reads() -> None:
    job = peer_job.parse(jobs.said("http://x/v1"), jobs.COLUMNS)
    levels = [[step.name for step in level] for level in job.levels()]
    assert levels == [["kind", "praise"], ["blame", "more"], ["verdict", "reply"]]


def test_a_step_needs_what_its_history_needs() -> None:
    job = peer_job.parse(jobs.said("http://x/v1"), jobs.COLUMNS)
    assert job.needs(job.step("reply")) == ["kind", "blame"]


def test_messages_are_those_of_the_whole_conversation() -> None:
    job = parsed(
        {"name": "x", "system": "S {a}", "user": "U {b}"},
        {"name": "y", "history": "x", "user": "again {a}"},
        {"name": "z", "history": "y", "user": "{{end}}"},
    )
    said = job.messages(job.step("z"), {"a": "1", "b": "2", "x": "X", "y": "Y"})
    assert [(m["role"], m["content"]) for m in said] == [
        ("system", "S 1"),
        ("user", "U 2"),
        ("assistant", "X"),
        ("user", "again 1"),
        ("assistant", "Y"),
        ("user", "{end}"),
    ]
    assert [role for role, _ in job.turns(job.step("z"))] == [m["role"] for m in said]


def test_a_history_brings_the_system_message() -> None:
    job = parsed({"name": "x", "user": "U"}, {"name": "y", "user": "V", "system": "late", "history": "x"})
    said = job.messages(job.step("y"), {"x": "X"})
    assert [m["role"] for m in said] == ["user", "assistant", "user"]


def test_a_null_in_a_column_is_an_empty_text(tmp_path: Path) -> None:
    jobs.write(tmp_path, "http://x/v1", [{"row": 1, "product": None, "review": "r"}])
    _, rows = peer_job.read(tmp_path)
    assert rows == [{"row": 1, "product": "", "review": "r"}]


def test_a_row_is_called_where_when_holds_and_nothing_it_reads_is_null() -> None:
    job = parsed(
        {"name": "x", "user": "{a}"},
        {"name": "y", "user": "{b}", "when": {"step": "x", "equals": "yes"}},
        {"name": "z", "user": "{y}"},
    )
    assert job.messages(job.step("y"), {"a": "1", "b": "2", "x": "yes"}) is not None
    assert job.messages(job.step("y"), {"a": "1", "b": "2", "x": "yes "}) is None
    assert job.messages(job.step("y"), {"a": "1", "b": "2", "x": None}) is None
    assert job.messages(job.step("z"), {"a": "1", "b": "2", "x": "no", "y": None}) is None


def test_calls_are_in_the_order_of_rows_and_null_the_others() -> None:
    job = parsed({"name": "x", "user": "{a}"}, {"name": "y", "user": "{b}"})
    rows: list[dict[str, Any]] = [{"row": 1, "a": "1", "b": None}, {"row": 2, "a": "2", "b": "3"}]
    made = [(place, step.name) for place, step, _ in peer_job.calls(job, job.levels()[0], rows)]
    assert made == [(0, "x"), (1, "x"), (1, "y")]
    assert rows[0] == {"row": 1, "a": "1", "b": None, "x": None, "y": None}


def test_choices_become_what_vllm_takes() -> None:
    job = parsed({"name": "x", "user": "{a}", "choices": ["p", "q"]}, {"name": "y", "user": "{a}", "choices": None})
    assert job.step("x").extra_body == {"structured_outputs": {"choice": ["p", "q"]}}
    assert job.step("y").extra_body == {}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"name": "a", "user": ""}], "'a' has the name of a column"),
        ([{"name": "x", "user": ""}, {"name": "x", "user": ""}], "'x' has the name"),
        ([{"name": "x", "user": "{y}"}, {"name": "y", "user": ""}], "reads 'y'"),
        ([{"name": "x", "user": "", "history": "y"}], "'history' of step 'x' names 'y'"),
        ([{"name": "x", "user": "", "when": {"step": "a", "equals": ""}}], "'when' of step 'x' names 'a'"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(*steps)


def test_an_engine_that_is_not_all_there_is_refused() -> None:
    job = peer_job.parse(jobs.said("http://x/v1", engine={"model_path": "m", "dtype": "float32"}), jobs.COLUMNS)
    with pytest.raises(ValueError, match="lacks block_size, max_model_len, kv_cache_bytes, max_num_seqs"):
        peer_job.engine_of(job)


def test_answers_are_written_by_row_with_nulls_and_versions(tmp_path: Path) -> None:
    jobs.write(tmp_path, "http://x/v1", jobs.rows(3))
    job, rows = peer_job.read(tmp_path)
    for row in rows:
        row |= dict.fromkeys(jobs.OUTPUTS, None)
        row["kind"] = f"of {row['row']}"
    peer_job.write(tmp_path, job, rows, 1.5, ("pytest",), warm_up_calls=1)
    answers = jobs.pq.read_table(tmp_path / "answers.parquet")
    assert answers.column_names == ["row", *jobs.OUTPUTS]
    assert answers["row"].to_pylist() == [98, 99, 100]
    assert answers["kind"].to_pylist() == ["of 98", "of 99", "of 100"]
    assert answers["reply"].null_count == 3
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["seconds"] == 1.5
    assert result["warm_up_calls"] == 1
    assert set(result["versions"]) == {"python", "pytest"}
