from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_conditions import (
    And,
    Condition,
    Equal,
    In,
    IsNull,
    IsTrue,
    Literal,
    Not,
    NullSafeEqual,
    Or,
    condition_from_json,
    condition_references,
    condition_to_json,
    evaluate,
)
from spark_helium.call_graph import (
    Call,
    CallGraph,
    CallRef,
    CallTask,
    Cascade,
    Composite,
    Constraint,
    InputRef,
    Message,
    Part,
    Sampling,
)
from spark_helium.call_parts import (
    Data,
    FirstOf,
    Joined,
    Parts,
    Ref,
    is_null,
    may_be_null,
    part_from_json,
    parts_from_json,
    parts_to_json,
    references,
    text_of,
)

text = st.text(max_size=20)


class Values:
    """A row of texts "a", "b", ... for inputs and "A", "B", ... for answers; NULL, "flawed" and truth by name."""

    def __init__(self, **values: object) -> None:
        self.values = values

    def value(self, ref: Ref) -> object:
        value = self.values[self._name(ref)]
        assert value is not Ellipsis, f"{ref} is flawed and was read"
        return value

    def is_null(self, ref: Ref) -> bool:
        return self.values[self._name(ref)] is None

    @staticmethod
    def _name(ref: Ref) -> str:
        return f"{'i' if isinstance(ref, InputRef) else 'c'}{ref.index}"


ROW = Values(i0="a", i1=None, i2=True, i3=False, i4=..., c0="A", c1=None)
VALUE, NULL, TRUE, FALSE, FLAWED = map(InputRef, range(5))
ANSWER, NO_ANSWER = CallRef(0), CallRef(1)


def texts(refs: list[Ref]) -> st.SearchStrategy[Parts]:
    leaves: st.SearchStrategy[Part] = st.one_of(text, st.builds(Data, text), *([st.sampled_from(refs)] if refs else []))

    def nested(part: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
        several = st.lists(st.lists(part, max_size=3).map(tuple), max_size=3).map(tuple)
        return st.one_of(st.builds(FirstOf, several), st.builds(Joined, several, text))

    return st.lists(st.recursive(leaves, nested, max_leaves=8), max_size=4).map(tuple)


def conditions(refs: list[Ref]) -> st.SearchStrategy[Condition]:
    parts = texts(refs)
    inputs = [ref for ref in refs if isinstance(ref, InputRef)]
    leaves: st.SearchStrategy[Condition] = st.one_of(
        st.builds(Literal, st.sampled_from([True, False, None])),
        st.builds(IsNull, parts),
        st.builds(Equal, parts, parts),
        st.builds(NullSafeEqual, parts, parts),
        st.builds(In, parts, st.frozensets(st.one_of(st.none(), text), max_size=3)),
        *([st.sampled_from(inputs)] if inputs else []),
    )

    def nested(condition: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
        several = st.lists(condition, max_size=3).map(tuple)
        return st.one_of(
            st.builds(And, several), st.builds(Or, several), st.builds(Not, condition), st.builds(IsTrue, condition)
        )

    return st.recursive(leaves, nested, max_leaves=6)


@st.composite
def graphs(draw: st.DrawFn) -> CallGraph:
    inputs = draw(st.integers(0, 3))
    calls: list[Call] = []
    for index in range(draw(st.integers(1, 5))):
        refs: list[Ref] = [*map(InputRef, range(inputs)), *map(CallRef, range(index))]
        messages = draw(st.lists(st.builds(Message, text, texts(refs)), min_size=1, max_size=3))
        constraint = draw(
            st.one_of(
                st.none(),
                st.builds(Constraint, choices=st.lists(text, min_size=1, max_size=3).map(tuple)),
                st.builds(Constraint, regex=text),
                st.builds(Constraint, json_schema=text),
            )
        )
        sampling = draw(
            st.builds(
                Sampling,
                max_tokens=st.integers(1, 99),
                temperature=st.floats(0, 2),
                seed=st.one_of(st.none(), st.integers(0, 9)),
                stop=st.lists(text, max_size=2).map(tuple),
            )
        )
        calls.append(
            Call(
                index=index,
                model=draw(text),
                messages=tuple(messages),
                sampling=sampling,
                guard=draw(st.none() | conditions(refs)),
                constraint=constraint,
                fail_on_error=draw(st.booleans()),
                multiplicity=draw(st.integers(1, 4)),
            )
        )
    return CallGraph(tuple(calls), inputs)


def composite(kind: str, *further: Part, budget: int = 0) -> Call:
    how = Composite(kind, InputRef(0), (Message("user", further),), budget)
    return Call(0, "m", (Message("user", ("a ", InputRef(0))),), Sampling(8), composite=how)


@pytest.mark.parametrize(
    "call",
    [composite("reduce", "b ", InputRef(0), budget=9), composite("fold", CallRef(0), InputRef(0), Data("c"))],
)
def test_a_composite_call_comes_back_as_it_was(call: Call) -> None:
    graph = CallGraph((call,), 1)
    assert CallGraph.from_json(graph.to_json()) == graph
    assert graph.calls[0].dependencies == ()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: composite("reduce", CallRef(0), InputRef(0)),
        lambda: composite("fold", CallRef(0)),
        lambda: composite("fold", Joined(((InputRef(0),),), " ")),
        lambda: composite("scan", InputRef(0)),
    ],
)
def test_a_composite_call_reads_its_items_and_nothing_else(wrong: Callable[[], Call]) -> None:
    with pytest.raises(ValueError, match="other things than its items|no kind of composite"):
        CallGraph((wrong(),), 1)


