"""The daemon's client: control actions, and one task's stream of rows."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
from pyarrow import flight

from spark_helium.conf import Settings
from spark_helium.errors import DaemonError, HeliumError
from spark_helium.gpu_executor.last_words import last_words, read_from, size_of
from spark_helium.gpu_executor.lifecycle import DaemonFiles, answers, ensure_daemon, find_owner, is_alive
from spark_helium.gpu_executor.messages import (
    Accepted,
    Attend,
    Counters,
    EndOfRows,
    Fatal,
    Report,
    Status,
    StreamHeader,
    WireMessage,
)

CLEAR_SECONDS = 90.0  # longest wait for a daemon to forget what it has on disk
GONE_SECONDS = 1.0  # longest wait for the system to let go of a dead daemon's lock
ATTEMPTS = 3  # a daemon may decide to exit between being found and being used


def ping(files: DaemonFiles, timeout: float = 5.0) -> Status | None:
    """The status of the daemon, or None when none answers.

    Raises
    ------
    ProtocolError
        The daemon speaks another version.
    """
    if not answers(files.socket):
        return None
    try:
        return Status.decode(_act(files, "status", timeout))
    except flight.FlightError:
        return None


def stop(files: DaemonFiles) -> bool:
    """Ask the daemon to stop; False when none answers."""
    try:
        _act(files, "stop", 3.0)
    except flight.FlightError:
        return False
    return True


def clear_cache(files: DaemonFiles) -> bool:
    """Make the daemon forget what its prompt cache holds; False when it does not answer."""
    try:
        _act(files, "clear-cache", CLEAR_SECONDS)
    except flight.FlightError:
        return False
    return True


def attend(files: DaemonFiles, message: Attend, timeout: float = 5.0) -> bool:
    """Tell the daemon that an executor is there; False when it does not answer, or is about to exit."""
    try:
        _act(files, "attend", timeout, message.encode())
    except flight.FlightError:
        return False
    return True


def _act(files: DaemonFiles, action: str, timeout: float, body: bytes = b"") -> bytes:
    with flight.connect(files.location) as client:
        results = client.do_action(flight.Action(action, body), flight.FlightCallOptions(timeout=timeout))
        return b"".join(result.body.to_pybytes() for result in results)


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Finished rows as they came: ``row`` and, per call, ``textK``, ``reasonK``, ``truncatedK``."""

    batch: pa.RecordBatch
    counters: Counters
    pinned_tokens: int = 0


