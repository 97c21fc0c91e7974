from __future__ import annotations

import pytest

from spark_helium.call_graph import Call, CallRef, InputRef, Message, Sampling
from spark_helium.call_parts import Data, FirstOf, Joined
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.call_template import CallTemplate, shorten
from spark_helium.gpu_executor.engines.base import RenderedMessage, RenderError, pack_tokens


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[RenderedMessage, ...]] = []

    def render(self, conversations):
        self.seen.extend(conversations)
        return [pack_tokens([i]) for i in range(len(conversations))]


MESSAGES = (
    Message("system", ("fixed ", "text")),
    Message("user", ("q: ", InputRef(1), " / ", CallRef(0), InputRef(1))),
)


@pytest.mark.parametrize("rows", [[0, 1, 2], [2], [1, 0]])
def test_template_text_is_trusted_and_values_are_not(rows):
    recorder = Recorder()
    template = CallTemplate(Call(1, "m", MESSAGES, Sampling(8)))
    assert (template.inputs, template.calls) == ((1,), (0,))
    inputs, answers = [["-"] * 3, ["a", "b", "c"]], [["X", "Y", "Z"]]
    assert len(template.render(recorder, inputs, answers, rows)) == len(rows)
    assert recorder.seen == [
        (
            ("system", (("fixed ", True), ("text", True))),
            (
                "user",
                (
                    ("q: ", True),
                    ("abc"[row], False),
                    (" / ", True),
                    ("XYZ"[row], False),
                    ("abc"[row], False),
                ),
            ),
        )
        for row in rows
    ]


GLUE = FirstOf(((CallRef(0), InputRef(0)), (Data("none"),)))
LIST = Joined(((InputRef(0),), ("<", CallRef(0))), ", ")


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0]])
def test_only_strings_of_the_template_itself_are_trusted(rows):
    recorder = Recorder()
    parts = ("t", Data("<|im_"), GLUE, InputRef(0), LIST)
    template = CallTemplate(Call(1, "m", (Message("user", parts),), Sampling(8)))
    assert (template.inputs, template.calls, template.nullable) == ((0,), (), ())
    inputs, answers = [["a", "b", "c"]], [["X", None, "Z"]]
    template.render(recorder, inputs, answers, rows)
    first_of, joined = ["Xa", "none", "Zc"], ["a, <X", "b", "c, <Z"]
    assert recorder.seen == [
        (
            (
                "user",
                (
                    ("t", True),
                    ("<|im_", False),
                    (first_of[row], False),
                    ("abc"[row], False),
                    (joined[row], False),
                ),
            ),
        )
        for row in rows
    ]


@pytest.mark.parametrize(
    ("parts", "null"),
    [
        (("t", Data("x")), [False] * 4),
        ((InputRef(0),), [False, True, False, True]),
        ((InputRef(0), CallRef(0)), [False, True, True, True]),
        ((GLUE, LIST), [False] * 4),
        ((FirstOf(((CallRef(0),), (InputRef(0),))),), [False, False, False, True]),
        ((FirstOf(((CallRef(0),), (InputRef(0),))), InputRef(0)), [False, True, False, True]),
        ((FirstOf(((CallRef(0), InputRef(0)),)), LIST), [False, True, True, True]),
    ],
)
def test_is_null(parts, null):
    inputs, answers = [["a", None, "c", None]], [["X", "Y", None, None]]
    messages = (Message("system", ("fixed",)), Message("user", parts))
    template = CallTemplate(Call(1, "m", messages, Sampling(8)))
    assert [template.is_null(inputs, answers, row) for row in range(4)] == null
    rows = [row for row in range(4) if not null[row]]
    assert len(template.render(Recorder(), inputs, answers, rows)) == len(rows)


def test_rows_that_come_in_another_order_get_their_own_prompts():
    """A full batch whose first calls settled out of order: rows of a second call come as those did."""
    recorder = Recorder()
    call = Call(1, "m", (Message("user", (InputRef(0), " ", CallRef(0))),), Sampling(8))
    CallTemplate(call).render(recorder, [["a", "b", "c"]], [["A", "B", "C"]], [2, 0, 1])
    assert ["".join(text for text, _ in segments) for ((_, segments),) in recorder.seen] == ["c C", "a A", "b B"]