@given(graphs())
def test_json_round_trip(graph: CallGraph) -> None:
    assert CallGraph.from_json(graph.to_json()) == graph


def call(index: int, *parts: Part, guard: Condition | None = None) -> Call:
    return Call(index=index, model="m", messages=(Message("user", parts),), sampling=Sampling(8), guard=guard)


def test_dependencies() -> None:
    graph = CallGraph((call(0, InputRef(0)), call(1, "a"), call(2, CallRef(1), InputRef(0), CallRef(0), CallRef(1))), 1)
    assert graph.calls[2].dependencies == (0, 1)
    assert graph.calls[1].messages[0].is_static()
    assert not graph.calls[2].messages[0].is_static()


def test_dependencies_of_nested_parts_and_of_the_guard() -> None:
    parts = FirstOf(((CallRef(2), "x"), (Joined(((InputRef(0),), (CallRef(0),)), ", "),)))
    guard = And((InputRef(1), Not(Equal((Data("yes"),), (CallRef(3),)))))
    reader = call(4, "t", parts, guard=guard)
    assert reader.dependencies == (0, 2, 3)
    assert list(reader.references()) == [CallRef(2), InputRef(0), CallRef(0), InputRef(1), CallRef(3)]
    assert not reader.messages[0].is_static()
    assert Message("user", ("t", Data("d"), Joined(((Data("e"),),), ""))).is_static()


@pytest.mark.parametrize("ref", [CallRef(1), CallRef(2), InputRef(1), InputRef(-1), CallRef(-1)])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda ref: call(1, ref),
        lambda ref: call(1, FirstOf((("x",), (Joined(((ref,),), ""),)))),
        lambda ref: call(1, "x", guard=Or((Not(IsNull((ref,))), Literal(True)))),
        lambda ref: call(1, "x", guard=IsTrue(NullSafeEqual(("x",), (FirstOf(((ref,),)),)))),
        lambda ref: call(1, "x", guard=Equal((ref,), ("x",))),
        lambda ref: call(1, "x", guard=In((ref,), frozenset(["x"]))),
    ],
)
def test_a_reference_must_point_to_something_before(ref: Ref, wrap: Callable[[Ref], Call]) -> None:
    with pytest.raises(ValueError, match="call 1 of the call graph reads .* which does not exist before it"):
        CallGraph((call(0, "x"), wrap(ref)), 1)


