"""What the simulator answers: a pure function of prompt tokens, sampling and constraint.

Nothing else goes in, neither order, batching, cache nor settings, so a test can predict every answer with
:func:`answer`, :func:`score` or :func:`embedding` and compare.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from spark_helium.call_graph import CallTask, Constraint, Sampling
from spark_helium.gpu_executor.engines.base import TOKEN_BYTES, Tokens
from spark_helium.gpu_executor.engines.draw import WORDS, Draw
from spark_helium.gpu_executor.engines.json_answers import embedding_text, score_text
from spark_helium.gpu_executor.engines.json_sampler import compile_schema
from spark_helium.gpu_executor.engines.regex_sampler import compile_regex

_FEWEST_WORDS = 4
_MORE_WORDS = 20
_DIGEST_SIZE = 64

EMBEDDING_SIZE = 64
_FLOAT = 1 << 24  # components are multiples of 2^-24 or so: what 32-bit floats of this size can tell apart


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


class ScorePlan:
    """The scores of two choices.

    Raises
    ------
    ValueError
        There are not two different choices.
    """

    __slots__ = ("_choices", "deterministic")

    def __init__(self, choices: Sequence[str]) -> None:
        if len(set(choices)) != 2:
            raise ValueError(f"a score takes two different choices, not {', '.join(map(repr, choices))}")
        self._choices = tuple(choices)
        self.deterministic = True

    def answer(self, tokens: Tokens, room: int | None = None, salt: bytes = b"") -> Answer:
        """The score of a prompt: one token, whose text nobody reads."""
        return Answer(score(tokens, self._choices), 1, False)


class EmbeddingPlan:
    """The embeddings of texts."""

    __slots__ = ("deterministic",)

    def __init__(self) -> None:
        self.deterministic = True

    def answer(self, tokens: Tokens, room: int | None = None, salt: bytes = b"") -> Answer:
        """The embedding of a text, for which nothing is generated."""
        return Answer(embedding_text(embedding(tokens)), 0, False)


Plan = AnswerPlan | ScorePlan | EmbeddingPlan


def score(tokens: Tokens, choices: Sequence[str] = ("yes", "no")) -> str:
    """How the simulator scores the first of two choices: by a weight of each that depends on prompt and choice.

    >>> float(score(b"", ("yes", "no"))) + float(score(b"", ("no", "yes")))
    1.0
    """
    first, second = (
        math.log1p(int.from_bytes(blake2b(tokens, digest_size=6, key=choice.encode()[:64]).digest(), "big"))
        for choice in choices
    )
    return score_text(first, second)


def embedding(tokens: Tokens) -> list[float]:
    """The simulator's embedding of a text: a hashed bag of its words, with norm 1.

    A word counts by the logarithm of its occurrences, for and against some of :data:`EMBEDDING_SIZE` features, so that
    texts with many words in common have a high cosine. Case and punctuation do not matter, but in a text that is
    nothing else (feature hashing: Weinberger et al., ICML 2009, section 2).
    """
    text = tokens.replace(b"\xff", b"").decode(errors="replace")
    words = re.findall(r"\w+", text.lower()) or [text]
    sums = [0.0] * EMBEDDING_SIZE
    for word, count in sorted(Counter(words).items()):
        weight = 1.0 + math.log(count)
        for byte in blake2b(word.encode(), digest_size=8).digest():
            sums[byte % EMBEDDING_SIZE] += weight if byte >= 128 else -weight
    norm = math.sqrt(math.fsum(value * value for value in sums))
    if norm == 0:  # the words outweigh each other, feature by feature
        sums[0] = norm = 1.0
    return [round(value / norm * _FLOAT) / _FLOAT for value in sums]


@lru_cache(maxsize=1024)
def plan_for(sampling: Sampling, constraint: Constraint | None, task: CallTask = CallTask.GENERATE) -> Plan:
    """The plan for equal arguments, made once. Raises ValueError as :class:`AnswerPlan` and :class:`ScorePlan`."""
    match task:
        case CallTask.GENERATE:
            return AnswerPlan(sampling, constraint)
        case CallTask.SCORE:
            return ScorePlan((constraint.choices if constraint is not None else None) or ())
        case CallTask.EMBED:
            return EmbeddingPlan()
    raise ValueError(f"the simulator has no answers for the task {task}")


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
