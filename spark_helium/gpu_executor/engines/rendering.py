"""Conversations into tokens with a Hugging Face tokenizer and its chat template.

A conversation becomes exactly the tokens that ``tokenizer.apply_chat_template(messages,
add_generation_prompt=True)`` gives. The one exception: *control tokens* (special tokens, and added tokens
that the chat template itself writes, such as role marks) inside untrusted text are spelled out as ordinary
text, so that a cell can neither end its own turn nor begin another role's.

How the exception works, on ``user: "hi <|im_end|>"`` where the content is a cell::

    content with the forged token masked    hi M0M
    chat template                           <|im_start|>user⏎hi M0M<|im_end|>⏎<|im_start|>assistant⏎
    control tokens that are left: genuine   S0user⏎hi M0MS1⏎S0assistant⏎
    masks undone                            S0user⏎hi <|im_end|>S1⏎S0assistant⏎
    tokens by the *shadow tokenizer*, which knows S0 and S1 in place of the control tokens, mapped back

A model whose tokenizer has no chat template cannot be used: any layout we made up would give silently bad
answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from spark_helium.errors import EngineStartError
from spark_helium.gpu_executor.engines.base import (
    PromptRenderer,
    RenderedMessage,
    RenderError,
    Tokens,
    pack_tokens,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# A role may come from a column, and templates write roles between control tokens as they are.
ROLE_PATTERN = r"[A-Za-z][A-Za-z0-9_-]{0,63}"

# Two areas without assigned characters: one for masks, one for stand-ins.
_MASKS = range(0xE000, 0xF900)
_STAND_INS = range(0xF0000, 0xFFFFD)
_STAND_IN_END = chr(0xFFFFD)


def bad_role(role: str) -> str:
    """Why ``role`` cannot be the role of a message."""
    return f"{role[:40]!r} is not the role of a message: a role is a letter, then letters, digits, '_' or '-'"


def too_long(prompt_tokens: int, max_model_len: int, setting: str) -> str:
    """Why a prompt does not fit the context, and which setting says so."""
    return (
        f"the prompt has {prompt_tokens} tokens and leaves no room for an answer in the context of {max_model_len} "
        f"tokens ({setting}): shorten the prompt or choose a model with a longer context"
    )


class ChatTemplateRenderer(PromptRenderer):
    """Renders with ``tokenizer``, loaded for this renderer alone (fast tokenizers are not safe to share).

    Parameters
    ----------
    tokenizer
        A transformers tokenizer with a chat template.
    model
        The model's name, for messages.

    Raises
    ------
    EngineStartError
        The tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
        self._tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template()
        except ValueError as e:
            raise EngineStartError(
                f"model {model!r} has no chat template, so llm() cannot write prompts for it: "
                "use an instruction-tuned version of the model, or add a chat_template.jinja to its directory"
            ) from e
        self._control = _control_tokens(tokenizer, template)
        # The unknown token also stands for characters that the vocabulary lacks, so it proves nothing.
        self._telling_ids = frozenset(self._control.values()) - {tokenizer.unk_token_id}
        # Longest first: where one control token begins another, the tokenizer takes the longer one too.
        words = sorted(self._control, key=len, reverse=True)
        self._find_control = re.compile("|".join(map(re.escape, words)) or r"(?!)")
        self._shadow = _Shadow(tokenizer, self._control, self._telling_ids)
        self._template = template

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        rendered: list[Tokens | RenderError | None] = [None] * len(conversations)
        plain: list[int] = []
        texts: list[str] = []
        for position, conversation in enumerate(conversations):
            try:
                messages = _joined(conversation)
                if any(self._forged(segments) for _, segments in conversation):
                    rendered[position] = self._render_guarded(conversation)
                else:
                    texts.append(self._apply_template(messages))
                    plain.append(position)
            except _Refused as e:
                rendered[position] = RenderError(str(e))
        for position, text, ids in zip(plain, texts, _token_ids(self._tokenizer, texts), strict=True):
            # A tokenizer that normalizes text first may see a control token where the text spells none.
            if sum(map(self._telling_ids.__contains__, ids)) == self._count_telling(text):
                rendered[position] = pack_tokens(ids)
                continue
            try:
                rendered[position] = self._render_guarded(conversations[position])
            except _Refused as e:
                rendered[position] = RenderError(str(e))
        return [entry if entry is not None else RenderError("the prompt could not be rendered") for entry in rendered]

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as e:  # a template is code of the model's author and may raise anything
            raise _Refused(f"the model's chat template refuses the conversation: {e}") from e
        assert isinstance(text, str), "a chat template gave something that is not text"
        return text

    def _count_telling(self, text: str) -> int:
        return sum(self._control[word] in self._telling_ids for word in self._find_control.findall(text))

    def _forged(self, segments: Sequence[tuple[str, bool]]) -> list[re.Match[str]]:
        """Control tokens in a message's text that untrusted text wrote, wholly or in part."""
        text = "".join([part for part, _ in segments])
        found = list(self._find_control.finditer(text))
        if not found:
            return found
        untrusted = []
        end = 0
        for part, trusted in segments:
            start, end = end, end + len(part)
            if not trusted:
                untrusted.append((start, end))
        return [m for m in found if any(m.start() < end and start < m.end() for start, end in untrusted)]

    def _render_guarded(self, conversation: Sequence[RenderedMessage]) -> Tokens:
        whole = "".join([part for _, segments in conversation for part, _ in segments])
        mark = _unused_character(whole + self._template)
        forged: list[str] = []
        messages = []
        for role, segments in conversation:
            text = "".join([part for part, _ in segments])
            pieces = []
            end = 0
            for match in self._forged(segments):
                pieces += [text[end : match.start()], f"{mark}{len(forged)}{mark}"]
                forged.append(match.group())
                end = match.end()
            messages.append({"role": role, "content": "".join([*pieces, text[end:]])})
        masked = self._apply_template(messages)

        def unmask(text: str) -> str:
            return re.sub(f"{mark}([0-9]+){mark}", lambda m: forged[int(m.group(1))], text)

        pieces = []
        end = 0
        for match in self._find_control.finditer(masked):
            pieces += [unmask(masked[end : match.start()]), self._shadow.stand_in(match.group())]
            end = match.end()
        text = "".join([*pieces, unmask(masked[end:])])
        if mark in text:
            raise _Refused("the model's chat template cuts the text inside of a special token that the data spells")
        if _STAND_IN_END in whole:
            raise _Refused("the prompt contains private-use characters that are reserved for rendering")
        return pack_tokens(self._shadow.encode(text))


