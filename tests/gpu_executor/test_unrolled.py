"""Composite calls in the dispatcher: a tree, chain or tournament of calls per row, which go the way of all calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_helium.call_graph import Call, CallGraph, CallRef, Composite, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.composite import SEPARATOR, Limits
from spark_helium.gpu_executor.dispatcher import CALLS_PER_TURN
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderError, token_count
from spark_helium.gpu_executor.engines.rendering import ChatTemplateRenderer
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer
from spark_helium.gpu_executor.stream import RowBatch
from spark_helium.gpu_executor.unrolled import UnrolledCalls, limits_of, token_counts
from tests.gpu_executor.scripted_engine import PlainRenderer, ScriptedEngine
from tests.gpu_executor.test_dispatcher import Bench, until

BUDGET = 20  # two texts of one letter and their separators, and a bit


def reduce(index: int = 0, budget: int = BUDGET, sampling: Sampling | None = None, **options: Any) -> Call:
    composite = Composite("reduce", InputRef(0), (Message("user", ("put ", InputRef(0))),), budget)
    messages = (Message("user", ("sum ", InputRef(0))),)
    return Call(index, "m", messages, sampling or Sampling(8), composite=composite, **options)


def merge(budget: int = BUDGET) -> Call:
    """Over answers of other trees."""
    return replace(reduce(), composite=replace(reduce(budget=budget).composite, kind="merge"))


def fold(index: int = 0, **options: Any) -> Call:
    step = Message("user", ("then ", CallRef(index), " and ", InputRef(0)))
    composite = Composite("fold", InputRef(0), (step,))
    return Call(index, "m", (Message("user", ("first ", InputRef(0))),), Sampling(8), composite=composite, **options)


def top(take: int) -> Call:
    ask = Message("user", ("better? ", CallRef(0), " or ", InputRef(0)))
    composite = Composite("top", InputRef(0), (ask,), take=take)
    return Call(0, "m", (Message("user", ("alone? ", InputRef(0))),), Sampling(8), composite=composite)


def biased(prompt: str) -> str:
    """The larger number is better; of two that are near each other the first one in the prompt."""
    first, second = (int(part) for part in prompt.removeprefix("user:better? ").split(" or "))
    return "1" if first > second or second - first < 10 else "2"


def graph(*calls: Call, inputs: int = 1) -> CallGraph:
    return CallGraph(calls, inputs)


def letters(prompt: str) -> str:
    """An answer that says what was in the prompt."""
    return "".join(c for c in prompt.removeprefix("user:")[4:] if c.isalnum())


def engine(hold: Callable[[str], bool] = lambda _: False, **options: Any) -> Callable[[str], ScriptedEngine]:
    return lambda model: ScriptedEngine(model, hold=hold, answer=letters, **options)


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(create: Callable[[str], Any], **options: Any) -> Bench:
        made.append(Bench(create, **options))
        return made[-1]

    yield make
    for bench in made:
        assert bench.dispatcher.alive
        bench.dispatcher.stop("the test is over")


def test_a_tree_per_row(benches):
    bench = benches(engine())
    inbox = bench.run(graph(reduce()), [["a", "b", "c", "d", "e"], ["x"], None, [], [None, "y", None], [None]])
    assert inbox.texts == {0: ["abcde"], 1: ["x"], 2: [None], 3: [None], 4: ["y"], 5: [None]}
    assert not inbox.reasons
    # Per text one token, five of the separator, and one for the seam: two fit.
    asked = [prompt.removeprefix("user:").replace(SEPARATOR, "+") for prompt in bench.engine().submitted]
    assert sorted(asked) == sorted(["sum a+b", "sum c+d", "sum e", "sum x", "sum y", "put ab+cd", "put abcd+e"])
    assert (inbox.counters.calls_requested, inbox.counters.calls_sent) == (7, 7)
    assert inbox.counters.calls_failed == 0


def test_a_tree_over_answers_only_puts_them_together(benches):
    bench = benches(engine())
    inbox = bench.run(graph(merge()), [["a", "b", "c"], ["x"], None, [], [None, "y", None], [None]])
    assert inbox.texts == {0: ["abc"], 1: ["x"], 2: [None], 3: [None], 4: ["y"], 5: [None]}
    asked = [prompt.removeprefix("user:").replace(SEPARATOR, "+") for prompt in bench.engine().submitted]
    assert asked == ["put a+b", "put ab+c"], "one answer alone takes no call"
    assert inbox.counters.calls_requested == 2


def test_a_chain_per_row_and_calls_that_read_it(benches):
    after = Call(1, "m", (Message("user", ("and? ", CallRef(0))),), Sampling(8))
    bench = benches(lambda m: ScriptedEngine(m, answer=lambda prompt: prompt.removeprefix("user:").upper()[:12]))
    inbox = bench.run(graph(fold(), after), [["a", None, "b"], ["c"], []])
    assert inbox.texts == {
        0: ["THEN FIRST A", "AND? THEN FI"], 1: ["FIRST C", "AND? FIRST C"], 2: [None, None],
    }  # fmt: skip
    assert bench.engine().submitted.index("user:then FIRST A and b") > bench.engine().submitted.index("user:first a")


def test_a_tournament_per_row(benches):
    bench = benches(lambda model: ScriptedEngine(model, answer=biased))
    rows = [["10", "40", None, "70", "40"], ["7"], None, [], [None], ["5", "5", "5"], ["20", "50"]]
    inbox = bench.run(graph(top(3)), rows)
    assert inbox.texts == {0: ["[3,1,4]"], 1: ["[0]"], 2: [None], 3: [None], 4: [None], 5: ["[0,1,2]"], 6: ["[1,0]"]}
    assert not inbox.reasons
    # Three different texts: two comparisons for the best, one at most for the next. No call for what is alone or equal.
    assert 1 + 2 <= inbox.counters.calls_sent <= 1 + 3


def test_the_place_in_the_array_does_not_help_where_the_model_prefers_a_place_in_the_prompt(benches):
    """Numbers that are near each other are decided by the model's preference for the first text alone."""
    bench = benches(lambda model: ScriptedEngine(model, answer=biased))
    texts = [str(60 + i) for i in range(12)] + [str(i) for i in range(10)]
    rows = [random.Random(seed).sample(texts, len(texts)) for seed in range(20)]
    inbox = bench.run(graph(top(4)), rows)
    named = [[row[i] for i in json.loads(inbox.texts[n][0])] for n, row in enumerate(rows)]
    assert named == [named[0]] * 20, "the same texts, in the same order"
    assert all(int(text) >= 60 for text in named[0]), "what the model knows is not lost"
    bound = 21 + 3 * (5 - 1)
    assert 21 <= inbox.counters.calls_sent <= bound, "a pair is the same prompt in every row"
    assert inbox.counters.calls_requested == 20 * inbox.counters.calls_sent


