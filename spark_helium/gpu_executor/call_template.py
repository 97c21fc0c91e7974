"""A call's messages as a template: column values in, prompts out, whole batches at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from typing import Any, TypeAlias

from spark_helium.call_graph import Call
from spark_helium.call_parts import (
    CallRef,
    Data,
    FirstOf,
    InputRef,
    Joined,
    Part,
    Ref,
    is_null,
    may_be_null,
    references,
    text_of,
)
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.composite import SEPARATOR
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderedMessage, RenderError, Segment, Tokens

# The roles that a literal conversation may have; LLMCallBuilder.scala has the same ones.
ROLES = ("system", "user", "assistant")

_DIGEST_SIZE = 16  # bytes of a hash that tells a query's prompts apart

# Values of one column for a batch of rows: text, or a list of {"role", "content"} for a conversation.
Column = Sequence[Any]


# A part of a template, ready to be filled.
Slot: TypeAlias = Segment | InputRef | CallRef | FirstOf | Joined


class FlawedCellError(Exception):
    """A cell that is no text is to be read; the text says what is wrong with it."""


@dataclass(slots=True)
class Cells:
    """The values of one row of a batch, for what is computed row by row."""

    inputs: Sequence[Column]
    answers: Sequence[Column]
    row: int

    def value(self, ref: Ref) -> Any:
        """The value of a column or the answer of a call.

        Raises
        ------
        FlawedCellError
            The cell is not valid UTF-8.
        """
        column = (self.inputs if isinstance(ref, InputRef) else self.answers)[ref.index]
        if isinstance(column, FlawedColumn) and self.row in column.reasons:
            raise FlawedCellError(column.reasons[self.row])
        return column[self.row]

    def is_null(self, ref: Ref) -> bool:
        """Whether the value is NULL, which a flawed cell is not."""
        return (self.inputs if isinstance(ref, InputRef) else self.answers)[ref.index][self.row] is None


class CallTemplate:
    """Fills one call's template.

    Everything that does not depend on the row is prepared once per stream. Rows are filled column by column
    with ``zip``, which costs a third of filling them one at a time; only what nests is computed row by row.

    Attributes
    ----------
    inputs, calls: input columns and earlier answers that stand directly in the template; NULL in one means no call.
    nullable: parts that may be NULL for other reasons.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        parts = tuple(part for message in call.messages for part in message.parts)
        direct = parts if call.conversation is None else (call.conversation, *parts)
        self.inputs = tuple(dict.fromkeys(part.index for part in direct if isinstance(part, InputRef)))
        self.calls = tuple(dict.fromkeys(part.index for part in direct if isinstance(part, CallRef)))
        self.nullable = tuple(part for part in parts if isinstance(part, FirstOf) and may_be_null(part))
        self._nested = tuple(part for part in parts if isinstance(part, FirstOf | Joined))
        # Adjacent literals stay apart: the template's author may have split them, and the renderer joins them. It
        # joins values as well, so that glue cannot be told from one cell with the whole text.
        self._parts: list[tuple[str, list[Slot]]] = [
            (message.role, list(map(_slot, message.parts))) for message in call.messages
        ]

    def is_null(self, inputs: Sequence[Column], answers: Sequence[Column], row: int) -> bool:
        """Whether one of the messages is NULL for the row, so that there is no call."""
        return (
            any(inputs[index][row] is None for index in self.inputs)
            or any(answers[index][row] is None for index in self.calls)
            or (bool(self.nullable) and is_null(self.nullable, Cells(inputs, answers, row)))
        )

    def digests(self, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]) -> list[bytes]:
        """A hash of each row's prompt that depends on no engine: equal prompts have equal ones."""
        columns = [*(inputs[index] for index in self.inputs), *(answers[index] for index in self.calls)]
        template = blake2b(repr(self.call.messages).encode(errors="surrogatepass"), digest_size=_DIGEST_SIZE)
        out = []
        for row in rows:
            values: list[object] = [column[row] for column in columns]
            try:
                values += [text_of((part,), Cells(inputs, answers, row)) for part in self._nested]
            except FlawedCellError as e:
                values.append(str(e))  # its rendering will say so, too
            digest = template.copy()
            digest.update(repr(values).encode(errors="surrogatepass"))
            out.append(digest.digest())
        return out

    def render(
        self, renderer: PromptRenderer, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]
    ) -> list[Tokens | RenderError]:
        """Prompt tokens of the given rows, for none of which :meth:`is_null` holds."""
        flaws: dict[int, RenderError] = {}
        for column in (inputs[index] for index in self.inputs):
            if isinstance(column, FlawedColumn):
                flaws |= {row: RenderError(reason) for row, reason in column.reasons.items()}
        if any(isinstance(inputs[r.index], FlawedColumn) for r in references(self._nested) if isinstance(r, InputRef)):
            flaws |= self._flaws_of_nested(inputs, answers, rows)
        if flaws:
            good = [row for row in rows if row not in flaws]
            rendered = iter(self._render(renderer, inputs, answers, good) if good else ())
            return [flaws[row] if row in flaws else next(rendered) for row in rows]
        return self._render(renderer, inputs, answers, rows)

    def _flaws_of_nested(
        self, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]
    ) -> dict[int, RenderError]:
        """Rows whose prompt takes a flawed cell in; a cell that coalesce passes over does not matter."""
        flaws = {}
        for row in rows:
            try:
                text_of(self._nested, Cells(inputs, answers, row))
            except FlawedCellError as e:
                flaws[row] = RenderError(str(e))
        return flaws

    def _render(
        self, renderer: PromptRenderer, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]
    ) -> list[Tokens | RenderError]:
        conversation = self.call.conversation
        if conversation is None:
            return renderer.render(list(self._fill(inputs, answers, rows)))
        # A column can hold what a template cannot: an empty list, a message without role or content.
        prefix = next(self._fill(inputs, answers, rows[:1]), ())
        column = inputs[conversation.index]
        parsed = [_conversation(column[row]) for row in rows]
        good = iter(renderer.render([(*prefix, *c) for c in parsed if not isinstance(c, RenderError)]))
        return [c if isinstance(c, RenderError) else next(good) for c in parsed]

    def _fill(
        self, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]
    ) -> Iterator[tuple[RenderedMessage, ...]]:
        # In any order: rows of a second call come as their first calls settle.
        whole = bool(self._parts) and list(rows) == list(range(len(rows)))

        def segments(part: Slot) -> Iterator[Segment]:
            if isinstance(part, tuple):
                return repeat(part, len(rows))
            if isinstance(part, FirstOf | Joined):
                texts = [text_of((part,), Cells(inputs, answers, row)) for row in rows]
                assert None not in texts, "a prompt that is NULL is rendered"
                return zip(map(str, texts), repeat(False), strict=False)
            column = (inputs if isinstance(part, InputRef) else answers)[part.index]
            values = column if whole and len(rows) == len(column) else [column[row] for row in rows]
            return zip(values, repeat(False), strict=False)

        messages = []
        for role, parts in self._parts:
            filled = zip(*map(segments, parts), strict=True) if parts else repeat((), len(rows))
            messages.append(zip(repeat(role), filled, strict=False))
        return zip(*messages, strict=True)

    def last_message(self, inputs: Sequence[Any], answers: Sequence[Any]) -> str:
        """Text of the last message for one row, whose values are given by position: what a user calls the prompt."""
        if self.call.conversation is not None:
            messages = inputs[self.call.conversation.index] or ()
            content = str((messages[-1] or {}).get("content") or "") if messages else ""
            # Without a last content, the whole: an empty prompt would not say which row failed.
            return content or "\n".join(map(_shown, messages)) or "(a conversation without messages)"
        if not self._parts:
            return ""
        if self.call.composite is not None:
            inputs = [_joined(value) if isinstance(value, list) else value for value in inputs]
        row = Cells([[value] for value in inputs], [[answer] for answer in answers], 0)
        shown = ["NULL" if (text := text_of((part,), row)) is None else text for part in self.call.messages[-1].parts]
        return "".join(shown)


