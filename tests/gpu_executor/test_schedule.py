from __future__ import annotations

import pytest

from spark_helium.call_conditions import Equal
from spark_helium.call_graph import Call, CallGraph, CallRef, InputRef, Message, Part, Sampling
from spark_helium.gpu_executor.engines.base import EngineResult
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer
from spark_helium.gpu_executor.graph_state import FIRST_GUESS, GraphState
from spark_helium.gpu_executor.schedule import REVISE_SECONDS, Schedule
from spark_helium.gpu_executor.static_prefix import StaticPrefixes
from spark_helium.trt.tree import OperatorId
from tests.gpu_executor.scripted_engine import ScriptedEngine


def call(index: int, *parts: Part, max_tokens: int = 16, **options: object) -> Call:
    return Call(index, "m", (Message("user", parts),), Sampling(max_tokens), **options)  # type: ignore[arg-type]


# The second call is the longest way to the end, and nothing is shared.
GRAPH = CallGraph(
    (
        call(0, "short ", InputRef(0), max_tokens=4),
        call(1, "long ", InputRef(0), max_tokens=200),
        call(2, "then ", CallRef(1), max_tokens=200),
    ),
    1,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(clock: Clock) -> Schedule:
    engine = ScriptedEngine(max_model_len=1000)
    return Schedule(engine.info, StaticPrefixes(engine.renderer), clock)


def ranks(schedule: Schedule, query: str = "q") -> list[int]:
    return [schedule.order.ranks.get(OperatorId(query, k), 0) for k in range(3)]


def test_a_query_is_ranked_when_it_begins(schedule):
    assert not schedule.is_due
    schedule.begin("q", GRAPH)
    schedule.expect("q", 50)
    assert schedule.is_due
    assert schedule.revise()
    assert ranks(schedule)[1] < ranks(schedule)[0]
    assert not schedule.is_due


def test_one_call_needs_no_ranks(schedule):
    schedule.begin("q", CallGraph((call(0, InputRef(0)),), 1))
    schedule.observe(OperatorId("q", 0), EngineResult(1, "x", 10, 0, 5))
    schedule.observe_guard(OperatorId("q", 0), 1, 2)
    schedule.end("q")
    assert not schedule.is_due


def test_one_call_beside_a_graph_is_ranked_with_it(schedule):
    schedule.begin("one", CallGraph((call(0, "long ", InputRef(0), max_tokens=16),), 1))
    assert not schedule.is_due
    schedule.begin("q", GRAPH)
    assert schedule.is_due
    schedule.revise()
    assert schedule.order.ranks.keys() == {OperatorId("one", 0), *(OperatorId("q", k) for k in range(3))}
    schedule.end("q")
    assert not schedule.is_due


def test_the_last_stream_that_ends_takes_its_query_out(schedule):
    for _ in range(2):
        schedule.begin("q", GRAPH)
    schedule.revise()
    schedule.end("q")
    assert not schedule.is_due
    schedule.begin("other", GRAPH)
    schedule.end("q")
    schedule.revise()
    assert {operator.query for operator in schedule.order.ranks} == {"other"}
    schedule.end("other")
    assert not schedule.is_due
    schedule.end("q")  # whatever comes late is ignored
    schedule.expect("q", 10)


def test_what_is_observed_changes_the_order_now_and_then(schedule, clock):
    schedule.begin("q", GRAPH)
    schedule.revise()
    before = schedule.order
    for _ in range(500):  # it is the other way round: the long calls answer with one token
        schedule.observe(OperatorId("q", 0), EngineResult(1, "x", 10, 0, 4000))
        schedule.observe(OperatorId("q", 1), EngineResult(1, "x", 10, 0, 1))
        schedule.observe(OperatorId("q", 2), EngineResult(1, "x", 10, 0, 1))
    assert not schedule.is_due
    clock.now += REVISE_SECONDS
    assert schedule.is_due
    assert schedule.revise()
    assert schedule.order != before
    assert ranks(schedule)[0] < ranks(schedule)[1]
    assert not schedule.revise()  # nothing new


def test_a_template_that_cannot_be_rendered_is_ranked_by_its_lengths(clock):
    class Broken(SimulatorRenderer):
        def render(self, conversations):
            raise ValueError("no chat template")

    broken = Schedule(ScriptedEngine(max_model_len=1000).info, StaticPrefixes(Broken()), clock)
    broken.begin("q", GRAPH)
    broken.expect("q", 50)
    assert broken.revise()
    assert ranks(broken)[1] < ranks(broken)[0]


class TestGraphState:
    def test_expects_what_it_saw(self):
        state = GraphState(GRAPH)
        assert [state.expected_output(k) for k in range(3)] == [4, FIRST_GUESS, FIRST_GUESS]
        for _ in range(300):
            state.answered(1, EngineResult(1, "x", 10, 0, 100))
        assert state.expected_output(1) == pytest.approx(100, rel=0.05)
        state.answered(1, EngineResult(1, error="no", output_tokens=10**6))
        assert state.expected_output(1) == pytest.approx(100, rel=0.05)

    def test_counts_guards_since_the_last_time(self):
        state = GraphState(GRAPH)
        for passed in (True, False, True):
            state.guarded(2, passed)
        assert state.take_guards() == [(2, 2, 3)]
        assert state.take_guards() == []

    def test_filters_only_where_there_is_a_choice(self):
        yes = Equal((CallRef(0),), ("yes",))
        assert GraphState(GRAPH).filters is None
        assert GraphState(CallGraph(GRAPH.calls, 1, (yes,))).filters is None
        assert GraphState(CallGraph(GRAPH.calls, 1, (yes, Equal((CallRef(1),), ("x",))))).filters is not None
