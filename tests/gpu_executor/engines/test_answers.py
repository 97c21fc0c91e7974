from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_graph import CallTask, Constraint, Sampling
from spark_helium.gpu_executor.engines.answers import (
    EMBEDDING_SIZE,
    AnswerPlan,
    answer,
    embedding,
    plan_for,
    score,
)
from spark_helium.gpu_executor.engines.simulator import encode_text
from tests.gpu_executor.engines.vectors import vector

LONG = Sampling(max_tokens=10_000)


@given(prompt=st.text(), max_tokens=st.integers(1, 40), stop=st.lists(st.sampled_from([" ", "ba", "l d", "x"])))
def test_free_text_obeys_max_tokens_and_stop(prompt: str, max_tokens: int, stop: list[str]) -> None:
    tokens = encode_text(prompt)
    whole = answer(tokens, LONG).text
    got = answer(tokens, Sampling(max_tokens=max_tokens, stop=tuple(stop)))
    assert whole.startswith(got.text)
    assert 1 <= got.output_tokens <= max_tokens
    assert len(got.text.encode()) <= 4 * max_tokens
    if got.truncated:
        assert got.output_tokens == max_tokens
        assert len(got.text.encode()) > 4 * max_tokens - 4
    else:
        # It ended by itself or at a stop text, which is generated and not shown.
        assert got.text == whole or any(whole.startswith(got.text + word) for word in stop)
        assert not any(word in got.text for word in stop)


@given(prompt=st.text(), choices=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5))
def test_choices_give_one_of_them(prompt: str, choices: list[str]) -> None:
    assert answer(encode_text(prompt), LONG, Constraint(choices=tuple(choices))).text in choices


def test_every_choice_is_taken_about_as_often() -> None:
    constraint = Constraint(choices=("a", "b", "c"))
    taken = [answer(encode_text(str(i)), LONG, constraint).text for i in range(3000)]
    assert all(900 < taken.count(choice) < 1100 for choice in constraint.choices or ())


def test_regex_and_schema_are_obeyed() -> None:
    for i in range(50):
        tokens = encode_text(str(i))
        assert re.fullmatch(r"\d{3}[a-f]+", answer(tokens, LONG, Constraint(regex=r"\d{3}[a-f]+")).text)
        assert isinstance(json.loads(answer(tokens, LONG, Constraint(json_schema='{"type": "integer"}')).text), int)


def test_an_answer_cut_at_max_tokens_is_marked_and_stays_valid_unicode() -> None:
    got = answer(b"", Sampling(max_tokens=1), Constraint(choices=("üüü",)))
    assert (got.text, got.output_tokens, got.truncated) == ("üü", 1, True)
    assert answer(b"", Sampling(max_tokens=1), Constraint(choices=("aüü",))) == ("aü", 1, True)
    assert answer(b"", Sampling(max_tokens=2), Constraint(choices=("aüü",))) == ("aüü", 2, False)


def test_the_first_stop_text_to_be_complete_ends_the_answer() -> None:
    constraint = Constraint(choices=("one two three four",))
    assert answer(b"", Sampling(max_tokens=50, stop=("three", "two three four")), constraint) == ("one two ", 4, False)
    assert answer(b"", Sampling(max_tokens=2, stop=("three",)), constraint) == ("one two ", 2, True)
    assert answer(b"", Sampling(max_tokens=50, stop=("one",)), constraint) == ("", 1, False)


def test_an_empty_answer_still_takes_the_token_that_ends_it() -> None:
    assert answer(b"", LONG, Constraint(regex="")) == ("", 1, False)


def test_greedy_answers_take_no_notice_of_top_p_and_seed() -> None:
    tokens = encode_text("hello")
    assert answer(tokens, Sampling(99, top_p=0.5, seed=7)) == answer(tokens, Sampling(99))


def test_sampled_answers_depend_on_temperature_top_p_and_seed() -> None:
    tokens = encode_text("hello")
    options = [Sampling(99), Sampling(99, 1.0, seed=1), Sampling(99, 0.5, seed=1), Sampling(99, 1.0, seed=2)]
    options.append(Sampling(99, 1.0, 0.5, seed=1))
    assert len({answer(tokens, sampling).text for sampling in options}) == len(options)


def test_only_calls_without_seed_may_differ() -> None:
    assert AnswerPlan(Sampling(9, 1.0, seed=3)).deterministic
    plan = AnswerPlan(Sampling(9, 1.0))
    assert not plan.deterministic
    assert plan.answer(b"", salt=b"1").text != plan.answer(b"", salt=b"2").text


def test_a_wrong_constraint_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        answer(b"", LONG, Constraint(choices=()))


def cosine(one: str, other: str) -> float:
    a, b = embedding(encode_text(one)), embedding(encode_text(other))
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


@given(prompt=st.text())
def test_scores_of_two_choices_add_up_to_one(prompt: str) -> None:
    tokens = encode_text(prompt)
    yes, no = float(score(tokens, ("yes", "no"))), float(score(tokens, ("no", "yes")))
    assert 0 <= yes <= 1
    assert yes + no == pytest.approx(1)


def test_scores_tell_prompts_apart() -> None:
    assert len({score(encode_text(str(i))) for i in range(500)}) == 500


@given(text=st.text(min_size=1))
def test_embeddings_have_norm_one_and_are_floats_of_32_bits(text: str) -> None:
    vector = embedding(encode_text(text))
    assert len(vector) == EMBEDDING_SIZE
    assert math.fsum(x * x for x in vector) == pytest.approx(1, abs=1e-6)
    assert all(x * 2**24 == round(x * 2**24) for x in vector)


def test_texts_with_words_in_common_are_near_each_other() -> None:
    assert cosine("A dog barks.", "a DOG barks") == pytest.approx(1, abs=1e-6)
    assert cosine("the dog barks at night", "the dog barks at noon") > 0.6
    assert cosine("the dog barks at night", "prices fell again") < 0.5
    assert cosine("!?", "...") < 0.9, "texts without words are not all the same"


def test_each_task_has_its_plan() -> None:
    tokens, one = encode_text("a b"), Sampling(max_tokens=1)
    scored = plan_for(one, Constraint(choices=("yes", "no")), CallTask.SCORE).answer(tokens)
    assert scored == (score(tokens), 1, False)
    embedded = plan_for(one, None, CallTask.EMBED).answer(tokens)
    assert (vector(embedded.text), embedded.output_tokens) == (embedding(tokens), 0)
    with pytest.raises(ValueError, match="two different choices, not 'yes'"):
        plan_for(one, Constraint(choices=("yes",)), CallTask.SCORE)
    with pytest.raises(ValueError, match="no answers for the task count_tokens"):
        plan_for(one, None, CallTask.COUNT_TOKENS)