def _slot(part: Part) -> Slot:
    match part:
        case str():
            return part, True
        case Data(text):
            return text, False
        case _:
            return part


def _joined(texts: list[Any]) -> str:
    """The texts of a composite call, for a message."""
    return SEPARATOR.join([text for text in texts if text is not None])


def _shown(message: Any) -> str:
    role, content = ((message or {}).get(name) for name in ("role", "content"))
    return f"{'NULL' if role is None else role}: {'NULL' if content is None else content}"


def _conversation(messages: Sequence[Any]) -> tuple[RenderedMessage, ...] | RenderError:
    if not messages:
        return RenderError("the conversation has no messages; give at least one of role 'user'")
    out: list[RenderedMessage] = []
    for number, message in enumerate(messages, 1):
        role, content = (message or {}).get("role"), (message or {}).get("content")
        if role is None or content is None:
            missing = "role" if role is None else "content"
            return RenderError(f"message {number} of the conversation has no {missing} (it is NULL)")
        if role not in ROLES:
            return RenderError(
                f"message {number} of the conversation has the role {shorten(str(role), 40)!r}; "
                f"use one of {', '.join(map(repr, ROLES))}"
            )
        out.append((role, ((content, False),)))
    return tuple(out)


def shorten(text: str, limit: int = 120) -> str:
    """``text`` with its middle cut out, at most ``limit`` characters long.

    >>> shorten("a" * 50 + "b" * 50, 21)
    'aaaaaaaa ... bbbbbbbb'
    """
    if len(text) <= limit:
        return text
    gap = " ... "
    tail = (limit - len(gap)) // 2
    return text[: limit - len(gap) - tail] + gap + text[len(text) - tail :]
