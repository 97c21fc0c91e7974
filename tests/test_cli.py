from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_helium import cli
from spark_helium.gpu_executor import answer_store, client, daemon, lifecycle
from spark_helium.trt.instance import order_from_json, workload_from_json
from tests.gpu_executor.daemons import DaemonDirectory, daemon_directory, until
from tests.gpu_executor.test_daemon import open_stream, receive, rows
from tests.trt.workloads import two_agents

ROOT = Path(__file__).parents[1]


@pytest.fixture
def daemons() -> Iterator[DaemonDirectory]:
    with daemon_directory() as directory:
        yield directory


def arguments(daemons: DaemonDirectory, command: str, *more: str) -> list[str]:
    own = ["--set", f"executor.directory={daemons.path}", "--set", f"cache.directory={daemons.cache}"]
    return [*command.split(), *own, *more]


def test_by_hand_from_start_to_stop(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    assert cli.main(arguments(daemons, "status")) == cli.NOT_RUNNING
    assert cli.main(arguments(daemons, "stop")) == cli.NOT_RUNNING
    serve = arguments(daemons, "serve", "--background", "--set", "spark.helium.engine=simulator", "--model", "m")
    assert cli.main(serve) == cli.OK
    assert cli.main(serve) == cli.FAILED  # it runs already
    settings = daemons.settings()
    pid = daemons.status(settings).pid
    capsys.readouterr()
    assert cli.main(arguments(daemons, "status")) == cli.OK
    headings, row = capsys.readouterr().out.splitlines()
    assert headings.split()[:2] == ["ID", "PID"]
    assert row.split()[:2] == [lifecycle.identity(settings), str(pid)]
    assert headings.split()[2] == "ENGINE"
    assert row.split()[2] == "simulator"
    assert "m (simulator)" in row
    assert row.endswith(f"  cache.directory={daemons.cache}")  # no other setting but the engine
    assert cli.main(arguments(daemons, "status", "--json")) == cli.OK
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["pid"], status["by_hand"], status["answers"]) == (pid, True, True)
    assert cli.main(arguments(daemons, "stop", "ffff-no-such")) == cli.NOT_RUNNING
    assert cli.main(arguments(daemons, "stop", lifecycle.identity(settings)[:6])) == cli.OK
    assert not lifecycle.is_alive(lifecycle.DaemonFiles.of(settings))
    assert cli.main(arguments(daemons, "status")) == cli.NOT_RUNNING


def test_in_the_foreground_until_interrupted(daemons: DaemonDirectory):
    command = [sys.executable, "-m", "spark_helium.cli"]
    command += arguments(daemons, "serve", "--set", "engine=simulator", "--set", "simulator.blockSize=32")
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    files = lifecycle.DaemonFiles.of(daemons.settings(simulator_block_size="32"))
    try:
        until(lambda: lifecycle.answers(files.socket), "the start")
        with lifecycle.starting(files, 1.0):  # it let go of the lock
            assert daemons.status(daemons.settings(simulator_block_size="32")).pid == process.pid
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "exiting: it was stopped" in said
    assert not files.socket.exists()


