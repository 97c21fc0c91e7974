"""What the text of a prompt is made of: columns, earlier answers, and the string glue between them.

A text is a list of parts, written one after the other as SQL's ``concat`` does, so that it is NULL when one of
its parts is. :class:`FirstOf` is SQL's ``coalesce`` and :class:`Joined` is ``concat_ws``; they nest to any depth.
The functions here compute what SQL would have computed from the same values, and know nothing of trust: which
text may spell a control token is the matter of the prompt's template.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class InputRef:
    """A placeholder filled from input column ``index`` (0-based)."""

    index: int


@dataclass(frozen=True, slots=True)
class CallRef:
    """A placeholder filled with the answer of call ``index`` of the same graph; always an earlier call."""

    index: int


@dataclass(frozen=True, slots=True)
class Data:
    """Constant text that is data: unlike a template's own text, it never becomes a special token."""

    text: str


@dataclass(frozen=True, slots=True)
class FirstOf:
    """SQL's ``coalesce``: the first alternative that is not NULL, and NULL when all of them are."""

    alternatives: tuple[Parts, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """SQL's ``concat_ws``: the items that are not NULL, with ``separator`` between them. Never NULL itself."""

    items: tuple[Parts, ...]
    separator: str


Ref: TypeAlias = InputRef | CallRef
Part: TypeAlias = str | InputRef | CallRef | Data | FirstOf | Joined
Parts: TypeAlias = tuple[Part, ...]


class Row(Protocol):
    """The values of one row, as far as they are known."""

    def value(self, ref: Ref) -> Any:
        """The value of an input column, or the answer of a call; None is NULL. May raise where a cell is flawed."""

    def is_null(self, ref: Ref) -> bool:
        """Whether that value is NULL; never raises."""


def references(parts: Parts) -> Iterator[Ref]:
    """Every placeholder of the parts, in order of appearance, repeats included."""
    for part in parts:
        match part:
            case InputRef() | CallRef():
                yield part
            case FirstOf(texts) | Joined(texts, _):
                for nested in texts:
                    yield from references(nested)
            case _:
                pass


def may_be_null(part: Part) -> bool:
    """Whether there are values for which the part is NULL."""
    match part:
        case InputRef() | CallRef():
            return True
        case FirstOf(alternatives):
            return all(any(map(may_be_null, parts)) for parts in alternatives)
        case _:
            return False


def is_null(parts: Parts, row: Row) -> bool:
    """Whether the text is NULL for the row. Reads which values are NULL, and no value."""
    for part in parts:
        match part:
            case InputRef() | CallRef():
                if row.is_null(part):
                    return True
            case FirstOf(alternatives):
                if all(is_null(alternative, row) for alternative in alternatives):
                    return True
            case _:
                pass
    return False


def text_of(parts: Parts, row: Row) -> str | None:
    """The text of the parts for the row, or None where it is NULL. Reads the values that stand in it, and no other."""
    return None if is_null(parts, row) else _written(parts, row)


def _written(parts: Parts, row: Row) -> str:
    """The text of parts that are not NULL."""
    texts: list[str] = []
    for part in parts:
        match part:
            case str():
                texts.append(part)
            case InputRef() | CallRef():
                texts.append(row.value(part))
            case Data(text):
                texts.append(text)
            case FirstOf(alternatives):
                texts.append(next(_written(some, row) for some in alternatives if not is_null(some, row)))
            case Joined(items, separator):
                texts.append(separator.join([_written(item, row) for item in items if not is_null(item, row)]))
    return "".join(texts)


def parts_to_json(parts: Parts) -> list[Any]:
    """The wire form of a text."""
    return [part_to_json(part) for part in parts]


def part_to_json(part: Part) -> Any:
    """The wire form of one part; :func:`part_from_json` reads it."""
    match part:
        case str():
            return part
        case InputRef(index):
            return {"input": index}
        case CallRef(index):
            return {"call": index}
        case Data(text):
            return {"data": text}
        case FirstOf(alternatives):
            return {"first_of": [parts_to_json(alternative) for alternative in alternatives]}
        case Joined(items, separator):
            return {"join": [parts_to_json(item) for item in items], "separator": separator}


def parts_from_json(value: Any) -> Parts:
    """Read the wire form of a text.

    Raises
    ------
    ValueError
        It is not a list of parts.
    """
    if not isinstance(value, list):
        raise malformed("a list of the parts of a text", value)
    return tuple(map(part_from_json, value))


def part_from_json(value: Any) -> Part:
    """Read the wire form of one part.

    Raises
    ------
    ValueError
        It is not a part.
    """
    match value:
        case str():
            return value
        case {"input": int(index)} if _plain(value, index):
            return InputRef(index)
        case {"call": int(index)} if _plain(value, index):
            return CallRef(index)
        case {"data": str(text)} if len(value) == 1:
            return Data(text)
        case {"first_of": list(alternatives)} if len(value) == 1:
            return FirstOf(tuple(map(parts_from_json, alternatives)))
        case {"join": list(items), "separator": str(separator)} if len(value) == 2:
            return Joined(tuple(map(parts_from_json, items)), separator)
    raise malformed("a part of a text", value)


def input_from_json(value: Any) -> InputRef:
    """Read the wire form of a reference to an input column.

    Raises
    ------
    ValueError
        It is something else.
    """
    match value:
        case {"input": int(index)} if _plain(value, index):
            return InputRef(index)
    raise malformed("an input column", value)


def malformed(expected: str, value: Any) -> ValueError:
    """The error for a piece of a call graph that is not what must stand there."""
    shown = repr(value)
    return ValueError(f"not a call graph: {shown if len(shown) <= 80 else shown[:77] + '...'} is not {expected}")


def _plain(value: dict[str, Any], index: int) -> bool:
    return len(value) == 1 and not isinstance(index, bool)
