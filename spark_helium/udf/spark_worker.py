"""All contact with the inside of PySpark's worker process.

Two things are wanted that PySpark does not offer to a function it runs. A batch of answers should reach the
JVM when it is ready, not when 64 KiB of output have gathered. And when the JVM hangs up (the task was killed, a
LIMIT has what it needs), calls in flight should stop, although nobody reads or writes just then.

Both need the worker's files. They are local variables of ``pyspark.worker.main`` a few frames up. Where they
are not, everything still works, only later: output leaves with PySpark's buffer, and a hang-up is noticed at the
next read or write.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Self

_HANG_UP_EVENTS = getattr(select, "POLLRDHUP", 0)
_HANG_UP = _HANG_UP_EVENTS | select.POLLHUP | select.POLLERR | select.POLLNVAL  # the last three need no asking


class TaskGoneError(ConnectionError):
    """The JVM hung up: nobody wants the rest of the answers."""


@dataclass(frozen=True, slots=True)
class SparkWorker:
    """The worker's two ends towards the JVM; None outside of a worker."""

    infile: IO[bytes] | None = None
    outfile: IO[bytes] | None = None

    @classmethod
    def find(cls) -> Self:
        """The worker that runs the caller."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "main" and frame.f_code.co_filename.replace("\\", "/").endswith("/worker.py"):
                infile, outfile = frame.f_locals.get("infile"), frame.f_locals.get("outfile")
                if _is_file(infile) and hasattr(outfile, "flush"):
                    return cls(infile, outfile)
            frame = frame.f_back
        return cls()

    def flush(self) -> None:
        """Send what was written so far to the JVM."""
        if self.outfile is not None:
            self.outfile.flush()

    def wait(self, descriptor: int, seconds: float | None) -> bool:
        """Wait until ``descriptor`` is readable, at most ``seconds``; says whether it is.

        Raises
        ------
        TaskGoneError
            The JVM hung up.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        jvm = -1 if self.infile is None else self.infile.fileno()
        if jvm >= 0:
            poll.register(jvm, _HANG_UP_EVENTS)
        events = dict(poll.poll(None if seconds is None else max(0, seconds * 1000)))
        if events.get(jvm, 0) & _HANG_UP:
            raise TaskGoneError("the JVM closed its connection to this Spark worker")
        return descriptor in events

    def end_with_the_jvm(self) -> None:
        """From now on, end this process as soon as the JVM hangs up on it. To call twice changes nothing.

        A LIMIT that has its rows is a normal end, but PySpark would find out by writing to the broken connection
        and print a traceback. Spark never reuses a worker that it hung up on, so that nothing is lost.
        """
        global _watched
        if self.infile is None or _watched or not _is_worker_process():
            return
        _watched = True
        # A descriptor of its own: PySpark opens and closes its files once per task.
        threading.Thread(target=_end_on_hang_up, args=(os.dup(self.infile.fileno()),), daemon=True).start()


_watched = False


def _end_on_hang_up(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, _HANG_UP_EVENTS)
    while not any(event & _HANG_UP for _, event in poll.poll()):
        pass
    os._exit(0)


def _is_worker_process() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in ("pyspark.daemon", "pyspark.worker")


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value.fileno(), int)
    except (AttributeError, OSError, ValueError):
        return False


GPUS_VARIABLE = "SPARK_HELIUM_EXECUTOR_GPUS"  # set by EvalLLMExec where the plugin knows the executor's GPUs


def gpu_addresses() -> tuple[str, ...]:
    """The GPUs that Spark gave the task, or else its executor; none where Spark gives none, or nobody told."""
    try:
        from pyspark import TaskContext
    except ImportError:
        return ()
    context = TaskContext.get()
    given = None if context is None else context.resources().get("gpu")
    if given is not None and given.addresses:
        return tuple(given.addresses)
    return tuple(address for address in os.environ.get(GPUS_VARIABLE, "").split(",") if address)


def query_id() -> str:
    """What tells this task's query from others; empty outside of a Spark task.

    That is the SQL execution. An action on an RDD is none; there it is the stage, which a later action has not.
    """
    try:
        from pyspark import TaskContext
    except ImportError:
        return ""
    context = TaskContext.get()
    if context is None:
        return ""
    execution = context.getLocalProperty("spark.sql.execution.id")
    return f"stage {context.stageId()}" if execution is None else execution
