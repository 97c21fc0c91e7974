from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from spark_helium.errors import InstanceError, ScheduleError
from spark_helium.trt.instance import order_from_json, read_workload, schedule_to_json, workload_from_json
from spark_helium.trt.token_steps import CallId, shared_tokens
from tests.trt.workloads import calls, two_agents

INSTANCE: dict[str, Any] = {
    "name": "every kind of segment",
    "queries": 2,
    "workers": [{"name": "w0", "kv_capacity": 8192, "alpha": "1/8192"}, {"name": "w1", "kv_capacity": 4096}],
    "statics": {"sys": 40},
    "inputs": {"question": {"len": [100, 120]}, "document": {"len": 500, "value": ["A", "A"]}},
    "operators": [
        {"id": "op1", "prompt": [{"static": "sys"}, {"input": "document"}, {"input": "question"}], "out_len": [5, 6]},
        {
            "id": "op2",
            "prompt": [{"static": "sys"}, {"output": "op1"}, {"derived": "d", "from": ["op3"], "len": [30, 31]}],
            "out_len": 50,
            "deps": ["op4"],
        },
        {"id": "op3", "prompt": [], "out_len": 1},
        {"id": "op4", "prompt": [{"input": "document"}], "out_len": 1},
    ],
}


def test_every_kind_of_segment() -> None:
    workload = workload_from_json(INSTANCE)
    by_id = {call.id: call for call in workload.calls}
    assert len(workload) == 8
    assert [by_id["op1", row].prompt_tokens for row in (0, 1)] == [640, 660]
    assert [by_id["op1", row].output_tokens for row in (0, 1)] == [5, 6]
    assert [by_id["op2", row].prompt_tokens for row in (0, 1)] == [40 + 5 + 30, 40 + 6 + 31]
    assert set(by_id["op2", 1].reads) == {("op1", 1), ("op3", 1), ("op4", 1)}
    assert shared_tokens(by_id["op1", 0].prompt, by_id["op1", 1].prompt) == 540  # the same document, other questions
    assert shared_tokens(by_id["op4", 0].prompt, by_id["op4", 1].prompt) == 500
    assert [(w.name, w.kv_capacity, w.alpha * 8192) for w in workload.workers] == [("w0", 8192, 1), ("w1", 4096, 8192)]


def test_rows_differ_unless_their_values_are_equal() -> None:
    instance = copy.deepcopy(INSTANCE)
    for value, shared in [(["A", "B"], 0), ("A", 500), ([1, 1], 500), ([1, "1"], 0), ([None, None], 500)]:
        instance["inputs"]["document"]["value"] = value
        by_id = {call.id: call for call in workload_from_json(instance).calls}
        assert shared_tokens(by_id["op4", 0].prompt, by_id["op4", 1].prompt) == shared


def test_schedule_there_and_back() -> None:
    order = {"w0": calls("op1.0", "op2.0"), "w1": calls("op3.0")}
    text = schedule_to_json(order)
    assert json.loads(text) == {"workers": {"w0": [["op1", 0], ["op2", 0]], "w1": [["op3", 0]]}}
    assert order_from_json(json.loads(text)) == order


@pytest.mark.parametrize("data", [[], {}, {"workers": []}, {"workers": {"w": 1}}, {"workers": {"w": [["a"]]}}])
def test_schedules_of_another_form(data: object) -> None:
    with pytest.raises(ScheduleError):
        order_from_json(data)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("queries",), None, "has no 'queries'"),
        (("queries",), -1, "queries is -1"),
        (("queries",), True, "queries is true"),
        (("workers",), [], "no worker"),
        (("workers", 0, "kv_capacity"), 1.5, r"workers\[0\].kv_capacity is 1.5"),
        (("workers", 0, "kv_capacity"), float("inf"), r"workers\[0\].kv_capacity is Infinity"),
        (("workers", 0, "alpha"), "fast", r"workers\[0\].alpha is \"fast\""),
        (("workers", 0, "alpha"), 0, r"workers\[0\].alpha is 0"),
        (("workers", 0, "alpha"), "1/0", r"workers\[0\].alpha"),
        (("statics",), {}, r"operators\[0\].prompt\[0\] names the static 'sys'"),
        (("inputs", "question"), None, "the input 'question'"),
        (("inputs", "question", "len"), [1, 2, 3], "inputs.question.len has 3 numbers for 2 queries"),
        (("inputs", "document", "value"), ["A"], "inputs.document.value has 1 values for 2 queries"),
        (("operators", 0, "out_len"), "many", r"operators\[0\].out_len is \"many\""),
        (("operators", 0, "prompt", 0), {"text": "x"}, r"operators\[0\].prompt\[0\] is .*one of static, input"),
        (("operators", 0, "prompt", 0), "sys", r"operators\[0\].prompt\[0\] is \"sys\"; an object"),
        (("operators", 1, "id"), "op1", r"operators\[1\].id is 'op1'"),
        (("operators", 1, "deps"), ["op9"], r"operators\[1\].deps names the operator 'op9'"),
        (("operators", 1, "deps"), "op4", r"operators\[1\].deps is \"op4\"; a list"),
        (("operators", 1, "deps"), ["op2"], "circle"),
        (("operators", 0, "dep"), ["op1"], r"operators\[0\] has 'dep'; did you mean 'deps'"),
        (("operators", 1, "prompt", 1, "output"), "op9", r"operators\[1\].prompt\[1\] names the operator 'op9'"),
        (("operators", 1, "prompt", 2, "len"), None, r"operators\[1\].prompt\[2\] has no 'len'"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[str | int, ...], value: object, said: str) -> None:
    instance = copy.deepcopy(INSTANCE)
    place: Any = instance
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(InstanceError, match=said):
        workload_from_json(instance)


def test_other_keys_are_notes() -> None:
    assert len(workload_from_json(INSTANCE | {"source": "by hand", "seed": 3}).calls) == len(
        workload_from_json(INSTANCE).calls
    )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InstanceError, match="cannot read the instance .*missing.json"):
        read_workload(tmp_path / "missing.json")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(InstanceError, match="bad.json is not JSON"):
            read_workload(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InstanceError, match=r"list.json cannot be scheduled: the instance is \[\]"):
        read_workload(tmp_path / "list.json")
    (tmp_path / "good.json").write_text(json.dumps(two_agents(2)))
    assert len(read_workload(tmp_path / "good.json")) == 6
    assert CallId("op3", 1) in read_workload(tmp_path / "good.json").index
