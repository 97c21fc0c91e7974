from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.budget import KEEP_SECONDS, Budget, Spending, Spendings


def test_calls_are_counted_when_they_are_made() -> None:
    spending = Spending(Budget(calls=2))
    assert [spending.admit(5), spending.admit(5), spending.admit(5)] == [True, True, False]
    assert "budget of 2 calls" in spending.over
    assert "spark.helium.budget.maxCalls" in spending.over
    assert not spending.ends, "two answers are on their way"
    spending.done(5, 9)
    spending.done(5, 9)
    assert spending.ends


def test_tokens_are_those_of_the_calls_that_are_done_and_of_prompts_on_their_way() -> None:
    spending = Spending(Budget(tokens=100))
    assert spending.admit(40)
    spending.done(40, 70)
    assert spending.admit(20)
    assert not spending.admit(20), "70 are used, 20 on their way"
    assert "spark.helium.budget.maxTokens" in spending.over


def test_what_was_aborted_counts_as_a_call_and_not_as_tokens() -> None:
    spending = Spending(Budget(calls=2, tokens=50))
    assert spending.admit(40)
    spending.done(40, 0)
    assert spending.admit(40)
    assert not spending.admit(1)
    assert "maxCalls" in spending.over


def test_without_a_budget_nothing_ends() -> None:
    spending = Spending(Budget())
    assert all(spending.admit(1 << 40) for _ in range(100))
    assert not Budget()


@given(st.integers(1, 20), st.integers(1, 500), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60))))
def test_a_budget_is_passed_by_answers_alone(calls: int, tokens: int, asked: list[tuple[int, int]]) -> None:
    spending = Spending(Budget(calls, tokens))
    admitted = [(prompt, answer) for prompt, answer in asked if spending.admit(prompt)]
    assert spending.calls == len(admitted) <= calls
    assert sum(prompt for prompt, _ in admitted) <= tokens
    for prompt, answer in admitted:
        assert not spending.ends
        spending.done(prompt, prompt + answer)
    assert spending.tokens == sum(prompt + answer for prompt, answer in admitted)
    assert spending.ends == (len(admitted) < len(asked))


@dataclass
class Spender:
    account: str
    budget: Budget


def test_tasks_of_one_query_spend_together() -> None:
    now = [0.0]
    book = Spendings(lambda: now[0])
    one, other = Spender("q", Budget(calls=1)), Spender("q", Budget(calls=1))
    assert book.of(one) is book.of(other)
    assert book.of(Spender("r", Budget(calls=1))) is not book.of(one)
    assert book.of(Spender("s", Budget())) is None
    now[0] = KEEP_SECONDS - 1
    book.of(one)  # as the dispatcher does in every turn while a stream is open
    now[0] = KEEP_SECONDS + 1
    book.forget_finished()
    assert len(book) == 1, "only what was not heard of for long"
