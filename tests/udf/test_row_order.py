from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.udf.row_order import RowOrder


@given(st.integers(0, 60).flatmap(lambda n: st.permutations(range(n))), st.data())
def test_rows_leave_in_order_as_soon_as_they_can(rows, data):
    order, naive, taken, at = RowOrder(), set(), [], 0
    while at < len(rows):
        size = data.draw(st.integers(1, 20))
        part = rows[at : at + size]
        at += len(part)
        naive |= set(part)
        order.add(pa.record_batch([pa.array(part, pa.int64()), pa.array([f"t{r}" for r in part])], ["row", "text0"]))
        if data.draw(st.booleans()) or at >= len(rows):
            ready = 0
            while len(taken) + ready in naive:
                ready += 1
            assert order.ready == ready
            if ready:
                out = order.take().to_pylist()
                assert [row["text0"] for row in out] == [f"t{row['row']}" for row in out]
                taken += [row["row"] for row in out]
    assert taken == list(range(len(rows)))
    assert (order.next_row, order.ready, order.received) == (len(rows), 0, len(rows))


def test_answers_far_ahead_of_the_first_row():
    order = RowOrder()
    order.add(pa.record_batch([pa.array(range(1, 20_000))], ["row"]))
    assert order.ready == 0
    order.add(pa.record_batch([pa.array([0])], ["row"]))
    assert order.take().column(0).to_pylist() == list(range(20_000))