def test_engine_that_does_not_start(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    serve = arguments(daemons, "serve", "--background", "--model", "/no/such/model", "--set", "engine=vllm")
    assert cli.main(serve) == cli.FAILED
    assert "/no/such/model" in capsys.readouterr().err


def test_daemon_that_hangs_is_killed_only_if_asked(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    lifecycle.ensure_daemon(daemons.settings())
    os.kill(daemons.status(daemons.settings()).pid, signal.SIGSTOP)
    assert cli.main(arguments(daemons, "stop")) == cli.FAILED
    assert "--kill" in capsys.readouterr().err
    assert cli.main(arguments(daemons, "stop", "--kill")) == cli.OK
    assert lifecycle.known_daemons(daemons.path) == []


RULES = "Judge the review with care, and give your reasons in full sentences. " * 10


def test_warm_starts_what_it_needs_and_pins(
    daemons: DaemonDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    warm = arguments(daemons, "warm", "--set", "engine=simulator", "--model", "m")
    template = tmp_path / "template.txt"
    template.write_text("Of {{n}} stars, how many? {review}")
    assert cli.main([*warm, "--system", RULES, "--file", str(template)]) == cli.OK
    assert capsys.readouterr().out == "m: pinned prefixes: 1, 176 tokens in 11 KV blocks (at most 1024 of 4096)\n"
    longer = "Of all the words in the review, which one says most about what its author thinks of it? {}"
    assert cli.main([*warm, "--system", RULES, "--template", longer]) == cli.OK
    assert "pinned prefixes: 2, 192 tokens in 12 KV blocks" in capsys.readouterr().out  # they share eleven
    assert cli.main(arguments(daemons, "status")) == cli.OK
    assert "  m: pinned prefixes: 2, 192 tokens in 12 KV blocks" in capsys.readouterr().out
    (engine,) = daemons.status(daemons.settings()).engines
    assert (engine.pins, engine.pin_tokens) == (2, 192)
    assert cli.main([*warm, "--system", "short"]) == cli.FAILED
    assert "fewer than 128 tokens (spark.helium.kv.pin.minTokens)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ([], cli.WRONG_USAGE, "give --system, --template or --file"),
        (["--file", "/no/such/file"], cli.WRONG_USAGE, "--file '/no/such/file' cannot be read"),
        (["--template", "to {name"], cli.WRONG_USAGE, "at character 3: '{' stands alone"),
        (["--template", RULES, "--calls", "1"], cli.WRONG_USAGE, "--calls 1"),
        (["--template", RULES, "--set", "kv.pin.enabled=false"], cli.WRONG_USAGE, "kv.pin.enabled is false"),
        (["--template", RULES, "--set", "kv.pin.budget=0"], cli.FAILED, "spark.helium.kv.pin.budget is 0"),
        (
            ["--system", RULES, "--set", "simulator.failPattern=Judge"],
            cli.FAILED,
            "could not be computed: the simulator",
        ),
    ],
)
def test_warm_that_cannot_says_why(
    daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str], more: list[str], status: int, said: str
):
    assert cli.main(arguments(daemons, "warm", "--set", "engine=simulator", *more)) == status
    assert said in capsys.readouterr().err


def test_status_tells_daemons_apart(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    serve = arguments(daemons, "serve", "--background", "--set", "engine=simulator", "--set", "simulator.blockSize=32")
    assert cli.main(serve) == cli.OK
    capsys.readouterr()
    assert cli.main(arguments(daemons, "status")) == cli.OK
    assert capsys.readouterr().out.rstrip().endswith(f"  cache.directory={daemons.cache} simulator.blockSize=32")
    assert cli.main(arguments(daemons, "status", "--json")) == cli.OK
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["engine"], status["settings"]) == (
        "simulator", {"cache.directory": str(daemons.cache), "simulator.blockSize": "32"},
    )  # fmt: skip
    assert status["stopping"] is False