def test_a_guard_must_be_an_input_column_that_exists() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        CallGraph((call(0, "x", guard=InputRef(1)),), 1)


def test_another_version_is_refused() -> None:
    other = CallGraph((call(0, "x"),), 0).to_json().replace('"version":4', '"version":5')
    with pytest.raises(ValueError, match="version 5.*reads version 4.*same spark_helium"):
        CallGraph.from_json(other)


def test_a_cascade_goes_there_and_back() -> None:
    choices = Constraint(choices=("true", "false"))
    proxied = replace(call(0, "x ", InputRef(0)), constraint=choices, cascade=Cascade("small", 0.9, 0.95, 300))
    graph = CallGraph((proxied,), 1)
    assert CallGraph.from_json(graph.to_json()) == graph
    assert '"cascade":{"model":"small","precision":0.9,"recall":0.95,"sample":300}' in graph.to_json()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"constraint": Constraint(choices=("a", "b", "c"))},
        {"constraint": Constraint(choices=("a", "a"))},
        {"constraint": Constraint(choices=("a", "b")), "task": CallTask.SCORE},
        {"constraint": Constraint(choices=("a", "b")), "sampling": Sampling(8, temperature=0.5)},
    ],
)
def test_calls_that_have_no_cascade(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has a cascade, but is no completion"):
        CallGraph((replace(call(0, "x"), cascade=Cascade("small", 0.9, 0.9, 300), **options),), 0)


@pytest.mark.parametrize(("precision", "recall", "sample"), [(0.0, 0.9, 9), (0.9, 1.0, 9), (0.9, 0.9, 0)])
def test_cascades_that_cannot_be(precision: float, recall: float, sample: int) -> None:
    with pytest.raises(ValueError, match="is no cascade"):
        Cascade("small", precision, recall, sample)


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"version":4,"inputs":0,"calls":[{}]}', '{"calls": 3}'])
def test_malformed_json_is_a_value_error(broken: str) -> None:
    with pytest.raises(ValueError):
        CallGraph.from_json(broken)


@pytest.mark.parametrize(
    ("sampling", "deterministic"),
    [(Sampling(1), True), (Sampling(1, temperature=0.5), False), (Sampling(1, temperature=0.5, seed=1), True)],
)
def test_deterministic(sampling: Sampling, deterministic: bool) -> None:
    assert sampling.deterministic is deterministic


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), ""),
        (("x", Data("y")), "xy"),
        ((VALUE, "-", ANSWER), "a-A"),
        ((VALUE, NULL), None),
        (("x", NO_ANSWER), None),
        # coalesce
        ((FirstOf(((VALUE,), (ANSWER,))),), "a"),
        ((FirstOf(((NO_ANSWER,), (Data("none"),))),), "none"),
        ((FirstOf(((NULL, "x"), ("<", ANSWER, ">"))),), "<A>"),
        ((FirstOf(((NULL,), (NO_ANSWER,))),), None),
        ((FirstOf(()),), None),
        (("x", FirstOf(((NULL,),))), None),
        ((FirstOf((("",), ("x",))),), ""),
        ((FirstOf(((VALUE,), (FLAWED,))),), "a"),
        ((FirstOf(((FLAWED, NULL), (VALUE,))),), "a"),
        # concat_ws
        ((Joined(((VALUE,), (ANSWER,)), ", "),), "a, A"),
        ((Joined(((NULL,), (VALUE,), (NO_ANSWER, "x"), (ANSWER,), (NULL,)), ", "),), "a, A"),
        ((Joined(((VALUE,), ("",), (ANSWER,)), ","),), "a,,A"),
        ((Joined(((NULL,), (NO_ANSWER,)), ","),), ""),
        ((Joined((), ","),), ""),
        (("<", Joined(((NULL,),), ","), ">"), "<>"),
        ((Joined(((FLAWED, NULL), (VALUE,)), ","),), "a"),
        # one in the other
        ((FirstOf(((NULL,), (Joined(((NULL,), (ANSWER, "!")), "/"),))),), "A!"),
        ((Joined(((FirstOf(((NULL,), (NO_ANSWER,))),), (FirstOf(((NULL,), (VALUE, VALUE))),)), "/"),), "aa"),
    ],
)
def test_text(parts: Parts, expected: str | None) -> None:
    assert text_of(parts, ROW) == expected
    assert is_null(parts, ROW) == (expected is None)


