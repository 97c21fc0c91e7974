from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spark_helium.errors import CacheError
from spark_helium.gpu_executor import answer_store
from spark_helium.gpu_executor.answer_store import AnswerStore, BusyStore, DamagedStore
from spark_helium.gpu_executor.prompt_cache import Answer, CacheKey

ROOT = Path(__file__).parents[2]


def key(number: int) -> CacheKey:
    return CacheKey(number.to_bytes(20, "big"))


def entries(first: int, last: int, size: int = 40) -> list[tuple[CacheKey, Answer]]:
    return [(key(n), (f"answer {n} " + "x" * size, n % 3 == 0)) for n in range(first, last)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], AnswerStore]]:
    """Opens the test's store, any number of times."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(AnswerStore.open(tmp_path / "cache")))


def in_a_process(directory: Path, code: str) -> subprocess.Popen[str]:
    program = (
        "import sys; from pathlib import Path; from spark_helium.gpu_executor.answer_store import *;"
        "from tests.gpu_executor.test_answer_store import *; directory = Path(sys.argv[1])\n" + code
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_what_one_connection_writes_the_next_finds(opened, tmp_path: Path):
    written = [*entries(0, 5000), (key(9000), ("", False)), (key(9001), ("\0 ünï \ud800 ☃" * 20_000, True))]
    opened().write(written)
    found, damaged = opened().lookup([key(n) for n in (*range(6000), 9000, 9001)])
    assert found == dict(written)
    assert damaged == []
    info = opened().info()
    assert info.entries == len(written)
    assert info.file_bytes >= info.bytes > sum(len(text) for _, (text, _) in written)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_last_answer_counts(opened):
    store = opened()
    store.write([(key(1), ("old", False))])
    store.write([(key(1), ("new", True))], hits=2, damaged=1)
    assert store.lookup([key(1), key(1)]) == ({key(1): ("new", True)}, [])
    assert (store.info().entries, store.info().hits, store.info().damaged) == (1, 2, 1)
    store.write(dropped=[key(1)])
    assert store.lookup([key(1)]) == ({}, [])


def test_uses_count_in_their_order(opened):
    store = opened()
    store.write(entries(0, 4))
    store.write(used=[key(2), key(9), key(0)])
    order = [k for (k,) in store._connection.execute("SELECT key FROM answers ORDER BY used")]
    assert order == [key(1), key(3), key(2), key(0)]
    assert store.lookup([key(n) for n in range(4)])[0] == dict(entries(0, 4))


def test_keys_since_a_row(opened):
    store = opened()
    assert store.keys_since(0, 10) == (0, 0, b"")
    before, after = store.write(entries(0, 5))
    assert (before, after) == (0, 5)
    assert store.keys_since(0, 3) == (3, 3, b"".join(key(n)[:8] for n in range(3)))
    assert store.keys_since(3, 3) == (2, 5, b"".join(key(n)[:8] for n in (3, 4)))
    assert store.keys_since(5, 3) == (0, 5, b"")
    store.clear()
    assert store.keys_since(5, 3) == (0, 0, b""), "less than was asked for: it is empty"
    store.write(entries(0, 2))
    assert store.keys_since(5, 3) == (2, 7, b"".join(key(n)[:8] for n in (0, 1))), "row numbers are never used again"


def test_clear_gives_its_room_back(opened):
    store, other = opened(), opened()
    store.write(entries(0, 5000, 200), hits=3)
    before = store.info()
    other.clear()
    assert store.lookup([key(1)]) == ({}, [])
    after = store.info()
    assert (after.entries, after.hits) == (0, 0)
    assert after.file_bytes < before.file_bytes / 10


class AgainstALog(RuleBasedStateMachine):
    """The store holds what was used last, as a list says that is in the order of use, and nothing else."""

    LIMIT = 256 << 10
    keys = st.integers(0, 30).map(key)
    sizes = st.sampled_from([0, 10, 3000, 15_000, 60_000])

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.store = self.reopened()
        self.log: dict[CacheKey, Answer] = {}  # least recently used first

    def reopened(self) -> AnswerStore:
        return AnswerStore.open(Path(self.scratch.name, "cache"))

    def use(self, key: CacheKey, answer: Answer) -> None:
        self.log.pop(key, None)
        self.log[key] = answer

    @rule(written=st.lists(st.tuples(keys, sizes, st.booleans()), max_size=4))
    def write(self, written: list[tuple[CacheKey, int, bool]]) -> None:
        answers = [(key, (f"{len(self.log)}" + "x" * size, cut)) for key, size, cut in written]
        self.store.write(answers)
        for key, answer in answers:
            self.use(key, answer)

    @rule(used=st.lists(keys, max_size=4, unique=True))
    def touch(self, used: list[CacheKey]) -> None:
        self.store.write(used=used)
        for key in used:
            if key in self.log:
                self.use(key, self.log[key])

    @rule(dropped=keys)
    def drop(self, dropped: CacheKey) -> None:
        self.store.write(dropped=[dropped])
        self.log.pop(dropped, None)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.reopened()

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.log.clear()

    @rule()
    def evict(self) -> None:
        while self.store.evict(self.LIMIT):
            pass
        found, damaged = self.store.lookup(list(self.log))
        kept = len(found)
        assert damaged == []
        assert found == dict(list(self.log.items())[len(self.log) - kept :]), "it is not the most recent ones that stay"
        if kept < len(self.log):  # no more went than had to: half of the room is in use, or the next one was large
            dropped = list(self.log.values())[len(self.log) - kept - 1]
            assert sum(len(text) for text, _ in found.values()) + 2 * len(dropped[0]) > self.LIMIT // 2
        self.log = found = dict(list(self.log.items())[len(self.log) - kept :])
        assert self.store.info().bytes <= self.LIMIT

    @invariant()
    def same_answers(self) -> None:
        assert self.store.lookup([key(n) for n in range(31)]) == (self.log, [])

    def teardown(self) -> None:
        self.store.close()
        self.scratch.cleanup()


TestAgainstALog = AgainstALog.TestCase
TestAgainstALog.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_eviction_keeps_the_file_within_its_limit_and_takes_small_steps(opened):
    store, limit = opened(), 1 << 20
    for first in range(0, 40_000, 200):
        store.write(entries(first, first + 200, 200))
        steps = 0
        while store.evict(limit):
            steps += 1
        assert steps <= 2
    info = store.info()
    assert limit // 2 < info.bytes <= limit
    found, _ = store.lookup([key(n) for n in range(40_000)])
    assert list(found) == [key(n) for n in range(40_000 - len(found), 40_000)]
    assert answer_store.store_path(store._path.parents[1]).stat().st_size <= limit


def test_a_lower_limit_shrinks_the_file(opened):
    store = opened()
    for first in range(0, 50_000, 5_000):
        store.write(entries(first, first + 5_000, 200))
    while store.evict(2 << 20):
        pass
    found, _ = store.lookup([key(n) for n in range(50_000)])
    assert 4000 < len(found) < 10_000
    assert key(49_999) in found
    store.close()  # what the log holds reaches the file
    assert store._path.stat().st_size <= 2 << 20


class TestDamage:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "cache"
        with contextlib.closing(AnswerStore.open(directory)) as store:
            store.write(entries(0, 2000, 100))
        return directory

    def survey(self, directory: Path) -> tuple[int, int, bool]:
        """What a user of the store sees: right answers, damaged ones, and whether the store is a new one."""
        expected = dict(entries(0, 2000, 100))
        right = damaged = 0
        store = AnswerStore.open(directory)
        try:
            for part in range(0, 2000, 100):
                found, bad = store.lookup([key(n) for n in range(part, part + 100)])
                assert all(found[k] == expected[k] for k in found), "a wrong answer"
                right += len(found)
                damaged += len(bad)
            store.write(entries(5000, 5010), dropped=[key(1)])
        except DamagedStore as e:
            answer_store.set_aside(directory, store, str(e))
            store = AnswerStore.open(directory)
            store.write(entries(5000, 5010))
        with contextlib.closing(store):
            assert len(store.lookup([key(n) for n in range(5000, 5010)])[0]) == 10
        return right, damaged, answer_store.aside_path(directory).exists()

    def test_flipped_byte_of_an_answer(self, directory: Path, tmp_path: Path):
        path = answer_store.store_path(directory)
        data = path.read_bytes()
        place = data.index(b"answer 77 ") + 20
        path.write_bytes(data[:place] + b"?" + data[place + 1 :])
        assert self.survey(directory) == (1999, 1, False)

    @pytest.mark.parametrize("seed", range(40))
    def test_flipped_bytes_anywhere(self, directory: Path, seed: int):
        path = answer_store.store_path(directory)
        data = bytearray(path.read_bytes())
        for n in range(30):
            place = (seed * 7_919_317 + n * 104_729 * (seed + 1)) % len(data)
            data[place] ^= 1 + (seed * 31 + n * 17) % 255
        path.write_bytes(data)
        right, damaged, _ = self.survey(directory)
        assert right + damaged <= 2000

    def test_garbage(self, directory: Path, caplog: pytest.LogCaptureFixture):
        answer_store.store_path(directory).write_bytes(os.urandom(100_000))
        assert self.survey(directory) == (0, 0, True)
        assert "is set aside as" in caplog.text

    @pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.99])
    def test_cut_off(self, directory: Path, part: float):
        path = answer_store.store_path(directory)
        os.truncate(path, int(path.stat().st_size * part))
        right, _, anew = self.survey(directory)
        assert anew
        assert right < 2000

    def test_page_of_zeros(self, directory: Path):
        path = answer_store.store_path(directory)
        data = path.read_bytes()
        for page in range(4096, len(data), 3 * 4096):
            data = data[:page] + bytes(4096) + data[page + 4096 :]
        path.write_bytes(data)
        assert self.survey(directory)[2]

    def test_log_of_garbage(self, directory: Path):
        with contextlib.closing(AnswerStore.open(directory)) as store:
            store.write(entries(3000, 3100))
            copy = {p.name: p.read_bytes() for p in store._path.parent.iterdir()}
        assert len(copy) == 3
        for name, data in copy.items():  # as a crash would leave it
            spoiled = os.urandom(len(data)) if name.endswith("-wal") else data
            answer_store.store_path(directory).with_name(name).write_bytes(spoiled)
        assert self.survey(directory)[:2] == (2000, 0)

    @pytest.mark.parametrize(
        "change", ["PRAGMA user_version = 9", "PRAGMA user_version = 0", "PRAGMA application_id = 5"]
    )
    def test_other_format(self, directory: Path, change: str, caplog: pytest.LogCaptureFixture):
        with contextlib.closing(sqlite3.connect(answer_store.store_path(directory))) as connection:
            connection.execute(change)
        assert self.survey(directory) == (0, 0, True)
        assert f"this release writes format {answer_store.FORMAT}" in caplog.text

    def test_missing_table(self, directory: Path):
        with contextlib.closing(sqlite3.connect(answer_store.store_path(directory))) as connection:
            connection.execute("DROP TABLE answers")
        assert self.survey(directory) == (0, 0, True)

    def test_set_aside_once_by_two_that_notice(self, directory: Path):
        first, second = AnswerStore.open(directory), AnswerStore.open(directory)
        answer_store.set_aside(directory, first, "a test says so")
        with contextlib.closing(AnswerStore.open(directory)) as anew:
            anew.write(entries(0, 1))
            assert second.moved
            assert not anew.moved
            answer_store.set_aside(directory, second, "a test says so")
            assert not anew.moved
            assert anew.lookup([key(0)])[0] == dict(entries(0, 1))
        with contextlib.closing(AnswerStore.open(directory)) as anew:
            assert anew.lookup([key(0)])[0] == dict(entries(0, 1))

    def test_run_once_repairs(self, directory: Path):
        with contextlib.closing(sqlite3.connect(answer_store.store_path(directory))) as connection:
            connection.execute("DROP TABLE counters")
        assert answer_store.run_once(directory, lambda store: store.info().entries) == 0
        assert answer_store.run_once(directory / "none", lambda store: store.info()) is None
        assert not (directory / "none").exists()
        answer_store.remove_aside(directory)
        assert not answer_store.aside_path(directory).exists()


WRITER = """
store = AnswerStore.open(directory)
for n in range(10**6):
    store.write(entries(n * 50, n * 50 + 50), used=[key(n)])
    if n % 3 == 0:
        store.evict(1 << 20)
    print(n * 50 + 50, flush=True)
