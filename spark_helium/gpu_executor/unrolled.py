"""The calls that a composite call makes for the rows of a batch: between the dispatcher and composite.py.

To the dispatcher they are calls like any others: looked up in the cache, joined with equal ones, queued, counted. Its
waiters name them by number, where those of a row's own calls name the row::

    rows ── begin ──▶ programs ── plan: chunks by tokens ──▶ prompts ── dispatcher ──▶ settle ──┐
                        ▲                                                                       │
                        └────────────────────── next level, next text ◀─────────────────────────┤
                                                               a row's answer, or its failure ◀─┘

Rows are planned some texts at a time, so that a large group holds up no other stream.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spark_helium.call_graph import Call, CallRef, InputRef, Message
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.call_template import CallTemplate, Column
from spark_helium.gpu_executor.composite import (
    SEPARATOR,
    Chain,
    DoesNotFitError,
    Limits,
    NoVerdictError,
    Program,
    Step,
    Tournament,
    Tree,
)
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderError, Tokens, token_count

if TYPE_CHECKING:
    from spark_helium.gpu_executor.stream import RowBatch

SHARE_OF_CONTEXT = 0.5  # of the context for the texts of one prompt, where spark.helium.agg.tokens leaves it open
LEAST_ROOM = 32  # tokens for texts below which a tree is not begun
_MARGIN = 8  # tokens of a separator and its surroundings, in a prompt that puts two answers together


@dataclass(frozen=True, slots=True)
class Asks:
    """Prompts that are ready, all of one kind.

    Attributes
    ----------
    call: what they are as single calls: messages, sampling.
    numbers: the names of the calls.
    """

    call: Call
    numbers: list[int]
    prompts: list[Tokens | RenderError]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of the batch has its answer, is NULL, or failed."""

    row: int
    text: str | None = None
    truncated: bool = False
    reason: str = ""


class UnrolledCalls:
    """The calls of one composite call for the rows of one batch. The dispatcher's thread owns it."""

    def __init__(self, batch: RowBatch, call: Call) -> None:
        assert call.composite is not None, f"call {call.index} is not a composite one"
        self.batch = batch
        self._composite = call.composite
        self._items: Column = batch.inputs[call.composite.items.index]
        self._first = _single(call, call.messages)
        self._further = _single(call, call.composite.further)
        self._begun: deque[int] = deque()
        self._programs: dict[int, Program] = {}
        self._due: deque[int] = deque()  # rows whose program may have something to plan
        self._calls: dict[int, tuple[int, Step]] = {}  # on their way, by number
        self._numbers = itertools.count()
        self._limits: Limits | RenderError | None = None

    @property
    def has_more(self) -> bool:
        """Whether :meth:`plan` has something to do."""
        return bool(self._begun or self._due)

    def begin(self, rows: Sequence[int]) -> None:
        """Rows whose call can start."""
        self._begun.extend(rows)

    def plan(self, renderer: PromptRenderer, max_model_len: int, most: int) -> tuple[list[Asks], list[Outcome]]:
        """Calls that can be asked now, and rows that are settled without one.

        Parameters
        ----------
        renderer: of the engine that will answer.
        max_model_len: its context, in tokens.
        most: texts to look at; what is left is for the next time.
        """
        outcomes: list[Outcome] = []
        steps: list[tuple[int, Step]] = []
        while most > 0 and self.has_more:
            if not self._due:
                most -= 1
                outcome = self._begin(self._begun.popleft(), renderer, max_model_len)
                if outcome is not None:
                    outcomes.append(outcome)
                continue
            row = self._due[0]
            program = self._programs.get(row)
            if program is None or not program.can_plan:
                self._due.popleft()
                continue
            looked_at: list[int] = [1]

            def count(texts: Sequence[str], looked_at: list[int] = looked_at) -> list[int]:
                looked_at.append(len(texts))
                return token_counts(renderer, texts)

            try:
                planned = program.plan(count, most)
                steps += [(row, step) for step in planned]
                most -= len(planned) if isinstance(program, Tournament) else 0  # which counts no tokens
            except DoesNotFitError as e:
                outcomes.append(self._end(row, reason=str(e)))
            most -= sum(looked_at)
        return self._asks(renderer, max_model_len, steps), outcomes

    def settle(self, number: int, text: str | None, truncated: bool, reason: str) -> Outcome | None:
        """A call has its answer, or failed. Returns what that means for its row, if anything."""
        row, step = self._calls.pop(number)
        program = self._programs.get(row)
        if program is None:
            return None  # another call of the row failed before
        if reason or text is None:
            return self._end(row, reason=f"{step.where}: {reason}")
        try:
            program.settle(step.number, text)
        except NoVerdictError as e:
            return self._end(row, reason=f"{step.where}: {e}")
        if program.answer is not None:
            return self._end(row, text=program.answer, truncated=truncated)
        self._due.append(row)
        return None

    def _begin(self, row: int, renderer: PromptRenderer, max_model_len: int) -> Outcome | None:
        if isinstance(self._items, FlawedColumn) and row in self._items.reasons:
            return Outcome(row, reason=self._items.reasons[row])
        items = [(i, text) for i, text in enumerate(self._items[row]) if text is not None]
        if not items:
            return Outcome(row)
        texts = [text for _, text in items]
        if self._composite.kind == "top":
            program = Tournament(items, self._composite.take)
            if program.answer is not None:
                return Outcome(row, program.answer)
            self._programs[row] = program
        elif self._composite.kind == "fold":
            self._programs[row] = Chain(texts)
        elif self._composite.kind == "merge" and len(texts) == 1:
            return Outcome(row, texts[0])  # there is nothing to put together
        else:
            limits = self._limits_of(renderer, max_model_len)
            if isinstance(limits, RenderError):
                return Outcome(row, reason=limits.reason)
            self._programs[row] = Tree(texts, limits, of_answers=self._composite.kind == "merge")
        self._due.append(row)
        return None

    def _end(self, row: int, text: str | None = None, truncated: bool = False, reason: str = "") -> Outcome:
        del self._programs[row]
        return Outcome(row, text, truncated, reason)

    def _limits_of(self, renderer: PromptRenderer, max_model_len: int) -> Limits | RenderError:
        if self._limits is None:
            empty = [template.render(renderer, [[""]], [[""]], [0])[0] for template in (self._first, self._further)]
            refused = [prompt for prompt in empty if isinstance(prompt, RenderError)]
            if refused:
                self._limits = refused[0]
            else:
                fixed = max(token_count(prompt) for prompt in empty if isinstance(prompt, bytes))
                self._limits = limits_of(
                    fixed, self._first.call.sampling.max_tokens, max_model_len, self._composite.budget
                )
        return self._limits

    def _asks(self, renderer: PromptRenderer, max_model_len: int, steps: list[tuple[int, Step]]) -> list[Asks]:
        """The steps as calls; those that are written and answered alike are rendered together."""
        kinds: dict[tuple[bool, bool], list[tuple[int, Step]]] = {}
        for row, step in steps:
            if row in self._programs:  # not failed by now
                kinds.setdefault((step.is_first, step.is_last), []).append((row, step))
        asks = []
        for (is_first, is_last), of_kind in kinds.items():
            template = self._first if is_first else self._further
            texts, so_far = [step.text for _, step in of_kind], [step.so_far for _, step in of_kind]
            prompts = template.render(renderer, [texts], [so_far], range(len(texts)))
            numbers = list(itertools.islice(self._numbers, len(of_kind)))
            self._calls.update(zip(numbers, of_kind, strict=True))
            asks.append(Asks(self._shortened(template.call, is_last), numbers, prompts))
        return asks

    def _shortened(self, call: Call, is_last: bool) -> Call:
        """The call with ``max_tokens`` that let two of its answers stand in one prompt, unless it is the last one."""
        if is_last or not isinstance(self._limits, Limits):
            return call
        most = self._limits.room // 2 - _MARGIN
        if call.sampling.max_tokens <= most:
            return call
        return replace(call, sampling=replace(call.sampling, max_tokens=most))


