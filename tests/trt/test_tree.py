from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spark_helium.gpu_executor.engines.base import pack_tokens, unpack_tokens
from spark_helium.trt.templates import Placeholder, Symbol, Template, answer, column, known
from spark_helium.trt.tree import Operator, OperatorId, TemplatedRadixTree


def template(*symbols: Sequence[int] | Placeholder) -> Template:
    return Template(s if isinstance(s, Placeholder) else pack_tokens(s) for s in symbols)


def operator(*symbols: Sequence[int] | Placeholder, reads: tuple[int, ...] = (), selectivity: float = 1) -> Operator:
    return Operator(template(*symbols), 10, reads, selectivity)


def prefixes(tree: TemplatedRadixTree, min_tokens: int = 1) -> list[tuple[list[int], float, int | None]]:
    return [(unpack_tokens(p.tokens), p.uses, p.within) for p in tree.static_prefixes(min_tokens)]


def test_the_paper_s_example() -> None:
    q = column("x", 0, 100)
    s1, s2, s3, s4 = range(40), [101], range(200, 260), range(300, 312)
    tree = TemplatedRadixTree(16)
    a, b, c = (OperatorId("x", k) for k in range(3))
    tree.add(
        "x", [operator(s1, q, s2), operator(s3, q, s2), operator(s3, q, s4, answer("x", 0, 50), reads=(0,))], rows=4
    )
    tree.check_integrity()
    assert tree.shared(b, c) == (160, 60)
    assert tree.shared(a, b) == (0, 0)
    assert tree.shared(a, a) == (141, 40)
    assert list(tree.edges()) == [(a, c)]
    assert prefixes(tree) == [(list(range(32)), 4, None), (list(range(200, 248)), 8, None)]
    assert [p.operators for p in tree.static_prefixes()] == [(a,), (b, c)]


def test_prefixes_within_prefixes_in_whole_blocks() -> None:
    tree = TemplatedRadixTree(4)
    q = column("x", 0, 5)
    system = list(range(10))
    tree.add("x", [operator(system, [50, 51, 52, 53], q), operator(system, [60, 61], q), operator(system, [50, 99])], 3)
    assert prefixes(tree) == [
        (system[:8], 9, None),
        ([*system, 50, 51], 3, 0),  # of 14 tokens three whole blocks
        ([*system, 50, 99], 3, 0),
        ([*system, 60, 61], 3, 0),
    ]
    assert prefixes(tree, 9) == [(tokens, uses, None) for tokens, uses, _ in prefixes(tree)[1:]]
    assert prefixes(tree, 13) == []
    assert prefixes(TemplatedRadixTree(4)) == []


def test_uses_count_rows_and_guards() -> None:
    tree = TemplatedRadixTree(1)
    tree.add("x", [operator([1], selectivity=0.5), operator([1], [2], reads=(0,), selectivity=0.5)], 8)
    tree.add("y", [operator([1], [3])], 2)
    assert prefixes(tree) == [([1], 4 + 2 + 2, None), ([1, 2], 2, 0), ([1, 3], 2, 0)]
    assert tree.likelihoods("x") == [0.5, 0.25]
    tree.revise(OperatorId("x", 0), selectivity=1.0, output_tokens=3)
    tree.expect("y", 7)
    assert prefixes(tree)[0] == ([1], 8 + 4 + 7, None)
    assert tree.operator(OperatorId("x", 0)).output_tokens == 3


def test_queries_share_by_value() -> None:
    tree = TemplatedRadixTree(1)
    tree.add("x", [operator([1], known("the same document", 500), column("x", 0, 9))])
    tree.add("y", [operator([1], known("the same document", 500), column("y", 0, 9))])
    tree.add("z", [operator([1], column("z", 0, 500))])
    x, y, z = (OperatorId(query, 0) for query in "xyz")
    assert tree.shared(x, y) == (501, 501)
    assert tree.shared(x, z) == (1, 1)


@pytest.mark.parametrize("shorter", [0, 1, 2, 3])
def test_a_template_may_end_inside_another(shorter: int) -> None:
    tree = TemplatedRadixTree(1)
    symbols = [[1, 2, 3], column("x", 0, 5), [4]]
    tree.add("long", [operator(*symbols)])
    tree.add("short", [operator(*symbols[:shorter])])
    tree.check_integrity()
    assert tree.shared(OperatorId("long", 0), OperatorId("short", 0)).same_row == [0, 3, 8, 9][shorter]
    tree.remove("long")
    tree.check_integrity()
    tree.remove("short")
    tree.check_integrity()
    assert list(tree) == []


