from __future__ import annotations

import contextlib
import logging
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spark_helium.errors import CacheError
from spark_helium.gpu_executor import answer_store, disk_tier
from spark_helium.gpu_executor.answer_store import AnswerStore, BusyStore, DamagedStore, FullDisk
from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.key_filter import KeyFilter
from spark_helium.gpu_executor.prompt_cache import CacheKey, PromptCache, entry_size
from spark_helium.gpu_executor.two_tier_cache import TwoTierCache
from tests.gpu_executor.test_key_filter import key

LIMIT = 64 << 20
WAIT = 10.0


def written(tier: DiskTier) -> DiskTier:
    """Wait until the tier has written all that it was given."""
    deadline = time.monotonic() + WAIT
    while not tier.is_written:
        tier.turn()
        assert time.monotonic() < deadline, "it was not written"
        time.sleep(0.001)
    return tier


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Callable[..., DiskTier]]:
    """Makes tiers of one directory, as daemons that share it would."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> DiskTier:
            tier = DiskTier(
                tmp_path / "cache", options.pop("limit", LIMIT), **{"flush_seconds": 0.0, "writer_share": 1.0} | options
            )
            stack.callback(tier.close)
            return tier

        yield make


class Boundary:
    """The store, with what a test says happening at its boundary."""

    def __init__(self, **happens: Callable[[], None]) -> None:
        self.happens = happens
        self.calls: list[str] = []

    def open(self, directory: Path) -> Any:
        self._call("open")
        return _Watched(self, AnswerStore.open(directory))

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.happens.get(name, lambda: None)()


class _Watched:
    def __init__(self, boundary: Boundary, store: AnswerStore) -> None:
        self._boundary = boundary
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name in ("lookup", "write", "evict", "clear", "keys_since"):
            self._boundary._call(name)
        return getattr(self._store, name)


def failing(error: Exception, times: int = 10**9) -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error

    return fail


def test_what_one_writes_another_finds_after_a_restart(tiers):
    first = tiers()
    assert first.get_many([key(1)]) == {}
    first.put(key(1), "one", False)
    first.put(key(2), "two", True)
    assert first.get_many([key(1), key(3)]) == {key(1): ("one", False)}, "found before it is written"
    first.close()
    second = tiers()
    assert second.get_many([key(1), key(2), key(3)]) == {key(1): ("one", False), key(2): ("two", True)}
    assert second.status().hits == 2


def test_nothing_is_made_before_the_first_use(tiers):
    tier = tiers()
    tier.turn()
    tier.close()
    assert not tier.directory.exists()


def test_two_at_once_find_what_the_other_wrote(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_SECONDS", 0.0)
    one, other = tiers(), tiers()
    for tier in (one, other):
        assert tier.get_many([key(0)]) == {}
    for n in range(1, 20, 2):
        one.put(key(n), f"one {n}", False)
        other.put(key(n + 1), f"other {n}", False)
        written(one), written(other)
        found: dict[CacheKey, Any] = {}
        deadline = time.monotonic() + WAIT
        while len(found) < n + 1:
            found = one.get_many([key(i) for i in range(1, n + 2)])
            assert time.monotonic() < deadline
    found = {}
    while len(found) < 20:
        found = other.get_many([key(i) for i in range(30)])
        assert time.monotonic() < deadline
    assert found[key(1)] == ("one 1", False)


def test_new_keys_do_not_go_to_the_disk_once_the_keys_are_known(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_AT_ONCE", 100)
    filled = tiers()
    for n in range(1000):
        filled.put(key(n), "x", False)
    filled.close()
    boundary = Boundary()
    tier = tiers(open_store=boundary.open)
    deadline = time.monotonic() + WAIT
    while not tier._knows_keys:
        assert tier.get_many([key(5000)]) == {}
        assert time.monotonic() < deadline
    boundary.calls.clear()
    for n in range(2000, 2020):
        tier.get_many([key(n)])
    assert boundary.calls.count("lookup") < 5  # a few may pass by accident
    assert len(tier.get_many([key(n) for n in range(1000)])) == 1000
    tier.put(key(3000), "own", False)
    written(tier)
    assert tier.get_many([key(3000)]) == {key(3000): ("own", False)}


def test_cleared_by_another_process(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_SECONDS", 0.0)
    one, other = tiers(), tiers()
    for n in range(10):
        one.put(key(n), "x", False)
    written(one).get_many([key(0)])
    wait_until(lambda: one.get_many([key(50)]) == {} and one._knows_keys and one._keys_until == 10)
    answer_store.run_once(one.directory, lambda store: store.clear())
    other.put(key(100), "new", False)  # the store's rows begin at 1 again
    written(other)
    wait_until(lambda: one.get_many([key(100)]))
    assert one.get_many([key(1)]) == {}


def test_cleared_and_filled_again_by_another_process(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_SECONDS", 0.0)
    one, other = tiers(), tiers()
    for n in range(10):
        one.put(key(n), "x", False)
    written(one).get_many([key(0)])
    wait_until(lambda: one.get_many([key(50)]) == {} and one._knows_keys and one._keys_until == 10)
    answer_store.run_once(one.directory, lambda store: store.clear())
    for n in range(100, 130):
        other.put(key(n), "new", False)
    written(other)
    wait_until(lambda: len(one.get_many([key(n) for n in range(100, 130)])) == 30)


def test_own_writes_between_two_looks_at_the_keys_are_not_another_store(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_SECONDS", 0.0)
    tier = tiers()
    resets = []
    begin = tier._begin_learning
    monkeypatch.setattr(tier, "_begin_learning", lambda expected: (resets.append(expected), begin(expected)))
    for n in range(20):
        tier.put(key(n), "x", False)
        written(tier)
        for _ in range(5):
            tier.get_many([key(1000 + n)])
    wait_until(lambda: tier.get_many([key(5000)]) == {} and tier._knows_keys)
    assert resets == []
    assert len(tier.get_many([key(n) for n in range(20)])) == 20


def test_filter_grows_with_the_store(tiers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_tier, "KEYS_SECONDS", 0.0)
    tier = tiers()
    tier._keys = KeyFilter(smallest=1 << 10)
    for n in range(200):
        tier.put(key(n), "x", False)
    assert written(tier)._keys.full
    wait_until(lambda: tier.get_many([key(1000)]) == {} and tier._knows_keys and not tier._keys.full)
    assert len(tier.get_many([key(n) for n in range(200)])) == 200


def test_evicts_by_last_use_through_memory_hits(tiers):
    tier = tiers(limit=1 << 20, use_seconds=0.0)
    cache = TwoTierCache(PromptCache(1 << 20), tier)
    cache.put(key(0), "kept", False)
    for n in range(1, 400):
        cache.put(key(n), "x" * 10_000, False)
        if n % 20 == 0:
            assert cache.get_many([key(0)]) == {key(0): ("kept", False)}
        written(tier)
    tier.close()
    again = tiers(limit=1 << 20)
    assert again.get_many([key(n) for n in range(390, 400)]).keys() == {key(n) for n in range(390, 400)}
    assert again.get_many([key(0), key(1), key(100)]) == {key(0): ("kept", False)}


def test_writer_rests_until_much_waits_or_the_end(tiers, monkeypatch: pytest.MonkeyPatch):
    boundary = Boundary()
    tier = tiers(open_store=boundary.open, writer_share=1e-9)  # after one transaction it would rest for ever
    monkeypatch.setattr(disk_tier, "MOST_PENDING", 20 * entry_size("x" * 100))

    def put(n: int) -> None:
        tier.put(key(n), "x" * 100, False)
        tier.turn()

    put(0)
    wait_until(lambda: tier.get_many([key(0)]) and not tier._unwritten)
    for n in range(1, 5):
        put(n)
    assert boundary.calls.count("write") == 1
    for n in range(5, 13):
        put(n)
    wait_until(lambda: boundary.calls.count("write") > 1)
    tier.close()
    assert len(tiers().get_many([key(n) for n in range(13)])) == 13


class TestFailure:
    @pytest.mark.parametrize("where", ["open", "write", "lookup", "keys_since", "evict"])
    @pytest.mark.parametrize("error", [CacheError("the disk is full"), RuntimeError("a bug")])
    def test_turns_the_tier_off_and_says_so_once(
        self, tiers, where: str, error: Exception, caplog: pytest.LogCaptureFixture
    ):
        boundary = Boundary(**{where: failing(error)})
        tier = tiers(open_store=boundary.open)
        cache = TwoTierCache(PromptCache(1 << 20), tier)
        deadline = time.monotonic() + WAIT
        n = 0
        while not tier.status().off:
            n += 1
            cache.put(key(n), f"{n}", False)
            cache.turn()
            assert cache.get_many([key(n), key(-1 % 2**64)]) == {key(n): (f"{n}", False)}
            assert time.monotonic() < deadline
        assert str(error) in tier.status().off
        written(tier)
        calls = list(boundary.calls)
        cache.put(key(0), "zero", False)
        assert cache.get_many([key(0), key(1)]) == {key(0): ("zero", False), key(1): ("1", False)}, "memory goes on"
        cache.turn()
        tier.close()
        assert boundary.calls == calls, "the disk is left alone"
        assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
            f"the prompt cache goes on in memory alone: {tier.status().off}"
        ]

    def test_full_disk_still_answers_and_is_tried_again(
        self, tiers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        full: list[bool] = []

        def write() -> None:
            if full:
                raise FullDisk("no room")

        tier = tiers(open_store=Boundary(write=write).open)
        tier.put(key(1), "one", False)
        written(tier)
        full.append(True)
        tier.put(key(2), "two", False)
        written(tier)
        tier.put(key(3), "three", False)
        assert tier.get_many([key(1), key(2), key(3)]) == {key(1): ("one", False)}
        status = tier.status()
        assert (status.off, status.full, status.not_kept) == ("", "no room", 1)
        full.clear()
        tier.turn()
        assert tier.status().full, "it is not tried at once"
        monkeypatch.setattr(tier, "_retry_at", 0.0)
        tier.turn()
        tier.put(key(4), "four", False)
        written(tier)
        assert tier.status().full == ""
        assert tier.get_many([key(4)]) == {key(4): ("four", False)}
        assert caplog.text.count("in memory alone") == 1

    def test_tier_that_failed_is_tried_again(self, tiers, monkeypatch: pytest.MonkeyPatch):
        tier = tiers(open_store=Boundary(open=failing(CacheError("not yours"), 1)).open)
        tier.put(key(1), "one", False)
        written(tier)
        assert tier.status().off == "not yours"
        monkeypatch.setattr(tier, "_retry_at", 0.0)
        tier.turn()
        tier.put(key(2), "two", False)
        written(tier)
        assert tier.status().off == ""
        assert tier.get_many([key(2)]) == {key(2): ("two", False)}

    def test_busy_store_is_written_later(self, tiers, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(disk_tier, "BUSY_PAUSE_SECONDS", 0.001)
        boundary = Boundary(write=failing(BusyStore("locked"), 3), lookup=failing(BusyStore("locked"), 1))
        tier = tiers(open_store=boundary.open)
        tier.put(key(1), "one", False)
        written(tier).close()
        assert boundary.calls.count("write") == 4
        again = tiers(open_store=boundary.open)
        assert again.get_many([key(1)]) == {}, "a lookup that cannot be made is a miss"
        assert again.get_many([key(1)]) == {key(1): ("one", False)}
        assert not again.status().off

    def test_damaged_store_is_set_aside_and_the_writing_goes_on(self, tiers, caplog: pytest.LogCaptureFixture):
        tier = tiers()
        tier.put(key(1), "one", False)
        written(tier)
        with contextlib.closing(sqlite3.connect(answer_store.store_path(tier.directory))) as connection:
            connection.execute("DROP TABLE answers")
        tier.put(key(2), "two", False)
        written(tier)
        assert not tier.status().off
        assert "is set aside as" in caplog.text
        tier.close()
        assert tiers().get_many([key(1), key(2)]) == {key(2): ("two", False)}

    def test_damaged_again_and_again(self, tiers, caplog: pytest.LogCaptureFixture):
        tier = tiers(open_store=Boundary(write=failing(DamagedStore("rotten"))).open)
        tier.put(key(1), "one", False)
        written(tier)
        assert "rotten" in tier.status().off
        assert caplog.text.count("is set aside as") == disk_tier.REPAIRS + 1

    def test_damaged_entry_is_dropped_and_counted(self, tiers):
        tier = tiers()
        tier.put(key(1), "the answer to life", False)
        tier.put(key(2), "another answer", False)
        tier.close()
        path = answer_store.store_path(tier.directory)
        path.write_bytes(path.read_bytes().replace(b"answer to life", b"answer to wife"))
        again = tiers()
        assert again.get_many([key(1), key(2)]) == {key(2): ("another answer", False)}
        assert again.status().damaged == 1
        written(again).close()
        info = answer_store.run_once(tier.directory, lambda store: store.info())
        assert info is not None
        assert (info.entries, info.damaged, info.hits) == (1, 1, 1)

    def test_directory_that_goes_away_is_made_anew(self, tiers):
        tier = tiers()
        tier.put(key(1), "one", False)
        written(tier)
        answer_store.store_path(tier.directory).parent.rename(tier.directory / "elsewhere")
        tier.put(key(2), "two", False)
        written(tier).close()
        assert tiers().get_many([key(1), key(2)]) == {key(2): ("two", False)}

    def test_slow_lookup_counts_as_missed_and_the_next_ones_wait(self, tiers, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(disk_tier, "PAUSE_SECONDS", 0.05)
        go_on = threading.Event()
        filled = tiers()
        filled.put(key(1), "one", False)
        filled.close()
        boundary = Boundary(lookup=lambda: go_on.wait(WAIT) and None)
        tier = tiers(open_store=boundary.open, lookup_seconds=0.01)
        assert tier.get_many([key(1)]) == {}
        assert "longer than 0.01 s" in tier.status().slow
        for _ in range(5):
            assert tier.get_many([key(1)]) == {}
        assert boundary.calls.count("lookup") == 1, "it is not asked while it is slow"
        go_on.set()
        deadline = time.monotonic() + WAIT
        while not tier.get_many([key(1)]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert tier.status().slow == ""

    def test_many_lookups_that_are_slow_together_are_too_slow(self, tiers, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(disk_tier, "SLOW_SECONDS", 0.01)
        filled = tiers()
        filled.put(key(1), "one", False)
        filled.close()
        boundary = Boundary(lookup=lambda: time.sleep(0.02))
        tier = tiers(open_store=boundary.open, lookup_seconds=0.1)
        wait_until(lambda: tier.get_many([key(1)]) == {} and tier.status().slow)
        assert "lookups took" in tier.status().slow or "longer" in tier.status().slow
        assert boundary.calls.count("lookup") <= 6

    def test_a_store_that_is_set_aside_while_others_hold_it_is_opened_anew(
        self, tiers, monkeypatch: pytest.MonkeyPatch
    ):
        busy = [True]
        original = disk_tier.set_aside

        def set_aside(directory: Path, store: Any, why: str) -> None:
            store.close()
            if busy:
                busy.clear()
                raise BusyStore("another process holds the lock")
            original(directory, store, why)

        monkeypatch.setattr(disk_tier, "set_aside", set_aside)
        monkeypatch.setattr(disk_tier, "BUSY_PAUSE_SECONDS", 0.01)
        tier = tiers(open_store=Boundary(write=failing(DamagedStore("damaged"), 1)).open)
        tier.put(key(1), "one", False)
        written(tier)
        assert tier.status().off == ""
        assert tier.get_many([key(1)]) == {key(1): ("one", False)}

    def test_what_the_disk_cannot_follow_is_not_kept(self, tiers, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(disk_tier, "MOST_PENDING", 20 * entry_size("x" * 100))
        go_on = threading.Event()
        tier = tiers(open_store=Boundary(write=lambda: go_on.wait(WAIT) and None).open)
        for n in range(50):
            tier.put(key(n), "x" * 100, False)
            tier.turn()
        assert tier.status().not_kept == 30
        go_on.set()
        written(tier)
        assert not tier.status().off

    def test_answer_that_is_too_large(self, tiers, caplog: pytest.LogCaptureFixture):
        tier = tiers(limit=1 << 20)
        for n in range(3):
            tier.put(key(n), "x" * 70_000, False)
        assert tier.status().not_kept == 3
        assert caplog.text.count("is not kept on disk") == 1


def test_clear(tiers):
    tier = tiers()
    tier.put(key(1), "one", False)
    written(tier)
    tier.put(key(2), "two", False)
    assert tier.clear().wait(WAIT)
    tier.put(key(3), "three", False)
    assert tier.get_many([key(1), key(2), key(3)]) == {key(3): ("three", False)}
    written(tier).close()
    assert tiers().get_many([key(1), key(2), key(3)]) == {key(3): ("three", False)}


def test_nothing_is_found_while_it_is_cleared(tiers):
    go_on = threading.Event()
    tier = tiers(open_store=Boundary(clear=lambda: go_on.wait(WAIT) and None).open)
    tier.put(key(1), "one", False)
    written(tier)
    done = tier.clear()
    assert tier.get_many([key(1)]) == {}
    go_on.set()
    assert done.wait(WAIT)
    assert tier.get_many([key(1)]) == {}


class AgainstADictionary(RuleBasedStateMachine):
    """The two tiers and a dictionary give the same answers, whatever memory forgets and however often it restarts."""

    keys = st.lists(st.integers(0, 12).map(key), max_size=6)
    MEMORY = 3 * entry_size("x" * 20)

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.known: dict[CacheKey, tuple[str, bool]] = {}
        self.cache = self.started()

    def started(self) -> TwoTierCache:
        disk = DiskTier(Path(self.scratch.name, "cache"), 1 << 20, flush_seconds=0.0, use_seconds=0.0, writer_share=1.0)
        return TwoTierCache(PromptCache(self.MEMORY), disk)

    @rule(keys=keys, text=st.text(max_size=20), truncated=st.booleans())
    def put(self, keys: list[CacheKey], text: str, truncated: bool) -> None:
        for each in keys:
            self.cache.put(each, text, truncated)
            self.known[each] = (text, truncated)

    @rule(keys=keys)
    def get(self, keys: list[CacheKey]) -> None:
        hits = self.cache.memory_hits + self.cache.disk_hits
        assert self.cache.get_many(keys) == {key: self.known[key] for key in keys if key in self.known}
        assert self.cache.memory_hits + self.cache.disk_hits - hits == sum(key in self.known for key in keys)

    @rule()
    def turn(self) -> None:
        self.cache.turn()

    @rule()
    def write(self) -> None:
        assert self.cache.disk is not None
        written(self.cache.disk)

    @rule()
    def restart(self) -> None:
        self.cache.close()
        self.cache = self.started()

    @rule()
    def clear(self) -> None:
        assert self.cache.clear().wait(WAIT)
        self.known.clear()

    @invariant()
    def memory_is_within_its_limit(self) -> None:
        self.cache.memory.check_integrity()
        assert self.cache.memory.bytes <= self.MEMORY

    def teardown(self) -> None:
        self.cache.close()
        self.scratch.cleanup()


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_memory_and_disk_hits_are_told_apart(tiers):
    tier = tiers()
    tier.put(key(1), "one", False)
    tier.put(key(2), "two", False)
    tier.close()
    cache = TwoTierCache(PromptCache(1 << 20), tiers())
    cache.get_many([key(1), key(1), key(3)])
    assert (cache.memory_hits, cache.disk_hits) == (1, 1)
    cache.get_many([key(1), key(2)])
    assert (cache.memory_hits, cache.disk_hits) == (2, 2)
    without = TwoTierCache(PromptCache(1 << 20))
    without.put(key(1), "x", False)
    assert without.get_many([key(1), key(2)]) == {key(1): ("x", False)}
    assert without.clear().is_set()
    assert without.get_many([key(1)]) == {}
