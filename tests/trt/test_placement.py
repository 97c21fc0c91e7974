from __future__ import annotations

import random

import pytest

from spark_helium.gpu_executor.engines.base import pack_tokens
from spark_helium.trt.call_tree import CallTree
from spark_helium.trt.placement import Placement
from spark_helium.trt.tree import OperatorId

OP = OperatorId("q", 0)


def trees(count: int) -> list[CallTree]:
    return [CallTree(4, recent_tokens=10_000) for _ in range(count)]


def run(tree: CallTree, call: object, tokens: bytes) -> None:
    tree.add(call, tokens, OP)
    tree.pop()


def test_work_is_spread_by_tokens() -> None:
    placement = Placement(trees(2))
    rng = random.Random(5)
    lengths = [rng.randint(10, 500) for _ in range(200)]
    counts = [0, 0]
    for k, length in enumerate(lengths):
        prompt = pack_tokens([k] * length)
        counts[placement.place(k, k, prompt, rng.randint(5, 100))] += 1
    placement.check_integrity()
    one, other = placement.loads
    assert abs(one - other) <= 100 * (500 + 50.5)  # no more than the largest call
    assert min(counts) > 0


def test_a_call_goes_where_its_prefix_is() -> None:
    ours = trees(2)
    placement = Placement(ours)
    document = list(range(400))
    run(ours[1], "before", pack_tokens(document))
    assert placement.place("a", "row a", pack_tokens([*document, 1]), 50) == 1
    assert placement.place("b", "row b", pack_tokens([9] * 401), 50) == 0
    assert placement.loads[1] < placement.loads[0]


def test_a_row_stays_until_its_engine_falls_far_behind() -> None:
    placement = Placement(trees(2))
    assert placement.place("first", "row", pack_tokens([1] * 10), 10) == 0
    assert placement.place("second", "row", pack_tokens([2] * 10), 10) == 0
    for k in range(20):
        placement.place(k, "row", pack_tokens([3 + k] * 10), 10)
    placement.check_integrity()
    one, other = placement.loads
    assert other > 0
    assert abs(one - other) <= 6 * (10 * 10 + 55)


def test_what_is_done_is_no_load() -> None:
    placement = Placement(trees(2), alphas=[1.0, 3.0])
    assert placement.place("a", "row", pack_tokens([1] * 10), 10) == 0
    placement.finish("a")
    assert placement.loads == (0, 0)
    placement.forget("row")
    placement.forget("row")
    assert [placement.place(k, k, pack_tokens([k] * 10), 10) for k in range(4)] == [0, 0, 0, 1]
    placement.check_integrity()


def test_what_cannot_be_placed() -> None:
    with pytest.raises(ValueError, match="no engine"):
        Placement([])
    with pytest.raises(ValueError, match="1 alphas are given for 2 engines"):
        Placement(trees(2), alphas=[1.0])
    placement = Placement(trees(1))
    placement.place("a", "row", b"", 0)
    with pytest.raises(ValueError, match="'a' is placed already"):
        placement.place("a", "row", b"", 0)
    with pytest.raises(KeyError):
        placement.finish("b")
