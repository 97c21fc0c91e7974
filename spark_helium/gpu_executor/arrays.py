"""Arrow arrays from and to plain values, without ``pa.array`` and ``to_numpy``.

Those two import pandas when they are first used, which takes a process half a second that a short task, and a
daemon's first answer, would wait for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def int64_array(values: Sequence[int] | npt.NDArray[np.int64]) -> pa.Array:
    """An array of 64-bit integers without NULLs."""
    numbers = np.asarray(values, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def int64_values(array: pa.Array) -> npt.NDArray[np.int64]:
    """The numbers of an array of 64-bit integers without NULLs, without copying."""
    assert array.null_count == 0, "row numbers hold NULL"
    numbers: npt.NDArray[np.int64] = np.frombuffer(array.buffers()[1], dtype=np.int64)
    return numbers[array.offset : array.offset + len(array)]


def text_array(texts: Sequence[str | None]) -> pa.Array:
    """An array of strings; None is NULL."""
    encoded = [b"" if text is None else text.encode() for text in texts]
    offsets = np.zeros(len(texts) + 1, dtype=np.int32)
    np.cumsum([len(data) for data in encoded], out=offsets[1:])
    valid = _bits([text is not None for text in texts]) if None in texts else None
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)), valid)


def flag_array(size: int, positions: Sequence[int]) -> pa.Array:
    """``size`` booleans, true at ``positions``."""
    flags = np.zeros(size, dtype=bool)
    flags[list(positions)] = True
    return pa.Array.from_buffers(pa.bool_(), size, [None, _bits(flags)])


def _bits(flags: Sequence[bool] | npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.asarray(flags, dtype=bool), bitorder="little"))
