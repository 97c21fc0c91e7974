"""Conversations for endpoints that render chat templates themselves.

Such an endpoint takes messages, and the daemon knows neither its template nor its tokenizer. What takes the place of
tokens is the conversation as JSON, in UTF-8, cut into pieces of four bytes::

    [["system","Be brief."],["user","Classify: good"]]

It does for what the daemon needs: equal conversations have equal bytes (cache keys), what two of them begin with is
what the endpoint's prefix cache can share (the radix tree), and a piece is about a token of English, so that the
number of pieces is an estimate where a number of tokens is asked for. Text of a cell stays inside its JSON string,
so that it can begin no message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from spark_helium.gpu_executor.engines.base import (
    TOKEN_BYTES,
    PromptRenderer,
    RenderedMessage,
    RenderError,
    Tokens,
)
from spark_helium.gpu_executor.engines.rendering import ROLE_PATTERN, bad_role


class MessageRenderer(PromptRenderer):
    """Packs conversations; :func:`messages_of` unpacks them."""

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        return [_packed(conversation) for conversation in conversations]


def messages_of(tokens: Tokens) -> list[dict[str, str]]:
    """The messages that :class:`MessageRenderer` packed, as chat completions take them.

    >>> packed = MessageRenderer().render([[("user", (("Hi ", True), ("you", False)))]])[0]
    >>> messages_of(packed)
    [{'role': 'user', 'content': 'Hi you'}]
    """
    return [{"role": role, "content": content} for role, content in json.loads(tokens)]


def _packed(conversation: Sequence[RenderedMessage]) -> Tokens | RenderError:
    if not conversation:
        return RenderError("the conversation has no messages")
    messages = []
    for role, segments in conversation:
        if not re.fullmatch(ROLE_PATTERN, role):
            return RenderError(bad_role(role))
        messages.append((role, "".join([text for text, _ in segments])))
    try:
        data = json.dumps(messages, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as e:
        return RenderError(f"the prompt is not valid Unicode: {e.reason}")
    return data + b" " * (-len(data) % TOKEN_BYTES)  # JSON does not mind blanks at its end
