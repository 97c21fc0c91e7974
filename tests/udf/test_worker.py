from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import types as t

from spark_helium.call_graph import Call, CallGraph, CallRef, Cascade, Constraint, InputRef, Message, Part, Sampling
from spark_helium.errors import ConfigurationError
from spark_helium.udf import entry, worker
from spark_helium.udf.spark_worker import SparkWorker, TaskGoneError
from spark_helium.udf.worker import LIMIT_PAUSE
from tests.gpu_executor.daemons import DaemonDirectory, until

USAGE = (
    "calls_requested calls_sent answers_from_cache prompt_tokens cached_prompt_tokens output_tokens calls_failed "
    "calls_retried cascade_by_proxy cascade_by_main cascade_labelled cascade_windows cascade_found cascade_right "
    "cascade_true cascade_lowers cascade_lower_sum cascade_uppers cascade_upper_sum"
)
TAIL = [
    t.StructField("usage", t.StructType([t.StructField(name, t.LongType()) for name in USAGE.split()])),
    t.StructField(
        "failure", t.StructType([t.StructField(n, t.StringType()) for n in ("function", "model", "prompt", "reason")])
    ),
]
ROW = t.StructType([t.StructField("stars", t.IntegerType()), t.StructField("word", t.StringType())])
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 5}, "word": {"enum": ["a", "b"]}},
        "required": ["stars", "word"],
        "additionalProperties": False,
    }
)


def reported(type_: t.DataType) -> t.StructType:
    return t.StructType([t.StructField("response", type_), t.StructField("errorMessage", t.StringType())])


def call(index: int, *parts: Part, type_: t.DataType | None = None, **options: Any) -> Call:
    type_ = type_ or (t.StringType() if options.get("fail_on_error", True) else reported(t.StringType()))
    sampling = options.pop("sampling", Sampling(48))
    return Call(index, "m", (Message("user", parts),), sampling, result_type=type_.json(), **options)


ONE = CallGraph((call(0, "ask ", InputRef(0)),), 1)


def load(daemons: DaemonDirectory, graph: CallGraph, pace: int | None = None, **settings: str):
    fields = [t.StructField(f"c{c.index}", t._parse_datatype_json_string(c.result_type)) for c in graph.calls] + TAIL
    text = json.dumps(
        {
            "graph": json.loads(graph.to_json()),
            "settings": daemons.texts(**settings) | {"spark.other": "ignored"},
            "application": "app",
            "return_type": json.loads(t.StructType(fields).json()),
        }
        | ({} if pace is None else {"pace": pace})
    )
    function, return_type = entry.load(text)
    assert return_type == t.StructType(fields)
    return function


class Result:
    """All rows of a task's output, checked for what holds of any output."""

    def __init__(self, outputs: Iterable[pa.StructArray]) -> None:
        self.batches = list(outputs)
        self.rows = [row for batch in self.batches for row in batch.to_pylist()]
        self.usage: dict[str, int] = dict.fromkeys(USAGE.split(), 0)
        for batch in self.batches:
            usage = batch.field("usage").to_pylist()
            assert usage[1:] == [None] * (len(batch) - 1)
            for name, value in (usage[0] or {}).items():
                self.usage[name] += value
        self.failures = [(i, row["failure"]) for i, row in enumerate(self.rows) if row["failure"]]

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def test_rows_in_order_whatever_the_batches(daemons: DaemonDirectory):
    values = [None if i % 9 == 0 else f"row {i}" for i in range(700)]
    whole = Result(load(daemons, ONE)([texts(*values)]))
    assert len(whole.rows) == 700
    assert [c is None for c in whole.column("c0")] == [v is None for v in values]
    assert whole.failures == []
    sent = sum(v is not None for v in values)
    assert whole.usage["calls_requested"] == whole.usage["calls_sent"] == sent
    assert whole.usage["prompt_tokens"] > 0
    split = [texts(*values[:1]), texts(), texts(*values[1:300]), texts(*values[300:])]
    for window in ("1", "7", "64"):
        again = Result(load(daemons, ONE, stream_max_in_flight=window)(split if window != "1" else split[:2]))
        assert again.column("c0") == whole.column("c0")[: len(again.rows)]
        assert len(again.rows) == (700 if window != "1" else 1)
        assert again.usage["answers_from_cache"] == again.usage["calls_requested"]
    uncached = Result(load(daemons, ONE, cache_enabled="false")([texts("row 1", "row 1")]))
    assert uncached.usage["calls_sent"] == 2
    assert uncached.column("c0") == [whole.rows[1]["c0"]] * 2


