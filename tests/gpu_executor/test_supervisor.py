from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError
from spark_helium.gpu_executor import client, lifecycle
from spark_helium.gpu_executor.lifecycle import DaemonFiles
from spark_helium.gpu_executor.messages import Attend, Owner
from spark_helium.gpu_executor.supervisor import Orders, Supervised, gpu_groups
from tests.gpu_executor.daemons import DaemonDirectory, until

from .test_daemon import process_environment

VLLM = Settings({"engine": "vllm"})


class Child:
    """A supervisor as the plugin runs it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def next(self) -> dict[str, Any]:
        """The daemon in the next line; there is only one."""
        assert self.process.stdout is not None
        (daemon,) = json.loads(self.process.stdout.readline())["daemons"]
        return dict(daemon)

    def until(self, state: str) -> dict[str, Any]:
        """The daemon in the first line that has it in this state."""
        for _ in range(100):
            daemon = self.next()
            if daemon["state"] == state:
                return daemon
        raise AssertionError(f"it was never {state}; last {daemon}")


def orders(texts: dict[str, str], **more: Any) -> str:
    return json.dumps({"settings": texts, "gpus": [], "task_gpus": 0, "interval": 0.2} | more) + "\n"


@contextmanager
def supervisor(line: str, *under: str) -> Iterator[Child]:
    process = subprocess.Popen(
        [*under, sys.executable, "-m", "spark_helium.gpu_executor.supervisor"],
        env=process_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()
    try:
        yield Child(process)
    finally:
        process.kill()
        process.wait()


def test_the_daemon_and_its_engine_are_up_before_a_call(daemons: DaemonDirectory):
    texts = daemons.texts(model="smollm2-135m")
    with supervisor(orders(texts)) as child:
        first = child.until("up")
        assert first["identity"] == lifecycle.identity(Settings(texts))
        until(lambda: [e["state"] for e in child.next()["status"]["engines"]] == ["ready"], "the engine's start")
        assert [(e.model, e.calls_waiting) for e in daemons.status(Settings(texts)).engines] == [("smollm2-135m", 0)]


def test_only_the_daemon_starts_where_engines_are_not_wanted(daemons: DaemonDirectory):
    texts = daemons.texts(plugin_warm="false")
    with supervisor(orders(texts)) as child:
        assert child.until("up")["status"]["engines"] == []


def test_two_executors_of_a_host_share_one_daemon(daemons: DaemonDirectory):
    line = orders(daemons.texts())
    with supervisor(line) as one, supervisor(line) as other:
        assert one.until("up")["status"]["pid"] == other.until("up")["status"]["pid"]
    assert len(lifecycle.known_daemons(daemons.path)) == 1


def test_a_killed_daemon_is_noticed_and_started_again(daemons: DaemonDirectory):
    with supervisor(orders(daemons.texts(model="smollm2-135m"))) as child:
        before = child.until("up")["status"]["pid"]
        os.kill(before, signal.SIGKILL)
        assert f"process {before} was killed" in child.until("crashed")["reason"]
        after = child.until("up")["status"]
        assert after["pid"] != before
        until(lambda: [e["model"] for e in child.next()["status"]["engines"]] == ["smollm2-135m"], "its engine")


def test_a_daemon_that_was_stopped_stays_away(daemons: DaemonDirectory):
    settings = daemons.settings()
    with supervisor(orders(settings.to_text())) as child:
        child.until("up")
        files = DaemonFiles.of(settings)
        client.stop(files)
        child.until("stopped")
        lifecycle.wait_until_gone(files, 10)
        assert [child.next()["state"] for _ in range(5)] == ["stopped"] * 5
        # The next task starts it, and it belongs to this executor too.
        lifecycle.ensure_daemon(settings)
        assert child.until("up")["status"]["pid"] == lifecycle.process_of(files)


def test_a_daemon_that_hangs_is_not_up(daemons: DaemonDirectory):
    with supervisor(orders(daemons.texts())) as child:
        pid = child.until("up")["status"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            assert str(pid) in child.until("unresponsive")["reason"]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert child.until("up")["status"]["pid"] == pid


def test_a_daemon_that_cannot_start_is_reported_and_left_to_the_tasks(daemons: DaemonDirectory):
    with supervisor(orders(daemons.texts(executor_python="/no/such/python"))) as child:
        assert "/no/such/python" in child.next()["reason"]
        assert child.next()["state"] == "failed"


@pytest.mark.parametrize("how", ["end of input", "SIGKILL"])
def test_it_ends_with_its_parent(daemons: DaemonDirectory, how: str):
    with supervisor(orders(daemons.texts())) as child:
        child.until("up")
        assert child.process.stdin is not None
        if how == "SIGKILL":
            child.process.kill()
        else:
            child.process.stdin.close()
        assert child.process.wait(10) == (-signal.SIGKILL if how == "SIGKILL" else 0)
        assert len(lifecycle.known_daemons(daemons.path)) == 1  # has its owner, and others may use it


def test_a_daemon_ends_with_the_owner_that_attended(daemons: DaemonDirectory):
    settings = daemons.settings()
    files = lifecycle.ensure_daemon(settings)
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = Owner(process.pid, psutil.Process(process.pid).create_time())
        assert client.attend(files, Attend(owner))
        assert daemons.status(settings).owners == (process.pid,)
        process.kill()
    lifecycle.wait_until_gone(files, 10)
    assert "the Spark applications that used it are gone" in daemons.log(settings)


def test_a_daemon_has_the_owner_that_started_it(daemons: DaemonDirectory):
    settings = daemons.settings()
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = Owner(process.pid, psutil.Process(process.pid).create_time())
        files = lifecycle.ensure_daemon(settings, owner=owner)
        assert daemons.status(settings).owners == (process.pid,)
        process.kill()
    lifecycle.wait_until_gone(files, 10)


def test_an_executor_is_told_to_a_daemon_that_is_there(daemons: DaemonDirectory):
    settings = daemons.settings()
    lifecycle.ensure_daemon(settings)
    daemon = Supervised(settings, Owner(os.getpid(), psutil.Process().create_time()), ("m",))
    assert daemons.status(settings).owners == ()
    daemon.start()
    assert daemons.status(settings).owners == (os.getpid(),)
    assert [engine.model for engine in daemons.status(settings).engines] == ["m"]


def test_groups_of_gpus():
    assert gpu_groups([], 0) == [()]
    assert gpu_groups(["0", "1"], 0) == [("0", "1")]  # tasks ask for none: the executor's are theirs
    assert gpu_groups(["0", "1"], 1) == [("0",), ("1",)]
    assert gpu_groups(["0", "1"], 4) == [("0", "1")]
    assert gpu_groups(["0", "1", "2", "3"], 2) == []


def test_gpus_are_part_of_what_a_daemon_is():
    one, other = (lifecycle.on_gpus(VLLM, [address]) for address in "01")
    assert len({lifecycle.identity(settings) for settings in (VLLM, one, other)}) == 3
    both = lifecycle.on_gpus(VLLM, ["10", "9"])
    assert both["executor.gpus"] == "9,10"
    assert lifecycle.identity(both) == lifecycle.identity(lifecycle.on_gpus(VLLM, ["9", "10"]))
    assert lifecycle.on_gpus(VLLM, []) is VLLM
    chosen = Settings({"executor.gpus": "3"})
    assert lifecycle.on_gpus(chosen, ["0"]) is chosen


def test_an_endpoint_needs_no_gpu():
    endpoint = Settings({"engine": "openai"})
    assert lifecycle.on_gpus(endpoint, ["0"]) is endpoint
    beside = Settings({"engine": "openai", "spark.helium.models.small.engine": "vllm"})
    assert lifecycle.on_gpus(beside, ["0"])["executor.gpus"] == "0"


def test_the_daemon_sees_its_gpus_alone(daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    given = lifecycle.on_gpus(daemons.settings(), ["1"])
    pid = lifecycle.process_of(lifecycle.ensure_daemon(given))
    environment = psutil.Process(pid).environ()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
    pid = lifecycle.process_of(lifecycle.ensure_daemon(daemons.settings()))
    assert psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_models_that_start(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def models(**given: str) -> tuple[str, ...]:
        return Orders(Settings(given)).models()

    assert models(model="m/n") == ("m/n",)
    assert models(plugin_models="a/b, c/d,a/b") == ("a/b", "c/d")
    assert models(plugin_warm="false", plugin_models="a/b") == ()
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert models(plugin_models="weights") == (str(tmp_path / "weights"),)


@pytest.mark.parametrize(
    "line", ["", "{}", '{"settings": {"no.such": "1"}, "gpus": [], "task_gpus": 0, "interval": 1}']
)
def test_bad_orders(line: str):
    with pytest.raises(ConfigurationError):
        Orders.parse(line)