def limits_of(fixed: int, max_tokens: int, max_model_len: int, budget: int) -> Limits | RenderError:
    """How many tokens of texts go into one prompt.

    Parameters
    ----------
    fixed: tokens of a prompt without texts.
    max_tokens: of the answer; more than half of the context is not kept free for it.
    max_model_len: the model's context.
    budget: what the user wants; 0: half of the context.
    """
    room = max_model_len - fixed - min(max_tokens, max_model_len // 2)
    if room < LEAST_ROOM:
        return RenderError(
            f"the instruction and the answer (max_tokens = {max_tokens}) leave {max(room, 0)} tokens for texts in the "
            f"context of {max_model_len} tokens: shorten the instruction, lower max_tokens, or choose a model with a "
            "longer context"
        )
    return Limits(min(budget or int(SHARE_OF_CONTEXT * max_model_len), room), room)


def token_counts(renderer: PromptRenderer, texts: Sequence[str]) -> list[int]:
    """Tokens that each text adds to a prompt between two others, with a separator, and one more.

    The one more is for what a tokenizer does at the seams. A text that cannot be rendered counts for one: its prompt
    will say why.
    """
    probes = [f"|{SEPARATOR}|", *[f"|{SEPARATOR}{text}{SEPARATOR}|" for text in texts]]
    empty, *rendered = renderer.render([[("user", ((probe, False),))] for probe in probes])
    assert isinstance(empty, bytes), f"the model's chat template refuses a user's message: {empty.reason}"
    base = token_count(empty)
    return [max(1, token_count(p) - base + 1) if isinstance(p, bytes) else 1 for p in rendered]


def _single(call: Call, messages: tuple[Message, ...]) -> CallTemplate:
    """The template of one call: the text at hand is its input 0, the answer so far the answer 0."""

    def local(part: object) -> object:
        match part:
            case InputRef():
                return InputRef(0)
            case CallRef():
                return CallRef(0)
            case _:
                return part

    localized = tuple(Message(m.role, tuple(map(local, m.parts))) for m in messages)  # type: ignore[arg-type]
    return CallTemplate(replace(call, messages=localized, composite=None, guard=None))
