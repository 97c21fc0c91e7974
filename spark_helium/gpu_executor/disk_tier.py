"""The prompt cache's tier on disk, as the dispatcher uses it: bounded waits, writes behind, and off when it fails.

::

    dispatcher's thread            thread "cache reads"          thread "cache writes"
    get_many ──keys──────────────▶ one statement
             ◀─answers, or none in LOOKUP_SECONDS
    put, touch
    turn ─────every FLUSH_SECONDS what came since───────────────▶ one transaction, then eviction

What is not yet written is found by ``get_many`` too. A process that is killed loses what came in the last
:data:`FLUSH_SECONDS`; one that closes the tier loses nothing. The writer takes :data:`WRITER_SHARE` of one core, enough
for some 5,000 answers a second at 4 microseconds each: the dispatcher needs Python's lock more. In a burst of
more, up to half of :data:`MOST_PENDING` waits, and is lost if the process is killed then; above that the writer runs at
full speed.

Where the disk is slow a lookup counts as missed after :data:`LOOKUP_SECONDS`, and for :data:`PAUSE_SECONDS` nothing is
looked up; so it is when slow lookups together take as long in :data:`SLOW_WINDOW`. Where it writes more slowly than
answers come, answers above :data:`MOST_PENDING` are not kept on disk. Where it is full nothing is written, and where it
fails (read-only, damaged, not the user's) the tier is off; :data:`RETRY_SECONDS` later it is tried again. None of this
fails a call.

The tier knows which keys its store surely lacks (:mod:`.key_filter`), so that new prompts cost no access to the disk.
What another daemon added is found :data:`KEYS_SECONDS` later.

A use is written at most once in :data:`USE_SECONDS`: the store evicts by the last use, give or take that long.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from spark_helium.errors import CacheError
from spark_helium.gpu_executor.answer_store import AnswerStore, BusyStore, DamagedStore, FullDisk, set_aside
from spark_helium.gpu_executor.key_filter import KeyFilter, from_bytes, prefixes
from spark_helium.gpu_executor.messages import DiskStatus
from spark_helium.gpu_executor.prompt_cache import ENTRY_OVERHEAD, Answer, CacheKey

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOKUP_SECONDS = 1.0
PAUSE_SECONDS = 30.0
SLOW_SECONDS = 0.1  # a lookup that takes longer is one of a slow disk ...
SLOW_WINDOW = 10.0  # ... and LOOKUP_SECONDS of these in so many seconds are too much
FLUSH_SECONDS = 0.25
FLUSH_SIZE = 8 << 20  # bytes of one transaction, about
MOST_PENDING = 32 << 20  # bytes of answers that wait to be written
MOST_WORKS = 4  # that wait for the writer, unless they are large
WRITER_SHARE = 1 / 40
USE_SECONDS = 600.0
KEYS_AT_ONCE = 50_000  # read from the store in one statement, to know which keys it has
KEYS_SECONDS = 1.0  # how soon answers of another daemon are found
MOST_USES = 1 << 17  # keys that are remembered as used lately
CLOSE_SECONDS = 5.0  # longest wait for the last answers to be written
BUSY_PAUSE_SECONDS = 0.5
RETRY_SECONDS = 60.0  # after this a tier that failed, or a disk that was full, is tried again
REPAIRS = 3  # stores that one process sets aside or finds moved before it gives up

OpenStore = Callable[[Path], AnswerStore]


@dataclass(slots=True, eq=False)
class _Work:
    """What one transaction writes. The writer's thread reads it only, and says when it is done."""

    answers: dict[CacheKey, Answer] = field(default_factory=dict)
    size: int = 0  # bytes of the answers, about
    uses: dict[CacheKey, None] = field(default_factory=dict)
    drops: list[CacheKey] = field(default_factory=list)
    hits: int = 0
    began: float = 0.0
    rows: tuple[int, int] = (-1, -1)  # the store's newest row before and after
    done: bool = False
    cancelled: bool = False

    def __bool__(self) -> bool:
        return bool(self.answers or self.uses or self.drops or self.hits)


