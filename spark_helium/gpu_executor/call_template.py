"""A call's messages as a template: column values in, prompts out, whole batches at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from spark_helium.call_graph import Call, CallRef, InputRef
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderedMessage, RenderError, Segment, Tokens

# The roles that a literal conversation may have; LLMCallBuilder.scala has the same ones.
ROLES = ("system", "user", "assistant")

# Values of one column for a batch of rows: text, or a list of {"role", "content"} for a conversation.
Column = Sequence[Any]


class CallTemplate:
    """Fills one call's template.

    Everything that does not depend on the row is prepared once per stream. Rows are filled column by column
    with ``zip``, which costs a third of filling them one at a time.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        references = list(dict.fromkeys(call.references()))
        self.inputs = tuple(ref.index for ref in references if isinstance(ref, InputRef))
        self.calls = tuple(ref.index for ref in references if isinstance(ref, CallRef))
        # Adjacent literals stay apart: the template's author may have split them, and the renderer joins them.
        self._parts: list[tuple[str, list[Segment | InputRef | CallRef]]] = [
            (message.role, [(part, True) if isinstance(part, str) else part for part in message.parts])
            for message in call.messages
        ]

    def render(
        self, renderer: PromptRenderer, inputs: Sequence[Column], answers: Sequence[Column], rows: Sequence[int]
    ) -> list[Tokens | RenderError]:
        """Prompt tokens of the given rows; none of the values that the template reads may be None."""
        flaws: dict[int, RenderError] = {}
        for column in (inputs[index] for index in self.inputs):
            if isinstance(column, FlawedColumn):
                flaws |= {row: RenderError(reason) for row, reason in column.reasons.items()}
        if flaws:
            good = [row for row in rows if row not in flaws]
            rendered = iter(self._render(renderer, inputs, answers, good) if good else ())
            return [flaws[row] if row in flaws else next(rendered) for row in rows]
        return self._render(renderer, inputs, answers, rows)

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
        def segments(part: Segment | InputRef | CallRef) -> Iterator[Segment]:
            if isinstance(part, tuple):
                return repeat(part, len(rows))
            column = (inputs if isinstance(part, InputRef) else answers)[part.index]
            values = column if len(rows) == len(column) else [column[row] for row in rows]
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
        return "".join(
            part[0] if isinstance(part, tuple) else str((inputs if isinstance(part, InputRef) else answers)[part.index])
            for part in self._parts[-1][1]
        )


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
