"""All contact with the inside of PySpark's worker process.

Two things are wanted that PySpark does not offer to a function it runs. A batch of answers should reach the
JVM when it is ready, not when 64 KiB of output have gathered. And when the JVM hangs up (the task was killed, a
LIMIT has what it needs), calls in flight should stop, although nobody reads or writes just then.

Both need the worker's files. They are local variables of ``pyspark.worker.main`` a few frames up. Where they
are not, everything still works, only later: output leaves with PySpark's buffer, and a hang-up is noticed at the
next read or write.
"""

from __future__ import annotations

import select
import sys
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Self

_HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL


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
            poll.register(jvm, _HANG_UP & ~(select.POLLHUP | select.POLLERR | select.POLLNVAL))
        events = dict(poll.poll(None if seconds is None else max(0, seconds * 1000)))
        if events.get(jvm, 0) & _HANG_UP:
            raise TaskGoneError("the JVM closed its connection to this Spark worker")
        return descriptor in events


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value.fileno(), int)
    except (AttributeError, OSError, ValueError):
        return False


def query_id() -> str:
    """What tells this task's query from others: the SQL execution; empty outside of a Spark task."""
    try:
        from pyspark import TaskContext
    except ImportError:
        return ""
    context = TaskContext.get()
    execution = None if context is None else context.getLocalProperty("spark.sql.execution.id")
    return "" if execution is None else execution