def test_daemon_that_is_shutting_down_is_shown_as_such(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    files = lifecycle.ensure_daemon(daemons.settings())
    pid = daemons.status(daemons.settings()).pid
    files.alive_lock.write_text(f"{pid} stopping")  # what it writes itself, for too short a time to be seen here
    assert cli.main(arguments(daemons, "status")) == cli.OK
    assert "is shutting down" in capsys.readouterr().out


@pytest.mark.parametrize("background", [True, False])
def test_idle_timeout_given_by_hand_counts(daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch, background: bool):
    seen = []
    monkeypatch.setattr(lifecycle, "ensure_daemon", lambda *a, **options: seen.append(options["stays"]))
    monkeypatch.setattr(daemon, "serve", lambda *a, **options: seen.append(options["stays"]))
    monkeypatch.setattr(daemon, "configure_logging", lambda: None)
    monkeypatch.setattr(cli, "_wait_for_engines", lambda *a: cli.OK)
    monkeypatch.setattr(os, "_exit", lambda status: None)
    for more in ([], ["--set", "executor.idleTimeout=10min"], ["--set", "executor_idle_timeout=2s"]):
        with contextlib.suppress(TypeError):  # the foreground ends in os._exit
            cli.main(arguments(daemons, "serve", *(["--background"] if background else []), *more))
    assert seen == [True, False, False]


def test_daemon_by_hand_leaves_after_the_idle_timeout_it_was_given(daemons: DaemonDirectory):
    serve = arguments(daemons, "serve", "--background", "--set", "engine=simulator")
    assert cli.main([*serve, "--set", "executor.idleTimeout=1s"]) == cli.OK
    files = lifecycle.DaemonFiles.of(daemons.settings())
    until(lambda: not lifecycle.is_alive(files), "the end")
    assert cli.main(serve) == cli.OK
    assert daemons.status(daemons.settings()).by_hand


class TestCache:
    def serve(self, daemons: DaemonDirectory, *texts: str, **given: str) -> tuple[int, int]:
        """Ask a daemon about the texts; returns calls sent and answers from the cache."""
        with open_stream(daemons.settings(**given)) as stream:
            stream.send(rows(*texts))
            _, counters = receive(stream, len(texts))
        return counters.calls_sent, counters.answers_from_cache

    def info(self, daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main(arguments(daemons, "cache info", "--json")) == cli.OK
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        return shown

    def test_without_a_daemon_and_a_store(self, daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
        shown = self.info(daemons, capsys)
        assert shown["daemons"] == []
        assert shown["disks"][0] == {
            "entries": 0, "bytes": 0, "file_bytes": 0, "hits": 0, "damaged": 0,
            "limit": 2 << 30, "directory": str(daemons.cache), "set_aside": None,
        }  # fmt: skip
        assert cli.main(arguments(daemons, "cache clear")) == cli.OK
        assert not daemons.cache.exists()

    def test_what_it_holds_and_clearing_it(self, daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
        assert self.serve(daemons, "a", "b", "a") == (2, 1)
        until(lambda: self.info(daemons, capsys)["disks"][0]["entries"] == 2, "the writing")
        shown = self.info(daemons, capsys)
        (daemon,) = shown["daemons"]
        assert cli.main(["cache", "info", "--json", "--set", f"executor.directory={daemons.path}"]) == cli.OK
        places = {disk["directory"]: disk for disk in json.loads(capsys.readouterr().out)["disks"]}
        assert places[str(daemons.cache)]["entries"] == 2, "the daemon says where its store is"
        assert (daemon["cache_entries"], daemon["cache_hits"], daemon["cache_disk"]["hits"]) == (2, 0, 0)
        assert cli.main(arguments(daemons, "cache info")) == cli.OK
        headings, disk, memory = capsys.readouterr().out.splitlines()
        assert headings.split() == ["TIER", "ENTRIES", "SIZE", "HITS", "DAMAGED", "WHERE"]
        assert disk.split()[:2] == ["disk", "2"]
        assert disk.endswith(f" MiB  0     0        {daemons.cache}")
        assert memory.split()[:2] == ["memory", "2"]

        assert cli.main(arguments(daemons, "cache clear")) == cli.OK
        assert f"cleared {daemons.cache}" in capsys.readouterr().out
        shown = self.info(daemons, capsys)
        assert (shown["disks"][0]["entries"], shown["daemons"][0]["cache_entries"]) == (0, 0)
        assert self.serve(daemons, "a") == (1, 0), "the daemon forgot it, too"

        assert cli.main(arguments(daemons, "stop")) == cli.OK
        assert self.info(daemons, capsys)["disks"][0]["entries"] == 1
        assert self.serve(daemons, "a", "a") == (0, 2)
        assert cli.main(arguments(daemons, "stop")) == cli.OK
        assert self.info(daemons, capsys)["disks"][0]["hits"] == 1, "counted across daemons"
        assert cli.main(arguments(daemons, "cache clear")) == cli.OK
        assert self.info(daemons, capsys)["disks"][0]["entries"] == 0

    def test_clearing_a_disk_that_is_too_full_for_it(
        self, daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        self.serve(daemons, "a")
        assert cli.main(arguments(daemons, "stop")) == cli.OK

        def fail(store: object) -> None:
            raise answer_store.FullDisk("no room")

        monkeypatch.setattr(answer_store.AnswerStore, "clear", fail)
        assert cli.main(arguments(daemons, "cache clear")) == cli.OK
        assert f"cleared {daemons.cache}" in capsys.readouterr().out
        assert not answer_store.store_path(daemons.cache).exists()

    def test_store_that_was_set_aside(self, daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
        self.serve(daemons, "a")
        assert cli.main(arguments(daemons, "stop")) == cli.OK
        answer_store.store_path(daemons.cache).write_bytes(b"garbage" * 1000)
        assert cli.main(arguments(daemons, "cache info")) == cli.OK
        assert f"lies in {daemons.cache / 'aside'}" in capsys.readouterr().out
        assert cli.main(arguments(daemons, "cache clear")) == cli.OK
        assert self.info(daemons, capsys)["disks"][0]["set_aside"] is None

    def test_directory_of_others(self, daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
        self.serve(daemons, "a")
        assert cli.main(arguments(daemons, "stop")) == cli.OK
        daemons.cache.chmod(0o755)
        assert cli.main(arguments(daemons, "cache info")) == cli.FAILED
        assert "others may enter it" in capsys.readouterr().err
        self.serve(daemons, "a")
        capsys.readouterr()
        assert cli.main(arguments(daemons, "status")) == cli.OK
        assert "its prompt cache goes on in memory alone: refusing to keep answers in" in capsys.readouterr().out

    def test_daemon_that_hangs(self, daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch):
        files = lifecycle.ensure_daemon(daemons.settings())
        os.kill(daemons.status(daemons.settings()).pid, signal.SIGSTOP)
        monkeypatch.setattr(client, "CLEAR_SECONDS", 0.2)
        assert cli.main(arguments(daemons, "cache clear")) == cli.FAILED
        assert cli.main(arguments(daemons, "stop", "--kill")) == cli.OK
        assert not lifecycle.is_alive(files)


def test_models_that_do_not_fit_together(daemons: DaemonDirectory, capsys: pytest.CaptureFixture[str]):
    sizes = ["executor.memory=100", "models.large.memory=70", "models.larger.memory=80", "models.small.memory=20"]
    given = [word for size in ["engine=simulator", *sizes] for word in ("--set", size)]
    models = ["--model", "large", "--model", "small", "--model", "larger"]
    assert cli.main(arguments(daemons, "serve", "--background", *given, *models)) == cli.OK
    capsys.readouterr()
    assert cli.main(arguments(daemons, "status")) == cli.OK
    said = capsys.readouterr().out
    assert "small (simulator), larger (simulator)" in said
    assert "engines were closed 1 time to make room for others" in said
    assert cli.main(arguments(daemons, "status", "--json")) == cli.OK
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["engine_swaps"], {e["model"]: e["memory"] for e in status["engines"]}) == (
        1, {"small": 20, "larger": 80},
    )  # fmt: skip
    log = Path(status["log"]).read_text()
    assert "closing the idle engine of model 'large'" in log


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == cli.OK
    said = capsys.readouterr().out
    assert said.startswith("spark-helium ")
    assert f"({sys.executable}), vLLM " in said


@pytest.mark.parametrize("text", ["engine", "engin=vllm", "engine=magic", "cache.memory=-1"])
def test_wrong_setting(text: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["status", "--set", text]) == cli.WRONG_USAGE
    assert text.partition("=")[0] in capsys.readouterr().err


def test_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "instance.json").write_text(json.dumps(two_agents(2)))
    assert cli.main(["schedule", str(tmp_path / "instance.json"), "--verbose"]) == cli.OK
    said = capsys.readouterr()
    order = order_from_json(json.loads(said.out))
    assert workload_from_json(two_agents(2)).simulate(order).makespan == 74_300
    assert said.err.splitlines()[0] == "this order: 74,300.0 token steps (no order has fewer)"
    assert "query wise: 126,300.0 token steps" in said.err
    assert cli.main(["schedule", str(tmp_path / "instance.json"), "--effort", "quick"]) == cli.OK
    assert capsys.readouterr().err == ""


def test_schedule_of_what_is_no_instance(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "instance.json").write_text(json.dumps({**two_agents(1), "queries": "two"}))
    assert cli.main(["schedule", str(tmp_path / "instance.json")]) == cli.FAILED
    said = capsys.readouterr()
    assert said.out == ""
    assert 'queries is "two"' in said.err


def test_unknown_command():
    with pytest.raises(SystemExit) as error:
        cli.main(["dance"])
    assert error.value.code == cli.WRONG_USAGE


@pytest.mark.parametrize(
    ("engine", "shown"),
    [
        ({"engine": "vllm", "state": "ready", "kind": "generate"}, "vllm"),
        ({"engine": "vllm", "state": "ready", "kind": "embed"}, "vllm, embed"),
        ({"engine": "", "state": "starting", "kind": "tokenize"}, "starting, tokenize"),
    ],
)
def test_status_says_what_an_engine_is_for(engine: dict[str, str], shown: str) -> None:
    assert cli._what_it_does(engine) == shown