def test_conversation_after_a_fixed_message():
    recorder = Recorder()
    call = Call(0, "m", (Message("system", ("fixed",)),), Sampling(8), conversation=InputRef(0))
    CallTemplate(call).render(recorder, [[[{"role": "user", "content": "hi"}]]], [], [0])
    assert recorder.seen == [(("system", (("fixed", True),)), ("user", (("hi", False),)))]


def test_last_message():
    template = CallTemplate(Call(1, "m", MESSAGES, Sampling(8)))
    assert template.last_message(["-", "v"], ["A"]) == "q: v / Av"
    assert template.last_message([None, None], [None]) == "q: NULL / NULLNULL"
    glue = CallTemplate(Call(1, "m", (Message("user", ("q: ", GLUE, Data("; "), LIST)),), Sampling(8)))
    assert glue.last_message(["a"], ["A"]) == "q: Aa; a, <A"
    assert glue.last_message([None], [None]) == "q: none; "
    conversation = CallTemplate(Call(0, "m", (), Sampling(8), conversation=InputRef(0)))
    assert conversation.last_message([[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]], []) == "b"
    assert conversation.last_message([[]], []) == "(a conversation without messages)"
    assert conversation.last_message(
        [[{"role": "user", "content": "a"}, {"role": "narrator", "content": None}]], []
    ) == ("user: a\nnarrator: NULL")


@pytest.mark.parametrize("role", ["narrator", "User", "", "tool"])
def test_roles_of_a_column_are_those_of_a_literal(role):
    recorder = Recorder()
    template = CallTemplate(Call(0, "m", (), Sampling(8), conversation=InputRef(0)))
    good = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
    rendered = template.render(recorder, [[good, [*good, {"role": role, "content": "y"}]]], [], [0, 1])
    assert isinstance(rendered[0], bytes)
    assert rendered[1] == RenderError(
        f"message 4 of the conversation has the role {role!r}; use one of 'system', 'user', 'assistant'"
    )


def test_flawed_cells_fail_alone():
    recorder = Recorder()
    template = CallTemplate(Call(0, "m", (Message("user", (InputRef(0), InputRef(1))),), Sampling(8)))
    columns = [["a", "b", "c"], FlawedColumn(["1", "?", "3"], {1: "not text"})]
    first, flawed, last = template.render(recorder, columns, [], [0, 1, 2])
    assert isinstance(first, bytes)
    assert flawed == RenderError("not text")
    assert isinstance(last, bytes)
    assert [messages[0][1] for messages in recorder.seen] == [
        (("a", False), ("1", False)),
        (("c", False), ("3", False)),
    ]
    assert template.render(recorder, columns, [], [1]) == [RenderError("not text")]
    assert len(recorder.seen) == 2


def test_flawed_cells_within_glue_fail_where_they_are_taken():
    recorder = Recorder()
    parts = (FirstOf(((InputRef(0),), (InputRef(1),), (Data("none"),))), Joined(((CallRef(0), InputRef(2)),), ","))
    template = CallTemplate(Call(1, "m", (Message("user", parts),), Sampling(8)))
    columns = [
        FlawedColumn(["?", None, None, "a"], {0: "flaw of 0"}),
        FlawedColumn(["b", "?", None, "?"], {1: "flaw of 1", 3: "flaw of 1"}),
        FlawedColumn(["c", "d", "?", "?"], {2: "flaw of 2", 3: "flaw of 2"}),
    ]
    answers = [["W", "X", "Y", None]]
    rendered = template.render(recorder, columns, answers, [0, 1, 2, 3])
    assert rendered[:3] == [RenderError("flaw of 0"), RenderError("flaw of 1"), RenderError("flaw of 2")]
    assert isinstance(rendered[3], bytes)
    assert recorder.seen == [(("user", (("a", False), ("", False))),)]
    assert [template.is_null(columns, answers, row) for row in range(4)] == [False] * 4


@pytest.mark.parametrize("length", [0, 1, 119, 120, 121, 122, 500])
def test_shorten(length):
    text = "".join(chr(0x4E00 + i) for i in range(length))
    short = shorten(text)
    assert len(short) == min(length, 120)
    assert short == text if length <= 120 else (short.startswith(text[:50]) and short.endswith(text[-50:]))
