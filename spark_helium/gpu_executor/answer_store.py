"""Answers of earlier calls in a file: the store below the prompt cache's disk tier.

The store is SQLite, through Python's standard library: no new dependency, a file format that is kept readable for
decades, crash-safe transactions, several processes at once (daemons of different configurations share one store, as
the engine's fingerprint is part of every key). The embedded stores that were weighed against it: LMDB maps its file
into memory and trusts it, so that a flipped byte or a cut-off file ends the daemon by a signal instead of an error;
RocksDB takes one process only; diskcache is SQLite too, with a pickle per value and a statement per key.

What matters for speed is how often Python's global lock is let go: once per statement or row, and each time a busy
thread may keep it for 5 ms. So a bulk lookup is one statement, and so are thousands of insertions.

::

    DIRECTORY/            0700
        lock              held (flock) while a store is opened, made, or set aside
        store/            answers.sqlite, its write-ahead log (-wal) and index (-shm)
        aside/            the last store that was damaged or of another format

Rows lie in the order of their last use: ``used`` is the table's row number, which no other row ever gets, and a use
moves the row to the end. So
eviction deletes a run of rows at the beginning, an insertion appends, and only the index over keys is written to in
random places. A commit is on the disk when it returns (``synchronous=FULL``). Answers are not compressed: see
``benchmarks/prompt_cache.py`` for what it would save and cost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

from spark_helium.errors import CacheError
from spark_helium.gpu_executor.key_filter import PREFIX_BYTES
from spark_helium.gpu_executor.lifecycle import privacy_problem
from spark_helium.gpu_executor.prompt_cache import Answer, CacheKey

log = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = 1  # of the file; a change of the schema or of how an answer is written is another one
APPLICATION = 0x53484331  # "SHC1": what SQLite's header says the file belongs to
BUSY_SECONDS = 5.0  # longest wait for another process's transaction
LOCK_SECONDS = 5.0  # longest wait for another process that opens the store
EVICTED_AT_ONCE = 4096  # rows of one transaction
VACUUMED_AT_ONCE = 2000  # pages given back to the file system in one transaction
LOG_BYTES = 16 << 20  # of the write-ahead log, from which on it is carried over into the file
ROWS_AT_ONCE = 8192  # of one statement; more cost more memory, fewer change hands of Python's lock more often
ROW_BYTES = 48  # about what a row takes besides its answer: key twice, checksum, row number, headers

# What the disk or its permissions are the reason of, by SQLite's primary result codes.
_NO_MEMORY, _PERMISSION, _READ_ONLY, _IO_ERROR, _FULL, _CANNOT_OPEN, _NO_LARGE_FILES, _NOT_ALLOWED = (
    7, 3, 8, 10, 13, 14, 22, 23,
)  # fmt: skip
_UNUSABLE = {_NO_MEMORY, _PERMISSION, _READ_ONLY, _IO_ERROR, _FULL, _CANNOT_OPEN, _NO_LARGE_FILES, _NOT_ALLOWED}
_BUSY = {5, 6, 15}  # busy, locked, protocol: other processes are in the way
_MOVED = 1032  # SQLITE_READONLY_DBMOVED
_NO_ROOM = {4874}  # SQLITE_IOERR_SHMSIZE: the index of the log cannot grow
_NEXT_STEP = "give access to it, or set spark.helium.cache.directory to another directory"

_SCHEMA = """
CREATE TABLE answers (
  used INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, checksum INTEGER NOT NULL, answer BLOB NOT NULL
);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('hits', 0), ('damaged', 0);
"""


class DamagedStore(Exception):
    """The store's file is not what it should be: damaged, or of another format."""


class FullDisk(CacheError):
    """There is no room for what the store writes, be it a log."""


class BusyStore(Exception):
    """Other processes kept the store for too long, or moved it just now; later it may work."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds.

    ``bytes`` is what the entries take of the file's ``file_bytes`` (the log beside it included); ``hits`` and
    ``damaged`` (entries dropped as their checksum was wrong) count since the store was made or cleared.
    """

    entries: int = 0
    bytes: int = 0
    file_bytes: int = 0
    hits: int = 0
    damaged: int = 0


def encode(entry: tuple[CacheKey, Answer]) -> tuple[CacheKey, int, bytes]:
    """An entry as it is stored: key, checksum of key and answer, and a flag byte with the text.

    The key is part of the checksum, so that a row that damage gave another row's answer is found out.
    """
    key, (text, truncated) = entry
    data = (b"\1" if truncated else b"\0") + text.encode("utf-8", "surrogatepass")
    return key, crc32(data, crc32(key)), data


