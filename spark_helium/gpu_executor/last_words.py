"""What a log says about why a process failed, short enough for an error message."""

from __future__ import annotations

import re
from pathlib import Path

_NOISE = re.compile(r"^\s*$|\r|it/s\]|s/it\]|\d+%\|")
_PREFIX = re.compile(
    r"^\((?:EngineCore|Worker|APIServer)[^)]*\)\s*|^(?:ERROR|INFO|WARNING) \d\d-\d\d [\d:]+ \[[^\]]*\]\s*"
)
_ERROR = re.compile(
    r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Killed|Interrupt|Exit)\b.*|^(?:Killed|Segmentation fault|Aborted).*"
)
_GENERIC = re.compile(r"Engine core initialization failed|See root cause above|Failed core proc")


def last_words(text: str, lines: int = 20) -> str:
    r"""The most useful lines of a log: its tail, and at the very end the error that most likely is the cause.

    >>> last_words("loading\nTraceback (most recent call last):\nOSError: disk full\nshutting down")
    'loading\nTraceback (most recent call last):\nOSError: disk full\nshutting down\ncause: OSError: disk full'
    """
    kept = [line.rstrip() for line in text.split("\n") if not _NOISE.search(line)]
    bare = [_strip(line) for line in kept]
    # A wrapper's complaint comes last and says nothing; the first real error above it is the cause.
    errors = [line for line in bare if _ERROR.match(line)]
    telling = [line for line in errors if not _GENERIC.search(line)] or errors
    tail = [line if len(line) <= 400 else line[:400] + " ..." for line in kept[-lines:]]
    if telling and (not bare or bare[-1] != telling[-1]):
        tail.append(f"cause: {telling[-1][:800]}")
    return "\n".join(tail)


def _strip(line: str) -> str:
    previous = None
    while previous != line:
        previous, line = line, _PREFIX.sub("", line)
    return line


def read_from(path: Path, offset: int, limit: int = 64 * 1024) -> str:
    """The text of ``path`` from ``offset`` on, its last ``limit`` bytes at most; empty when there is no file."""
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(max(offset, size - limit))
            return f.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def size_of(path: Path) -> int:
    """The size of ``path``, 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