class RowStream:
    """One task's rows to the daemon and back.

    Sending and receiving are independent: a thread of the stream takes in answers and makes :meth:`fileno`
    readable, so that the caller can wait for answers and for other things at once. Create it after a fork, and
    do not take it across one.

    Not safe for use by several threads.
    """

    def __init__(self, files: DaemonFiles, header: StreamHeader, schema: pa.Schema) -> None:
        self._files = files
        self._log_start = size_of(files.log)
        self._arrived: deque[AnswerBatch | Fatal] = deque()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._ended = False
        self._client = flight.connect(files.location)
        try:
            descriptor = flight.FlightDescriptor.for_command(header.encode())
            self._writer, self._reader = self._client.do_exchange(descriptor)
            with contextlib.suppress(flight.FlightError, OSError):
                self._writer.begin(schema)  # fails when the daemon has said no already; its reason is read next
            first = WireMessage.decode(self._reader.read_chunk().app_metadata.to_pybytes())
        except BaseException:
            self._client.close()
            self._close_pipe()
            raise
        self._receiver = threading.Thread(target=self._receive_all, name="helium answers", daemon=True)
        if isinstance(first, Accepted):
            self._daemon = first.pid
            self._receiver.start()
        else:
            assert isinstance(first, Fatal), f"a stream began with {first}"
            self._arrived.append(first)
            os.write(self._wake_in, b"x")

    @classmethod
    def open(cls, settings: Settings, header: StreamHeader, schema: pa.Schema) -> Self:
        """Open a stream to the configuration's daemon on this node, starting it if need be.

        Raises
        ------
        DaemonStartError
            The daemon did not come up.
        DaemonError
            It came up and went away again.
        """
        trouble: Exception | None = None
        files = DaemonFiles.of(settings)
        for attempt in range(ATTEMPTS):
            if attempt or not answers(files.socket):
                ensure_daemon(settings)
            try:
                return cls(files, header, schema)
            except (flight.FlightError, OSError, StopIteration) as e:
                trouble = e
        raise DaemonError(f"the node's daemon ended {ATTEMPTS} times before it took a stream: {trouble}") from trouble

    @staticmethod
    def header(
        graph: str, settings: Settings, application: str, query: str, *, cache: bool = True, expected_calls: int = 0
    ) -> StreamHeader:
        """The header for a task of this process."""
        return StreamHeader(
            graph=graph,
            cache=cache and settings["cache.enabled"],
            query=query,
            application=application,
            owner=find_owner(),
            start_timeout=settings["executor.startTimeout"] / 1000,
            idle_timeout=settings["executor.idleTimeout"] / 1000,
            pin_min_tokens=settings["kv.pin.minTokens"] if settings["kv.pin.enabled"] else 0,
            expected_calls=expected_calls,
            retries=settings["retries.max"],
            retry_backoff=settings["retries.backoff"] / 1000,
            max_calls=settings["budget.maxCalls"],
            max_tokens=settings["budget.maxTokens"],
            cascade_rows=settings["cascade.windowRows"],
            ordered=settings["schedule.enabled"],
            namespace=settings["namespace"],
            isolated=settings["isolation"] == "query",
        )

    def send(self, batch: pa.RecordBatch) -> None:
        """Send rows. A stream that broke off says so in :meth:`receive`, not here."""
        with contextlib.suppress(flight.FlightError, pa.ArrowInvalid, OSError):
            self._writer.write_batch(batch)

    def end(self) -> None:
        """Say that no more rows will come; answers to those that were sent do."""
        with contextlib.suppress(flight.FlightError, pa.ArrowInvalid, OSError):
            self._writer.write_metadata(EndOfRows().encode())

    def fileno(self) -> int:
        """A descriptor that is readable when :meth:`receive` has something."""
        return self._wake_out

    def receive(self) -> list[AnswerBatch | Fatal]:
        """What arrived since the last time, without waiting. Nothing comes after a :class:`Fatal`."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_out, 4096)
        out = []
        while self._arrived:
            out.append(self._arrived.popleft())
        return out

    def _receive_all(self) -> None:
        try:
            while True:
                chunk = self._reader.read_chunk()
                message = WireMessage.decode(chunk.app_metadata.to_pybytes())
                if isinstance(message, Report):
                    self._arrived.append(AnswerBatch(chunk.data, message.counters, message.pinned_tokens))
                elif isinstance(message, Fatal):
                    self._arrived.append(message)
                    break
                os.write(self._wake_in, b"x")
        except StopIteration:
            self._arrived.append(Fatal(self._broke_off("closed the stream")))
        except HeliumError as e:
            self._arrived.append(Fatal(str(e)))
        except Exception as e:
            self._arrived.append(Fatal(self._broke_off(f"broke off: {type(e).__name__}: {e}")))
        with contextlib.suppress(OSError):
            os.write(self._wake_in, b"x")

    def _broke_off(self, how: str) -> str:
        if self._ended:
            return "the stream was closed"
        # Only the log's end since the stream began can have to do with it.
        words = last_words(read_from(self._files.log, self._log_start))
        said = f" The last words of its log, {self._files.log}:\n{words}" if words else f" Its log: {self._files.log}"
        if self._daemon_is_gone():
            # What gRPC says of it ("socket closed", "failed to connect") would only hide what happened.
            return (
                f"the node's daemon (process {self._daemon}) was killed or crashed while it answered this query. Run "
                "the query again: that starts a new daemon. If it happens again, look for the out-of-memory killer "
                f"(dmesg) and give the engine less memory or the machine more.{said}"
            )
        return f"the node's daemon {how[:300]}. Run the query again.{said}"

    def _daemon_is_gone(self) -> bool:
        deadline = time.monotonic() + GONE_SECONDS
        while is_alive(self._files):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """End the stream; the daemon aborts what is unfinished."""
        if self._ended:
            return
        self._ended = True
        self._reader.cancel()
        if self._receiver.is_alive():
            self._receiver.join(5.0)
        with contextlib.suppress(flight.FlightError, pa.ArrowInvalid, OSError):
            self._writer.close()
        self._client.close()
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._wake_in)
        os.close(self._wake_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
