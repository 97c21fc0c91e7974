from __future__ import annotations

from spark_helium.gpu_executor.prompt_cache import CacheKey
from spark_helium.gpu_executor.query_answers import KEEP_SECONDS, QueryAnswers

KEY = CacheKey(b"key")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_answers_stay_between_the_stages_of_a_query() -> None:
    clock = Clock()
    answers = QueryAnswers(1 << 20, clock)
    answers.opened("q")
    answers.of("q").put(KEY, "text", False)
    answers.closed("q")
    clock.now += KEEP_SECONDS - 1
    answers.forget_finished()
    answers.opened("q")
    assert answers.of("q").get(KEY) == ("text", False)


def test_answers_go_when_the_query_is_over() -> None:
    clock = Clock()
    answers = QueryAnswers(1 << 20, clock)
    answers.opened("q")
    answers.of("q").put(KEY, "text", False)
    answers.closed("q")
    clock.now += KEEP_SECONDS + 1
    answers.forget_finished()
    assert len(answers) == 0


def test_a_query_that_runs_on_keeps_its_answers() -> None:
    clock = Clock()
    answers = QueryAnswers(1 << 20, clock)
    answers.opened("q")
    answers.opened("q")
    answers.of("q").put(KEY, "text", False)
    answers.closed("q")
    clock.now += 10 * KEEP_SECONDS
    answers.forget_finished()
    assert answers.of("q").get(KEY) is not None


def test_queries_do_not_see_each_other() -> None:
    answers = QueryAnswers(1 << 20)
    for query in ("a", "b"):
        answers.opened(query)
    answers.of("a").put(KEY, "text", False)
    assert answers.of("b").get(KEY) is None


def test_queries_that_are_done_make_room_the_longest_unused_first() -> None:
    clock = Clock()
    answers = QueryAnswers(2000, clock)
    for query in "abcd":
        clock.now += 1
        answers.opened(query)
        answers.of(query).put(KEY, "x" * 500, False)
        if query != "a":
            answers.closed(query)
    answers.forget_finished()
    assert [answers.of(query).get(KEY) is not None for query in "abcd"] == [True, False, False, True]


def test_the_bound_holds_for_each_query() -> None:
    answers = QueryAnswers(1000)
    answers.opened("q")
    for number in range(100):
        answers.of("q").put(CacheKey(str(number).encode()), "x" * 50, False)
    answers.of("q").check_integrity()
    assert answers.of("q").bytes <= 1000
