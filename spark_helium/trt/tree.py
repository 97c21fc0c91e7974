"""The operator level of the templated radix tree: what the prompts of all running queries of one engine share.

An inner node holds a run of symbols (Helium, arXiv 2603.16104, section on the templated radix tree); templates that
begin alike run through the same nodes and part at the token where they differ. An operator hangs at the node where its
template ends, so that equal templates meet. Size depends on the operators, not on the rows.

Example, in tokens ``s1`` to ``s4`` and a column ``q``: A = ``s1 q s2``, B = ``s3 q s2``, C = ``s3 q s4 <A>``, where C
reads the answer of A::

    root ─┬─ [s1 q s2]  A
          └─ [s3 q] ─┬─ [s2]  B
                     └─ [s4 <A>]  C        edge A -> C
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spark_helium.trt.templates import (
    TOKEN_BYTES,
    Placeholder,
    Symbol,
    Template,
    Tokens,
    common_bytes,
    symbol_tokens,
)

Query = Hashable


class OperatorId(NamedTuple):
    """Operator ``number`` of a query: a call of its call graph."""

    query: Query
    number: int


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of a call graph, as far as planning needs it.

    Attributes
    ----------
    template: its prompt.
    output_tokens: expected length of an answer.
    reads: earlier operators of the same graph whose answers prompt or guard read.
    selectivity: expected share of the rows whose guard is true, of those for which all that it reads has run.
    """

    template: Template
    output_tokens: float
    reads: tuple[int, ...] = ()
    selectivity: float = 1.0


@dataclass(frozen=True, slots=True)
class StaticPrefix:
    """Tokens with which every prompt below a node of the tree begins, in whole blocks.

    Attributes
    ----------
    tokens: packed, a whole number of blocks.
    uses: expected calls that begin with them.
    operators: whose prompts these are.
    within: position, in the same list, of the longest shorter prefix that this one begins with, or None.
    """

    tokens: Tokens
    uses: float
    operators: tuple[OperatorId, ...]
    within: int | None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens) // TOKEN_BYTES


class Shared(NamedTuple):
    """Expected tokens that two operators' prompts share: in the same row, and in any two rows."""

    same_row: float
    any_rows: float


class _Node:
    """A run of symbols. Only :class:`TemplatedRadixTree` and the methods here touch the links."""

    __slots__ = ("children", "operators", "parent", "run")

    def __init__(self, run: list[Symbol], parent: _Node | None) -> None:
        self.run = run
        self.parent = parent
        self.children: dict[Hashable, _Node] = {}
        self.operators: list[OperatorId] = []  # whose templates end here, in order of arrival

    def split(self, symbols: int, tokens: int) -> _Node:
        """Part the run after ``symbols`` symbols and ``tokens`` tokens of the next; returns the new upper node.

        The lower node keeps its identity, its operators and its children.
        """
        head, tail = self.run[:symbols], self.run[symbols:]
        if tokens:
            broken = tail[0]
            assert isinstance(broken, bytes), "only a run of tokens can be parted"
            head.append(broken[: tokens * TOKEN_BYTES])
            tail[0] = broken[tokens * TOKEN_BYTES :]
        upper = _Node(head, self.parent)
        assert self.parent is not None, "the root has no run to part"
        self.parent.children[_first(head)] = upper
        upper.children[_first(tail)] = self
        self.parent, self.run = upper, tail
        return upper

    def join_only_child(self) -> None:
        """Take in the run and the links of the only child: the inverse of :meth:`split`."""
        (child,) = self.children.values()
        self.run = list(Template([*self.run, *child.run]).symbols)
        self.children, self.operators = child.children, child.operators
        for grandchild in self.children.values():
            grandchild.parent = self


def _first(run: Sequence[Symbol]) -> Hashable:
    """What tells the children of a node apart: the first token, or the first placeholder."""
    symbol = run[0]
    return ("placeholder", symbol.key) if isinstance(symbol, Placeholder) else symbol[:TOKEN_BYTES]


def _common(ours: Sequence[Symbol], theirs: Sequence[Symbol]) -> tuple[int, int, list[Symbol]]:
    """The common beginning of two runs: whole symbols of ours, tokens of ours' next, and what is left of theirs."""
    for k, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if isinstance(a, Placeholder) or isinstance(b, Placeholder):
            if isinstance(a, Placeholder) and isinstance(b, Placeholder) and a.key == b.key:
                continue
            return k, 0, list(theirs[k:])
        if a != b:
            both = common_bytes(a, b)
            left = [b[both:]] if both < len(b) else []
            whole = both == len(a)
            return k + whole, 0 if whole else both // TOKEN_BYTES, [*left, *theirs[k + 1 :]]
    both = min(len(ours), len(theirs))
    return both, 0, list(theirs[both:])