"""


def test_writer_that_is_killed_loses_nothing_that_it_had_written(tmp_path: Path):
    for _ in range(4):
        writer = in_a_process(tmp_path / "cache", WRITER)
        assert writer.stdout is not None
        last = 0
        for _ in range(30):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.communicate()[0].splitlines() if line)])
        with contextlib.closing(AnswerStore.open(tmp_path / "cache")) as store:
            recent = dict(entries(last - 50, last))
            assert store.lookup(list(recent)) == (recent, [])
        assert not answer_store.aside_path(tmp_path / "cache").exists()


def test_several_processes_write_to_one_store(tmp_path: Path):
    code = """
first = FIRST
store = AnswerStore.open(directory)
for n in range(first, first + 2000, 100):
    store.write(entries(n, n + 100))
    assert len(store.lookup([key(i) for i in range(n, n + 100)])[0]) == 100
store.close()
"""
    processes = []
    for first in range(0, 8000, 2000):
        processes.append(in_a_process(tmp_path / "cache", code.replace("FIRST", str(first))))
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    with contextlib.closing(AnswerStore.open(tmp_path / "cache")) as store:
        assert store.lookup([key(n) for n in range(8000)]) == (dict(entries(0, 8000)), [])


class TestUnusable:
    def test_file_that_may_not_grow(self, tmp_path: Path):
        """The system refuses to write, as on a full disk, and SQLite really meets it."""
        code = """