# Answers that are there, and keys of those that are there but damaged.
_Reply: TypeAlias = "queue.SimpleQueue[tuple[dict[CacheKey, Answer], list[CacheKey]]]"


class DiskTier:
    """Answers by key in a directory's store, whose file is at most ``limit`` bytes.

    One thread uses it (the dispatcher's), and calls :meth:`turn` several times a second; :meth:`status` may be called
    from any. Nothing is opened or made before the first use.
    """

    def __init__(
        self,
        directory: Path,
        limit: int,
        *,
        open_store: OpenStore = AnswerStore.open,
        lookup_seconds: float = LOOKUP_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
        use_seconds: float = USE_SECONDS,
        writer_share: float = WRITER_SHARE,
    ) -> None:
        self.directory = directory
        self.limit = limit
        self._open_store = open_store
        self._lookup_seconds = lookup_seconds
        self._flush_seconds = flush_seconds
        self._use_seconds = use_seconds
        self._writer_share = writer_share
        self._flush_size = min(FLUSH_SIZE, limit // 16)
        self._off = ""  # why the tier is off; the first of the three threads that finds out sets it
        self._reported = ""  # why it was off last, so that a warning comes once
        self._is_broken = False  # by a bug of ours: off for good
        self._full = ""  # why nothing is written
        self._retry_at = math.inf  # when to look whether the disk is well again
        self._slow = ""  # why lookups pause
        self._paused_until = 0.0
        self._waits: deque[tuple[float, float]] = deque()  # slow lookups: when, and how long
        self._hits = self._damaged = self._not_kept = 0
        self._closing = False

        self._reader: threading.Thread | None = None
        self._asked: queue.SimpleQueue[Callable[[_Connection], None] | None] = queue.SimpleQueue()
        self._late: _Reply | None = None  # the answer to a lookup that took too long is still to come

        # Lookups go to the disk for keys that may be there only, once all keys of the store are known.
        self._keys = KeyFilter()
        self._knows_keys = False
        self._keys_until = 0  # the row up to which the store's keys are known
        self._keys_asked: queue.SimpleQueue[tuple[int, int, bytes] | None] | None = None
        self._keys_asked_after = 0  # the row that was known when it was asked
        self._is_another_store = threading.Event()  # the store that is open is not the one whose keys are known
        self._keys_learned = -math.inf

        self._writer: threading.Thread | None = None
        self._handed_over: queue.SimpleQueue[_Work | threading.Event | None] = queue.SimpleQueue()
        self._fresh = _Work()  # not handed over yet
        self._unwritten: deque[_Work] = deque()  # handed over
        self._waiting = 0  # bytes of both; the writer's thread reads it
        self._hurry = threading.Event()  # the writer must not rest
        self._clearing: threading.Event | None = None
        self._used_lately: set[CacheKey] = set()
        self._used_since = time.monotonic()

    # --- the dispatcher's thread

    def get_many(self, keys: Collection[CacheKey]) -> dict[CacheKey, Answer]:
        """The answers that are there, by key. Waits :data:`LOOKUP_SECONDS` at most."""
        if self._off or self._closing or not self._is_clear():
            return {}
        self._forget_written()
        fresh = self._fresh.answers
        found = {key: fresh[key] for key in keys if key in fresh}
        rest = [key for key in keys if key not in found] if found else list(keys)
        if rest and self._may_look_up():
            self._learn_keys()
        if rest and self._knows_keys:
            rest = self._keys.may_hold(rest)  # it knows what was handed over, too
        for work in reversed(self._unwritten) if rest else ():
            found |= {key: work.answers[key] for key in rest if key in work.answers}
            rest = [key for key in rest if key not in found]
        if rest and self._may_look_up():
            stored, damaged = self._look_up(rest)
            if stored:
                self._hits += len(stored)
                self._fresh.hits += len(stored)
                for key in stored:
                    self.touch(key)
                found |= stored
            if damaged:
                log.warning("%d damaged answers in %s are dropped", len(damaged), self.directory)
                self._damaged += len(damaged)
                self._fresh.drops += damaged
        return found

    def put(self, key: CacheKey, text: str, truncated: bool) -> None:
        """Keep an answer as the most recent one, soon."""
        if self._off or self._closing or self._full:
            self._not_kept += bool(self._full)
            return
        fresh, size = self._fresh, len(text) + ENTRY_OVERHEAD
        if size > self._flush_size or self._waiting + size > MOST_PENDING:
            self._do_not_keep(size)
            return
        fresh.answers[key] = (text, truncated)
        fresh.size += size
        self._waiting += size

    def touch(self, key: CacheKey) -> None:
        """The answer was used, here or in a tier above: it is to be evicted later."""
        if key not in self._used_lately and key not in self._fresh.answers and not (self._off or self._full):
            self._used_lately.add(key)
            self._fresh.uses[key] = None

    def turn(self) -> None:
        """Hand over what came since the last time, if that is long enough ago."""
        fresh = self._fresh
        now = time.monotonic()
        if now >= self._retry_at:
            self._retry_at = math.inf
            self._off = self._full = ""
        if not fresh:
            return
        if not fresh.began:
            fresh.began = now
        self._forget_written()
        is_due = now - fresh.began >= self._flush_seconds and len(self._unwritten) < MOST_WORKS
        if not is_due and fresh.size < self._flush_size:
            return
        self._hand_over()
        if now - self._used_since > self._use_seconds or len(self._used_lately) > MOST_USES:
            self._used_lately.clear()
            self._used_since = now

    def clear(self) -> threading.Event:
        """Forget everything, the store included. Set when that is done; until then nothing is found."""
        for work in self._unwritten:
            work.cancelled = True
        self._fresh = _Work()
        self._unwritten.clear()
        self._waiting = 0
        self._hurry.set()
        self._used_lately.clear()
        self._begin_learning(0)
        self._hits = self._damaged = self._not_kept = 0
        done = self._clearing = threading.Event()
        if self._off or self._closing:
            done.set()
        else:
            self._send(done)
        return done

    def close(self) -> None:
        """Write what is not yet written, and close the store."""
        if self._closing:
            return
        if self._fresh and not self._off:
            self._hand_over()
        self._closing = True
        self._hurry.set()
        for thread, jobs in ((self._writer, self._handed_over), (self._reader, self._asked)):
            if thread is not None:
                jobs.put(None)
                thread.join(0.0 if thread is self._reader and self._late is not None else CLOSE_SECONDS)
        left = sum(len(work.answers) for work in self._unwritten if not work.done)
        if left and not self._off:
            log.warning("the disk was too slow to keep the last %d answers", left)

    @property
    def is_written(self) -> bool:
        """Whether nothing is left to hand over or to write."""
        self._forget_written()
        return not (self._fresh or self._unwritten)

    def _hand_over(self) -> None:
        work, self._fresh = self._fresh, _Work()
        if work.answers:
            self._used_lately.update(work.answers)
            self._keys.add(prefixes(list(work.answers)))
        self._unwritten.append(work)
        self._send(work)

    def _send(self, job: _Work | threading.Event) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="cache writes", daemon=True)
            self._writer.start()
        self._handed_over.put(job)

    def _forget_written(self) -> None:
        while self._unwritten and self._unwritten[0].done:
            work = self._unwritten.popleft()
            self._waiting -= work.size
            before, after = work.rows
            if before == self._keys_until:  # nobody else wrote in between
                self._keys_until = after

    def _is_clear(self) -> bool:
        if self._clearing is not None and self._clearing.is_set():
            self._clearing = None
        return self._clearing is None

    def _do_not_keep(self, size: int) -> None:
        if self._not_kept == 0:
            why = "the disk writes more slowly than answers come"
            if size > self._flush_size:
                why = f"it takes {size} bytes, and spark.helium.cache.disk.maxBytes = {self.limit} allows "
                why += str(self._flush_size)
            log.warning("an answer is not kept on disk: %s. Later ones are counted, not reported", why)
        self._not_kept += 1

    def _may_look_up(self) -> bool:
        if self._late is not None:
            if self._late.empty():
                return False
            self._late = None
        if self._slow and time.monotonic() >= self._paused_until:
            self._slow = ""
        return not self._slow

    def _learn_keys(self) -> None:
        """Take in keys of the store, some at a time, and now and then those that other processes added."""
        if self._is_another_store.is_set():
            self._is_another_store.clear()
            self._begin_learning(0)
        if self._keys_asked is not None:
            if self._keys_asked.empty():
                return
            learned, self._keys_asked = self._keys_asked.get(), None
            if learned is not None:
                count, newest, data = learned
                if newest < self._keys_asked_after:  # another process cleared the store
                    self._begin_learning(0)
                else:
                    self._keys.add(from_bytes(data))
                    self._keys_until = max(self._keys_until, newest)  # own writes may have moved it since
                    self._knows_keys = self._knows_keys or count < KEYS_AT_ONCE
                    if self._keys.full:
                        self._begin_learning(self._keys.added)
        if self._knows_keys and time.monotonic() - self._keys_learned < KEYS_SECONDS:
            return
        self._keys_learned = time.monotonic()
        reply: queue.SimpleQueue[tuple[int, int, bytes] | None] = queue.SimpleQueue()
        row = self._keys_asked_after = self._keys_until
        self._keys_asked = reply
        self._ask(lambda store: reply.put(self._read(store, lambda s: s.keys_since(row, KEYS_AT_ONCE))))

    def _begin_learning(self, expected: int) -> None:
        self._keys.reset(expected)
        for work in self._unwritten:  # they may not be in the store yet
            if work.answers:
                self._keys.add(prefixes(list(work.answers)))
        self._knows_keys = False
        self._keys_until = 0
        self._keys_asked = None

    def _ask(self, job: Callable[[_Connection], None]) -> None:
        if self._reader is None:
            self._reader = threading.Thread(target=self._read_all, name="cache reads", daemon=True)
            self._reader.start()
        self._asked.put(job)

    def _look_up(self, keys: Sequence[CacheKey]) -> tuple[dict[CacheKey, Answer], list[CacheKey]]:
        reply: _Reply = queue.SimpleQueue()
        self._ask(lambda store: reply.put(self._read(store, lambda s: s.lookup(keys)) or ({}, [])))
        began = time.monotonic()
        try:
            found = reply.get(timeout=self._lookup_seconds)
        except queue.Empty:
            self._late = reply
            self._pause(f"a lookup of {len(keys)} answers took longer than {self._lookup_seconds} s")
            return {}, []
        now = time.monotonic()
        if now - began > SLOW_SECONDS:
            self._waits.append((now, now - began))
            while now - self._waits[0][0] > SLOW_WINDOW:
                self._waits.popleft()
            waited = sum(seconds for _, seconds in self._waits)
            if waited > self._lookup_seconds:
                self._pause(f"{len(self._waits)} lookups took {waited:.1f} s")
        return found

    def _pause(self, why: str) -> None:
        self._slow = why
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        self._waits.clear()
        log.warning("%s: for %.0f s the prompt cache is not looked up on disk", why, PAUSE_SECONDS)

    # --- any thread

    def status(self) -> DiskStatus:
        """State and counts of this process."""
        return DiskStatus(
            directory=str(self.directory),
            limit=self.limit,
            off=self._off,
            full=self._full,
            slow=self._slow,
            hits=self._hits,
            damaged=self._damaged,
            not_kept=self._not_kept,
        )

    def _turn_off(self, error: Exception) -> None:
        if isinstance(error, CacheError):
            why = str(error)
        else:  # a bug of ours: calls must not suffer from it
            log.error("the prompt cache on disk broke: please report this", exc_info=error)
            why = f"{type(error).__name__}: {error}"
            self._is_broken = True
        if not self._off:
            self._off = why
            self._retry_at = math.inf if self._is_broken else time.monotonic() + RETRY_SECONDS
            if why != self._reported:
                self._reported = why
                log.warning("the prompt cache goes on in memory alone: %s", why)

    def _turn_full(self, error: FullDisk) -> None:
        if not self._full:
            self._full = str(error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            if self._full != self._reported:
                self._reported = self._full
                log.warning("new answers are kept in memory alone: %s", self._full)

    # --- the reader's thread

    def _read_all(self) -> None:
        with contextlib.closing(_Connection(self)) as store:
            while (job := self._asked.get()) is not None:
                job(store)

    def _read(self, store: _Connection, action: Callable[[AnswerStore], T]) -> T | None:
        """Do it; None where it cannot be done."""
        if not self._off:
            try:
                return store.run(action)
            except BusyStore as e:
                log.info("a lookup on disk was skipped: %s", e)
            except Exception as e:
                self._turn_off(e)
        return None

    # --- the writer's thread

    def _write_all(self) -> None:
        with contextlib.closing(_Connection(self)) as store:
            while (job := self._handed_over.get()) is not None:
                if isinstance(job, threading.Event):
                    self._persist(store, lambda s: s.clear())
                    job.set()
                else:
                    began = time.thread_time()
                    if not job.cancelled:
                        self._write(store, job)
                    job.done = True
                    self._rest((time.thread_time() - began) * (1 / self._writer_share - 1))
                self._hurry.clear()

    def _rest(self, seconds: float) -> None:
        """Leave Python's lock and the cores to others, unless much waits."""
        until = time.monotonic() + seconds
        while not self._closing and self._waiting < MOST_PENDING // 2 and (left := until - time.monotonic()) > 0:
            if self._hurry.wait(min(left, 0.05)):
                break

    def _write(self, store: _Connection, work: _Work) -> None:
        answers = list(work.answers.items())
        uses = list(work.uses)
        rows = self._persist(store, lambda s: s.write(answers, uses, work.drops, work.hits, len(work.drops)))
        work.rows = rows or work.rows
        while self._persist(store, lambda s: s.evict(self.limit)):
            pass

    def _persist(self, store: _Connection, action: Callable[[AnswerStore], T]) -> T | None:
        """Do it, and try again while other processes are in the way; None where it cannot be done."""
        while not self._off:
            try:
                return store.run(action)
            except BusyStore as e:
                log.info("answers are written to disk later: %s", e)
                if self._closing:
                    break
                time.sleep(BUSY_PAUSE_SECONDS)
            except FullDisk as e:
                self._turn_full(e)
                break
            except Exception as e:
                self._turn_off(e)
        return None


class _Connection:
    """A thread's store: opened when first used, and again when it proved damaged or another process replaced it."""

    def __init__(self, tier: DiskTier) -> None:
        self._tier = tier
        self._store: AnswerStore | None = None
        self._repairs = 0

    def run(self, action: Callable[[AnswerStore], T]) -> T:
        """What ``action`` makes of the store."""
        directory = self._tier.directory
        while True:
            if self._store is not None and self._store.moved:
                self._replace("it was replaced while in use")
            if self._store is None:
                self._store = self._tier._open_store(directory)
            try:
                return action(self._store)
            except DamagedStore as e:
                damaged, self._store = self._store, None  # set_aside closes it, whatever comes
                set_aside(directory, damaged, str(e))
                self._replace(str(e))

    def _replace(self, why: str) -> None:
        self.close()
        self._tier._is_another_store.set()
        self._repairs += 1
        if self._repairs > REPAIRS:
            raise CacheError(
                f"the store in {self._tier.directory} had to be made anew {REPAIRS} times, last because {why}; check "
                "the disk, and that one release of spark_helium uses the directory"
            )

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