@dataclass(slots=True)
class _Planned:
    """A query's operators, where each hangs, and the rows that are still expected."""

    operators: list[Operator]
    nodes: list[_Node]
    rows: float


class TemplatedRadixTree:
    """Operators of all running queries of one engine.

    Queries are added and removed as a whole. Symbols below are the runs of tokens and placeholders of a template;
    comparing runs costs what memcmp costs.

    Parameters
    ----------
    block_size: tokens per KV block of the engine, which shares prefixes in whole blocks.
    """

    def __init__(self, block_size: int) -> None:
        if block_size < 1:
            raise ValueError(f"block_size is {block_size}; a KV block holds at least one token")
        self.block_size = block_size
        self._root = _Node([], None)
        self._queries: dict[Query, _Planned] = {}

    # --- queries come and go

    def add(self, query: Query, operators: Sequence[Operator], rows: float = 1.0) -> None:
        """Insert a query's operators. O(symbols of their templates); parts nodes where templates diverge.

        Raises
        ------
        ValueError
            The query is in the tree already, or an operator reads one that does not stand before it.
        """
        if query in self._queries:
            raise ValueError(f"query {query!r} is in the tree already; remove it first")
        for index, operator in enumerate(operators):
            for read in operator.reads:
                if not 0 <= read < index:
                    raise ValueError(f"operator {index} of query {query!r} reads operator {read}, not an earlier one")
        nodes = []
        for index, operator in enumerate(operators):
            node = self._insert(operator.template)
            node.operators.append(OperatorId(query, index))
            nodes.append(node)
        self._queries[query] = _Planned(list(operators), nodes, rows)

    def remove(self, query: Query) -> None:
        """Take a query's operators out, and join nodes that nothing parts any more. O(symbols of their templates).

        Raises
        ------
        KeyError
            The query is not in the tree.
        """
        planned = self._queries[query]
        for index in range(len(planned.nodes)):
            node = planned.nodes[index]  # looked up anew, as joining nodes moves what hangs there
            node.operators.remove(OperatorId(query, index))
            self._tidy(node)
        del self._queries[query]

    def expect(self, query: Query, rows: float) -> None:
        """Change how many rows of a query are still expected. O(1).

        Raises
        ------
        KeyError
            The query is not in the tree.
        """
        self._queries[query].rows = rows

    def revise(self, id_: OperatorId, output_tokens: float | None = None, selectivity: float | None = None) -> None:
        """Change what is expected of an operator. O(1).

        Raises
        ------
        KeyError, IndexError
            The operator is not in the tree.
        """
        operators = self._queries[id_.query].operators
        old = operators[id_.number]
        operators[id_.number] = Operator(
            old.template,
            old.output_tokens if output_tokens is None else output_tokens,
            old.reads,
            old.selectivity if selectivity is None else selectivity,
        )

    def _insert(self, template: Template) -> _Node:
        """The node where the template ends."""
        node, rest = self._root, list(template.symbols)
        while rest:
            child = node.children.get(_first(rest))
            if child is None:
                child = node.children[_first(rest)] = _Node(rest, node)
                return child
            symbols, tokens, rest = _common(child.run, rest)
            node = child.split(symbols, tokens) if symbols < len(child.run) else child
        return node

    def _tidy(self, node: _Node) -> None:
        while node.parent is not None and not node.operators and not node.children:
            del node.parent.children[_first(node.run)]
            node = node.parent
        if node.parent is not None and not node.operators and len(node.children) == 1:
            node.join_only_child()
            for id_ in node.operators:
                self._queries[id_.query].nodes[id_.number] = node

    # --- what a planner asks

    @property
    def queries(self) -> tuple[Query, ...]:
        """In order of arrival."""
        return tuple(self._queries)

    def __contains__(self, query: object) -> bool:
        return query in self._queries

    def __iter__(self) -> Iterator[OperatorId]:
        """Every operator, queries in order of arrival."""
        for query, planned in self._queries.items():
            for index in range(len(planned.operators)):
                yield OperatorId(query, index)

    def operator(self, id_: OperatorId) -> Operator:
        """O(1). Raises KeyError or IndexError where there is none."""
        return self._queries[id_.query].operators[id_.number]

    def rows(self, query: Query) -> float:
        """Rows of a query that are still expected. O(1). Raises KeyError where there is none."""
        return self._queries[query].rows

    def edges(self) -> Iterator[tuple[OperatorId, OperatorId]]:
        """(operator, reader of its answer), for every pair. O(edges)."""
        for id_ in self:
            for read in self.operator(id_).reads:
                yield OperatorId(id_.query, read), id_

    def likelihoods(self, query: Query) -> list[float]:
        """Per operator the expected share of the query's rows for which it runs.

        That is its own selectivity times the least likelihood among what it reads: without an answer there is no
        prompt. O(operators + edges).
        """
        shares: list[float] = []
        for operator in self._queries[query].operators:
            shares.append(operator.selectivity * min((shares[read] for read in operator.reads), default=1.0))
        return shares

    def shared(self, one: OperatorId, other: OperatorId) -> Shared:
        """Expected tokens that the prompts of two operators begin with alike. O(depth + symbols on the way)."""
        above = set()
        node: _Node | None = self._queries[one.query].nodes[one.number]
        while node is not None:
            above.add(id(node))
            node = node.parent
        node = self._queries[other.query].nodes[other.number]
        while id(node) not in above:
            assert node.parent is not None, "two nodes of one tree have no common ancestor"
            node = node.parent
        same_row = any_rows = 0.0
        constant = True
        for symbol in _path(node):
            constant = constant and not (isinstance(symbol, Placeholder) and symbol.per_row)
            same_row += symbol_tokens(symbol)
            any_rows += symbol_tokens(symbol) if constant else 0
        return Shared(same_row, any_rows)

    def static_prefixes(self, min_tokens: int = 1) -> list[StaticPrefix]:
        """The prefixes worth pinning: every run of tokens from the root to where prompts part, or to a placeholder.

        Only those of at least ``min_tokens`` tokens in whole blocks; a prefix precedes those that begin with it. One
        that is no whole block longer than the one it begins with is left out. O(size of the tree).
        """
        found: list[StaticPrefix] = []
        likelihoods = {query: self.likelihoods(query) for query in self._queries}
        block = self.block_size * TOKEN_BYTES
        least = max(min_tokens, 1) * TOKEN_BYTES
        stack: list[tuple[_Node, bytes, int | None]] = [
            (child, b"", None) for child in reversed(self._root.children.values())
        ]
        while stack:
            node, prefix, within = stack.pop()
            static = isinstance(node.run[0], bytes)
            if not static:
                continue
            first = node.run[0]
            assert isinstance(first, bytes)
            prefix += first
            whole = prefix[: len(prefix) // block * block]
            longest = len(found[within].tokens) if within is not None else 0
            if len(whole) >= least and len(whole) > longest:
                operators = tuple(_below(node))
                uses = sum(self._queries[id_.query].rows * likelihoods[id_.query][id_.number] for id_ in operators)
                found.append(StaticPrefix(whole, uses, operators, within))
                within = len(found) - 1
            if len(node.run) == 1:
                stack.extend((child, prefix, within) for child in reversed(node.children.values()))
        return found

    def path(self, id_: OperatorId) -> Iterator[tuple[Hashable, Symbol]]:
        """An operator's template in the pieces that nodes hold, each with a key that is equal where the text is.

        Keys of placeholders are their own; those of runs of tokens hold while the tree does not change.
        """
        nodes = [self._queries[id_.query].nodes[id_.number]]
        while nodes[-1].parent is not None:
            nodes.append(nodes[-1].parent)
        for node in reversed(nodes):
            for k, symbol in enumerate(node.run):
                key = ("placeholder", symbol.key) if isinstance(symbol, Placeholder) else ("run", id(node), k)
                yield key, symbol

    # --- for tests and idle moments

    def check_integrity(self) -> None:
        """Assert what must hold of the tree at any time. O(size of the tree)."""
        hanging: dict[OperatorId, _Node] = {}
        stack = [self._root]
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                assert child.parent is node, "a child has another parent"
                assert child.run, "a node below the root has no symbols"
                assert key == _first(child.run), "a child stands under the key of another run"
                assert len(child.operators) + len(child.children) > 0, "a node leads to no operator"
                assert child.operators or len(child.children) > 1, "a node parts nothing"
                assert list(Template(child.run).symbols) == child.run, "a run has empty or adjacent runs of tokens"
                stack.append(child)
            for id_ in node.operators:
                assert id_ not in hanging, "an operator hangs in two places"
                hanging[id_] = node
        known = {id_: self._queries[id_.query].nodes[id_.number] for id_ in self}
        assert hanging == known, "operators hang elsewhere than their query says"
        for id_, node in hanging.items():
            template = self.operator(id_).template
            found = Template(_path(node)).symbols
            assert _keys(found) == _keys(template.symbols), "the path to an operator is not its template"


def _path(node: _Node) -> list[Symbol]:
    """Symbols from the root to the end of a node."""
    runs = []
    at: _Node | None = node
    while at is not None:
        runs.append(at.run)
        at = at.parent
    return [symbol for run in reversed(runs) for symbol in run]


def _below(node: _Node) -> Iterator[OperatorId]:
    """Operators that hang at a node or below it."""
    stack = [node]
    while stack:
        at = stack.pop()
        yield from at.operators
        stack.extend(reversed(at.children.values()))


def _keys(symbols: Sequence[Symbol]) -> list[Hashable]:
    return [symbol.key if isinstance(symbol, Placeholder) else symbol for symbol in symbols]
