"""What a composite call becomes: a tree of calls over many texts, or a chain of them. Knows no engine and no template.

Tree (``ai_agg``)::

    texts     a b c d e f g h i            in their order, NULLs left out
    leaves    [a b c] [d e] [f g h] [i]    as many as fit the budget
    answers      A      B      C     D
    merges    [A B C] [D]                  two at least; one alone takes no call and goes up as it is
                 E     D
    root      [E D]

A level begins when the one below is answered as a whole, so that the tree depends on nothing but the texts, their
order and their answers. As merges take two texts at least, a tree over n leaves has at most ceil(log2(n)) levels and
n - 1 calls above them. A text of more tokens than the budget is cut into parts that fit, each a text of its own.

Chain (``llm_fold``): the first text alone, then each further one with the answer so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

SEPARATOR = "\n---\n"  # between the texts of one prompt

# Tokens of each text in a prompt, with one separator.
Count = Callable[[Sequence[str]], list[int]]


class DoesNotFitError(Exception):
    """A tree cannot go on within the model's context; the text is for the user."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens of texts in one prompt: ``budget`` where they are chosen, ``room`` what the context has at all."""

    budget: int
    room: int


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the engine.

    Attributes
    ----------
    number: by which :meth:`Program.settle` knows it.
    text: the texts at hand, joined.
    so_far: the answer that a chain goes on from.
    is_first: whether the composite call's own messages write the prompt, and not the further ones.
    is_last: whether its answer is that of the composite call.
    where: what of the row it is about, for messages.
    """

    number: int
    text: str
    so_far: str | None
    is_first: bool
    is_last: bool
    where: str


class Program(Protocol):
    """The calls of one row. They become known step by step, as answers come in."""

    @property
    def can_plan(self) -> bool:
        """Whether there is something to plan that waits for no answer."""

    def plan(self, count: Count, most: int) -> list[Step]:
        """Further calls; looks at ``most`` texts.

        Raises
        ------
        DoesNotFitError
            The row must fail.
        """

    def settle(self, number: int, answer: str) -> None:
        """A call is answered."""

    @property
    def answer(self) -> str | None:
        """The answer of the last call, as soon as it is there."""


class Tree:
    """The reduction of one row's texts, of which there is one at least."""

    def __init__(self, texts: Iterable[str], limits: Limits) -> None:
        self.answer: str | None = None
        self._limits = limits
        self._level = 0
        self._pending = deque(enumerate(texts, 1))  # of this level, with their positions
        self._chunk: list[tuple[int, str]] = []
        self._chunk_tokens = 0
        self._answers: list[str | None] = []  # of this level, in order; None: not there yet
        self._open = 0

    @property
    def can_plan(self) -> bool:
        return bool(self._pending)

    def plan(self, count: Count, most: int) -> list[Step]:
        taken = [self._pending.popleft() for _ in range(min(most, len(self._pending)))]
        sizes = count([text for _, text in taken])
        sized = [(position, text, tokens) for (position, text), tokens in zip(taken, sizes, strict=True)]
        if self._level == 0:
            sized = _cut(sized, self._limits.budget, count)
        steps = []
        for position, text, tokens in sized:
            if self._is_full(tokens):
                steps.append(self._step(is_last=False))
            self._chunk.append((position, text))
            self._chunk_tokens += tokens
        if not self._pending:
            if self._level > 0 and len(self._chunk) == 1:
                self._answers.append(self._chunk.pop()[1])
                self._chunk_tokens = 0
            else:
                steps.append(self._step(is_last=not self._answers))
            self._end_level()
        return steps

    def settle(self, number: int, answer: str) -> None:
        assert self._answers[number] is None, f"call {number} of level {self._level} is answered twice"
        self._answers[number] = answer
        self._open -= 1
        self._end_level()

    def _is_full(self, tokens: int) -> bool:
        """Whether a text of so many tokens must go into another chunk."""
        together = self._chunk_tokens + tokens
        if not self._chunk or together <= self._limits.budget:
            return False
        if self._level == 0 or len(self._chunk) > 1:
            return True
        if together > self._limits.room:
            raise DoesNotFitError(
                f"two answers of {together} tokens together leave no room in the model's context; lower max_tokens, or "
                "choose a model with a longer context"
            )
        return False

    def _step(self, is_last: bool) -> Step:
        number, first, last = len(self._answers), self._chunk[0][0], self._chunk[-1][0]
        text = SEPARATOR.join([text for _, text in self._chunk])
        what = "text" if self._level == 0 else f"level {self._level}, answer"
        where = f"{what} {first}" if first == last else f"{what}s {first} to {last}"
        self._chunk, self._chunk_tokens = [], 0
        self._answers.append(None)
        self._open += 1
        return Step(number, text, None, is_first=self._level == 0, is_last=is_last, where=where)

    def _end_level(self) -> None:
        if self._open or self._pending:
            return
        if len(self._answers) == 1:
            self.answer = self._answers[0]
        else:
            self._pending.extend((position, text or "") for position, text in enumerate(self._answers, 1))
            self._answers = []
            self._level += 1


class Chain:
    """The iterative refinement over one row's texts, of which there is one at least."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.answer: str | None = None
        self._texts = deque(texts)
        self._so_far: str | None = None
        self._number = 0
        self._waits = False

    @property
    def can_plan(self) -> bool:
        return bool(self._texts) and not self._waits

    def plan(self, count: Count, most: int) -> list[Step]:
        """The next call; a chain counts no tokens."""
        text = self._texts.popleft()
        self._number += 1
        self._waits = True
        first = self._number == 1
        return [Step(self._number, text, self._so_far, first, not self._texts, f"text {self._number}")]

    def settle(self, number: int, answer: str) -> None:
        assert self._waits, "a chain is answered twice"
        assert number == self._number, f"call {number} of a chain is answered out of turn"
        self._so_far, self._waits = answer, False
        if not self._texts:
            self.answer = answer


def _cut(sized: list[tuple[int, str, int]], budget: int, count: Count) -> list[tuple[int, str, int]]:
    """The texts, those of more than ``budget`` tokens in consecutive parts that fit."""
    while any(tokens > budget and len(text) > 1 for _, text, tokens in sized):
        out: list[tuple[int, str, int]] = []
        for position, text, tokens in sized:
            if tokens <= budget or len(text) == 1:
                out.append((position, text, tokens))
            else:
                parts = cut(text, tokens // budget + 1)
                out += [(position, part, size) for part, size in zip(parts, count(parts), strict=True)]
        sized = out
    return sized


def cut(text: str, parts: int) -> list[str]:
    """The text in parts of about equal length, behind a blank where one is near.

    >>> cut("one two three four", 2)
    ['one two ', 'three four']
    """
    parts = min(parts, len(text))
    ends = [len(text) * (i + 1) // parts for i in range(parts)]
    near = len(text) // parts // 4
    out, start = [], 0
    for end in ends:
        if end < len(text):
            blank = next((i for i in range(end, max(start, end - near), -1) if text[i - 1].isspace()), end)
            end = blank
        out.append(text[start:end])
        start = end
    return [part for part in out if part]
