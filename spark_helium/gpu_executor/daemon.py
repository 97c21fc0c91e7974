"""The node daemon: an Arrow Flight server on a Unix socket in front of the dispatcher.

Run by :func:`spark_helium.gpu_executor.lifecycle.ensure_daemon` or ``spark-helium serve``. Threads: the main
one waits for a reason to exit; gRPC's, one per open stream, each with a second one that writes answers; the
dispatcher's, which does the work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import pyarrow as pa
from pyarrow import flight

from spark_helium.call_graph import CallGraph
from spark_helium.conf import Settings
from spark_helium.errors import DaemonStartError, HeliumError
from spark_helium.gpu_executor import engines
from spark_helium.gpu_executor.arrays import column_values, flag_array, int64_array, text_array
from spark_helium.gpu_executor.budget import Budget
from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.dispatcher import Dispatcher
from spark_helium.gpu_executor.engine_memory import EngineMemory
from spark_helium.gpu_executor.engine_pool import Create
from spark_helium.gpu_executor.last_words import last_words, read_from, size_of
from spark_helium.gpu_executor.lifecycle import AliveLock, DaemonFiles, cache_directory, owner_lives, package_version
from spark_helium.gpu_executor.messages import Accepted, Attend, EndOfRows, Fatal, Owner, Report, Status, StreamHeader
from spark_helium.gpu_executor.stream import Answers, Stream

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.5  # how often the main thread looks for a reason to exit
SHUTDOWN_SECONDS = 5.0  # longest wait for open streams to take note of the end


def answer_schema(calls: int) -> pa.Schema:
    """Schema of the answers to a graph with this many calls."""
    fields = [pa.field("row", pa.int64())]
    for k in range(calls):
        fields += [(f"text{k}", pa.string()), (f"reason{k}", pa.string()), (f"truncated{k}", pa.bool_())]
    return pa.schema(fields)


def answers_to_batch(answers: Answers, schema: pa.Schema) -> pa.RecordBatch:
    """The wire form of finished rows."""
    size = len(answers.rows)
    arrays = [int64_array(answers.rows)]
    for texts, reasons, truncated in zip(answers.texts, answers.reasons, answers.truncated, strict=True):
        arrays.append(text_array(texts))
        arrays.append(text_array([reasons.get(i) for i in range(size)]) if reasons else pa.nulls(size, pa.string()))
        arrays.append(flag_array(size, truncated))
    return pa.record_batch(arrays, schema=schema)


def _disk_tier(settings: Settings) -> DiskTier | None:
    if not settings["cache.disk.enabled"]:
        return None
    try:
        return DiskTier(cache_directory(settings), settings["cache.disk.maxBytes"])
    except (OSError, RuntimeError) as e:  # no home, or a path that cannot be looked at
        log.warning("answers are not kept on disk: %s; set spark.helium.cache.directory", e)
        return None


class Daemon:
    """What the server and the main thread share: streams that are open, owners, reasons to exit.

    Parameters
    ----------
    settings: the configuration; its engine-related part is the daemon's identity.
    files: where the socket and the log are.
    by_hand: whether a person started it, who then also ends it.
    stays: whether it stays when idle, whatever ``executor.idleTimeout`` says.
    owner: on whose behalf it was started; others follow with their streams, or say so (:meth:`attend`).
    create: makes a model's engine of a kind; given by tests only.
    """

    def __init__(
        self,
        settings: Settings,
        files: DaemonFiles,
        *,
        by_hand: bool = False,
        stays: bool = False,
        owner: Owner | None = None,
        create: Create | None = None,
    ) -> None:
        self._settings = settings
        self._files = files
        self._by_hand = by_hand
        self._started = self._active = time.monotonic()
        self._idle_timeout = math.inf if stays else settings["executor.idleTimeout"] / 1000
        self._owners: set[Owner] = set() if owner is None else {owner}
        self._streams = 0
        self._closing = False
        self._lock = threading.Lock()  # guards the five above
        self._stop = threading.Event()
        self.dispatcher = Dispatcher(
            create or (lambda model, kind: engines.create(model, settings, kind)),
            settings["cache.memory"],
            self._log_since,
            _disk_tier(settings),
            EngineMemory.of(settings),
        )

    # --- called by the server's threads

    def open(self, header: StreamHeader, deliver: Callable[[Answers | Fatal], None]) -> Stream | None:
        """Open a stream; None when the daemon is about to exit."""
        stream = Stream(
            CallGraph.from_json(header.graph),
            deliver,
            cache=header.cache,
            query=header.query,
            start_timeout=header.start_timeout,
            pin_min_tokens=header.pin_min_tokens,
            expected_calls=header.expected_calls,
            retries=header.retries,
            retry_backoff=header.retry_backoff,
            budget=Budget(header.max_calls, header.max_tokens),
            cascade_rows=header.cascade_rows,
            ordered=header.ordered,
            namespace=header.namespace,
            isolated=header.isolated,
        )
        with self._lock:
            if self._closing:
                return None
            self._streams += 1
            if header.owner is not None:
                self._owners.add(header.owner)
            if not self._by_hand:
                self._idle_timeout = header.idle_timeout
        self.dispatcher.open(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """End a stream that :meth:`open` gave."""
        self.dispatcher.close(stream)
        with self._lock:
            self._streams -= 1
            self._active = time.monotonic()

    def attend(self, message: Attend) -> bool:
        """Take note of an executor, and start the engines that it wants; False when the daemon is about to exit."""
        with self._lock:
            if self._closing:
                return False
            if message.owner is not None:
                self._owners.add(message.owner)
            self._active = time.monotonic()
        for model in message.models:
            self.dispatcher.warm_up(model)
        return True

    def status(self) -> Status:
        """What ``spark-helium status`` shows."""
        state = self.dispatcher.status()
        now = time.monotonic()
        return Status(
            pid=os.getpid(),
            package=package_version(),
            identity=self._files.identity,
            uptime=now - self._started,
            idle=0.0 if self._streams else now - self._active,
            by_hand=self._by_hand,
            streams=self._streams,
            calls_in_flight=state.calls_in_flight,
            rows_answered=state.rows_answered,
            counters=state.counters,
            cache_entries=state.cache_entries,
            cache_bytes=state.cache_bytes,
            cache_limit=self._settings["cache.memory"],
            cache_hits=state.cache_hits,
            cache_disk=state.cache_disk,
            owners=tuple(sorted(owner.pid for owner in self._owners)),
            engines=state.engines,
            engine_swaps=state.engine_swaps,
        )

    def request_stop(self) -> None:
        """Make the main thread leave :meth:`wait`."""
        self._stop.set()

    # --- called by the main thread

    def wait(self) -> str:
        """Serve until there is a reason to exit; returns it. No stream opens afterwards."""
        while not self._stop.wait(CHECK_SECONDS):
            reason = self._reason_to_exit()
            if reason:
                return reason
        with self._lock:
            self._closing = True
        return "it was stopped"

    def _reason_to_exit(self) -> str:
        if not self.dispatcher.alive:
            with self._lock:
                self._closing = True
            return "its dispatcher broke"
        gone = {owner for owner in self._owners.copy() if not owner_lives(owner)}
        with self._lock:
            had_owners = bool(self._owners)
            self._owners -= gone
            if self._streams:
                return ""
            if had_owners and not self._owners and not self._by_hand:
                self._closing = True
                return "the Spark applications that used it are gone"
            if time.monotonic() - self._active > self._idle_timeout:
                self._closing = True
                return f"no calls for {self._idle_timeout:.0f} s"
        return ""

    def _log_since(self) -> Callable[[], str]:
        offset = size_of(self._files.log)
        return lambda: last_words(read_from(self._files.log, offset))


class Server(flight.FlightServerBase):
    """The Flight side: streams and actions."""

    def __init__(self, daemon: Daemon, location: str) -> None:
        super().__init__(location)
        self._daemon = daemon

    def do_exchange(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        """Serve one task. The end of its input, however it comes, is the end of the stream."""
        outbox: queue.SimpleQueue[Answers | Fatal | None] = queue.SimpleQueue()
        try:
            header = StreamHeader.decode(descriptor.command)
            stream = self._daemon.open(header, outbox.put)
        except (HeliumError, ValueError) as e:
            writer.write_metadata(Fatal(str(e)).encode())
            _drain(reader)  # a client that is still writing when we return would see that fail, not the reason
            return
        if stream is None:
            raise flight.FlightUnavailableError("the daemon is about to exit")
        writing = threading.Thread(target=_write, args=(writer, outbox, len(stream.graph.calls)), daemon=True)
        try:
            writer.begin(answer_schema(len(stream.graph.calls)))
            writer.write_metadata(Accepted(os.getpid()).encode())
            writing.start()
            while True:
                chunk = reader.read_chunk()
                batch = chunk.data
                if batch is None:
                    EndOfRows.decode(chunk.app_metadata.to_pybytes())
                    self._daemon.dispatcher.end(stream)
                    continue
                inputs = [column_values(column) for column in batch.columns[: stream.graph.inputs]]
                self._daemon.dispatcher.feed(stream, inputs, batch.num_rows)
        except StopIteration:
            pass  # the client has all it wanted, or is gone: gRPC does not tell these apart
        except (flight.FlightError, pa.ArrowException, OSError) as e:
            log.info("a stream broke off: %s", e)
        finally:
            self._daemon.close(stream)
            outbox.put(None)
            if writing.is_alive():
                writing.join()

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[bytes]:
        """``status`` (also the ping), ``attend``, ``clear-cache`` and ``stop``."""
        match action.type:
            case "status":
                try:
                    yield self._daemon.status().encode()
                except queue.Empty:
                    raise flight.FlightUnavailableError("the dispatcher does not answer") from None
            case "attend":
                if not self._daemon.attend(Attend.decode(action.body.to_pybytes())):
                    raise flight.FlightUnavailableError("the daemon is about to exit")
                yield b""
            case "clear-cache":
                if not self._daemon.dispatcher.clear_cache():
                    raise flight.FlightUnavailableError("the prompt cache could not be cleared in time")
                yield b""
            case "stop":
                self._daemon.request_stop()
                yield b""
            case other:
                raise flight.FlightServerError(f"unknown action {other!r}; known: status, attend, clear-cache, stop")

    def list_actions(self, context: flight.ServerCallContext) -> list[tuple[str, str]]:
        """What ``do_action`` knows."""
        return [
            ("status", "state of the daemon"),
            ("attend", "an executor is there"),
            ("clear-cache", "forget all answers"),
            ("stop", "end the daemon"),
        ]


def _drain(reader: flight.MetadataRecordBatchReader) -> None:
    with contextlib.suppress(StopIteration, flight.FlightError, pa.ArrowException, OSError):
        while True:
            reader.read_chunk()


def _write(
    writer: flight.MetadataRecordBatchWriter, outbox: queue.SimpleQueue[Answers | Fatal | None], calls: int
) -> None:
    """Send what the dispatcher delivers, until None."""
    schema = answer_schema(calls)
    try:
        while (item := outbox.get()) is not None:
            if isinstance(item, Fatal):
                writer.write_metadata(item.encode())
            else:
                report = Report(item.counters, item.pinned_tokens)
                writer.write_with_metadata(answers_to_batch(item, schema), report.encode())
    except (flight.FlightError, pa.ArrowException, OSError) as e:
        log.info("a client went away: %s", e)


def serve(
    settings: Settings,
    files: DaemonFiles,
    *,
    by_hand: bool = False,
    stays: bool = False,
    models: Sequence[str] = (),
    owner: Owner | None = None,
    on_ready: Callable[[], None] = lambda: None,
    create: Create | None = None,
) -> None:
    """Be the daemon until there is a reason to exit.

    Raises
    ------
    DaemonStartError
        Another daemon of the same configuration is alive.
    """
    alive = AliveLock(files)
    if not alive.acquire():
        raise DaemonStartError(f"another daemon of this configuration is alive; its socket is {files.socket}")
    daemon = Daemon(settings, files, by_hand=by_hand, stays=stays, owner=owner, create=create)

    def on_signal(number: int, frame: FrameType | None) -> None:
        daemon.request_stop()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    files.socket.unlink(missing_ok=True)  # whoever left it is dead: we hold its lock
    daemon.dispatcher.start()
    server = Server(daemon, files.location)
    log.info("daemon %s serves on %s", files.identity, files.socket)
    for model in models:
        daemon.dispatcher.warm_up(model)
    on_ready()
    try:
        reason = daemon.wait()
        log.info("exiting: %s", reason)
        alive.mark_stopping()
        daemon.dispatcher.stop(f"the node's daemon exited: {reason}")
    finally:
        # Waits for open streams, whose clients got the reason just now. One that does not listen must not hold us.
        closing = threading.Thread(target=server.shutdown, daemon=True)
        closing.start()
        closing.join(SHUTDOWN_SECONDS)
        alive.remove_files()
        for number, handler in previous.items():
            signal.signal(number, handler)


def guard_children() -> None:
    """Kill what is left of this process group when this process ends, so that no engine is left behind.

    A shell waits on a pipe whose other end only the daemon holds: it sees the daemon's end whatever the cause.
    """
    if os.getpgrp() != os.getpid():
        return  # the group is a terminal's or a test's: not ours to kill
    out, held = os.pipe()
    os.register_at_fork(after_in_child=lambda: os.close(held))
    command = ["/bin/sh", "-c", 'read -r _; kill -KILL "-$0" 2>/dev/null', str(os.getpid())]
    subprocess.Popen(command, stdin=out, start_new_session=True, cwd="/")
    os.close(out)


def configure_logging() -> None:
    """Log to standard error, which the starter pointed to the log file."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the process that :func:`ensure_daemon` starts."""
    parser = argparse.ArgumentParser(prog="spark_helium daemon")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--stays", action="store_true")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--owner", nargs=2, metavar=("PID", "CREATED"))
    options = parser.parse_args(arguments)
    configure_logging()
    files = DaemonFiles(options.directory, options.identity)
    settings = Settings(json.loads(files.settings.read_text()))
    owner = None if options.owner is None else Owner(int(options.owner[0]), float(options.owner[1]))
    guard_children()
    try:
        serve(settings, files, by_hand=options.by_hand, stays=options.stays, models=options.model, owner=owner)
    except HeliumError as e:
        log.critical("%s", e)
        sys.exit(1)
    logging.shutdown()
    os._exit(0)  # threads of gRPC and of engines must not hold a daemon that is done


if __name__ == "__main__":
    main()