@pytest.mark.parametrize(("window_rows", "in_flight"), [(1, 1), (7, 1), (50, 10), (64, 2048), (1000, 16)])
def test_windows_of_a_cascade_come_whole_however_rows_are_cut(
    daemons: DaemonDirectory, window_rows: int, in_flight: int
) -> None:
    cascade = Cascade("small", 0.9, 0.9, 25)
    one = call(0, "ask ", InputRef(0), constraint=Constraint(choices=("true", "false")), cascade=cascade)
    options = {"cascade_window_rows": str(window_rows), "stream_max_in_flight": str(in_flight)}
    cut = [texts(*[f"row {i}" for i in range(start, min(331, start + 23))]) for start in range(0, 331, 23)]
    result = Result(load(daemons, CallGraph((one,), 1), **options)([*cut, texts()]))
    plain = Result(load(daemons, CallGraph((replace(one, cascade=None),), 1))(cut))
    assert len(result.rows) == 331
    assert result.column("c0") == plain.column("c0"), "scores of the simulator say nothing of its answers"
    usage = result.usage
    assert usage["cascade_by_main"] + usage["cascade_labelled"] == usage["calls_requested"] == 331
    assert usage["cascade_windows"] == {50: 6, 64: 5, 1000: 1}.get(window_rows, 0)
    assert usage["cascade_labelled"] == 25 * usage["cascade_windows"]


def test_no_rows_start_no_daemon(daemons: DaemonDirectory):
    assert Result(load(daemons, ONE)([])).batches == []
    assert Result(load(daemons, ONE)([texts(), texts()])).batches == []
    assert list(daemons.path.iterdir()) == []


def test_graph_without_inputs(daemons: DaemonDirectory):
    graph = CallGraph((call(0, "hello"),), 0)
    result = Result(load(daemons, graph)([pa.array([True, None]), pa.array([None], pa.bool_())]))
    assert len(result.rows) == 3
    assert len(set(result.column("c0"))) == 1
    assert result.usage["calls_sent"] == 1


def test_several_inputs_and_calls(daemons: DaemonDirectory):
    graph = CallGraph(
        (call(0, InputRef(1)), call(1, InputRef(0), CallRef(0)), call(2, InputRef(0), fail_on_error=False)), 2
    )
    result = Result(load(daemons, graph)([(texts("a", "b", None), texts("x", None, "y"))]))
    assert [[row[f"c{k}"] is None for k in range(3)] for row in result.rows] == [
        [False, False, False],
        [True, True, False],
        [False, True, True],
    ]
    assert result.rows[0]["c2"]["response"]
    assert result.rows[0]["c2"]["errorMessage"] is None


def test_conversation_column(daemons: DaemonDirectory):
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    graph = CallGraph((Call(0, "m", (), Sampling(8), conversation=InputRef(0)),), 1)
    values = pa.array([[{"role": "user", "content": "x"}], None], pa.list_(message))
    result = Result(load(daemons, graph)([values]))
    assert [c is None for c in result.column("c0")] == [False, True]


def test_typed_answers(daemons: DaemonDirectory):
    constraint = Constraint(json_schema=SCHEMA)
    graph = CallGraph((call(0, InputRef(0), type_=ROW, constraint=constraint),), 1)
    result = Result(load(daemons, graph)([texts("x", None, "y")]))
    assert result.failures == []
    assert result.rows[1]["c0"] is None
    for row in (0, 2):
        assert 1 <= result.rows[row]["c0"]["stars"] <= 5
        assert result.rows[row]["c0"]["word"] in ("a", "b")