def test_a_comparison_that_fails_fails_its_row(benches):
    bench = benches(lambda model: ScriptedEngine(model, answer=lambda prompt: "perhaps" if "x" in prompt else "1"))
    inbox = bench.run(graph(top(1)), [["a", "b"], ["a", "x"], ["refused", "b"]])
    assert set(inbox.reasons) == {(1, 0), (2, 0)}
    assert "comparison of elements" in inbox.reasons[1, 0]
    assert "'perhaps', not 1 or 2" in inbox.reasons[1, 0]
    assert "the engine refused it" in inbox.reasons[2, 0]


def test_rows_do_not_wait_for_each_other(benches):
    bench = benches(engine(hold=lambda prompt: "a" in prompt))
    stream, inbox = bench.open(graph(reduce()))
    bench.dispatcher.feed(stream, [[["a", "b", "c"], ["x", "y", "z"]]], 2)
    inbox.wait(1)
    assert inbox.texts == {1: ["xyz"]}
    bench.engine().hold = lambda prompt: False
    bench.engine().release()
    assert inbox.wait(2).texts[0] == ["abc"]


def test_equal_calls_of_two_rows_are_made_once_and_cached_ones_not_at_all(benches):
    bench = benches(engine())
    first = bench.run(graph(reduce()), [["a", "b", "c"], ["a", "b", "d"]])
    assert (first.counters.calls_requested, first.counters.calls_sent, first.counters.answers_from_cache) == (6, 5, 1)
    again = bench.run(graph(reduce()), [["a", "b", "c"], ["a", "b", "e"]])
    assert (again.counters.calls_requested, again.counters.calls_sent) == (6, 2)
    assert again.texts == {0: ["abc"], 1: ["abe"]}


