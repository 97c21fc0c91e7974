from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest

from spark_helium.call_graph import Call, CallGraph, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, DaemonStartError, ProtocolError
from spark_helium.gpu_executor import answer_store, client, lifecycle
from spark_helium.gpu_executor.answer_store import StoreInfo
from spark_helium.gpu_executor.client import AnswerBatch, RowStream
from spark_helium.gpu_executor.messages import PROTOCOL_VERSION, Counters, Fatal
from tests.gpu_executor.daemons import DaemonDirectory, until

ROOT = Path(__file__).parents[2]
ONE = CallGraph((Call(0, "m", (Message("user", (InputRef(0),)),), Sampling(16)),), 1)
SLOW = {"simulator_decode_micros_per_token": "1e8"}  # no answer within a test


def process_environment() -> dict[str, str]:
    """Of a process of its own: this one's as it is now, because fixtures change it."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def rows(*texts: str | None) -> pa.RecordBatch:
    return pa.record_batch([pa.array(texts, pa.string())], ["input0"])


def open_stream(settings: Settings, graph: CallGraph = ONE) -> RowStream:
    return RowStream.open(settings, RowStream.header(graph.to_json(), settings, "app", "q"), rows().schema)


def receive(stream: RowStream, count: int) -> tuple[dict[int, str | None], Counters]:
    """The next ``count`` answers, by row."""
    texts: dict[int, str | None] = {}
    counters = Counters()
    while len(texts) < count:
        assert select.select([stream], [], [], 15)[0], f"only {len(texts)} answers"
        for item in stream.receive():
            assert isinstance(item, AnswerBatch), item
            counters.add(item.counters)
            texts |= {row["row"]: row["text0"] for row in item.batch.to_pylist()}
    return texts, counters


def receive_fatal(stream: RowStream) -> Fatal:
    while True:
        assert select.select([stream], [], [], 15)[0], "no end"
        for item in stream.receive():
            if isinstance(item, Fatal):
                return item


@contextmanager
def client_process(settings: Settings, *texts: str, command: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    arguments = [*command, sys.executable, str(ROOT / "tests/gpu_executor/stream_client.py")]
    arguments += [json.dumps(settings.to_text()), *texts]
    process = subprocess.Popen(
        arguments, env=process_environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_rows_there_and_back(daemons: DaemonDirectory):
    settings = daemons.settings()
    with open_stream(settings) as stream:
        stream.send(rows("a", None, "b"))
        texts, counters = receive(stream, 3)
        assert texts[1] is None
        assert texts[0]
        assert texts[0] != texts[2]
        assert (counters.calls_requested, counters.calls_sent) == (2, 2)
        stream.send(rows("b"))
        again, counters = receive(stream, 1)
        assert again == {3: texts[2]}
        assert (counters.calls_sent, counters.answers_from_cache) == (0, 1)
    status = daemons.status(settings)
    assert (status.rows_answered, status.cache_entries, status.by_hand) == (4, 2, False)
    assert [(e.model, e.state, e.engine) for e in status.engines] == [("m", "ready", "simulator")]
    until(lambda: daemons.status(settings).streams == 0, "the end of the stream")


def test_pins_of_a_stream_and_their_state(daemons: DaemonDirectory):
    rules = "Judge the review with care, and give your reasons in full sentences. " * 10
    graph = CallGraph((Call(0, "m", (Message("system", (rules,)), Message("user", (InputRef(0),))), Sampling(16)),), 1)
    settings = daemons.settings(kv_pin_min_tokens="100")
    with open_stream(settings, graph) as stream:
        stream.send(rows("a", "b"))
        assert select.select([stream], [], [], 15)[0]
        (item,) = stream.receive()
        assert isinstance(item, AnswerBatch)
        pinned = item.pinned_tokens
        assert 170 <= pinned <= 180
        assert item.counters.cached_prompt_tokens == pinned  # of the second row
    (engine,) = daemons.status(settings).engines
    assert (engine.pins, engine.pin_tokens, engine.pin_blocks, engine.pin_reason) == (1, pinned, pinned // 16, "")
    for off in ({"kv_pin_enabled": "false"}, {"kv_pin_min_tokens": "1000"}):
        other = daemons.settings(**off)
        with open_stream(other, graph) as stream:
            stream.send(rows("c", "d"))
            assert select.select([stream], [], [], 15)[0]
            (item,) = stream.receive()
            assert isinstance(item, AnswerBatch)
            assert item.pinned_tokens == 0
    assert daemons.status(settings).rows_answered == 6  # one daemon: only the budget is the engine's


def test_second_daemon_finds_what_the_first_one_kept(daemons: DaemonDirectory):
    settings = daemons.settings()
    with open_stream(settings) as stream:
        stream.send(rows("a", "b"))
        first, _ = receive(stream, 2)
    assert client.stop(lifecycle.DaemonFiles.of(settings))
    lifecycle.wait_until_gone(lifecycle.DaemonFiles.of(settings), 10)
    assert stat.S_IMODE(daemons.cache.stat().st_mode) == 0o700
    # Another configuration, and so another daemon, that shares the store while the first one runs again.
    for other in (settings, daemons.settings(simulator_block_size="32")):
        with open_stream(other) as stream:
            stream.send(rows("a", "b", "a"))
            again, counters = receive(stream, 3)
        assert again == {0: first[0], 1: first[1], 2: first[0]}
        assert (counters.calls_sent, counters.answers_from_cache) == (0, 3)
        disk = daemons.status(other).cache_disk
        assert disk is not None
        assert (disk.hits, disk.off, daemons.status(other).cache_hits) == (2, "", 1)


def info(daemons: DaemonDirectory) -> StoreInfo:
    return answer_store.run_once(daemons.cache, lambda store: store.info()) or StoreInfo()


def test_killed_daemon_loses_little_and_damages_nothing(daemons: DaemonDirectory):
    settings = daemons.settings()
    with open_stream(settings) as stream:
        stream.send(rows(*(f"{n}" for n in range(1000))))
        first, _ = receive(stream, 1000)
        until(lambda: info(daemons).entries == 1000, "the writing")
        pid = daemons.status(settings).pid
        os.kill(pid, signal.SIGKILL)
        receive_fatal(stream)
    with open_stream(settings) as stream:
        stream.send(rows(*(f"{n}" for n in range(1000))))
        again, counters = receive(stream, 1000)
    assert again == first
    assert counters.calls_sent == 0
    assert daemons.status(settings).pid != pid
    assert "is set aside" not in daemons.log(settings)


def test_cache_directory_that_cannot_be_used_fails_no_query(daemons: DaemonDirectory):
    daemons.cache.mkdir(parents=True)
    daemons.cache.chmod(0o755)
    settings = daemons.settings()
    with open_stream(settings) as stream:
        stream.send(rows("a", "b", "a"))
        receive(stream, 3)
    disk = daemons.status(settings).cache_disk
    assert disk is not None
    assert "others may enter it (mode 0755)" in disk.off
    assert daemons.log(settings).count("goes on in memory alone") == 1
    assert list(daemons.cache.iterdir()) == []


def test_without_the_disk(daemons: DaemonDirectory):
    for given in ({"cache_disk_enabled": "false"}, {"cache_enabled": "false", "cache_memory": "1m"}):
        settings = daemons.settings(**given)
        with open_stream(settings) as stream:
            stream.send(rows("a"))
            receive(stream, 1)
        assert (daemons.status(settings).cache_disk is None) == ("cache_disk_enabled" in given)
        client.stop(lifecycle.DaemonFiles.of(settings))
        lifecycle.wait_until_gone(lifecycle.DaemonFiles.of(settings), 10)
    assert not daemons.cache.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert lifecycle.cache_directory(Settings()) == tmp_path / "spark-helium" / "prompt-cache"
    assert lifecycle.cache_directory(Settings({"cache.directory": "~/c"})) == tmp_path / "home" / "c"
    with pytest.raises(ConfigurationError, match=r"cache\.directory = '~nobody-here/d'"):
        lifecycle.cache_directory(Settings({"cache.directory": "~nobody-here/d"}))
    # Two nodes that mount one home must not write to one store.
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "local"), "tmpfs")]
    monkeypatch.setattr(
        psutil, "disk_partitions", lambda all: [SimpleNamespace(mountpoint=m, fstype=t) for m, t in mounts]
    )
    assert lifecycle.cache_directory(Settings()).name == socket.gethostname()
    assert lifecycle.cache_directory(Settings({"cache.directory": str(tmp_path / "local" / "c")})).name == "c"


def test_eight_at_once_start_one(daemons: DaemonDirectory):
    settings = daemons.settings()
    code = (
        "import sys, json; from spark_helium.conf import Settings; from spark_helium.gpu_executor import client as c; "
        "from spark_helium.gpu_executor.lifecycle import ensure_daemon; sys.stdin.read(1); "
        "print(c.ping(ensure_daemon(Settings(json.loads(sys.argv[1])))).pid)"
    )
    command = [sys.executable, "-c", code, json.dumps(settings.to_text())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": process_environment()}
    processes = [subprocess.Popen(command, **pipes) for _ in range(8)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.flush()
    pids = {process.communicate(timeout=60)[0] for process in processes}
    assert pids == {b"%d\n" % daemons.status(settings).pid}
    assert daemons.log(settings).count(" serves on ") == 1


def test_daemon_is_detached_and_its_files_are_private(daemons: DaemonDirectory):
    files = lifecycle.ensure_daemon(daemons.settings())
    process = psutil.Process(daemons.status(daemons.settings()).pid)
    assert os.getsid(process.pid) == process.pid
    assert process.cwd() == "/"
    assert Path(f"/proc/{process.pid}/fd/0").readlink() == Path(os.devnull)
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(files.log.stat().st_mode) == 0o600


def test_worker_variables_do_not_reach_the_daemon(daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHON_WORKER_FACTORY_SECRET", "hush")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HELIUM_TEST_VARIABLE", "kept")
    lifecycle.ensure_daemon(daemons.settings())
    environment = psutil.Process(daemons.status(daemons.settings()).pid).environ()
    assert "PYTHON_WORKER_FACTORY_SECRET" not in environment
    assert "OMP_NUM_THREADS" not in environment
    assert environment["HELIUM_TEST_VARIABLE"] == "kept"


def test_engine_settings_make_another_daemon_and_others_do_not(daemons: DaemonDirectory):
    base = lifecycle.identity(daemons.settings())
    for name in ("simulator_kv_blocks", "vllm_block_size", "cache_memory"):
        assert lifecycle.identity(daemons.settings(**{name: "128m" if name == "cache_memory" else "77"})) != base
    assert lifecycle.identity(daemons.settings(engine="vllm")) != base
    assert lifecycle.identity(daemons.settings(kv_pin_budget="0.5")) != base
    assert lifecycle.identity(daemons.settings(kv_pin_min_tokens="1", kv_pin_enabled="false")) == base
    assert lifecycle.identity(daemons.settings(cache_enabled="false", max_tokens="3", model="other")) == base
    assert lifecycle.identity(daemons.settings(executor_idle_timeout="600s", cache_memory="262144k")) == base


def test_each_python_has_its_own_daemon(daemons: DaemonDirectory, tmp_path: Path):
    base = lifecycle.identity(daemons.settings())
    for environment in ("one", "two"):
        (tmp_path / environment).mkdir()
        for name in ("python", "python3"):
            (tmp_path / environment / name).symlink_to(sys.executable)
    identities = {
        environment: {
            lifecycle.identity(daemons.settings(executor_python=str(tmp_path / environment / name)))
            for name in ("python", "python3")
        }
        for environment in ("one", "two")
    }
    assert [len(names) for names in identities.values()] == [1, 1]
    assert len({base} | identities["one"] | identities["two"]) == 3
    assert lifecycle.identity(daemons.settings(executor_python=sys.executable)) == base


def test_relative_and_home_directories_mean_what_the_user_means(
    daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(daemons.path)
    monkeypatch.setenv("HOME", str(daemons.path))
    for given in ("d", "~/d"):
        settings = daemons.settings(executor_directory=given)
        files = lifecycle.DaemonFiles.of(settings)
        assert files.directory == daemons.path / "d"
        with open_stream(settings) as stream:
            stream.send(rows("a"))
            receive(stream, 1)
        assert [f.identity for f in lifecycle.known_daemons(daemons.path / "d")] == [files.identity]
    assert client.stop(files)
    lifecycle.wait_until_gone(files, 10)
    with pytest.raises(ConfigurationError, match=r"executor\.directory = '~nobody-here/d'"):
        lifecycle.DaemonFiles.of(daemons.settings(executor_directory="~nobody-here/d"))


def test_relative_model_directory_is_one_daemon_per_place(daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch):
    settings = daemons.settings(model_directory="models")
    monkeypatch.chdir(daemons.path)
    here = lifecycle.identity(settings)
    assert here == lifecycle.identity(daemons.settings(model_directory=str(daemons.path / "models")))
    files = lifecycle.DaemonFiles.of(settings)
    lifecycle.write_settings(settings, files)
    read = lifecycle.read_settings(files)
    assert read is not None
    assert read["modelDirectory"] == str(daemons.path / "models")


def test_cells_that_are_not_utf8_fail_their_row(daemons: DaemonDirectory):
    settings = daemons.settings()
    cells = pa.array([b"good", b"\xffA", None], pa.binary()).view(pa.string())
    with open_stream(settings) as stream:
        stream.send(pa.record_batch([cells], ["input0"]))
        answers: list[dict[str, object]] = []
        while len(answers) < 3:
            assert select.select([stream], [], [], 15)[0]
            for item in stream.receive():
                assert isinstance(item, AnswerBatch), item
                answers += item.batch.to_pylist()
    good, bad, null = sorted(answers, key=lambda answer: str(answer["row"]))
    assert good["text0"]
    assert bad["text0"] is None
    assert str(bad["reason0"]).startswith("the argument is not valid UTF-8 (byte 0xFF at position 0)")
    assert (null["text0"], null["reason0"]) == (None, None)


def test_files_of_dead_daemons_are_pruned_after_a_week(daemons: DaemonDirectory):
    settings = daemons.settings()
    living = lifecycle.ensure_daemon(settings)
    before = set(daemons.path.iterdir())
    old, new = "0" * 16, "1" * 16
    names = ("log", "log.1", "json", "alive", "start", "sock")
    for path in [daemons.path / f"{identity}.{name}" for identity in (old, new) for name in names]:
        path.touch()
    (daemons.path / "notes.log").touch()
    long_ago = time.time() - 8 * 86400
    for path in daemons.path.iterdir():
        if not path.name.startswith(new):
            os.utime(path, (long_ago, long_ago))
    lifecycle.prune(daemons.path)
    kept = {daemons.path / f"{new}.{name}" for name in names}
    assert set(daemons.path.iterdir()) == before | kept | {daemons.path / "notes.log"}
    assert client.ping(living) is not None


def test_locks_on_removed_files_exclude_nobody(daemons: DaemonDirectory):
    files = lifecycle.DaemonFiles.of(daemons.settings())
    lock = lifecycle.AliveLock(files)
    files.alive_lock.unlink()  # as the last daemon does
    assert lock.acquire()
    assert files.alive_lock.read_text() == str(os.getpid())
    lock.mark_stopping()
    assert lifecycle.is_stopping(files)
    lock.remove_files()
    assert list(daemons.path.iterdir()) == []
    with lifecycle.starting(files, 1.0):
        lock.remove_files()
        assert files.start_lock.exists()  # somebody waits to start the next one


def test_stale_socket_is_replaced(daemons: DaemonDirectory):
    settings = daemons.settings()
    files = lifecycle.DaemonFiles.of(settings)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(files.socket))
    assert files.socket.is_socket()
    with open_stream(settings) as stream:
        stream.send(rows("a"))
        receive(stream, 1)


def test_stop_by_signal_tells_open_streams_and_cleans_up(daemons: DaemonDirectory):
    settings = daemons.settings(**SLOW)
    with open_stream(settings) as stream:
        stream.send(rows("a"))
        until(lambda: daemons.status(settings).calls_in_flight == 1, "the call")
        os.kill(daemons.status(settings).pid, signal.SIGTERM)
        assert receive_fatal(stream) == Fatal("the node's daemon exited: it was stopped")
    files = lifecycle.DaemonFiles.of(settings)
    until(lambda: not lifecycle.is_alive(files), "the end")
    until(lambda: list(daemons.path.iterdir()) == [files.log], "the end of its files")
    assert client.ping(lifecycle.ensure_daemon(settings)) is not None  # and the next one starts


def test_idle_daemon_exits(daemons: DaemonDirectory):
    settings = daemons.settings(executor_idle_timeout="1s")
    with open_stream(settings) as stream:
        files = lifecycle.DaemonFiles.of(settings)
        time.sleep(1.7)  # an open stream is not idle
        assert lifecycle.is_alive(files)
        stream.send(rows("a"))
        receive(stream, 1)
    took = until(lambda: not lifecycle.is_alive(files), "the end")
    assert 0.5 < took < 5
    assert "no calls for 1 s" in daemons.log(settings)


def test_exits_when_its_application_is_gone(daemons: DaemonDirectory, tmp_path: Path):
    java = tmp_path / "java"
    java.write_text('#!/bin/sh\n"$@"\nexit $?\n')
    java.chmod(0o755)
    settings = daemons.settings()
    files = lifecycle.DaemonFiles.of(settings)
    with client_process(settings, "a", command=(str(java),)) as process:
        assert daemons.status(settings).owners == (process.pid,)
        time.sleep(1.2)  # its owner lives
        assert lifecycle.is_alive(files)
    until(lambda: not lifecycle.is_alive(files), "the end", 5)
    assert "applications that used it are gone" in daemons.log(settings)


def test_killed_client_aborts_its_calls_within_a_second(daemons: DaemonDirectory):
    settings = daemons.settings(**SLOW)
    with open_stream(settings) as stream:
        stream.send(rows("mine"))
        with client_process(settings, "a", "b", "mine") as process:
            until(lambda: daemons.status(settings).calls_in_flight == 3, "the calls")
            process.kill()
            assert until(lambda: daemons.status(settings).calls_in_flight == 1, "the abort") < 1.0
        until(lambda: daemons.status(settings).streams == 1, "the end of the stream")
        stream.close()
        assert until(lambda: daemons.status(settings).calls_in_flight == 0, "the abort") < 1.0


@pytest.mark.parametrize("words", ["RuntimeError: no GPU today", ""])
def test_failing_start_shows_its_last_words(daemons: DaemonDirectory, tmp_path: Path, words: str):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 3\n")
    python.chmod(0o755)
    start = time.monotonic()
    with pytest.raises(DaemonStartError) as error:
        open_stream(daemons.settings(executor_python=str(python)))
    assert time.monotonic() - start < 3
    assert "ended with status 3" in str(error.value)
    assert str(error.value).splitlines()[-1] == (words or "(it said nothing)")


def test_python_that_is_not_there(daemons: DaemonDirectory):
    with pytest.raises(DaemonStartError, match=r"spark\.helium\.executor\.python"):
        open_stream(daemons.settings(executor_python="/nowhere/python"))


def test_start_that_hangs_ends_at_the_time_out(daemons: DaemonDirectory, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'waiting for a licence'\nexec sleep 100\n")
    python.chmod(0o755)
    with pytest.raises(DaemonStartError, match=r"did not answer within 1 s.*executor\.startTimeout(?s:.*)waiting"):
        open_stream(daemons.settings(executor_python=str(python), executor_start_timeout="1s"))


def test_directory_that_others_may_enter_is_refused(daemons: DaemonDirectory):
    daemons.path.chmod(0o755)
    with pytest.raises(DaemonStartError, match="0755") as error:
        open_stream(daemons.settings())
    assert "a new directory of your own" in str(error.value)
    assert "chmod" not in str(error.value)  # it may be /etc
    daemons.path.chmod(0o700)
    (daemons.path / "link").symlink_to(daemons.path)
    with pytest.raises(DaemonStartError, match="not a directory"):
        open_stream(daemons.settings(executor_directory=str(daemons.path / "link")))


def test_directory_too_deep_for_a_socket(daemons: DaemonDirectory):
    deep = daemons.path / ("d" * 90)
    with pytest.raises(ConfigurationError, match="shorter directory"):
        open_stream(daemons.settings(executor_directory=str(deep)))


def test_killed_daemon_leaves_no_child_and_its_streams_learn_of_it(daemons: DaemonDirectory, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nsleep 1000 &\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    settings = daemons.settings(executor_python=str(python), **SLOW)
    with open_stream(settings) as stream:
        stream.send(rows("a"))
        until(lambda: daemons.status(settings).calls_in_flight == 1, "the call")
        daemon = psutil.Process(daemons.status(settings).pid)
        (engine,) = (child for child in daemon.children() if child.name() == "sleep")
        daemon.kill()
        reason = receive_fatal(stream).reason
        assert f"the node's daemon (process {daemon.pid}) was killed or crashed" in reason
        assert "Run the query again" in reason
        assert str(lifecycle.DaemonFiles.of(settings).log) in reason
        assert "rpc" not in reason.lower()
        until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, "the end of the engine", 3)
    with open_stream(settings) as stream:  # and the next one starts another
        stream.send(rows(None))
        receive(stream, 1)


def test_graph_that_cannot_be_read(daemons: DaemonDirectory):
    settings = daemons.settings()
    header = RowStream.header('{"version":99,"inputs":0,"calls":[]}', settings, "app", "q")
    with RowStream.open(settings, header, rows().schema) as stream:
        assert "version 99" in receive_fatal(stream).reason
    until(lambda: daemons.status(settings).streams == 0, "the end of the stream")


def test_other_protocol_version(daemons: DaemonDirectory, monkeypatch: pytest.MonkeyPatch):
    settings = daemons.settings()
    files = lifecycle.ensure_daemon(settings)
    header = RowStream.header(ONE.to_json(), settings, "app", "q")
    monkeypatch.setattr("spark_helium.gpu_executor.messages.PROTOCOL_VERSION", 7)
    with pytest.raises(ProtocolError, match=rf"version {PROTOCOL_VERSION}\b.*version 7\b"):
        RowStream(files, header, rows().schema)
    monkeypatch.undo()


def test_nothing_at_all_is_sent(daemons: DaemonDirectory):
    settings = daemons.settings()
    with open_stream(settings):
        pass
    assert daemons.status(settings).rows_answered == 0
    assert client.stop(lifecycle.DaemonFiles.of(settings))