def test_large_types(daemons: DaemonDirectory):
    (out,) = load(daemons, ONE)([pa.array(["x"], pa.large_string())])
    assert out.type.field("c0").type == pa.large_string()


def test_row_that_fails_ends_the_query(daemons: DaemonDirectory):
    function = load(daemons, ONE, simulator_fail_pattern="bad", stream_max_in_flight="4")
    prompt = "bad " + "x" * 300
    result = Result(function([texts("a", "b", prompt, "bad too", "c"), texts("d", "e")]))
    assert len(result.rows) == 7
    ((position, failure),) = result.failures
    assert position == 2
    assert (failure["function"], failure["model"]) == ("llm", "m")
    assert failure["reason"]
    assert len(failure["prompt"]) == 120
    assert failure["prompt"].startswith("ask bad xxx")
    assert result.rows[0]["c0"]
    assert result.rows[1]["c0"]
    assert [row["c0"] for row in result.rows[5:]] == [None, None]
    assert result.usage["calls_failed"] >= 1


def test_row_that_fails_is_reported_beside_the_answer(daemons: DaemonDirectory):
    graph = CallGraph((call(0, InputRef(0), fail_on_error=False),), 1)
    result = Result(load(daemons, graph, simulator_fail_pattern="bad")([texts("a", "bad", None)]))
    good, bad, null = result.column("c0")
    assert good["response"]
    assert good["errorMessage"] is None
    assert bad["response"] is None
    assert "bad" in bad["errorMessage"] or bad["errorMessage"]
    assert null is None
    assert result.failures == []
    assert (result.usage["calls_failed"], result.usage["calls_sent"]) == (1, 2)


def test_answer_cut_off_before_its_json_is_complete(daemons: DaemonDirectory):
    sampling = Sampling(1)
    for fail in (True, False):
        type_ = ROW if fail else reported(ROW)
        one = call(0, InputRef(0), type_=type_, constraint=Constraint(json_schema=SCHEMA), sampling=sampling,
                   fail_on_error=fail)  # fmt: skip
        result = Result(load(daemons, CallGraph((one,), 1))([texts("x")]))
        reason = result.failures[0][1]["reason"] if fail else result.rows[0]["c0"]["errorMessage"]
        assert reason == "the answer was cut off at max_tokens = 1; raise max_tokens"
        assert result.usage["calls_failed"] == 1


def test_json_that_stays_text_and_is_cut_off(daemons: DaemonDirectory):
    def run(max_tokens: int, fail: bool) -> Result:
        one = call(0, InputRef(0), constraint=Constraint(json_schema=SCHEMA), sampling=Sampling(max_tokens),
                   fail_on_error=fail)  # fmt: skip
        return Result(load(daemons, CallGraph((one,), 1))([texts("x", None)]))

    assert run(1, True).failures[0][1]["reason"] == "the answer was cut off at max_tokens = 1; raise max_tokens"
    reported_rows = run(1, False)
    assert reported_rows.rows[0]["c0"]["response"] is None
    assert "cut off at max_tokens = 1" in reported_rows.rows[0]["c0"]["errorMessage"]
    assert reported_rows.usage["calls_failed"] == 1
    assert reported_rows.rows[1]["c0"] is None
    assert isinstance(json.loads(run(256, True).rows[0]["c0"]), dict)


def test_regex_answer_that_is_cut_off_is_no_answer(daemons: DaemonDirectory):
    def run(regex: str, fail: bool) -> Result:
        one = call(0, InputRef(0), constraint=Constraint(regex=regex), sampling=Sampling(1), fail_on_error=fail)
        return Result(load(daemons, CallGraph((one,), 1))([texts("x", None, "y")]))

    ((position, failure),) = run("(abcdef|abcxyz)", True).failures
    assert (position, failure["reason"]) == (0, "the answer was cut off at max_tokens = 1; raise max_tokens")
    reported_ = run("(abcdef|abcxyz)", False)
    assert [cell and cell["response"] for cell in reported_.column("c0")] == [None, None, None]
    assert reported_.rows[2]["c0"]["errorMessage"] == failure["reason"]
    assert reported_.usage["calls_failed"] == 2
    assert [text and len(text) for text in run("a{40}|a*", True).column("c0")] == [4, None, 4]  # cut, and yet a match