def test_one_failed_call_fails_its_row_once_and_no_other(benches):
    bench = benches(engine())
    column = [["a", "b", "refused", "c", "refused", "d"], ["x", "y"], ["z", "unrenderable"]]
    inbox = bench.run(graph(reduce(budget=30)), column)
    assert inbox.texts == {0: [None], 1: ["xy"], 2: [None]}
    assert inbox.reasons == {
        (0, 0): "texts 1 to 3: the engine refused it",
        (2, 0): "texts 1 to 2: cannot render this",
    }
    assert inbox.counters.calls_failed == 2, "a row fails once, whatever else fails of it"


def test_a_text_that_is_not_utf8_fails_its_row(benches):
    column = FlawedColumn([["a"], ["b"]], {0: "the argument is not valid UTF-8"})
    inbox = benches(engine()).run(graph(reduce()), column)
    assert (inbox.texts, inbox.reasons) == ({0: [None], 1: ["b"]}, {(0, 0): "the argument is not valid UTF-8"})


def test_a_large_group_holds_up_no_other_stream(benches):
    bench = benches(lambda m: ScriptedEngine(m, answer=lambda prompt: letters(prompt)[:4]))
    large, first = bench.open(graph(reduce(budget=60)))
    texts = [f"{i:04}" for i in range(3 * CALLS_PER_TURN)]
    small, second = bench.open(graph(Call(0, "m", (Message("user", (InputRef(0),)),), Sampling(8))))
    turns: list[int] = []
    plan = UnrolledCalls.plan

    def counted(self: UnrolledCalls, renderer: PromptRenderer, context: int, most: int) -> Any:
        turns.append(most)
        return plan(self, renderer, context, most)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnrolledCalls, "plan", counted)
        bench.dispatcher.feed(large, [[texts]], 1)
        bench.dispatcher.feed(small, [["xxxxok"]], 1)
        second.wait(1)
        assert first.wait(1).texts[0] == ["0000"]
    leaves = sorted(prompt for prompt in bench.engine().submitted if prompt.startswith("user:sum"))
    assert "".join(map(letters, leaves)) == "".join(texts)
    assert max(turns) <= CALLS_PER_TURN
    assert len(turns) > 3


def test_a_closed_stream_aborts_what_it_has_in_the_engine(benches):
    bench = benches(engine(hold=lambda prompt: True))
    stream, _ = bench.open(graph(reduce()))
    bench.dispatcher.feed(stream, [[["a", "b", "c", "d"]]], 1)
    until(lambda: len(bench.engine().submitted) == 2)
    bench.dispatcher.close(stream)
    until(lambda: len(bench.engine().aborted) == 2)
    assert bench.dispatcher.status().calls_in_flight == 0


def test_a_dead_engine_ends_the_stream(benches):
    bench = benches(engine(hold=lambda prompt: True))
    stream, inbox = bench.open(graph(reduce()))
    bench.dispatcher.feed(stream, [[["a", "b", "c", "d"]]], 1)
    until(lambda: len(bench.engine().submitted) == 2)
    bench.engine().dead = True
    bench.engine().wake()
    assert "it lost its GPU" in inbox.wait_fatal().reason


