"""What a composite call becomes: a tree, a chain or a tournament of calls. Knows no engine and no template.

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

A tree over answers of other trees (``ai_agg(..., partial => true)``) begins with merges. There an answer is cut only
where two of it would not fit the context, because other trees do not keep theirs short for it.

Chain (``llm_fold``): the first text alone, then each further one with the answer so far.

Tournament (``llm_top_k``): tree selection (Knuth, The Art of Computer Programming, vol. 3, section 5.2.3) with calls as
comparisons. Neighbours meet, then the winners, until one is left. For the next best only the matches on the way of the
last winner are played again, and the first of them has no opponent left. Who meets whom, and which of two texts is
read first, hashes of the texts decide::

    texts      b a c a d                   equal ones are one player
    players    c a d b                     in the order of their hashes
    matches    c-a  d-b                    the hash of a pair says which one is text 1
                a    d
    champion     a                         elements 1 and 3 of the array; then c against d
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

SEPARATOR = "\n---\n"  # between the texts of one prompt

# Tokens of each text in a prompt, with one separator.
Count = Callable[[Sequence[str]], list[int]]


class DoesNotFitError(Exception):
    """A tree cannot go on within the model's context; the text is for the user."""


class NoVerdictError(Exception):
    """A comparison was answered with something else than 1 or 2; the text is for the user."""


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
    so_far: the answer that a chain goes on from; in a tournament the text that ``text`` is compared with.
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
        """A call is answered.

        Raises
        ------
        NoVerdictError
            The row must fail.
        """

    @property
    def answer(self) -> str | None:
        """The answer of the last call, as soon as it is there."""


class Tree:
    """The reduction of one row's texts, of which there is one at least.

    Parameters
    ----------
    texts: what is put together; answers of other trees where ``of_answers`` is set, of which there are two at least.
    """

    def __init__(self, texts: Iterable[str], limits: Limits, of_answers: bool = False) -> None:
        self.answer: str | None = None
        self._limits = limits
        self._level = 1 if of_answers else 0
        self._longest = limits.room // 2 if of_answers else limits.budget  # of what the first level takes
        self._first_level = self._level
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
        if self._level == self._first_level:
            sized = _cut(sized, self._longest, count)
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


_OPEN, _NOBODY = -1, -2  # of a node of a tournament: its match is not over; all below it are ranked


class Tournament:
    """The ``take`` best of one row's texts by pairwise comparisons, of which each is answered with ``1`` or ``2``.

    Of d different texts it makes at most ``d - 1 + (k - 1) * (ceil(log2(d)) - 1)`` comparisons, ``k = min(take, d)``,
    and ``d - 1`` for the best alone; equal texts are not compared, they follow each other in the order of their
    positions. A match begins when both its sides are known.

    Models prefer a text by its place in the prompt (Zheng et al., arXiv 2306.05685, section 3.3). To ask each pair both
    ways would cost twice the calls, and leave open what contradicting answers mean. Here a hash of the two texts says
    which one stands first, and hashes of the texts who meets whom. So every pair is asked one way whatever the
    order of the array, the answer is the same texts for all orders, and over many pairs a preference for a place
    favours nobody. Within a pair whose texts are about equally good the place may still decide.

    Attributes
    ----------
    answer: a JSON array of positions, the best first.

    Parameters
    ----------
    texts: with their positions, ascending; one at least.
    take: how many to name; 1 at least.
    """

    def __init__(self, texts: Iterable[tuple[int, str]], take: int) -> None:
        self.answer: str | None = None
        positions: dict[str, list[int]] = {}
        for position, text in texts:
            positions.setdefault(text, []).append(position)
        hashed = sorted((_digest(text.encode("utf-8", "surrogatepass")), text) for text in positions)
        self._texts = [text for _, text in hashed]
        self._digests = [digest for digest, _ in hashed]
        self._positions = [positions[text] for text in self._texts]
        self._take = min(take, sum(map(len, self._positions)))
        self._ranked: list[int] = []  # positions
        self._due: deque[tuple[int, int]] = deque()  # matches to ask for: level, place
        self._asked: dict[int, tuple[int, int, tuple[int, int]]] = {}  # with the players, in the order of the prompt
        self._number = 0
        # Level 0 has the players, the node (l, i) the winner of the nodes (l - 1, 2i) and (l - 1, 2i + 1).
        self._nodes = [list(range(len(self._texts)))]
        while len(self._nodes[-1]) > 1:
            self._nodes.append([_OPEN] * ((len(self._nodes[-1]) + 1) // 2))
        for place in range(0, len(self._texts), 2):
            self._go_up(0, place)

    @property
    def can_plan(self) -> bool:
        return bool(self._due)

    def plan(self, count: Count, most: int) -> list[Step]:
        """The comparisons that can be asked; a tournament counts no tokens."""
        steps = []
        for _ in range(min(most, len(self._due))):
            level, place = self._due.popleft()
            first, second = self._in_order(*self._sides(level, place))
            where = f"comparison of elements {self._positions[first][0]} and {self._positions[second][0]}"
            text, so_far = self._texts[second], self._texts[first]
            steps.append(Step(self._number, text, so_far, is_first=False, is_last=False, where=where))
            self._asked[self._number] = (level, place, (first, second))
            self._number += 1
        return steps

    def settle(self, number: int, answer: str) -> None:
        level, place, players = self._asked.pop(number)
        if answer not in ("1", "2"):
            raise NoVerdictError(f"the answer is {answer[:40]!r}, not 1 or 2; raise max_tokens")
        self._nodes[level][place] = players[int(answer) - 1]
        self._go_up(level, place)

    def _sides(self, level: int, place: int) -> list[int]:
        return self._nodes[level - 1][2 * place : 2 * place + 2]

    def _in_order(self, one: int, other: int) -> tuple[int, int]:
        """Two players as their prompt has them. Players are numbered by their hashes."""
        low, high = sorted((one, other))
        return (low, high) if _digest(self._digests[low] + self._digests[high])[0] % 2 else (high, low)

    def _go_up(self, level: int, place: int) -> None:
        """From a node that is known, through all matches that need no call."""
        while self.answer is None:
            if level == len(self._nodes) - 1:
                place = self._rank(self._nodes[level][0])
                level = 0
                continue
            level, place = level + 1, place // 2
            sides = self._sides(level, place)
            if _OPEN in sides:
                return
            present = [side for side in sides if side != _NOBODY]
            if len(present) == 2:
                self._due.append((level, place))
                return
            self._nodes[level][place] = present[0] if present else _NOBODY

    def _rank(self, winner: int) -> int:
        """The winner leaves the tournament; returns the place from where its matches are played again."""
        self._ranked += self._positions[winner]
        if len(self._ranked) >= self._take:
            self.answer = json.dumps(self._ranked[: self._take], separators=(",", ":"))
        self._nodes[0][winner] = _NOBODY
        for level in range(1, len(self._nodes)):
            self._nodes[level][winner >> level] = _OPEN
        return winner


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


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