def test_choices_are_never_cut_off(daemons: DaemonDirectory):
    choices = ("extraordinarily positive", "extraordinarily negative")
    one = call(0, InputRef(0), constraint=Constraint(choices=choices), sampling=Sampling(2))
    result = Result(load(daemons, CallGraph((one,), 1))([texts(*map(str, range(20)))]))
    assert result.failures == []
    assert set(result.column("c0")) == set(choices)


def test_choice_cut_off_by_the_context_is_an_error(daemons: DaemonDirectory):
    one = call(0, InputRef(0), constraint=Constraint(choices=("extraordinarily positive",)), sampling=Sampling(2))
    result = Result(load(daemons, CallGraph((one,), 1), simulator_max_model_len="16")([texts("x" * 24)]))
    ((_, failure),) = result.failures
    assert failure["reason"].startswith("the answer was cut off before it was a whole choice")


def test_cell_that_is_not_utf8_fails_its_row(daemons: DaemonDirectory):
    cells = pa.array([b"good", b"\xffA"], pa.binary()).view(pa.string())
    result = Result(load(daemons, ONE)([cells]))
    ((position, failure),) = result.failures
    assert (position, failure["function"], failure["prompt"]) == (1, "llm", "ask \ufffdA")
    assert failure["reason"].startswith("the argument is not valid UTF-8 (byte 0xFF at position 0); clean it first")


def test_role_of_a_conversation_that_is_no_role(daemons: DaemonDirectory):
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    graph = CallGraph((Call(0, "m", (), Sampling(8), conversation=InputRef(0)),), 1)
    values = pa.array([[{"role": "narrator", "content": ""}]], pa.list_(message))
    ((_, failure),) = Result(load(daemons, graph)([values])).failures
    assert "the role 'narrator'" in failure["reason"]
    assert failure["prompt"] == "narrator: "


def test_prompt_that_is_too_long(daemons: DaemonDirectory):
    function = load(daemons, ONE, simulator_max_model_len="64")
    result = Result(function([texts("short", "x" * 1000)]))
    ((position, failure),) = result.failures
    assert position == 1
    assert "64 tokens" in failure["reason"]
    assert (result.usage["calls_requested"], result.usage["calls_sent"], result.usage["calls_failed"]) == (2, 1, 1)


