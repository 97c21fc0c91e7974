"""Texts that match a regular expression, drawn deterministically. The simulator's form of guided decoding."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from spark_helium.gpu_executor.engines.draw import Draw

_MAX_TEXT = 100_000
_TRIES = 64
_OPEN_REPEATS = 4  # how many more than the least an unbounded repeat may take
_BOUNDED_REPEATS = 12

# What stands for "any character": visible ASCII first, so that answers stay readable.
_ALPHABET = string.ascii_letters + string.digits + string.punctuation + " "
_SURROGATES = (0xD800, 0xDFFF)

_CATEGORIES: dict[Any, str] = {
    op.CATEGORY_DIGIT: string.digits,
    op.CATEGORY_WORD: string.ascii_letters + string.digits + "_",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_NOT_DIGIT: "".join(c for c in _ALPHABET if not c.isdigit()),
    op.CATEGORY_NOT_WORD: "".join(c for c in _ALPHABET if not (c.isalnum() or c == "_")),
    op.CATEGORY_NOT_SPACE: "".join(c for c in _ALPHABET if c != " "),
}

Groups = dict[int, str]
Node = Callable[[Draw, Groups], str]


def compile_regex(pattern: str) -> Callable[[Draw], str]:
    """A function that draws texts which match all of ``pattern``, read as Python's :mod:`re` reads it.

    Raises
    ------
    ValueError
        The pattern is malformed. Drawing raises it too, when no match was found in a number of tries
        (assertions that contradict each other, say) or the text grows out of bounds.
    """
    try:
        checker = re.compile(pattern)
        tree = parser.parse(pattern)
        compiler = _Compiler(ignore_case=bool(tree.state.flags & re.IGNORECASE))
        root = compiler.sequence(tree)
    except (re.error, OverflowError, RecursionError) as e:
        raise ValueError(f"regular expression {_shorten(pattern)} cannot be used: {e}") from e

    def sample(draw: Draw) -> str:
        for _ in range(_TRIES):
            text = root(draw, {})
            # A text drawn from the tree of a plain pattern matches by construction.
            if not compiler.needs_check or checker.fullmatch(text):
                return text
        raise ValueError(f"the simulator found no text that matches the regular expression {_shorten(pattern)}")

    return sample


class _Compiler:
    """Turns the parse tree into closures. ``needs_check``: some node cannot promise a match on its own."""

    def __init__(self, ignore_case: bool) -> None:
        self.needs_check = ignore_case

    def sequence(self, items: Any) -> Node:
        nodes = [self._node(code, argument) for code, argument in items]
        if len(nodes) == 1:
            return nodes[0]
        return lambda draw, groups: "".join([node(draw, groups) for node in nodes])

    def _node(self, code: Any, argument: Any) -> Node:
        if code is op.LITERAL:
            if _SURROGATES[0] <= argument <= _SURROGATES[1]:
                raise re.error("it names half of a surrogate pair, which is no character")
            return _constant(chr(argument))
        if code is op.NOT_LITERAL:
            return _one_of([c for c in _ALPHABET if ord(c) != argument])
        if code is op.ANY:
            return _one_of(_ALPHABET)
        if code is op.IN:
            return self._set(argument)
        if code is op.BRANCH:
            return _branch([self.sequence(branch) for branch in argument[1]])
        if code is op.SUBPATTERN:
            group, add_flags, _, body = argument
            self.needs_check |= bool(add_flags & re.IGNORECASE)
            return _capture(group, self.sequence(body))
        if code in (op.MAX_REPEAT, op.MIN_REPEAT):
            return _repeat(argument[0], argument[1], self.sequence(argument[2]))
        self.needs_check = True
        if code is op.POSSESSIVE_REPEAT:
            return _repeat(argument[0], argument[1], self.sequence(argument[2]))
        if code is op.ATOMIC_GROUP:
            return self.sequence(argument)
        if code is op.GROUPREF:
            return lambda draw, groups: groups.get(argument, "")
        if code is op.GROUPREF_EXISTS:
            group, yes, no = argument
            return _conditional(group, self.sequence(yes), self.sequence(no or []))
        if code in (op.AT, op.ASSERT, op.ASSERT_NOT):
            return _constant("")
        if code is op.FAILURE:
            raise re.error("it can never match")
        raise re.error(f"it uses {str(code).lower()}, which the simulator does not know")

    def _set(self, items: Sequence[Any]) -> Node:
        negated = bool(items) and items[0][0] is op.NEGATE
        ranges: list[tuple[int, int]] = []
        for code, argument in items[1:] if negated else items:
            if code is op.LITERAL:
                ranges.append((argument, argument))
            elif code is op.RANGE:
                ranges.append(argument)
            elif code is op.CATEGORY:
                if negated:
                    self.needs_check = True  # \s and \d know more characters than our alphabets
                ranges.extend((ord(c), ord(c)) for c in _CATEGORIES[argument])
            else:
                raise re.error(f"a character class uses {str(code).lower()}, which the simulator does not know")
        if negated:
            return _one_of([c for c in _ALPHABET if not any(low <= ord(c) <= high for low, high in ranges)])
        return _one_of_ranges([part for low, high in ranges for part in _without_surrogates(low, high)])


def _constant(text: str) -> Node:
    return lambda draw, groups: text


def _one_of(characters: Sequence[str]) -> Node:
    if not characters:
        raise re.error("a character class leaves no character that the simulator writes")
    return lambda draw, groups: characters[draw.below(len(characters))]


def _without_surrogates(low: int, high: int) -> list[tuple[int, int]]:
    parts = [(low, min(high, _SURROGATES[0] - 1)), (max(low, _SURROGATES[1] + 1), high)]
    return [(first, last) for first, last in parts if first <= last]


def _one_of_ranges(ranges: Sequence[tuple[int, int]]) -> Node:
    total = sum(high - low + 1 for low, high in ranges)
    if not total:
        raise re.error("a character class is empty")

    def node(draw: Draw, groups: Groups) -> str:
        position = draw.below(total)
        for low, high in ranges:
            if position <= high - low:
                return chr(low + position)
            position -= high - low + 1
        raise AssertionError("a drawn position lies outside its character class")

    return node


def _branch(branches: Sequence[Node]) -> Node:
    return lambda draw, groups: branches[draw.below(len(branches))](draw, groups)


def _capture(group: int | None, body: Node) -> Node:
    if group is None:
        return body

    def node(draw: Draw, groups: Groups) -> str:
        text = groups[group] = body(draw, groups)
        return text

    return node


def _conditional(group: int, yes: Node, no: Node) -> Node:
    return lambda draw, groups: (yes if group in groups else no)(draw, groups)


def _repeat(low: int, high: Any, body: Node) -> Node:
    most = low + (_OPEN_REPEATS if high is op.MAXREPEAT else min(int(high) - low, _BOUNDED_REPEATS))

    def node(draw: Draw, groups: Groups) -> str:
        parts = []
        length = 0
        for _ in range(draw.between(low, most)):
            text = body(draw, groups)
            length += len(text)
            if length > _MAX_TEXT:
                raise ValueError(f"a repeat in the regular expression gives more than {_MAX_TEXT} characters")
            parts.append(text)
        return "".join(parts)

    return node


def _shorten(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 80 else pattern[:77] + "...")
