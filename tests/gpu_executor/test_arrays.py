from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.arrays import (
    FlawedColumn,
    column_values,
    flag_array,
    int64_array,
    int64_values,
    lenient_value,
    text_array,
)

ROOT = Path(__file__).parents[2]


def test_cells_that_are_not_utf8():
    good = pa.array(["a", None])
    assert column_values(good) == ["a", None]
    assert not isinstance(column_values(good), FlawedColumn)
    bad = pa.array([b"a", b"b\xffc", None], pa.binary()).view(pa.string())
    values = column_values(bad)
    assert isinstance(values, FlawedColumn)
    assert values == ["a", "b\ufffdc", None]
    assert list(values.reasons) == [1]
    assert "0xFF at position 1" in values.reasons[1]
    assert "make_valid_utf8" in values.reasons[1]
    messages = pa.ListArray.from_arrays([0, 1, 3], pa.StructArray.from_arrays([bad], ["content"]))
    nested = column_values(messages)
    assert isinstance(nested, FlawedColumn)
    assert list(nested.reasons) == [1]
    assert nested == [lenient_value(cell) for cell in messages]
    assert nested[1] == [{"content": "b\ufffdc"}, {"content": None}]


@given(st.lists(st.none() | st.text(), max_size=40))
def test_texts(texts):
    array = text_array(texts)
    array.validate(full=True)
    assert array == pa.array(texts, pa.string())


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), st.integers(0, 5))
def test_numbers(numbers, start):
    array = int64_array(numbers)
    array.validate(full=True)
    assert array == pa.array(numbers, pa.int64())
    assert int64_values(array[start:]).tolist() == numbers[start:]


@given(st.lists(st.booleans(), max_size=40))
def test_flags(flags):
    array = flag_array(len(flags), [i for i, flag in enumerate(flags) if flag])
    array.validate(full=True)
    assert array == pa.array(flags, pa.bool_())


def test_pandas_is_not_imported():
    code = (
        "import sys; from spark_helium.gpu_executor.arrays import *; text_array(['x', None]).to_pylist(); "
        "int64_values(int64_array([1])); flag_array(2, [1]); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
