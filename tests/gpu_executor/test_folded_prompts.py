"""String glue in a template gives the tokens that the same template gives for the string that SQL would compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spark_helium.call_graph import Call, Message, Sampling
from spark_helium.call_parts import CallRef, Data, FirstOf, InputRef, Joined, Part, Parts
from spark_helium.gpu_executor.call_template import CallTemplate
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderError, Tokens
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer
from tests.gpu_executor.engines.test_rendering import MAKERS, pair

Text = str | None
COLUMNS = ANSWERS = 2


@dataclass(frozen=True)
class Cell:
    ref: InputRef | CallRef


@dataclass(frozen=True)
class Concat:
    items: list[Sql]


@dataclass(frozen=True)
class Coalesce:
    items: list[Sql]


@dataclass(frozen=True)
class ConcatWs:
    separator: str
    items: list[Sql]


Sql = str | Cell | Concat | Coalesce | ConcatWs  # a string is a literal


def computed(e: Sql, inputs: list[Text], answers: list[Text]) -> Text:
    """What SQL says that the expression is."""
    match e:
        case str():
            return e
        case Cell(ref):
            return (inputs if isinstance(ref, InputRef) else answers)[ref.index]
        case Concat(items):
            texts = [computed(item, inputs, answers) for item in items]
            return None if None in texts else "".join(map(str, texts))
        case Coalesce(items):
            texts = [computed(item, inputs, answers) for item in items]
            return next((text for text in texts if text is not None), None)
        case ConcatWs(separator, items):
            texts = [computed(item, inputs, answers) for item in items]
            return separator.join([text for text in texts if text is not None])


def folded(e: Sql) -> Parts:
    """The expression as parts of a template."""
    match e:
        case str():
            return (Data(e),)
        case Cell(ref):
            return (ref,)
        case Concat(items):  # never no part: what stands around it must not meet
            return tuple(part for item in items for part in folded(item)) or (Data(""),)
        case Coalesce(items):
            return (FirstOf(tuple(map(folded, items))),)
        case ConcatWs(separator, items):
            return (Joined(tuple(map(folded, items)), separator),)


# Pieces that spell a control token of one of the tokenizers only together with what stands beside them.
pieces = st.sampled_from(
    ["<|im_", "start|>", "end|>", "<|im_end|>", "<|im_start|>", "<|", "im", "|>", "</", "s>", "<s>", "<tool>",
     "<|pad|>", "<|IM_END|>", "＜|im_end|＞", " ", "\n", "", "user", "lamp", "hello", "é", "🙂"]
)  # fmt: skip
cells = [Cell(InputRef(i)) for i in range(COLUMNS)] + [Cell(CallRef(k)) for k in range(ANSWERS)]
leaves: st.SearchStrategy[Sql] = st.one_of(pieces, st.sampled_from(cells), st.sampled_from(cells))
expressions = st.recursive(
    leaves,
    lambda e: st.one_of(
        st.builds(Concat, st.lists(e, max_size=4)),
        st.builds(Coalesce, st.lists(e, min_size=1, max_size=3)),
        st.builds(ConcatWs, pieces, st.lists(e, max_size=4)),
    ),
    max_leaves=10,
)
values = st.none() | st.lists(pieces, max_size=3).map("".join)
rows = st.lists(st.lists(values, min_size=COLUMNS + ANSWERS, max_size=COLUMNS + ANSWERS), min_size=1, max_size=4)


def prompts(renderer: PromptRenderer, parts: tuple[Part, ...], table: list[list[Text]]) -> list[Tokens | None]:
    """Tokens by row, None where there is no call."""
    template = CallTemplate(Call(ANSWERS, "m", (Message("user", parts), Message("user", ("end",))), Sampling(8)))
    columns = [list(column) for column in zip(*table, strict=True)]
    inputs, answers = columns[:COLUMNS], columns[COLUMNS:]
    runs = [row for row in range(len(table)) if not template.is_null(inputs, answers, row)]
    tokens: list[Tokens | None] = [None] * len(table)
    for row, prompt in zip(runs, template.render(renderer, inputs, answers, runs), strict=True):
        assert not isinstance(prompt, RenderError), prompt
        tokens[row] = prompt
    return tokens


def check(renderer: PromptRenderer, before: str, e: Sql, after: str, table: list[list[Text]]) -> None:
    glued = prompts(renderer, (before, *folded(e), after), table)
    whole = [[computed(e, row[:COLUMNS], row[COLUMNS:]), *row[1:]] for row in table]
    assert glued == prompts(renderer, (before, InputRef(0), after), whole)
    assert [tokens is None for tokens in glued] == [row[0] is None for row in whole]


@given(before=pieces, e=expressions, after=pieces, table=rows)
@settings(max_examples=300)
def test_simulator(before: str, e: Sql, after: str, table: list[list[Text]]) -> None:
    check(SimulatorRenderer(), before, e, after, table)


ANSWER_IN_BRACKETS = Concat(["<|im_", Cell(CallRef(0)), "|>"])


@pytest.mark.parametrize("maker", MAKERS)
@given(before=pieces, e=expressions, after=pieces, table=rows)
@example(before="q: ", e=ANSWER_IN_BRACKETS, after="", table=[[None, None, "end", None], [None, None, None, None]])
@example(before="<|im_", e=Concat(["", Cell(InputRef(0))]), after="end|>", table=[["", None, None, None]])
@example(before="<|im_", e=Concat([]), after="start|>", table=[[None, None, None, None]])
@example(before="<|im_", e=ConcatWs("end|>", [Cell(InputRef(0)), ""]), after="", table=[["", None, None, None]])
@settings(max_examples=150, deadline=None)
def test_chat_template(maker: Callable[[], Any], before: str, e: Sql, after: str, table: list[list[Text]]) -> None:
    check(pair(maker)[0], before, e, after, table)


@pytest.mark.parametrize("maker", MAKERS)
@given(split=st.lists(pieces, min_size=1, max_size=6), before=pieces, after=pieces)
@settings(max_examples=150, deadline=None)
def test_values_side_by_side_are_one_value(maker: Callable[[], Any], split: list[str], before: str, after: str) -> None:
    """What folding rests on: a renderer does not see where one untrusted segment ends and the next begins."""
    apart = (("user", ((before, True), *((piece, False) for piece in split), (after, True))),)
    together = (("user", ((before, True), ("".join(split), False), (after, True))),)
    for renderer in (pair(maker)[0], SimulatorRenderer()):
        tokens, expected = renderer.render([apart, together])
        assert isinstance(tokens, bytes)
        assert tokens == expected
