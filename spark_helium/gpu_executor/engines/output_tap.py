"""A listener on this process's standard output and error, for engines that explain their death only there."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType
from typing import Self

_KEPT_LINES = 400


class OutputTap:
    """Inside ``with``, new child processes write through the tap; it passes everything on and keeps the last lines.

    The children keep their end of the pipe for life, so :meth:`lines` also has what they said last, long
    after the ``with`` block. In a process without usable standard streams the tap hears nothing.
    """

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._saved: list[tuple[int, int]] = []

    def __enter__(self) -> Self:
        sys.stdout.flush()
        sys.stderr.flush()
        read_end, write_end = os.pipe()
        try:
            self._saved = [(stream, os.dup(stream)) for stream in (1, 2)]
        except OSError:  # a stream is closed
            os.close(read_end)
            os.close(write_end)
            return self
        for stream, _ in self._saved:
            os.dup2(write_end, stream)
        os.close(write_end)
        # Both streams go to the original error stream: standard output may carry the host's own protocol.
        threading.Thread(target=self._pump, args=(read_end, os.dup(self._saved[1][1])), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, saved in self._saved:
            os.dup2(saved, stream)
            os.close(saved)
        self._saved = []

    def lines(self) -> list[str]:
        """The last lines, oldest first."""
        return list(self._lines)

    def _pump(self, read_end: int, out: int) -> None:
        with os.fdopen(read_end, "rb") as source, os.fdopen(out, "wb", buffering=0) as sink:
            for line in source:
                self._lines.append(line.decode(errors="replace").rstrip())
                with suppress(OSError):  # nobody listens any more: keep reading, or the writers would block
                    sink.write(line)
