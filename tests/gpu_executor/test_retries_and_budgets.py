"""What the dispatcher does with failures that may pass, and with a query that used up its budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from spark_helium.call_graph import CallGraph, CallRef, InputRef, Sampling
from spark_helium.gpu_executor.budget import KEEP_SECONDS, Budget, Spendings
from spark_helium.gpu_executor.engines.base import Engine, EngineRequest, EngineResult
from tests.gpu_executor.scripted_engine import ScriptedEngine
from tests.gpu_executor.test_dispatcher import CHAIN, ONE, Bench, benches, call, until  # noqa: F401  (a fixture)

Benches = Callable[..., Bench]
PATIENT = {"retries": 3, "retry_backoff": 0.001}


class FlakyEngine(ScriptedEngine):
    """Fails each prompt that holds ``flaky`` so often, and one with ``broken`` always."""

    def __init__(self, failures: int, retryable: bool = True, retry_after: float = 0.0) -> None:
        super().__init__()
        self.failures = failures
        self.retryable = retryable
        self.retry_after = retry_after
        self.times: dict[str, list[float]] = {}

    def submit(self, requests: list[EngineRequest]) -> None:  # type: ignore[override]
        before = len(self.submitted)
        super().submit(requests)
        for prompt in self.submitted[before:]:
            self.times.setdefault(prompt, []).append(time.monotonic())

    def _take(self) -> list[EngineResult]:
        prompts = {id_: prompt for id_, (_, prompt) in self._open.items()}
        return [self._flawed(result, prompts[result.id]) for result in super()._take()]

    def _flawed(self, result: EngineResult, prompt: str) -> EngineResult:
        fails = "broken" in prompt or ("flaky" in prompt and len(self.times[prompt]) <= self.failures)
        if not fails:
            return result
        return EngineResult(
            result.id, error=f"trouble with {prompt}", retryable=self.retryable, retry_after=self.retry_after
        )


def flaky(benches: Benches, failures: int, **options: float) -> tuple[Bench, FlakyEngine]:  # noqa: F811
    engine = FlakyEngine(failures, **options)  # type: ignore[arg-type]

    def make(_: str) -> Engine:
        return engine

    return benches(make), engine


def test_a_failure_that_passes_costs_nobody(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=2)
    inbox = bench.run(ONE, ["x", "flaky", "y"], **PATIENT)
    assert inbox.texts == {0: ["<user:ask x>"], 1: ["<user:ask flaky>"], 2: ["<user:ask y>"]}
    assert engine.submitted.count("user:ask flaky") == 3
    counters = inbox.counters
    assert (counters.calls_requested, counters.calls_sent, counters.calls_failed, counters.calls_retried) == (
        3,
        3,
        0,
        2,
    )


def test_a_failure_that_stays_is_the_rows_alone(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=0)
    inbox = bench.run(CHAIN, ["x", "broken", "y"], ["1", "2", "3"], **PATIENT)
    assert inbox.texts[1] == [None, None]
    assert inbox.reasons == {(1, 0): "trouble with user:a broken (tried 4 times; spark.helium.retries.max)"}
    assert [inbox.texts[row][1] is not None for row in (0, 2)] == [True, True]
    assert engine.submitted.count("user:a broken") == 4
    assert (inbox.counters.calls_failed, inbox.counters.calls_retried) == (1, 3)


def test_what_cannot_pass_is_not_tried_again(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=9, retryable=False)
    inbox = bench.run(ONE, ["flaky"], **PATIENT)
    assert inbox.reasons == {(0, 0): "trouble with user:ask flaky"}
    assert len(engine.submitted) == 1


def test_without_retries_there_are_none(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=9)
    assert bench.run(ONE, ["flaky"], retries=0).reasons == {(0, 0): "trouble with user:ask flaky"}
    assert len(engine.submitted) == 1


def test_the_wait_that_the_endpoint_asks_for_is_kept(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=1, retry_after=0.3)
    bench.run(ONE, ["flaky"], **PATIENT)
    first, second = engine.times["user:ask flaky"]
    assert second - first >= 0.3


def test_equal_calls_wait_together(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=1)
    inbox = bench.run(ONE, ["flaky"] * 5, **PATIENT)
    assert len(engine.submitted) == 2
    assert (inbox.counters.calls_sent, inbox.counters.answers_from_cache) == (1, 4)


def test_a_query_that_ends_while_its_call_rests(benches: Benches) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=1)
    stream, _ = bench.open(ONE, retries=3, retry_backoff=0.3)
    bench.dispatcher.feed(stream, [["flaky"]], 1)
    until(lambda: stream.counters.calls_retried == 1)
    bench.dispatcher.close(stream)
    until(lambda: bench.dispatcher.status().calls_in_flight == 0)
    bench.run(ONE, ["x"])
    time.sleep(0.5)  # when its time comes, nobody asks
    assert engine.submitted.count("user:ask flaky") == 1


# -- budgets


def test_a_query_stops_at_its_calls_and_keeps_what_it_had(benches: Benches) -> None:  # noqa: F811
    bench = benches()
    stream, inbox = bench.open(ONE, query="q", budget=Budget(calls=3))
    bench.dispatcher.feed(stream, [[f"row {i}" for i in range(10)]], 10)
    fatal = inbox.wait_fatal()
    assert fatal.kind == "budget"
    assert "budget of 3 calls" in fatal.reason
    assert len(inbox.texts) == 3, "what was made before is answered"
    assert bench.engine().submitted == [f"user:ask row {i}" for i in range(3)]
    bench.dispatcher.close(stream)
    # The next query has a budget of its own, and the answers of the first cost it nothing.
    again = bench.run(ONE, [f"row {i}" for i in range(5)], query="r", budget=Budget(calls=2))
    assert (again.counters.calls_sent, again.counters.answers_from_cache) == (2, 3)


def test_the_tasks_of_a_query_share_its_budget(benches: Benches) -> None:  # noqa: F811
    bench = benches()
    bench.run(ONE, ["a", "b"], query="q", budget=Budget(calls=3))
    stream, inbox = bench.open(ONE, query="q", budget=Budget(calls=3))
    bench.dispatcher.feed(stream, [["c", "d"]], 2)
    assert inbox.wait_fatal().kind == "budget"
    assert bench.engine().submitted == ["user:ask a", "user:ask b", "user:ask c"]


def test_rows_without_a_call_of_their_own_cost_no_budget(benches: Benches) -> None:  # noqa: F811
    inbox = benches().run(ONE, ["a", "a", None, "b", "a"], query="q", budget=Budget(calls=2))
    assert inbox.counters.calls_sent == 2


def test_a_query_stops_at_its_tokens(benches: Benches) -> None:  # noqa: F811
    # A prompt has 10 tokens, an answer 3. The second call is made when the first is there: a chain.
    graph = CallGraph((call(0, "1", InputRef(0)), call(1, "2", CallRef(0))), 1)
    bench = benches()
    stream, inbox = bench.open(graph, query="q", budget=Budget(tokens=20))
    bench.dispatcher.feed(stream, [["word"]], 1)
    assert "budget of 20 tokens" in inbox.wait_fatal().reason
    assert len(bench.engine().submitted) == 1


def test_other_queries_go_on(benches: Benches) -> None:  # noqa: F811
    bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: "slow" in prompt))
    other, others = bench.open(ONE, query="other")
    bench.dispatcher.feed(other, [["slow"]], 1)
    stream, inbox = bench.open(ONE, query="q", budget=Budget(calls=1))
    bench.dispatcher.feed(stream, [["a", "b", "slow"]], 3)
    assert inbox.wait_fatal().kind == "budget"
    bench.dispatcher.close(stream)
    bench.engine().release("user:ask slow")
    assert others.wait(1).texts == {0: ["<user:ask slow>"]}


def test_draws_count_each(benches: Benches) -> None:  # noqa: F811
    graph = CallGraph((replace(call(0, "x"), sampling=Sampling(16, temperature=1.0)),), 0)
    bench = benches()
    stream, inbox = bench.open(graph, query="q", budget=Budget(calls=2))
    bench.dispatcher.feed(stream, [], 3)
    inbox.wait_fatal()
    assert len(bench.engine().submitted) == 2


@pytest.mark.parametrize("retries", [0, 2])
def test_calls_that_fail_count_too(benches: Benches, retries: int) -> None:  # noqa: F811
    bench, engine = flaky(benches, failures=0)
    stream, inbox = bench.open(ONE, query="q", budget=Budget(calls=2), retries=retries, retry_backoff=0.001)
    bench.dispatcher.feed(stream, [["broken", "a", "b"]], 3)
    inbox.wait_fatal()
    assert len(set(engine.submitted)) == 2


def test_another_query_may_ask_what_waits_to_be_tried_again(benches: Benches) -> None:  # noqa: F811
    bench, _ = flaky(benches, failures=1)
    patient = {"retries": 3, "retry_backoff": 0.3}
    first, inbox = bench.open(ONE, query="q1", **patient)
    bench.dispatcher.feed(first, [["flaky"]], 1)
    until(lambda: any(flight.rests for flight in list(bench.dispatcher._flights.values())))
    second, other = bench.open(ONE, query="q2", **patient)
    bench.dispatcher.feed(second, [["flaky"]], 1)
    inbox.wait(1)
    other.wait(1)
    assert inbox.texts == other.texts == {0: ["<user:ask flaky>"]}


def test_a_budget_lasts_as_long_as_its_query() -> None:
    now = [0.0]
    spendings = Spendings(lambda: now[0])
    stream = SimpleNamespace(account="q", budget=Budget(calls=1))
    spending = spendings.of(stream)
    assert spending is not None
    assert spending.admit(1)
    spending.done(1, 1)
    for _ in range(3):
        now[0] += 0.9 * KEEP_SECONDS
        spendings.of(stream)
        spendings.forget_finished()
    assert spendings.of(stream) is spending
