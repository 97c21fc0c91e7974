from __future__ import annotations

from collections.abc import Sequence

from spark_helium.call_conditions import Condition, condition_from_json
from spark_helium.call_graph import Call, CallGraph, CallRef, InputRef, Message, Part, Sampling
from spark_helium.call_parts import Data, FirstOf, Joined
from spark_helium.gpu_executor.engines.base import RenderedMessage, token_count
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer
from spark_helium.gpu_executor.static_prefix import beginning
from spark_helium.trt import graph_operators
from spark_helium.trt.graph_operators import SELECTIVITY, Expectations
from spark_helium.trt.templates import Beginning, Placeholder, symbol_tokens
from spark_helium.trt.tree import Operator, OperatorId, TemplatedRadixTree

RENDERER = SimulatorRenderer()


def call(index: int, *messages: tuple[str, Sequence[Part]], guard: Condition | None = None) -> Call:
    return Call(
        index, "m", tuple(Message(role, tuple(parts)) for role, parts in messages), Sampling(max_tokens=64), guard=guard
    )


def user(index: int, *parts: Part) -> Call:
    return call(index, ("system", ["You read reviews of products."]), ("user", parts))


def graph(*calls: Call) -> CallGraph:
    return CallGraph(calls, inputs=3)


def operators_of(calls: CallGraph, expected: Expectations | None = None) -> list[Operator]:
    return graph_operators.operators_of(calls, "q", [beginning(c, RENDERER) for c in calls.calls], expected)


def rendered(*messages: RenderedMessage) -> bytes:
    (tokens,) = RENDERER.render([messages])
    assert isinstance(tokens, bytes)
    return tokens


def test_the_static_prefix_begins_every_prompt() -> None:
    (operator,) = operators_of(graph(user(0, "Is this a complaint? ", InputRef(0), " Answer.")))
    prefix, cut, value, rest = operator.template.symbols
    assert isinstance(prefix, bytes)
    for text in ("Yes", "no", "12", "", "ünicode", " "):
        system = ("system", (("You read reviews of products.", True),))
        question = ("user", (("Is this a complaint? ", True), (text, False), (" Answer.", True)))
        assert rendered(system, question).startswith(prefix)
    assert token_count(prefix) >= (len("You read reviews of products.") + len("Is this a complaint? ")) // 4
    assert isinstance(cut, Placeholder)
    assert isinstance(value, Placeholder)
    assert isinstance(rest, Placeholder)
    assert (cut.per_row, value.per_row, rest.per_row) == (False, True, False)
    assert 1 <= rest.tokens <= 10


def test_a_prompt_without_values_is_all_tokens() -> None:
    (operator,) = operators_of(graph(user(0, "Tell a joke.")))
    (tokens,) = operator.template.symbols
    assert tokens == rendered(
        ("system", (("You read reviews of products.", True),)), ("user", (("Tell a joke.", True),))
    )


def test_calls_share_what_their_prompts_share() -> None:
    calls = graph(
        user(0, "Review: ", InputRef(0), " Sum up."),
        user(1, "Review: ", InputRef(0), " Sum up.", " Is it angry?"),
        user(2, "Review: ", InputRef(1), " Sum up."),
        user(3, "Review: ", InputRef(0), " What of ", CallRef(0), "?"),
    )
    tree = TemplatedRadixTree(1)
    tree.add("q", operators_of(calls))
    tree.check_integrity()
    a, b, c, d = (OperatorId("q", k) for k in range(4))
    assert tree.shared(a, b) == tree.shared(a, d)
    assert tree.shared(a, b).same_row == tree.shared(a, c).same_row + 100
    assert tree.shared(a, c).same_row == tree.shared(a, c).any_rows > 10
    assert list(tree.edges()) == [(a, d)]
    (longest, *_) = tree.static_prefixes()
    assert longest.operators == (a, b, d, c)


def test_data_is_part_of_the_prefix() -> None:
    document = "a long document " * 10
    (operator,) = operators_of(graph(user(0, "Given ", Data(document), ", is it so? ", InputRef(0))))
    first = operator.template.symbols[0]
    assert isinstance(first, bytes)
    assert b"a long document" in first


def test_the_last_word_tells_templates_apart() -> None:
    calls = graph(user(0, "Rate: ", InputRef(0)), user(1, "Sort: ", InputRef(0)), user(2, "Rate: ", InputRef(0), "!"))
    tree = TemplatedRadixTree(1)
    tree.add("q", operators := operators_of(calls))
    (static, *_) = operators[0].template.symbols
    a, b, c = (OperatorId("q", k) for k in range(3))
    assert tree.shared(a, b).same_row < symbol_tokens(static)
    assert tree.shared(a, c).same_row > symbol_tokens(static) + 100


def test_what_is_expected() -> None:
    guard = condition_from_json({"input": 2})
    calls = graph(
        user(0, InputRef(0)),
        call(
            1,
            (
                "user",
                [CallRef(0), FirstOf(((CallRef(0),), (InputRef(1),))), Joined(((CallRef(0),), (InputRef(1),)), " ")],
            ),
        ),
        call(2, ("user", ["x"]), guard=guard),
    )
    expected = Expectations(input_tokens={0: 12, 1: 40}, output_tokens={0: 5})
    first, second, third = operators_of(calls, expected)
    assert (first.output_tokens, second.output_tokens) == (5, 64)
    lengths = [s.tokens for s in second.template.symbols if isinstance(s, Placeholder) and s.per_row]
    assert lengths == [5, 40, 45]
    assert [s.tokens for s in first.template.symbols if isinstance(s, Placeholder) and s.per_row] == [12]
    assert (second.reads, second.selectivity, third.selectivity) == ((0,), 1.0, SELECTIVITY)
    (*_, third) = operators_of(calls, Expectations(selectivities={2: 0.1}))
    assert third.selectivity == 0.1


def test_conversations_from_a_column() -> None:
    calls = graph(Call(0, "m", (), Sampling(max_tokens=8), conversation=InputRef(0)))
    (operator,) = operators_of(calls)
    assert [s.key for s in operator.template.symbols if isinstance(s, Placeholder)] == [("column", "q", 0)]


def test_what_cannot_be_rendered_has_no_tokens_that_are_known() -> None:
    calls = graph(user(0, "A ", InputRef(0)), user(1, "B ", InputRef(0)))
    one, other = graph_operators.operators_of(calls, "q", [Beginning(), Beginning()])
    for operator in (one, other):
        assert [s.per_row for s in operator.template.symbols if isinstance(s, Placeholder)] == [False, True]
    assert one.template.symbols[0] != other.template.symbols[0]


def test_what_runs_elsewhere_costs_nothing_here() -> None:
    calls = (user(0, "first ", InputRef(0)), user(1, "second ", CallRef(0)))
    beginnings = [None, beginning(calls[1], RENDERER)]
    elsewhere, here = graph_operators.operators_of(graph(*calls), "q", beginnings)
    assert (elsewhere.template.symbols, elsewhere.output_tokens) == ((), 0.0)
    assert here.template.symbols == operators_of(graph(*calls))[1].template.symbols
    assert here.reads == (0,)
    tree = TemplatedRadixTree(16)
    tree.add("q", [elsewhere, here])
    tree.check_integrity()