import resource
store = AnswerStore.open(directory)
store.write(entries(0, 100))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    for n in range(100, 10**6, 100):
        store.write(entries(n, n + 100))
except CacheError as e:
    print(e)
assert store.lookup([key(5)])[0]
"""
        process = in_a_process(tmp_path / "cache", code)
        said, complaints = process.communicate()
        assert process.returncode == 0, complaints
        assert "cannot use" in said
        with contextlib.closing(AnswerStore.open(tmp_path / "cache")) as store:
            assert store.lookup([key(n) for n in range(100)])[0] == dict(entries(0, 100))

    def test_full(self, opened):
        store = opened()
        store._connection.execute("PRAGMA max_page_count = 50")  # SQLite's own full disk
        with pytest.raises(CacheError, match=r"SQLITE_FULL\); make room on the disk"):
            store.write(entries(0, 10_000))
        assert store.lookup([key(1)]) == ({}, [])
        store.write(entries(0, 10))  # the transaction was rolled back, and the next one fits
        assert store.info().entries == 10

    def test_read_only(self, opened):
        store = opened()
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(CacheError, match="READONLY"):
            store.write(entries(0, 1))

    def test_busy(self, tmp_path: Path):
        with contextlib.closing(AnswerStore.open(tmp_path / "cache", busy_seconds=0.01)) as store:
            with contextlib.closing(sqlite3.connect(store._path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(BusyStore):
                    store.write(entries(0, 1))
                assert store.lookup([key(0)]) == ({}, [])
            store.write(entries(0, 1))

    @pytest.mark.parametrize("mode", [0o755, 0o710])
    def test_directory_that_others_may_enter(self, tmp_path: Path, mode: int):
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache").chmod(mode)
        with pytest.raises(CacheError, match=f"others may enter it .mode {mode:04o}.*0700"):
            AnswerStore.open(tmp_path / "cache")

    def test_file_in_the_way(self, tmp_path: Path):
        (tmp_path / "file").write_text("x")
        for directory in (tmp_path / "file", tmp_path / "file" / "cache"):
            with pytest.raises(CacheError, match=r"spark\.helium\.cache\.directory"):
                AnswerStore.open(directory)

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, tmp_path: Path):
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(CacheError, match=r"spark\.helium\.cache\.directory"):
            AnswerStore.open(tmp_path / "locked" / "cache")