def test_a_guard_and_multiplicity(benches):
    call = reduce(guard=InputRef(1), multiplicity=3)
    inbox = benches(engine()).run(graph(call, inputs=2), [["a", "b", "c"], ["d"]], [True, False])
    assert inbox.texts == {0: ["abc"], 1: [None]}
    assert (inbox.counters.calls_requested, inbox.counters.calls_sent) == (9, 3)


def test_without_room_a_row_fails_and_says_what_to_do(benches):
    inbox = benches(engine(max_model_len=60)).run(graph(reduce(sampling=Sampling(25))), [["a", "b"]])
    assert "leave 26 tokens for texts in the context of 60 tokens" in inbox.reasons[0, 0]
    assert "lower max_tokens" in inbox.reasons[0, 0]


def test_answers_that_are_put_together_are_short_enough_for_two(benches):
    bench = benches(engine(max_model_len=150))
    requests = []
    bench.run(graph(reduce()), [["a"]])
    submit = bench.engine().submit
    bench.engine().submit = lambda new: (requests.extend(new), submit(new))[1]
    bench.run(graph(reduce(sampling=Sampling(1000))), [["a", "b", "c"]])
    # 150 - 9 of the prompt - 75 kept for the answer leave 66 for texts: 33 for each of two answers, less the seams.
    assert [request.sampling.max_tokens for request in requests] == [25, 25, 1000]


@pytest.mark.parametrize(
    ("fixed", "max_tokens", "context", "budget", "expected"),
    [
        (100, 256, 4096, 0, Limits(2048, 3740)),
        (100, 256, 4096, 1000, Limits(1000, 3740)),
        (100, 256, 4096, 9999, Limits(3740, 3740)),
        (100, 256, 512, 0, Limits(156, 156)),
        (100, 10_000, 4096, 0, Limits(1948, 1948)),
    ],
)
def test_limits(fixed: int, max_tokens: int, context: int, budget: int, expected: Limits) -> None:
    assert limits_of(fixed, max_tokens, context, budget) == expected


@cache
def built_in() -> ChatTemplateRenderer:
    from transformers import AutoTokenizer

    return ChatTemplateRenderer(AutoTokenizer.from_pretrained(models.resolve("smollm2-135m", Settings())), "smollm2")


RENDERERS = {"plain": PlainRenderer, "simulator": SimulatorRenderer, "smollm2-135m": built_in}
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", RENDERERS)
@settings(max_examples=50)
@given(texts=st.lists(words, min_size=1, max_size=25), budget=st.integers(20, 120))
def test_no_prompt_is_above_the_budget(name: str, texts: list[str], budget: int) -> None:
    renderer = RENDERERS[name]()
    call = reduce(budget=budget)
    batch = RowBatch(0, 1, [[texts]], [[None]], [1], [[]])
    unrolled = UnrolledCalls(batch, call)
    unrolled.begin([0])
    prompts: list[Any] = []
    while unrolled.has_more:
        asks, outcomes = unrolled.plan(renderer, 4096, 7)
        assert not outcomes
        prompts += [prompt for ask in asks for prompt in ask.prompts]
    [empty] = renderer.render([[("user", (("sum ", True), ("", False)))]])
    assert isinstance(empty, bytes)
    for prompt in prompts:
        assert isinstance(prompt, RenderError) or token_count(prompt) <= token_count(empty) + budget


@pytest.mark.parametrize("name", RENDERERS)
def test_texts_are_counted_as_they_add_to_a_prompt(name: str) -> None:
    renderer = RENDERERS[name]()
    texts = ["", "a", "four words of text", "\n\n\n", "x" * 400]
    counts = token_counts(renderer, texts)

    def length(*parts: str) -> int:
        [prompt] = renderer.render([[("user", ((SEPARATOR.join(parts), False),))]])
        assert isinstance(prompt, bytes)
        return token_count(prompt)

    assert all(count >= 1 for count in counts)
    assert [length("|", text, "|") - length("|", "|") + 1 for text in texts] == counts