@pytest.mark.parametrize("parts", [(FLAWED,), (FirstOf(((NULL,), ("x", FLAWED))),), (Joined(((FLAWED,),), ""),)])
def test_only_what_stands_in_a_text_is_read(parts: Parts) -> None:
    assert not is_null(parts, ROW)
    with pytest.raises(AssertionError, match="flawed"):
        text_of(parts, ROW)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("x", False),
        (Data("x"), False),
        (VALUE, True),
        (ANSWER, True),
        (Joined(((NULL,),), ""), False),
        (FirstOf(()), True),
        (FirstOf(((VALUE,), ("x", ANSWER))), True),
        (FirstOf(((VALUE,), ("x",))), False),
        (FirstOf(((FirstOf(((VALUE,),)),), (Joined(((VALUE,),), ""), "x"))), False),
    ],
)
def test_may_be_null(part: Part, expected: bool) -> None:
    assert may_be_null(part) == expected


@given(texts([VALUE, NULL, ANSWER, NO_ANSWER]))
def test_what_cannot_be_null_is_not(parts: Parts) -> None:
    if not any(map(may_be_null, parts)):
        assert text_of(parts, ROW) is not None


T, F, N = Literal(True), Literal(False), Literal(None)
A, B, NONE = (Data("a"),), (Data("b"),), (NULL,)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (TRUE, True), (FALSE, False), (NULL, None),
        (T, True), (F, False), (N, None),
        (Not(T), False), (Not(F), True), (Not(N), None),
        (IsTrue(T), True), (IsTrue(F), False), (IsTrue(N), False),
        (And((T, T)), True), (And((T, F)), False), (And((F, T)), False), (And((F, F)), False),
        (And((T, N)), None), (And((N, T)), None), (And((F, N)), False), (And((N, F)), False), (And((N, N)), None),
        (And(()), True), (And((T, T, T)), True), (And((T, N, F)), False),
        (Or((T, T)), True), (Or((T, F)), True), (Or((F, T)), True), (Or((F, F)), False),
        (Or((T, N)), True), (Or((N, T)), True), (Or((F, N)), None), (Or((N, F)), None), (Or((N, N)), None),
        (Or(()), False), (Or((F, F, F)), False), (Or((F, N, T)), True),
        (IsNull((VALUE,)), False), (IsNull((NULL,)), True), (IsNull((VALUE, NO_ANSWER)), True), (IsNull(()), False),
        (IsNull((FLAWED,)), False),
        (Equal((VALUE,), A), True), (Equal((VALUE,), B), False), (Equal(A, NONE), None), (Equal(NONE, A), None),
        (Equal(NONE, NONE), None), (Equal((ANSWER, VALUE), ("A", Data("a"))), True), (Equal((FLAWED,), NONE), None),
        (NullSafeEqual(A, (VALUE,)), True), (NullSafeEqual(A, B), False), (NullSafeEqual(A, NONE), False),
        (NullSafeEqual(NONE, A), False), (NullSafeEqual(NONE, (NO_ANSWER,)), True),
        (NullSafeEqual(NONE, (FLAWED,)), False),
        (In((VALUE,), frozenset(["a", "b"])), True), (In((VALUE,), frozenset(["b"])), False),
        (In((VALUE,), frozenset(["a", None])), True), (In((VALUE,), frozenset(["b", None])), None),
        (In(NONE, frozenset(["a"])), None), (In(NONE, frozenset([None])), None),
        (And((NULL, Not(IsNull((ANSWER,))))), None),
        (Or((IsTrue(N), And((TRUE, Equal((ANSWER,), ("A",)))))), True),
        # What stands right of a decision is not read.
        (And((F, Equal((FLAWED,), A))), False), (Or((T, Equal((FLAWED,), A))), True),
    ],
)  # fmt: skip
def test_condition(condition: Condition, expected: bool | None) -> None:
    assert evaluate(condition, ROW) is expected
    opposite = None if expected is None else not expected
    assert evaluate(Not(condition), ROW) is opposite
    assert evaluate(IsTrue(condition), ROW) is (expected is True)
    assert condition_from_json(json.loads(json.dumps(condition_to_json(condition)))) == condition


