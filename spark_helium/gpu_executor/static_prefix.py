"""The tokens that all prompts of a call begin with, whatever its columns hold.

Where the static text of a template ends, in text, is plain. In tokens it is not: the model's chat template puts text
in front (a default system message, say) and may strip what it is given, and a tokenizer merges letters across the
end of the static text, so that ``"rate: th"`` and ``"e lamp"`` share a token. So the template is rendered with
fillings that differ, and what the prompts have in common is kept::

    template     system "Be brief."   user "Classify the review: {0}"
    fillings     ...<user>Classify the review|: a<end>    ...<user>Classify the review|:7<end>    ...
    in common    ...<user>Classify the review

The last word before the first placeholder is part of the fillings, because a tokenizer may take it together with
what follows, and splits the text in front of it by itself. That is how tokenizers work which split text into words
first; for another kind, a prefix may be a token too long for some rows, which costs those rows a block of the cache
and nothing else.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence

from spark_helium.call_graph import Call, Message
from spark_helium.call_parts import Data, Part, Parts, Row, references, text_of
from spark_helium.gpu_executor.engines.base import (
    TOKEN_BYTES,
    PromptRenderer,
    RenderedMessage,
    Segment,
    Tokens,
    token_count,
)
from spark_helium.trt.templates import Beginning

log = logging.getLogger(__name__)

MOST_TEMPLATES = 256  # templates whose beginning is kept, per engine

# One of each kind of character that a tokenizer treats in its own way at the start of a piece; nothing at all; and
# nothing but white space, which may become one token with the line feed that a chat template writes in front.
_FILLINGS = (
    "",
    "a",
    "Ze",
    "7",
    " x",
    "  x",
    "\n\nx",
    "'s",
    ").",
    ": ",
    "é",
    "\u0301",
    "語",
    "🙂",
    " ",
    "  ",
    "\n",
    "\t",
)
# How a conversation column may begin. Some chat templates refuse it then, and some leave out what they put in front.
_OTHER_ROLES = ("system", "assistant")
_LAST_WORD = re.compile(r"\s*\S*\Z")


class StaticPrefixes:
    """The beginnings of calls' prompts on one engine, each found once per template."""

    def __init__(self, renderer: PromptRenderer) -> None:
        self._renderer = renderer
        self._known: OrderedDict[object, Beginning] = OrderedDict()

    def of(self, call: Call) -> Beginning:
        """See :func:`beginning`. Nothing is known of a call whose chat template raises."""
        template = (call.messages, call.conversation)
        found = self._known.get(template)
        if found is None:
            try:
                found = beginning(call, self._renderer)
            except Exception:  # a chat template may raise anything, and no order or pin is worth a query
                log.warning("the shared beginning of %s's prompts could not be found", call.function, exc_info=True)
                found = Beginning()
            self._known[template] = found
            if len(self._known) > MOST_TEMPLATES:
                self._known.popitem(last=False)
        return found


def beginning(call: Call, renderer: PromptRenderer) -> Beginning:
    """The longest beginning that the prompts of ``call`` share; the whole prompt if it has no placeholder.

    A conversation column shares what stands before it: the chat template's own text and the call's messages.
    Empty if the chat template refuses the fillings.
    """
    is_static = call.conversation is None and all(message.is_static() for message in call.messages)
    filled = [_filled(call, filling) for filling in (("",) if is_static else _FILLINGS)]
    if call.conversation is not None:
        filled += [(*messages[:-1], (role, messages[-1][1])) for messages in filled for role in _OTHER_ROLES]
    rendered = [p for p in renderer.render(filled) if isinstance(p, bytes)]
    if not rendered or (not is_static and len(rendered) < 2):
        return Beginning()
    return Beginning(_common(rendered), _last_word(call), min(map(token_count, rendered)))


def _common(prompts: Sequence[Tokens]) -> Tokens:
    first, last = min(prompts), max(prompts)  # what these two share, all between them share
    end = 0
    while end < len(first) and first[end : end + TOKEN_BYTES] == last[end : end + TOKEN_BYTES]:
        end += TOKEN_BYTES
    return first[:end]


def _filled(call: Call, filling: str) -> tuple[RenderedMessage, ...]:
    messages = [(message.role, _segments(message, filling)) for message in call.messages]
    if call.conversation is not None:
        messages.append(("user", ((filling or "-", False),)))
    return tuple(messages)


def _segments(message: Message, filling: str) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    for position, part in enumerate(message.parts):
        if _is_static((part,)):
            segments.append(_static_segment(part))
            continue
        # Only the first placeholder matters: what follows it differs already.
        return (*_without_last_word(segments), (filling, False), *_static_rest(message.parts[position + 1 :]))
    return tuple(segments)


def _last_word(call: Call) -> str:
    """The static text that is part of the fillings."""
    for message in call.messages:
        text = ""
        for part in message.parts:
            if not _is_static((part,)):
                return text[len(_LAST_WORD.sub("", text)) :]
            text += _static_segment(part)[0]
    return ""


def _is_static(parts: Parts) -> bool:
    return next(references(parts), None) is None


def _static_rest(parts: Sequence[Part]) -> list[Segment]:
    return [_static_segment(part) for part in parts if _is_static((part,))]


def _static_segment(part: Part) -> Segment:
    match part:
        case str():
            return part, True
        case Data(text):
            return text, False
        case _:
            return text_of((part,), _NO_ROW) or "", False


def _without_last_word(segments: Sequence[Segment]) -> list[Segment]:
    """The segments up to the last word, which may go over several of them, and the blanks in front of it."""
    kept = len(_LAST_WORD.sub("", "".join(text for text, _ in segments)))
    out: list[Segment] = []
    for text, trusted in segments:
        out.append((text[:kept], trusted))
        kept -= len(out[-1][0])
    return out


class _NoRow:
    def value(self, ref: object) -> str:
        raise AssertionError(f"static text reads {ref}")

    def is_null(self, ref: object) -> bool:
        raise AssertionError(f"static text reads {ref}")


_NO_ROW: Row = _NoRow()
