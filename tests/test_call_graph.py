from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_graph import (
    Call,
    CallGraph,
    CallRef,
    Constraint,
    InputRef,
    Message,
    Sampling,
)

text = st.text(max_size=20)


@st.composite
def graphs(draw: st.DrawFn) -> CallGraph:
    inputs = draw(st.integers(0, 3))
    calls: list[Call] = []
    for index in range(draw(st.integers(1, 5))):
        refs = [InputRef(i) for i in range(inputs)] + [CallRef(i) for i in range(index)]
        part = st.one_of(text, st.sampled_from(refs)) if refs else text
        messages = draw(
            st.lists(st.builds(Message, text, st.lists(part, max_size=4).map(tuple)), min_size=1, max_size=3)
        )
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
                constraint=constraint,
                fail_on_error=draw(st.booleans()),
                multiplicity=draw(st.integers(1, 4)),
            )
        )
    return CallGraph(tuple(calls), inputs)


@given(graphs())
def test_json_round_trip(graph: CallGraph) -> None:
    assert CallGraph.from_json(graph.to_json()) == graph


def call(index: int, *parts: str | InputRef | CallRef) -> Call:
    return Call(index=index, model="m", messages=(Message("user", parts),), sampling=Sampling(8))


def test_dependencies() -> None:
    graph = CallGraph((call(0, InputRef(0)), call(1, "a"), call(2, CallRef(1), InputRef(0), CallRef(0), CallRef(1))), 1)
    assert graph.calls[2].dependencies == (0, 1)
    assert graph.calls[1].messages[0].is_static()


@pytest.mark.parametrize("ref", [CallRef(1), CallRef(2), InputRef(1), InputRef(-1)])
def test_a_reference_must_point_to_something_before(ref: InputRef | CallRef) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        CallGraph((call(0, "x"), call(1, ref)), 1)


def test_another_version_is_refused() -> None:
    other = CallGraph((call(0, "x"),), 0).to_json().replace('"version":1', '"version":2')
    with pytest.raises(ValueError, match="version 2.*reads version 1.*same spark_helium"):
        CallGraph.from_json(other)


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"version":1,"inputs":0,"calls":[{}]}', '{"calls": 3}'])
def test_malformed_json_is_a_value_error(broken: str) -> None:
    with pytest.raises(ValueError):
        CallGraph.from_json(broken)


@pytest.mark.parametrize(
    ("sampling", "deterministic"),
    [(Sampling(1), True), (Sampling(1, temperature=0.5), False), (Sampling(1, temperature=0.5, seed=1), True)],
)
def test_deterministic(sampling: Sampling, deterministic: bool) -> None:
    assert sampling.deterministic is deterministic