def test_references_of_a_condition() -> None:
    equal, same = Equal((VALUE,), (ANSWER,)), NullSafeEqual(("x",), (NO_ANSWER,))
    condition = And((TRUE, Or((Not(IsNull((VALUE,))), T)), IsTrue(equal), same, In((ANSWER,), frozenset("x"))))
    assert list(condition_references(condition)) == [TRUE, VALUE, VALUE, ANSWER, NO_ANSWER, ANSWER]


def test_the_json_that_catalyst_writes() -> None:
    parts = [
        "text ",
        {"data": "<"},
        {"first_of": [[{"call": 0}], [{"data": "none"}]]},
        {"join": [[{"input": 0}], [{"call": 0}, "!"]], "separator": ", "},
    ]
    guard = {
        "and": [
            {"input": 1},
            {"or": [{"literal": None}, {"not": {"is_null": [{"call": 0}]}}]},
            {"equal": [[{"call": 0}], [{"data": "yes"}]]},
            {"is_true": {"null_safe_equal": [[], [{"input": 0}]]}},
            {"in": [{"call": 0}], "values": ["no", "yes", None]},
        ]
    }
    assert parts_from_json(parts) == (
        "text ",
        Data("<"),
        FirstOf(((CallRef(0),), (Data("none"),))),
        Joined(((InputRef(0),), (CallRef(0), "!")), ", "),
    )
    assert parts_to_json(parts_from_json(parts)) == parts
    assert condition_from_json(guard) == And(
        (
            InputRef(1),
            Or((Literal(None), Not(IsNull((CallRef(0),))))),
            Equal((CallRef(0),), (Data("yes"),)),
            IsTrue(NullSafeEqual((), (InputRef(0),))),
            In((CallRef(0),), frozenset(["yes", "no", None])),
        )
    )
    assert condition_to_json(condition_from_json(guard)) == guard


@pytest.mark.parametrize(
    "part",
    [
        None, 3, True, [], {}, {"input": "0"}, {"input": True}, {"input": 0.0}, {"input": None}, {"call": None},
        {"input": 0, "call": 0}, {"data": 3}, {"data": None}, {"data": "x", "separator": ""}, {"text": "x"},
        {"first_of": "x"}, {"first_of": ["x"]}, {"first_of": [[3]]}, {"first_of": {"input": 0}},
        {"join": [["x"]]}, {"join": [["x"]], "separator": None}, {"join": "x", "separator": ""},
        {"join": [{"input": 0}], "separator": ""}, {"join": [], "separator": "", "data": "x"}, {"separator": ""},
    ],
)  # fmt: skip
def test_malformed_part(part: object) -> None:
    with pytest.raises(ValueError, match="not a call graph: .* is not a (part|list of the parts) of a text"):
        part_from_json(part)
    message = {"role": "user", "parts": [part]}
    calls = [{"model": "m", "messages": [message], "sampling": {"max_tokens": 1}}]
    with pytest.raises(ValueError, match="not a call graph"):
        CallGraph.from_json(json.dumps({"version": 4, "inputs": 1, "calls": calls}))


