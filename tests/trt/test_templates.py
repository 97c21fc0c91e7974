from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines import base
from spark_helium.gpu_executor.engines.base import pack_tokens
from spark_helium.trt import templates
from spark_helium.trt.templates import Template, answer, column, common_bytes, known


def test_tokens_are_packed_as_the_daemon_packs_them() -> None:
    assert templates.TOKEN_BYTES == base.TOKEN_BYTES


def test_adjacent_runs_are_joined_and_empty_ones_dropped() -> None:
    q = column("query", 0, 12.5)
    template = Template([b"", pack_tokens([1]), pack_tokens([2, 3]), b"", q, b"", q, pack_tokens([4])])
    assert template.symbols == (pack_tokens([1, 2, 3]), q, q, pack_tokens([4]))
    assert template.tokens == 3 + 12.5 + 12.5 + 1
    assert Template([]).tokens == 0


def test_a_run_is_whole_tokens() -> None:
    with pytest.raises(ValueError, match="7 bytes"):
        Template([b"1234567"])


def test_what_is_known_is_equal_by_value_what_is_not_by_identity() -> None:
    assert known("a document", 10).key == known(b"a document", 12).key
    assert known("a document", 10).key != known("another", 10).key
    assert column("q1", 0, 10).key != column("q2", 0, 10).key
    assert column("q1", 0, 10).key != answer("q1", 0, 10).key
    assert (known("x", 1).per_row, column("q", 0, 1).per_row, answer("q", 0, 1).per_row) == (False, True, True)
    assert known("\ud800", 1).key  # text of a broken cell is text


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40), st.integers(1, 9))
def test_common_bytes(same: bytes, ours: bytes, theirs: bytes, unit: int) -> None:
    one, other = same + ours, same + theirs
    length = 0
    while one[length : length + unit] == other[length : length + unit] and len(one) >= length + unit <= len(other):
        length += unit
    assert common_bytes(one, other, unit) == length