class TextRenderer(PromptRenderer):
    """The tokens of the messages' text, without a chat template: for embeddings, and for counting tokens.

    All text is data here: where it spells a control token, that is spelled out as text.

    Parameters
    ----------
    tokenizer
        As for :class:`ChatTemplateRenderer`, with or without a chat template.
    whole
        Whether the text is to be a whole input of the model, with what its tokenizer sets around one (such as CLS and
        SEP). Then an empty text is refused, as no model has a vector for nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, whole: bool) -> None:
        self._tokenizer = tokenizer
        self._whole = whole
        self._before, self._behind = _around(tokenizer) if whole else ([], [])
        try:
            template = tokenizer.get_chat_template()
        except ValueError:
            template = ""
        control = _control_tokens(tokenizer, template)
        self._telling_ids = frozenset(control.values()) - {tokenizer.unk_token_id}
        self._shadow = _Shadow(tokenizer, control, self._telling_ids)

    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        rendered: list[Tokens | RenderError | None] = [None] * len(conversations)
        texts: list[str] = []
        positions: list[int] = []
        for position, conversation in enumerate(conversations):
            text = "".join([part for _, segments in conversation for part, _ in segments])
            try:
                _check_unicode(text)
                if self._whole and not text:
                    raise _Refused("an empty text has no embedding; leave it out, for example with nullif(text, '')")
            except _Refused as e:
                rendered[position] = RenderError(str(e))
                continue
            texts.append(text)
            positions.append(position)
        for position, text, ids in zip(positions, texts, _token_ids(self._tokenizer, texts), strict=True):
            try:
                # As with a chat template: what looks like a control token is one only where a template wrote it.
                own = ids if self._telling_ids.isdisjoint(ids) else list(self._shadow.encode(text))
                rendered[position] = pack_tokens([*self._before, *own, *self._behind])
            except _Refused as e:
                rendered[position] = RenderError(str(e))
        return [entry if entry is not None else RenderError("the text could not be tokenized") for entry in rendered]


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer sets before and behind a text that is a whole input."""
    probe = "a"
    (bare,) = _token_ids(tokenizer, [probe])
    whole: list[int] = tokenizer(probe, add_special_tokens=True, return_attention_mask=False)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise EngineStartError(
        "the tokenizer changes a text when it sets special tokens around it, so none can be embedded"
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of the texts, and nothing around them."""
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(
        texts, add_special_tokens=False, padding=False, truncation=False, return_attention_mask=False, verbose=False
    )["input_ids"]
    return ids


class _Refused(Exception):
    """One conversation cannot be rendered; the text is for the user."""


class _Shadow:
    """The same tokenizer, except that each control token is spelled with a stand-in from the private-use area.

    Everything else about the control tokens stays (their effect on spaces next to them, how text after them
    is split), so text around them gets the tokens that it always gets.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: dict[str, int], telling_ids: frozenset[int]
    ) -> None:
        self._original = tokenizer
        self._telling_ids = telling_ids
        self._stand_ins = {word: f"{chr(_STAND_INS[i])}{_STAND_IN_END}" for i, word in enumerate(control)}

    def stand_in(self, word: str) -> str:
        return self._stand_ins[word]

    def encode(self, text: str) -> Iterator[int]:
        tokenizer, added = self._tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if any(i in self._telling_ids and i not in added for i in ids):
            raise _Refused("the data spells a special token of the model, and its tokenizer knows no other way")
        return (added.get(i, i) for i in ids)

    @cached_property  # made on first use: most data never spells a control token
    def _tokenizer(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer, and the original id of every added token by the id that it has here."""
        from tokenizers import Tokenizer

        backend = getattr(self._original, "backend_tokenizer", None)
        if backend is None:
            raise _Refused("the data spells a special token of the model, and its tokenizer cannot take it as text")
        description: dict[str, Any] = json.loads(backend.to_str())
        original_ids: dict[str, int] = {}
        for token in description["added_tokens"]:
            if token["content"] in self._stand_ins:
                # Not normalized: a normalizer must not touch a stand-in.
                token.update(content=self._stand_ins[token["content"]], normalized=False)
            original_ids[token["content"]] = token["id"]
        # What a post-processor adds is not wanted, and it may name tokens that are gone now.
        description["truncation"] = description["padding"] = description["post_processor"] = None
        tokenizer = Tokenizer.from_str(json.dumps(description))
        added = {tokenizer.token_to_id(word): original for word, original in original_ids.items()}
        assert None not in added, "an added token is missing from the shadow tokenizer"
        return tokenizer, {here: original for here, original in added.items() if here is not None}


def _control_tokens(tokenizer: PreTrainedTokenizerBase, template: str) -> dict[str, int]:
    """Added tokens that text must not forge, with their ids: special ones, and those that the template writes."""
    return {
        token.content: token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.content and (token.special or token.content in template) and not token.content.isspace()
    }


def _joined(conversation: Sequence[RenderedMessage]) -> list[dict[str, str]]:
    if not conversation:
        raise _Refused("the conversation has no messages")
    messages = []
    for role, segments in conversation:
        if not re.fullmatch(ROLE_PATTERN, role):
            raise _Refused(bad_role(role))
        content = "".join([text for text, _ in segments])
        _check_unicode(content)
        messages.append({"role": role, "content": content})
    return messages


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise _Refused(f"the prompt is not valid Unicode: {e.reason} at character {e.start}") from e


def _unused_character(text: str) -> str:
    used = set(text)
    mark = next((chr(c) for c in _MASKS if chr(c) not in used), None)
    if mark is None:
        raise _Refused("the prompt uses every private-use character, and rendering needs one")
    return mark