def decode(key: CacheKey, checksum: object, data: object) -> Answer | None:
    """The answer of a stored entry, or None if it is damaged."""
    if not isinstance(data, bytes) or data[:1] not in (b"\0", b"\1") or crc32(data, crc32(key)) != checksum:
        return None
    return data[1:].decode(errors="surrogatepass"), data[:1] == b"\1"


class AnswerStore:
    """One connection to the store of a directory, for one thread at a time.

    Every method may raise :class:`~spark_helium.errors.CacheError` (disk full, no permission, input or output
    error), :class:`DamagedStore` or :class:`BusyStore`. A transaction that fails leaves the store as it was.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, identity: os.stat_result) -> None:
        self._path = path
        self._connection = connection
        self._identity = identity
        self._rows_at_once = min(ROWS_AT_ONCE, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // 3)
        self._page_size = int(self._value("PRAGMA page_size"))

    @classmethod
    def open(cls, directory: Path, busy_seconds: float = BUSY_SECONDS) -> AnswerStore:
        """Open the directory's store, and make what is not there. A store that is damaged or of another format is set
        aside with a warning, and a new one made.

        Raises
        ------
        CacheError
            The directory is not private to the user, or cannot be made or written.
        BusyStore
            Another process has been opening it for too long.
        """
        path = store_path(directory)
        with _alone(directory):
            try:
                return cls._open(path, busy_seconds)
            except DamagedStore as e:
                _set_aside(directory, str(e))
            try:
                return cls._open(path, busy_seconds)
            except DamagedStore as e:  # a new one: the disk does not keep what is written
                raise CacheError(f"{path} is damaged as soon as it is made: {e}; check the disk") from e

    @classmethod
    def _open(cls, path: Path, busy_seconds: float) -> AnswerStore:
        with _told(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            is_new = not path.exists()
            connection = sqlite3.connect(
                path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=16
            )
        try:
            with _told(path):
                connection.text_factory = bytes  # a damaged text must not end in a decoder
                execute = connection.execute
                execute("PRAGMA cell_size_check = ON")
                execute("PRAGMA synchronous = FULL")
                execute("PRAGMA cache_size = -8000")
                execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
                execute(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // 4096}")
                if is_new:
                    execute("PRAGMA auto_vacuum = INCREMENTAL")
                    _use_log(connection, path)
                    connection.executescript(
                        f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION};"
                        f"PRAGMA user_version = {FORMAT}; COMMIT;"
                    )
                else:
                    (application,), (version,) = (
                        execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
                    )
                    if application != APPLICATION or version != FORMAT:
                        what = f"of format {version}" if application == APPLICATION else "no prompt cache"
                        raise DamagedStore(f"it is {what}, and this release writes format {FORMAT}")
                    _use_log(connection, path)
                return cls(path, connection, path.stat())
        except BaseException:
            connection.close()
            raise

    @property
    def moved(self) -> bool:
        """Whether the file at the store's path is another one by now: somebody set the store aside, or removed it."""
        try:
            return not os.path.samestat(self._path.stat(), self._identity)
        except FileNotFoundError:
            return True
        except OSError as e:
            raise CacheError(f"cannot look at {self._path}: {e}") from e

    def lookup(self, keys: Sequence[CacheKey]) -> tuple[dict[CacheKey, Answer], list[CacheKey]]:
        """The answers that are there, by key, and the keys of those that are there but damaged."""
        found: dict[CacheKey, Answer] = {}
        damaged = []
        with _told(self._path):
            for part in self._parts(keys):
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, checksum, answer FROM answers WHERE key IN ({marks})", part
                ).fetchall()
                for key, checksum, data in rows:
                    answer = decode(key, checksum, data)
                    if answer is None:
                        damaged.append(key)
                    else:
                        found[key] = answer
        return found, damaged

    def write(
        self,
        answers: Sequence[tuple[CacheKey, Answer]] = (),
        used: Sequence[CacheKey] = (),
        dropped: Sequence[CacheKey] = (),
        hits: int = 0,
        damaged: int = 0,
    ) -> tuple[int, int]:
        """Drop entries, make ``used`` ones the most recent, add ``answers`` as more recent still; one transaction.

        Returns the newest row number before and after it.
        """
        with self._transaction() as execute:
            before = self._newest()
            for part in self._parts(dropped):
                execute(f"DELETE FROM answers WHERE key IN ({','.join('?' * len(part))})", part)
            for part in self._parts(used):
                # REPLACE removes the old row, and a row without a number goes to the end.
                numbered = ",".join(f"({n},?)" for n in range(len(part)))
                execute(
                    "INSERT OR REPLACE INTO answers (key, checksum, answer) SELECT a.key, a.checksum, a.answer "
                    f"FROM (VALUES {numbered}) AS u CROSS JOIN answers AS a ON a.key = u.column2 ORDER BY u.column1",
                    part,
                )
            for entries in self._parts(answers):
                marks = ",".join(["(?,?,?)"] * len(entries))
                values = list(chain.from_iterable(map(encode, entries)))
                execute(f"INSERT OR REPLACE INTO answers (key, checksum, answer) VALUES {marks}", values)
            for name, count in (("hits", hits), ("damaged", damaged)):
                if count:
                    execute("UPDATE counters SET value = value + ? WHERE name = ?", (count, name))
            return before, self._newest()

    def keys_since(self, row: int, most: int) -> tuple[int, int, bytes]:
        """The keys of the ``most`` oldest entries that were added or used after row number ``row``.

        Returns their number, the newest row number among them (``row`` if there are none; less if the store is empty or
        another one), and the first :data:`~.key_filter.PREFIX_BYTES` of each, back to back.
        """
        with _told(self._path):
            newest = self._newest()
            if newest < row:
                return 0, newest, b""
            # One row of text, not a row per key, because of Python's lock.
            count, last, text = self._connection.execute(
                f"""SELECT count(*), max(used), group_concat(hex(substr(key, 1, {PREFIX_BYTES})), '') FROM (
                      SELECT used, key FROM answers WHERE used > ? ORDER BY used LIMIT ?)""",
                (row, most),
            ).fetchone()
        try:
            return count, row if last is None else last, bytes.fromhex((text or b"").decode())
        except (ValueError, AttributeError) as e:
            raise DamagedStore(f"its keys are not what they should be: {e}") from e

    def evict(self, limit: int) -> bool:
        """Bring the file towards ``limit`` bytes by dropping the least recently used entries; True if there is more
        to do. Takes a bounded time.

        It begins at fifteen sixteenths of the limit, so that what is written until the next call has room.
        """
        with self._transaction() as execute:
            pages, free = self._pages()
            allowed = limit // 16 * 15
            excess = (pages - free) * self._page_size - allowed
            if excess <= 0 and pages * self._page_size <= limit:
                return False
            if excess > 0:
                execute(
                    f"""DELETE FROM answers WHERE used <= (
                          SELECT coalesce(min(used) FILTER (WHERE bytes >= ?), max(used)) FROM (
                            SELECT used, sum({ROW_BYTES} + length(answer)) OVER (ORDER BY used) AS bytes
                            FROM (SELECT used, answer FROM answers ORDER BY used LIMIT {EVICTED_AT_ONCE})))""",
                    (excess,),
                )
            empty = execute("SELECT used FROM answers LIMIT 1").fetchone() is None
        with _told(self._path):
            pages, free = self._pages()
            if pages * self._page_size > limit:
                self._give_back(VACUUMED_AT_ONCE)
                pages, free = self._pages()
        over = (pages - free) * self._page_size > allowed and not empty
        return over or (free > 0 and pages * self._page_size > limit)

    def info(self) -> StoreInfo:
        """What the store holds. Counts the entries, which takes a while for millions."""
        with _told(self._path):
            entries = self._value("SELECT count(*) FROM answers")
            pages, free = self._pages()
            counters = dict(self._connection.execute("SELECT name, value FROM counters").fetchall())
        files = sum(file.stat().st_size for file in self._path.parent.iterdir())
        return StoreInfo(
            entries=int(entries),
            bytes=(pages - free) * self._page_size,
            file_bytes=files,
            hits=int(counters[b"hits"]),
            damaged=int(counters[b"damaged"]),
        )

    def clear(self) -> None:
        """Drop all entries, and give their room back to the file system."""
        with self._transaction() as execute:
            execute("DELETE FROM answers")
            execute("UPDATE counters SET value = 0")
        with _told(self._path):
            self._give_back(self._pages()[1])
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the connection; the last one of all processes tidies up the log."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _newest(self) -> int:
        return int(self._value("SELECT coalesce(max(used), 0) FROM answers"))

    def _pages(self) -> tuple[int, int]:
        """Pages of the file, and how many of them are free."""
        return int(self._value("PRAGMA page_count")), int(self._value("PRAGMA freelist_count"))

    def _give_back(self, pages: int) -> None:
        # As a script: execute() would take one step, which is one page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _value(self, sql: str) -> Any:
        return self._connection.execute(sql).fetchone()[0]

    def _parts(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(items), self._rows_at_once):
            yield items[start : start + self._rows_at_once]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with _told(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise


def store_path(directory: Path) -> Path:
    """The store's file."""
    return directory / "store" / "answers.sqlite"


def set_aside(directory: Path, store: AnswerStore, why: str) -> None:
    """Close a store that proved damaged and move it out of the way, unless another process has done so already."""
    store.close()
    with _alone(directory):
        if not store.moved:
            _set_aside(directory, why)


def aside_path(directory: Path) -> Path:
    """Where the last store lies that could not be used."""
    return directory / "aside"


def remove_aside(directory: Path) -> None:
    """Delete the store that was set aside, if there is one."""
    if aside_path(directory).exists():
        with _alone(directory):
            shutil.rmtree(aside_path(directory), ignore_errors=True)


def run_once(directory: Path, action: Callable[[AnswerStore], T]) -> T | None:
    """Open the directory's store for one action; None if there is no store.

    Raises
    ------
    CacheError
        It cannot be used, or other processes kept it busy.
    """
    if not store_path(directory).exists():
        return None
    while True:
        try:
            store = AnswerStore.open(directory)
            try:
                return action(store)
            except DamagedStore as e:
                set_aside(directory, store, str(e))
            finally:
                store.close()
        except BusyStore as e:
            raise CacheError(f"other processes use the prompt cache in {directory}: {e}; try again") from e


def clear(directory: Path) -> bool:
    """Drop all that a directory's store holds; False if there is none. Where the disk is too full for a transaction the
    store's files are removed, which processes that have them open find out.

    Raises
    ------
    CacheError
        It cannot be used, or other processes kept it busy.
    """
    remove_aside(directory)
    if not store_path(directory).exists():
        return False
    try:
        run_once(directory, lambda store: store.clear())
    except FullDisk:
        with _alone(directory):
            shutil.rmtree(store_path(directory).parent, ignore_errors=True)
    return True


def _set_aside(directory: Path, why: str) -> None:
    store, aside = store_path(directory).parent, aside_path(directory)
    log.warning(
        "the prompt cache's store %s cannot be used (%s): it is set aside as %s, and a new one begins",
        store,
        why,
        aside,
    )
    try:
        shutil.rmtree(aside, ignore_errors=True)  # one is enough to look at, and more would fill the disk
        store.rename(aside)
    except OSError as e:
        raise CacheError(f"cannot move the damaged {store} to {aside}: {e}; remove it by hand") from e


def _use_log(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode not in (b"wal", "wal"):
        raise CacheError(
            f"the file system of {path} does not take a write-ahead log; set spark.helium.cache.directory to a "
            "directory on a disk of this node"
        )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into what the store raises."""
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorcode", None)
        if code is None:  # the sqlite3 module's own: wrong use
            raise
        if code == _MOVED or code & 0xFF in _BUSY:
            raise BusyStore(f"{e} ({e.sqlite_errorname})") from e
        if code & 0xFF == _FULL or code in _NO_ROOM:
            raise FullDisk(
                f"cannot write to {path}: {e} ({e.sqlite_errorname}); make room on the disk, or lower "
                "spark.helium.cache.disk.maxBytes"
            ) from e
        if code & 0xFF in _UNUSABLE:
            raise CacheError(f"cannot use {path}: {e} ({e.sqlite_errorname}); {_NEXT_STEP}") from e
        raise DamagedStore(f"{e} ({e.sqlite_errorname})") from e
    except OSError as e:
        if isinstance(e, CacheError):
            raise
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDisk(f"cannot write to {path}: {e}; make room on the disk") from e
        raise CacheError(f"cannot use {path}: {e}; {_NEXT_STEP}") from e


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; makes the directory if need be, and refuses one that is not the user's alone."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        problem = privacy_problem(directory)
        if problem:
            raise CacheError(
                f"refusing to keep answers in {str(directory)!r}: {problem}. Give it the mode 0700, or set "
                "spark.helium.cache.directory to a new directory of your own"
            )
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if isinstance(e, CacheError):
            raise
        raise CacheError(f"cannot use the directory {str(directory)!r}: {e}; {_NEXT_STEP}") from e
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyStore(f"another process has held {directory / 'lock'} for {LOCK_SECONDS:.0f} s") from None
                time.sleep(0.01)
            except OSError as e:
                raise CacheError(f"cannot lock {directory / 'lock'}: {e}; {_NEXT_STEP}") from e
        yield
    finally:
        os.close(lock)
