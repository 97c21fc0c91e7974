"""What the simulator answers: a pure function of prompt tokens, sampling and constraint.

Nothing else goes in, neither order, batching, cache nor settings, so a test can predict every answer with
:func:`answer` and compare.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Tokens
from spark_helium.gpu_executor.engines.draw import WORDS, Draw
from spark_helium.gpu_executor.engines.json_sampler import compile_schema
from spark_helium.gpu_executor.engines.regex_sampler import compile_regex

_FEWEST_WORDS = 4
_MORE_WORDS = 20
_DIGEST_SIZE = 64


class Answer(NamedTuple):
    """``output_tokens`` of 4 UTF-8 bytes each, at least one. ``truncated``: cut off at the token limit."""

    text: str
    output_tokens: int
    truncated: bool


class AnswerPlan:
    """The answers of all calls with one sampling and one constraint.

    Raises
    ------
    ValueError
        The constraint is malformed or beyond what the simulator can satisfy.
    """

    __slots__ = ("_draw_text", "_key", "_max_tokens", "_stop", "deterministic")

    def __init__(self, sampling: Sampling, constraint: Constraint | None = None) -> None:
        self.deterministic = sampling.deterministic
        self._max_tokens = sampling.max_tokens
        self._stop = tuple(stop for stop in sampling.stop if stop)
        # Greedy decoding takes no notice of top_p and seed.
        varied = "" if sampling.temperature == 0 else f"{sampling.temperature!r} {sampling.top_p!r} {sampling.seed!r}"
        self._key = blake2b(varied.encode(), digest_size=16).digest() if varied else b""
        self._draw_text = _text_of(constraint)

    def answer(self, tokens: Tokens, room: int | None = None, salt: bytes = b"") -> Answer:
        """The answer to a prompt.

        Parameters
        ----------
        tokens
            The prompt.
        room
            Tokens left in the context after the prompt, where that is less than ``max_tokens``.
        salt
            Makes answers differ that need not be equal (see ``deterministic``).

        Raises
        ------
        ValueError
            No text that satisfies the constraint was found.
        """
        digest = blake2b(tokens, digest_size=_DIGEST_SIZE, key=self._key, salt=salt).digest()
        text = self._draw_text(digest)
        limit = self._max_tokens if room is None or room > self._max_tokens else room
        shown = text
        if self._stop:
            text, shown = _until_stop(text, self._stop)
        data = text.encode()
        count = (len(data) + TOKEN_BYTES - 1) // TOKEN_BYTES
        if count > limit:
            return Answer(data[: limit * TOKEN_BYTES].decode(errors="ignore"), limit, True)
        return Answer(shown, count or 1, False)


@lru_cache(maxsize=1024)
def plan_for(sampling: Sampling, constraint: Constraint | None) -> AnswerPlan:
    """The plan for equal arguments, made once. Raises ValueError as :class:`AnswerPlan`."""
    return AnswerPlan(sampling, constraint)


def answer(tokens: Tokens, sampling: Sampling, constraint: Constraint | None = None) -> Answer:
    """What the simulator answers to the prompt ``tokens``, context length aside.

    >>> answer(b"", Sampling(max_tokens=8), Constraint(choices=("yes",)))
    Answer(text='yes', output_tokens=1, truncated=False)
    """
    return plan_for(sampling, constraint).answer(tokens)


def _text_of(constraint: Constraint | None) -> Callable[[bytes], str]:
    if constraint is None:
        return _free_text
    if constraint.choices is not None:
        choices = constraint.choices
        if not choices:
            raise ValueError("choices must name at least one answer")
        return lambda digest: choices[int.from_bytes(digest[:8], "big") % len(choices)]
    if constraint.regex is not None:
        sample = compile_regex(constraint.regex)
    elif constraint.json_schema is not None:
        sample = compile_schema(constraint.json_schema)
    else:
        return _free_text
    return lambda digest: sample(Draw(int.from_bytes(digest[:8], "big")))


def _free_text(digest: bytes) -> str:
    count = _FEWEST_WORDS + digest[-1] % (_MORE_WORDS + 1)
    return " ".join([WORDS[byte] for byte in digest[:count]])


def _until_stop(text: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """What is generated until the first stop text is complete, and what of it is shown."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return text, text
    end, start = min(found)
    return text[:end], text[:start]
