"""Calls with a cascade in the dispatcher: which model answers which row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from spark_helium.call_conditions import Equal
from spark_helium.call_graph import Call, CallGraph, CallRef, Cascade, Constraint, InputRef, Message, Sampling
from spark_helium.gpu_executor.cascade_stage import LEAST_SAMPLES, MILLIONTHS
from spark_helium.gpu_executor.engines.base import EngineResult
from spark_helium.gpu_executor.stream import Stream
from tests.gpu_executor.scripted_engine import ScriptedEngine
from tests.gpu_executor.test_dispatcher import Bench, Inbox

SAMPLE = 200
CHOICES = Constraint(choices=("true", "false"))


def filter_call(index: int = 0, sample: int = SAMPLE, target: float = 0.9, **options: Any) -> Call:
    parts = options.pop("parts", ("holds? ", InputRef(0)))
    cascade = Cascade("small", target, target, sample)
    return Call(index, "main", (Message("user", parts),), Sampling(8), constraint=CHOICES, cascade=cascade, **options)


ONE = CallGraph((filter_call(),), 1)


def number(prompt: str) -> int:
    return int(prompt.rsplit(" ", 1)[1])


def truth(prompt: str) -> str:
    """What the main model says: numbers from 0 on are spread over true and false."""
    return "true" if number(prompt) * 7919 % 100 >= 50 else "false"


def sharp(prompt: str) -> str:
    """Scores of a proxy that knows all but what lies in the middle."""
    place = number(prompt) * 7919 % 100
    return str(place / 100) if not 40 <= place < 60 else str(0.4 + (place * 13 % 20) / 100)


class Pair:
    """A dispatcher with a main model and a small one."""

    def __init__(self, small: Callable[[str], str] = sharp, main: Callable[[str], str] = truth, **options: Any) -> None:
        self.options = options

        def make(model: str) -> ScriptedEngine:
            return ScriptedEngine(model, answer=small if model == "small" else main)

        self.bench = Bench(make)

    def run(self, graph: CallGraph, *columns: list[Any], end: bool = True, batch: int = 97, **options: Any) -> Inbox:
        """All rows, in batches of a number that divides nothing."""
        stream, inbox = self.bench.open(graph, **options)
        size = len(columns[0])
        for start in range(0, size, batch):
            part = [column[start : start + batch] for column in columns]
            self.bench.dispatcher.feed(stream, part, len(part[0]))
        if end:
            self.bench.dispatcher.end(stream)
        inbox.wait(size)
        self.bench.dispatcher.close(stream)
        return inbox

    def asked(self, model: str) -> list[str]:
        return self.bench.engine(model).submitted if model in self.bench.engines else []


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(*args: Any, **options: Any) -> Pair:
        made.append(Pair(*args, **options))
        return made[-1]

    yield make
    for pair in made:
        assert pair.bench.dispatcher.alive
        pair.bench.dispatcher.stop("the test is over")


def texts(inbox: Inbox, k: int = 0) -> list[str | None]:
    return [inbox.texts[row][k] for row in range(len(inbox.texts))]


def quality(found: list[str | None], rows: list[int]) -> tuple[float, float]:
    """Precision and recall beside the main model."""
    pairs = [(text == "true", truth(f" {row}") == "true") for text, row in zip(found, rows, strict=True)]
    both = sum(a and b for a, b in pairs)
    return both / sum(a for a, _ in pairs), both / sum(b for _, b in pairs)


def test_the_proxy_saves_calls_and_the_targets_are_met(pairs):
    pair, rows = pairs(), list(range(2000))
    inbox = pair.run(ONE, list(map(str, rows)))
    precision, recall = quality(texts(inbox), rows)
    assert precision >= 0.9
    assert recall >= 0.9
    counters = inbox.counters
    assert len(pair.asked("small")) == len(rows)
    assert len(pair.asked("main")) == counters.cascade_labelled + counters.cascade_by_main < 0.5 * len(rows)
    assert counters.cascade_labelled == SAMPLE
    assert counters.cascade_by_proxy + counters.cascade_by_main + counters.cascade_labelled == len(rows)
    assert counters.calls_requested == len(rows)
    assert counters.calls_sent == len(pair.asked("small")) + len(pair.asked("main"))
    assert (counters.cascade_windows, counters.cascade_lowers, counters.cascade_uppers) == (1, 1, 1)
    assert 0 < counters.cascade_lower_sum < counters.cascade_upper_sum < MILLIONTHS
    assert counters.cascade_right <= min(counters.cascade_found, counters.cascade_true)


def test_who_asks_the_main_model_gets_its_answer(pairs):
    pair = pairs()
    inbox = pair.run(ONE, list(map(str, range(2000))))
    asked = {number(prompt) for prompt in pair.asked("main")}
    assert len(asked) < 1000
    assert {row: inbox.texts[row][0] for row in asked} == {row: truth(f" {row}") for row in asked}


def test_nothing_depends_on_batches_and_on_the_order_of_rows(pairs):
    rows = list(map(str, range(900)))
    shuffled = random.Random(3).sample(rows, len(rows))
    first = dict(zip(rows, texts(pairs().run(ONE, rows)), strict=True))
    assert dict(zip(rows, texts(pairs().run(ONE, rows, batch=1000, cache=False)), strict=True)) == first
    assert dict(zip(shuffled, texts(pairs().run(ONE, shuffled)), strict=True)) == first, "one window: any order"


def test_a_task_that_is_tried_again_makes_no_further_call(pairs):
    pair, rows = pairs(), list(map(str, range(900)))
    first = texts(pair.run(ONE, rows))
    sent = len(pair.asked("main")), len(pair.asked("small"))
    again = pair.run(ONE, rows)
    assert texts(again) == first
    assert (len(pair.asked("main")), len(pair.asked("small"))) == sent
    assert again.counters.calls_sent == 0
    assert again.counters.calls_requested == 900


def test_each_window_learns_for_itself(pairs):
    # In the second half the proxy's scores are the wrong way round.
    def small(prompt: str) -> str:
        score = float(sharp(prompt))
        return str(score if number(prompt) < 1000 else 1 - score)

    rows = list(range(2000))
    pair = pairs(small)
    inbox = pair.run(ONE, list(map(str, rows)), cascade_rows=1000)
    precision, recall = quality(texts(inbox), rows)
    assert precision >= 0.9
    assert recall >= 0.9
    assert inbox.counters.cascade_windows == 2
    assert inbox.counters.cascade_labelled == 2 * SAMPLE
    late = [prompt for prompt in pair.asked("main") if number(prompt) >= 1000]
    assert len(late) > 800, "what the first window learnt would have been wrong here"


def test_a_window_waits_for_no_later_row(pairs):
    pair, rows = pairs(), list(map(str, range(1000)))
    stream, inbox = pair.bench.open(ONE, cascade_rows=400)
    pair.bench.dispatcher.feed(stream, [rows], 1000)
    inbox.wait(800)
    assert sorted(inbox.texts) == list(range(800))
    pair.bench.dispatcher.end(stream)
    inbox.wait(1000)
    pair.bench.dispatcher.close(stream)


@pytest.mark.parametrize("size", [1, SAMPLE, LEAST_SAMPLES * SAMPLE - 1])
def test_few_rows_ask_the_main_model_alone(pairs, size):
    pair = pairs()
    inbox = pair.run(ONE, list(map(str, range(size))))
    assert texts(inbox) == [truth(f" {row}") for row in range(size)]
    assert not pair.asked("small")
    assert (inbox.counters.cascade_by_main, inbox.counters.cascade_windows) == (size, 0)


def test_an_empty_stream(pairs):
    pair = pairs()
    stream, inbox = pair.bench.open(ONE)
    pair.bench.dispatcher.end(stream)
    pair.bench.dispatcher.close(stream)
    assert not inbox.texts


def test_equal_rows_are_one_prompt_of_the_sample_and_get_one_answer(pairs):
    pair = pairs()
    rows = [row % 700 for row in range(2100)]
    inbox = pair.run(ONE, list(map(str, rows)), cache=False, query="q")
    answers: dict[int, set[str | None]] = {}
    for row, text in zip(rows, texts(inbox), strict=True):
        answers.setdefault(row, set()).add(text)
    assert all(len(given) == 1 for given in answers.values())
    assert inbox.counters.cascade_labelled == 3 * SAMPLE
    assert len(pair.asked("main")) == len(set(pair.asked("main")))
    assert len(pair.asked("small")) == 700


@pytest.mark.parametrize("score", ["0.5", "nan", "what?"])
def test_a_proxy_without_scores_leaves_everything_to_the_main_model(pairs, score):
    pair = pairs(lambda _: score)
    inbox = pair.run(ONE, list(map(str, range(600))))
    assert texts(inbox) == [truth(f" {row}") for row in range(600)]
    assert inbox.counters.cascade_by_proxy == 0
    assert len(pair.asked("small")) == SAMPLE, "once its sample showed that, it is not asked any more"


def test_a_proxy_that_guesses_leaves_everything_to_the_main_model(pairs):
    pair = pairs(lambda prompt: str(random.Random(prompt).random()))
    inbox = pair.run(ONE, list(map(str, range(2000))))
    assert texts(inbox) == [truth(f" {row}") for row in range(2000)]
    assert inbox.counters.cascade_by_proxy == inbox.counters.cascade_lowers == inbox.counters.cascade_uppers == 0
    assert len(pair.asked("small")) == SAMPLE


def test_all_rows_false_are_for_the_main_model_as_no_recall_can_be_shown(pairs):
    pair = pairs(main=lambda _: "false")
    inbox = pair.run(ONE, list(map(str, range(1000))))
    assert texts(inbox) == ["false"] * 1000
    assert inbox.counters.cascade_by_proxy == 0


def test_all_rows_true(pairs):
    pair = pairs(main=lambda _: "true")
    inbox = pair.run(ONE, list(map(str, range(1000))))
    assert texts(inbox).count("true") >= 900
    assert inbox.counters.cascade_by_proxy > 500


def test_null_makes_no_call_and_fills_the_window(pairs):
    pair = pairs()
    column = [None if row % 3 == 0 else str(row) for row in range(1200)]
    inbox = pair.run(ONE, column, end=False, cascade_rows=1200)
    assert all((text is None) == (row % 3 == 0) for row, text in enumerate(texts(inbox)))
    assert inbox.counters.calls_requested == 800


def test_a_failure_of_the_proxy_is_none_of_the_row(pairs):
    class Refuses(ScriptedEngine):
        def _take(self) -> list[EngineResult]:
            out = super()._take()
            for result in out:
                if result.text == "refuse":
                    result.text, result.error = "", "it does not like this"
            return out

    pair = pairs()
    small = Refuses("small", answer=lambda prompt: "refuse" if number(prompt) % 4 == 0 else sharp(prompt))
    pair.bench = Bench(lambda model: small if model == "small" else ScriptedEngine(model, answer=truth))
    inbox = pair.run(ONE, list(map(str, range(1200))))
    assert not inbox.reasons
    assert inbox.counters.calls_failed == 0
    refused = range(0, 1200, 4)
    assert [inbox.texts[row][0] for row in refused] == [truth(f" {row}") for row in refused]
    assert inbox.counters.cascade_by_proxy > 400


def test_a_failure_of_the_main_model_is_the_rows(pairs):
    pair = pairs()
    column = [f"refused {row}" if row % 10 == 0 else str(row) for row in range(1200)]
    inbox = pair.run(ONE, column)
    assert inbox.counters.calls_failed == len(inbox.reasons) > 0
    assert all(reason == "the engine refused it" for reason in inbox.reasons.values())


def test_prompts_that_one_model_cannot_render(pairs):
    pair = pairs()
    column = [f"unrenderable {row}" if row % 10 == 0 else str(row) for row in range(1200)]
    inbox = pair.run(ONE, column)
    assert sorted(row for row, _ in inbox.reasons) == list(range(0, 1200, 10))


def test_a_cascade_reads_an_earlier_answer_and_has_a_guard(pairs):
    first = Call(0, "first", (Message("user", ("begin ", InputRef(0))),), Sampling(8))
    guarded = filter_call(1, parts=("holds? ", CallRef(0)), guard=Equal((InputRef(1),), ("yes",)))
    after = Call(2, "first", (Message("user", ("then ", CallRef(1), " ", InputRef(0))),), Sampling(8))
    pair = pairs()
    pair.bench = Bench(
        lambda model: ScriptedEngine(
            model, answer={"main": truth, "small": sharp}.get(model, lambda prompt: f"as {number(prompt)}")
        )
    )
    flags = ["yes" if row % 2 else "no" for row in range(1600)]
    inbox = pair.run(CallGraph((first, guarded, after), 2), list(map(str, range(1600))), flags)
    found = texts(inbox, 1)
    assert all((text is None) == (row % 2 == 0) for row, text in enumerate(found))
    assert all((inbox.texts[row][2] is None) == (row % 2 == 0) for row in range(1600))
    assert min(quality([found[row] for row in range(1, 1600, 2)], list(range(1, 1600, 2)))) >= 0.9
    assert inbox.counters.cascade_by_proxy > 0
    assert inbox.counters.cascade_labelled == SAMPLE


def test_a_stream_closed_in_the_middle_leaves_nothing_behind(pairs):
    pair = pairs()
    stream, _ = pair.bench.open(ONE)
    pair.bench.dispatcher.feed(stream, [list(map(str, range(500)))], 500)
    pair.bench.dispatcher.close(stream)
    assert pair.run(ONE, list(map(str, range(700)))).counters.cascade_by_proxy > 0
    assert pair.bench.dispatcher.status().calls_in_flight == 0


def test_filters_keep_their_order_beside_a_cascade():
    plain = Call(1, "main", (Message("user", ("other ", InputRef(0))),), Sampling(8), constraint=CHOICES)
    conditions = (Equal((CallRef(0),), ("true",)), Equal((CallRef(1),), ("true",)))
    free = CallGraph((replace(filter_call(), cascade=None), plain), 1, conditions)
    assert Stream(free, lambda _: None).state.filters is not None
    assert Stream(CallGraph((filter_call(), plain), 1, conditions), lambda _: None).state.filters is None
