"""Arrow arrays from and to plain values, without ``pa.array`` and ``to_numpy``.

Those two import pandas when they are first used, which takes a process half a second that a short task, and a
daemon's first answer, would wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class FlawedColumn(list[Any]):
    """A column's values where some cells are no text: ``reasons`` says why, by row, and their value is not to be read.

    A class of its own, so that asking whether a column has such cells costs nothing for all that have none.
    """

    def __init__(self, values: Sequence[Any], reasons: dict[int, str]) -> None:
        super().__init__(values)
        self.reasons = reasons


def column_values(array: pa.Array) -> Sequence[Any]:
    """Python values of a column; a :class:`FlawedColumn` if a cell is not valid UTF-8, which Spark does not check."""
    try:
        values: list[Any] = array.to_pylist()
        return values
    except UnicodeDecodeError:
        pass
    cells, reasons = [], {}
    for row, cell in enumerate(array):
        try:
            cells.append(cell.as_py())
        except UnicodeDecodeError as e:
            cells.append(lenient_value(cell))
            reasons[row] = (
                f"the argument is not valid UTF-8 (byte 0x{e.object[e.start]:02X} at position {e.start}); clean it "
                "first, for example with make_valid_utf8(column)"
            )
    return FlawedColumn(cells, reasons)


def lenient_value(cell: pa.Scalar) -> Any:
    """The Python value of a cell, with replacement characters where its text is not valid UTF-8."""
    if not cell.is_valid:
        return None
    if isinstance(cell, pa.StringScalar | pa.LargeStringScalar):
        return cell.as_buffer().to_pybytes().decode(errors="replace")
    if isinstance(cell, pa.ListScalar | pa.LargeListScalar):
        return [lenient_value(item) for item in cell.values]
    if isinstance(cell, pa.StructScalar):
        return {name: lenient_value(cell[name]) for name in cell.type.names}
    return cell.as_py()


def _bits(flags: Sequence[bool] | npt.NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.asarray(flags, dtype=bool), bitorder="little"))