def test_daemon_that_does_not_start_is_a_failure_on_the_first_row(daemons: DaemonDirectory, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'OSError: no licence'\nexit 1\n")
    python.chmod(0o755)
    result = Result(load(daemons, ONE, executor_python=str(python))([texts("a", "b"), texts("c")]))
    assert len(result.rows) == 3
    ((position, failure),) = result.failures
    assert position == 0
    assert (failure["function"], failure["model"], failure["prompt"]) == ("daemon", "m", "")
    assert failure["reason"].endswith("OSError: no licence")


def test_daemon_that_dies_is_a_failure_on_the_first_open_row(daemons: DaemonDirectory):
    function = load(daemons, ONE, simulator_decode_micros_per_token="1e8")
    settings = daemons.settings(simulator_decode_micros_per_token="1e8")
    outputs: list[pa.StructArray] = []
    thread = threading.Thread(target=lambda: outputs.extend(function([texts("a", "b")])))
    thread.start()
    from spark_helium.gpu_executor import client, lifecycle

    def calls() -> int:
        status = client.ping(lifecycle.DaemonFiles.of(settings))
        return status.calls_in_flight if status else 0

    until(lambda: calls() == 2, "the calls")
    os.kill(daemons.status(settings).pid, signal.SIGKILL)
    thread.join(10)
    result = Result(outputs)
    ((position, failure),) = result.failures
    assert (position, failure["function"], len(result.rows)) == (0, "daemon", 2)
    assert "the node's daemon" in failure["reason"]


def test_closing_the_generator_ends_the_stream(daemons: DaemonDirectory):
    def endless() -> Iterator[pa.Array]:
        for i in range(1_000_000):
            yield texts(f"row {i}")

    outputs = load(daemons, ONE, stream_max_in_flight="8")(endless())
    assert len(next(outputs)) >= 1
    assert daemons.status(daemons.settings()).streams == 1
    outputs.close()
    until(lambda: daemons.status(daemons.settings()).streams == 0, "the end of the stream", 1.0)


class TestPace:
    """Few rows at first, because a limit above may have enough of them."""

    def test_all_rows_when_all_are_read(self, daemons: DaemonDirectory) -> None:
        values = [f"row {i}" for i in range(500)]
        whole = Result(load(daemons, ONE)([texts(*values)]))
        cut = [texts(*values[start : start + 16]) for start in range(0, 500, 16)]
        for pace, batches, window in ((16, cut, "2048"), (7, [texts(*values)], "64"), (300, cut, "9"), (1, cut, "1")):
            paced = Result(load(daemons, ONE, pace, stream_max_in_flight=window)(batches))
            assert paced.column("c0") == whole.column("c0")
            assert paced.usage["answers_from_cache"] == 500

    def test_what_spark_does_not_wait_for_is_not_asked(self, daemons: DaemonDirectory) -> None:
        read: list[int] = []

        def input_rows() -> Iterator[pa.Array]:
            for i in range(1000):
                read.append(i)
                yield texts(*[f"row {i} {k}" for k in range(16)])

        outputs = load(daemons, ONE, 16)(input_rows())
        rows = 0
        while rows < 16:
            rows += len(next(outputs))
        assert (rows, read) == (16, [0]), "the first rows are there before more are read"
        outputs.close()
        status = daemons.status(daemons.settings())
        assert status.counters.calls_requested == 16

    def test_each_pause_allows_four_times_as_many(self, daemons: DaemonDirectory) -> None:
        outputs = load(daemons, ONE, 4)([texts(*[f"row {i}" for i in range(300)])])
        counts: list[int] = []
        seen, since = 0, time.monotonic()
        for batch in outputs:
            if seen in (4, 16, 64, 256):
                counts.append(seen)
                assert time.monotonic() - since >= LIMIT_PAUSE
            seen, since = seen + len(batch), time.monotonic()
        assert seen == 300
        assert counts == [4, 16, 64, 256]

    def test_an_input_that_ends_with_what_is_asked_first_costs_no_pause(
        self, daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "LIMIT_PAUSE", 60.0)
        start = time.monotonic()
        result = Result(load(daemons, ONE, 16)([texts(*[f"row {i}" for i in range(16)]), texts()]))
        assert len(result.rows) == 16
        assert time.monotonic() - start < 30

    def test_daemon_that_dies_during_the_pause(self, daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "LIMIT_PAUSE", 60.0)
        outputs = load(daemons, ONE, 1)([texts("a", "b")])
        first = next(outputs)
        os.kill(daemons.status(daemons.settings()).pid, signal.SIGKILL)
        start = time.monotonic()
        result = Result([first, *outputs])
        assert time.monotonic() - start < 30
        ((position, failure),) = result.failures
        assert (position, failure["function"], len(result.rows)) == (1, "daemon", 2)

    def test_a_hang_up_is_noticed_during_the_pause(
        self, daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "LIMIT_PAUSE", 60.0)
        function = load(daemons, ONE, 2)
        ours, jvm = socket.socketpair()
        with ours, jvm, ours.makefile("rb") as infile, ours.makefile("wb") as outfile:
            namespace: dict[str, Any] = {}
            exec(compile("def main(infile, outfile, f):\n    f()\n", "/x/pyspark/worker.py", "exec"), namespace)

            def take() -> None:
                rows = 0
                for batch in function([texts("a", "b", "c", "d")]):
                    rows += len(batch)
                    assert rows <= 2
                    if rows == 2:
                        jvm.close()  # a limit that has its two rows

            start = time.monotonic()
            with pytest.raises(TaskGoneError):
                namespace["main"](infile, outfile, take)
            assert time.monotonic() - start < 30
        assert daemons.status(daemons.settings()).counters.calls_requested == 2

    def test_a_cascade_gets_its_windows_whole(self, daemons: DaemonDirectory) -> None:
        one = call(0, "ask ", InputRef(0), constraint=Constraint(choices=("true", "false")),
                   cascade=Cascade("small", 0.9, 0.9, 25))  # fmt: skip
        values = [f"row {i}" for i in range(100)]
        result = Result(load(daemons, CallGraph((one,), 1), 16, cascade_window_rows="50")([texts(*values)]))
        assert (len(result.rows), result.usage["cascade_windows"]) == (100, 2)


class TestSparkWorker:
    def test_found_by_its_frame(self, tmp_path):
        a, b = socket.socketpair()
        with a, b, a.makefile("rb") as infile, a.makefile("wb") as outfile:
            namespace: dict[str, Any] = {"SparkWorker": SparkWorker}
            source = "def main(infile, outfile):\n    return (lambda: SparkWorker.find())()\n"
            exec(compile(source, "/x/pyspark/worker.py", "exec"), namespace)
            worker = namespace["main"](infile, outfile)
            assert (worker.infile, worker.outfile) == (infile, outfile)
            outfile.write(b"x")
            worker.flush()
            assert b.recv(1) == b"x"

    def test_not_found_elsewhere(self):
        worker = SparkWorker.find()
        assert worker == SparkWorker()
        worker.flush()
        out, in_ = os.pipe()
        assert not worker.wait(out, 0.01)
        os.write(in_, b"x")
        assert worker.wait(out, None)
        os.close(out)
        os.close(in_)

    def test_hang_up_is_noticed_while_waiting(self, daemons: DaemonDirectory):
        slow = {"simulator_decode_micros_per_token": "1e8"}
        function = load(daemons, ONE, **slow)
        a, b = socket.socketpair()
        with a, b, a.makefile("rb") as infile, a.makefile("wb") as outfile:
            namespace: dict[str, Any] = {}
            source = "def main(infile, outfile, f):\n    return list(f())\n"
            exec(compile(source, "/x/pyspark/worker.py", "exec"), namespace)
            timer = threading.Timer(1.0, b.close)
            timer.start()
            start = time.monotonic()
            with pytest.raises(TaskGoneError):
                namespace["main"](infile, outfile, lambda: function([texts("a")]))
            assert time.monotonic() - start < 5
            timer.join()
        until(lambda: daemons.status(daemons.settings(**slow)).calls_in_flight == 0, "the abort", 1.0)


class TestLoad:
    def test_is_cheap_the_second_time(self, daemons: DaemonDirectory):
        assert load(daemons, ONE).__self__ is load(daemons, ONE).__self__

    def test_wrong_text(self):
        with pytest.raises(ValueError, match="not a task of EvalLLM"):
            entry.load('{"graph": 1}')

    def test_wrong_setting(self, daemons: DaemonDirectory):
        text = json.dumps(
            {
                "graph": json.loads(ONE.to_json()),
                "settings": {"spark.helium.engine": "magic"},
                "application": "a",
                "return_type": json.loads(t.StructType([t.StructField("c0", t.StringType()), *TAIL]).json()),
            }
        )
        with pytest.raises(ConfigurationError, match="magic"):
            entry.load(text)

    def test_relative_model_paths_become_absolute(self, daemons: DaemonDirectory, tmp_path, monkeypatch):
        (tmp_path / "model").mkdir()
        monkeypatch.chdir(tmp_path)
        graph = CallGraph((Call(0, "model", (Message("user", ()),), Sampling(8)), call(1, "x")), 0)
        task = load(daemons, graph).__self__
        assert [c.model for c in task.graph.calls] == [str(tmp_path / "model"), "m"]