def test_what_cannot_be_added_or_removed() -> None:
    with pytest.raises(ValueError, match="block_size is 0"):
        TemplatedRadixTree(0)
    tree = TemplatedRadixTree(1)
    tree.add("x", [operator([1])])
    with pytest.raises(ValueError, match="already"):
        tree.add("x", [])
    with pytest.raises(ValueError, match="operator 0 of query 'y' reads operator 0"):
        tree.add("y", [operator([1], reads=(0,))])
    assert "y" not in tree
    with pytest.raises(KeyError):
        tree.remove("y")
    assert tree.queries == ("x",)


SYMBOLS = st.one_of(
    st.lists(st.integers(1, 3), max_size=4).map(pack_tokens),
    st.sampled_from([column("c", 0, 2), column("c", 1, 3), known("k", 4)]),
)


class TreeAgainstLists(RuleBasedStateMachine):
    """The tree against the templates themselves, compared symbol by symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = TemplatedRadixTree(2)
        self.queries: dict[int, tuple[list[Operator], float]] = {}
        self.next = 0

    @rule(templates=st.lists(st.lists(SYMBOLS, max_size=5), max_size=4), rows=st.integers(0, 5))
    def add(self, templates: list[list[Symbol]], rows: int) -> None:
        operators = [Operator(Template(symbols), 10) for symbols in templates]
        self.tree.add(self.next, operators, rows)
        self.queries[self.next] = (operators, rows)
        self.next += 1

    @precondition(lambda self: self.queries)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        query = data.draw(st.sampled_from(sorted(self.queries)))
        self.tree.remove(query)
        del self.queries[query]

    @invariant()
    def is_sound(self) -> None:
        self.tree.check_integrity()
        assert list(self.tree) == [OperatorId(q, k) for q, (ops, _) in self.queries.items() for k in range(len(ops))]

    @invariant()
    def shares_as_the_templates_do(self) -> None:
        templates = [
            (OperatorId(q, k), op.template) for q, (ops, _) in self.queries.items() for k, op in enumerate(ops)
        ][:6]
        for one, its in templates:
            for other, others in templates:
                same = any_rows = 0.0
                constant = True
                for (key, tokens, per_row), (key2, _, _) in zip(spelled(its), spelled(others), strict=False):
                    if key != key2:
                        break
                    constant = constant and not per_row
                    same += tokens
                    any_rows += tokens if constant else 0
                assert self.tree.shared(one, other) == (same, any_rows)

    @invariant()
    def has_the_prefixes_of_the_templates(self) -> None:
        statics: list[tuple[bytes, float, OperatorId]] = []
        for q, (ops, rows) in self.queries.items():
            for k, op in enumerate(ops):
                first = op.template.symbols[0] if op.template.symbols else b""
                statics.append((first if isinstance(first, bytes) else b"", rows, OperatorId(q, k)))
        expected = {one[: common(one, other) // 8 * 8] for one, _, _ in statics for other, _, _ in statics} - {b""}
        prefixes = self.tree.static_prefixes()
        assert sorted(p.tokens for p in prefixes) == sorted(expected)
        for position, prefix in enumerate(prefixes):
            users = [(rows, id_) for tokens, rows, id_ in statics if tokens.startswith(prefix.tokens)]
            assert set(prefix.operators) == {id_ for _, id_ in users}
            assert prefix.uses == sum(rows for rows, _ in users)
            shorter = [k for k, p in enumerate(prefixes) if k != position and prefix.tokens.startswith(p.tokens)]
            assert prefix.within == max(shorter, key=lambda k: prefixes[k].length, default=None)


def spelled(template: Template) -> list[tuple[Hashable, float, bool]]:
    """Single tokens and placeholders: what is compared, its tokens, and whether it differs between rows."""
    out: list[tuple[Hashable, float, bool]] = []
    for symbol in template.symbols:
        if isinstance(symbol, Placeholder):
            out.append((symbol.key, symbol.tokens, symbol.per_row))
        else:
            out.extend((token, 1, False) for token in unpack_tokens(symbol))
    return out


def common(one: bytes, other: bytes) -> int:
    length = 0
    while one[length : length + 4] == other[length : length + 4] and length < min(len(one), len(other)):
        length += 4
    return length


TestTreeAgainstLists = TreeAgainstLists.TestCase
TestTreeAgainstLists.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