@pytest.mark.parametrize(
    "guard",
    [
        3, "x", True, [], {}, {"input": "0"}, {"input": True}, {"call": 0}, {"data": "true"}, {"literal": 1},
        {"literal": "true"}, {"and": {}}, {"and": [3]}, {"or": "x"}, {"or": [], "and": []}, {"not": []},
        {"not": None}, {"is_true": 1}, {"is_null": {"input": 0}}, {"is_null": "x"}, {"is_null": [None]},
        {"equal": []}, {"equal": [[]]}, {"equal": [[], [], []]}, {"equal": ["x", "x"]}, {"null_safe_equal": [[], 3]},
        {"in": []}, {"in": [], "values": "x"}, {"in": [], "values": [3]}, {"in": 3, "values": []},
        {"in": [], "values": [], "not": 1}, {"values": []},
    ],
)  # fmt: skip
def test_malformed_guard(guard: object) -> None:
    with pytest.raises(ValueError, match="not a call graph: .* is not a"):
        condition_from_json(guard)
    calls = [{"model": "m", "messages": [], "sampling": {"max_tokens": 1}, "guard": guard}]
    with pytest.raises(ValueError, match="not a call graph"):
        CallGraph.from_json(json.dumps({"version": 4, "inputs": 1, "calls": calls}))


def test_conversation_is_an_input_column() -> None:
    calls = [{"model": "m", "messages": [], "sampling": {"max_tokens": 1}, "conversation": {"call": 0}}]
    with pytest.raises(ValueError, match="is not an input column"):
        CallGraph.from_json(json.dumps({"version": 4, "inputs": 1, "calls": calls}))


def test_nesting_that_is_too_deep_is_a_value_error() -> None:
    graph = CallGraph((call(0, "x", guard=Literal(True)),), 0).to_json()
    deep = '{"not":' * 100_000 + '{"literal":true}' + "}" * 100_000
    with pytest.raises(ValueError, match="nested too deeply"):
        CallGraph.from_json(graph.replace('{"literal":true}', deep))
    some = '{"not":' * 100 + '{"literal":true}' + "}" * 100
    guard = CallGraph.from_json(graph.replace('{"literal":true}', some)).calls[0].guard
    assert guard is not None
    assert evaluate(guard, ROW) is True


@given(texts([VALUE, NULL, ANSWER, NO_ANSWER]))
def test_references_are_what_a_text_may_read(parts: Parts) -> None:
    seen = []

    class Noting(Values):
        def value(self, ref: Ref) -> object:
            seen.append(ref)
            return super().value(ref)

    text_of(parts, Noting(**ROW.values))
    assert set(seen) <= set(references(parts))


@pytest.mark.parametrize(
    ("constraint", "text", "allowed"),
    [
        (Constraint(choices=("yes", "no")), "yes", True),
        (Constraint(choices=("yes", "no")), "ye", False),
        (Constraint(regex="a+b?"), "aa", True),
        (Constraint(regex="a+b"), "aa", False),
        (Constraint(regex="(?<x"), "", False),
        (Constraint(regex=r"(\w+\s?)+\."), "word " * 50, False),  # no backtracking: it would take longer than the sun
        (Constraint(json_schema="{}"), "{", True),
    ],
)
def test_constraint_allows(constraint: Constraint, text: str, allowed: bool) -> None:
    assert constraint.allows(text) == allowed


@pytest.mark.parametrize("task", CallTask)
def test_the_task_travels_and_is_a_completion_where_nothing_is_said(task: CallTask) -> None:
    choices = Constraint(choices=("yes", "no")) if task is CallTask.SCORE else None
    asked = Call(0, "m", (Message("user", ("x",)),), Sampling(1), constraint=choices, task=task)
    written = CallGraph((asked,), 0).to_json()
    assert CallGraph.from_json(written).calls == (asked,)
    assert f'"task":"{task}"' in written
    silent = CallGraph.from_json(written.replace(f'"task":"{task}",', ""))
    assert silent.calls[0].task is CallTask.GENERATE


def test_an_unknown_task_and_a_score_without_two_choices_are_refused() -> None:
    written = CallGraph((call(0, "x"),), 0).to_json()
    with pytest.raises(ValueError, match="'dance' is not a valid CallTask"):
        CallGraph.from_json(written.replace('"generate"', '"dance"'))
    with pytest.raises(ValueError, match="call 0 of the call graph is a score of None, not of two choices"):
        CallGraph.from_json(written.replace('"generate"', '"score"'))
