"""Engines that do not fit together: who makes room, and when. The rules for it: test_engine_memory.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from spark_helium.call_graph import Call, CallGraph, CallRef, Cascade, Constraint, InputRef, Message, Part, Sampling
from spark_helium.gpu_executor.dispatcher import Dispatcher
from spark_helium.gpu_executor.engine_memory import EngineMemory, Need
from spark_helium.gpu_executor.engines.base import Engine, EngineKind
from spark_helium.gpu_executor.messages import Fatal
from spark_helium.gpu_executor.stream import Answers, Stream
from tests.gpu_executor.scripted_engine import ScriptedEngine

WAIT = 15.0
SIZES = {"a": 60, "b": 60, "small": 20, "endpoint": 0}


def call(index: int, model: str, *parts: Part) -> Call:
    return Call(index, model, (Message("user", parts),), Sampling(16))


class Bench:
    """Engines of the sizes above in a memory of 100; ``log`` is what was started and closed."""

    def __init__(self, hold: Callable[[str], bool], linger: float, patience: float) -> None:
        self.log: list[str] = []
        self.engines: dict[str, ScriptedEngine] = {}
        self.fatal: list[str] = []
        bench = self

        class Logged(ScriptedEngine):
            def close(self) -> None:
                if not self.closed:
                    bench.log.append(f"-{self.model}")
                super().close()

        def create(model: str, kind: EngineKind) -> Engine:
            open_ones = [engine for engine in self.engines.values() if not engine.closed]
            assert sum(SIZES[e.model] for e in open_ones) + SIZES[model] <= 100, "more than the node has"
            self.log.append(f"+{model}")
            self.engines[model] = Logged(model, hold=hold)
            return self.engines[model]

        memory = EngineMemory(lambda model: Need(SIZES[model]), Need(100), linger, patience)
        self.dispatcher = Dispatcher(create, 1 << 20, memory=memory)
        self.dispatcher.start()

    def run(self, graph: CallGraph, values: list[str], query: str = "") -> Stream:
        stream = Stream(graph, self.deliver, query=query)
        self.answers: list[str | None] = []
        self.dispatcher.open(stream)
        self.dispatcher.feed(stream, [values], len(values))
        return stream

    def deliver(self, item: Answers | Fatal) -> None:
        if isinstance(item, Fatal):
            self.fatal.append(item.reason)
        else:
            self.answers += item.texts[-1]

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < deadline, self.log
            assert not self.fatal
            time.sleep(0.002)

    def states(self) -> dict[str, str]:
        return {engine.model: engine.state for engine in self.dispatcher.status().engines}


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(hold: Callable[[str], bool] = lambda _: False, linger: float = 0.0, patience: float = 60.0) -> Bench:
        made.append(Bench(hold, linger, patience))
        return made[-1]

    yield make
    for bench in made:
        assert bench.dispatcher.alive
        bench.dispatcher.stop("the test is over")
        assert all(engine.closed for engine in bench.engines.values())


def one(model: str) -> CallGraph:
    return CallGraph((call(0, model, InputRef(0)),), 1)


def test_what_fits_stays(benches):
    bench = benches()
    for model in ("a", "small", "a"):
        bench.run(one(model), ["x"])
        bench.until(lambda: bench.answers)
    assert bench.log == ["+a", "+small"]
    assert bench.dispatcher.status().engine_swaps == 0
    assert {e.model: e.memory for e in bench.dispatcher.status().engines} == {"a": 60, "small": 20}


def test_the_models_of_a_cascade_take_turns(benches):
    bench = benches()
    choices, cascade = Constraint(choices=("true", "false")), Cascade("b", 0.5, 0.5, 25)
    graph = CallGraph((replace(call(0, "a", InputRef(0)), constraint=choices, cascade=cascade),), 1)
    stream = bench.run(graph, [f"x {i}" for i in range(60)])
    bench.dispatcher.end(stream)
    bench.until(lambda: len(bench.answers) == 60)
    assert bench.log == ["+a", "-a", "+b", "-b", "+a"], "a labels, b scores, and a answers as these scores are none"


def test_an_idle_engine_makes_room(benches):
    bench = benches()
    for model in ("a", "small", "b"):
        bench.run(one(model), ["x"])
        bench.until(lambda: bench.answers)
    assert bench.log == ["+a", "+small", "-a", "+b"]
    status = bench.dispatcher.status()
    assert status.engine_swaps == 1
    assert bench.states() == {"small": "ready", "b": "ready"}


def test_a_busy_engine_is_not_closed(benches):
    bench = benches(hold=lambda prompt: "slow" in prompt)
    bench.run(one("a"), ["slow"])
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    bench.run(one("b"), ["x"])
    bench.until(lambda: bench.states().get("b") == "waits for memory")
    time.sleep(0.05)
    assert bench.log == ["+a"]
    bench.engines["a"].release("user:slow")
    bench.until(lambda: bench.log == ["+a", "-a", "+b"])
    bench.until(lambda: len(bench.answers) == 2)


def test_an_engine_that_needs_no_memory_does_not_wait_for_it(benches):
    bench = benches(hold=lambda prompt: "slow" in prompt)
    bench.run(one("a"), ["slow"])
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    bench.run(one("b"), ["x"])
    bench.until(lambda: bench.states().get("b") == "waits for memory")
    bench.run(one("endpoint"), ["y"])
    bench.until(lambda: bench.answers)
    assert bench.log == ["+a", "+endpoint"]
    bench.engines["a"].release("user:slow")
    bench.until(lambda: bench.log == ["+a", "+endpoint", "-a", "+b"])


def test_calls_that_alternate_swap_once_per_wave_and_not_once_per_call(benches):
    graph = CallGraph((call(0, "a", InputRef(0)), call(1, "b", CallRef(0)), call(2, "a", CallRef(1))), 1)
    bench = benches()
    bench.run(graph, [f"row {i}" for i in range(500)])
    bench.until(lambda: len(bench.answers) == 500)
    assert bench.log == ["+a", "-a", "+b", "-b", "+a"]
    assert bench.dispatcher.status().engine_swaps == 2


def test_who_waits_long_gets_its_turn_while_another_is_always_busy(benches):
    bench = benches(hold=lambda _: True, patience=0.05)
    first = bench.run(one("a"), ["0"], query="endless")
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    bench.run(one("b"), ["x"], query="short")
    bench.until(lambda: bench.states().get("b") == "waits for memory")
    # Rows of "a" keep coming, each before the last one is answered. Without patience that would go on for ever.
    for number in range(1, 1000):
        bench.dispatcher.feed(first, [[str(number)]], 1)
        bench.engines["a"].release(f"user:{number - 1}")
        if "+b" in bench.log:
            break
        time.sleep(0.01)
    assert bench.log[:3] == ["+a", "-a", "+b"]
    bench.until(lambda: bench.engines["b"].submitted)
    bench.engines["b"].release("user:x")
    bench.until(lambda: bench.log == ["+a", "-a", "+b", "-b", "+a"])  # the rows that were held back go on
    bench.until(lambda: bench.engines["a"].submitted)
    bench.dispatcher.close(first)


def test_a_query_that_ends_while_it_waits_for_memory(benches):
    bench = benches(hold=lambda prompt: "slow" in prompt)
    bench.run(one("a"), ["slow"])
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    waiting = bench.run(one("b"), ["x"])
    bench.until(lambda: bench.states().get("b") == "waits for memory")
    bench.dispatcher.close(waiting)
    bench.until(lambda: "b" not in bench.states())
    bench.engines["a"].release("user:slow")
    bench.until(lambda: bench.dispatcher.status().calls_in_flight == 0)
    assert bench.log == ["+a"], "nobody needs b any more"


def held(benches, **options: float) -> Bench:
    """Model a is busy with a call, b waits for its memory, and has waited so long that a takes no new calls."""
    bench = benches(hold=lambda prompt: "slow" in prompt, patience=0.05, **options)
    bench.run(one("a"), ["slow"], query="q1")
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    bench.waiting = bench.run(one("b"), ["x"], query="q2")
    bench.until(lambda: any(slot.drains for slot in bench.dispatcher._pool.slots()))
    return bench


def test_an_engine_takes_calls_again_when_nobody_waits_for_its_memory(benches):
    bench = held(benches)
    bench.dispatcher.close(bench.waiting)
    bench.until(lambda: "b" not in bench.states())
    bench.run(one("a"), ["y"], query="q3")
    bench.until(lambda: bench.answers == ["<user:y>"])
    bench.engines["a"].release("user:slow")
    bench.until(lambda: bench.dispatcher.status().calls_in_flight == 0)


def test_calls_that_a_dead_engine_held_back_get_another(benches):
    bench = held(benches)
    bench.run(one("a"), ["y"], query="q3")
    bench.dispatcher.status()
    bench.engines["a"].dead = True
    bench.engines["a"].wake()
    deadline = time.monotonic() + WAIT
    while len(bench.answers) < 2:  # the first stream fails with the engine, as it should
        assert time.monotonic() < deadline, bench.log
        time.sleep(0.002)
    assert bench.answers.count("<user:y>") == 1


def test_an_engine_that_starts_slowly_gets_its_turn(benches):
    bench = benches(hold=lambda prompt: "slow" in prompt, patience=0.1)
    create = bench.dispatcher._pool._create

    def slowly(model: str, kind: EngineKind) -> Engine:
        time.sleep(0.2)
        return create(model, kind)

    bench.dispatcher._pool._create = slowly
    bench.run(one("a"), ["slow"], query="q1")
    bench.until(lambda: "a" in bench.engines and bench.engines["a"].submitted)
    bench.run(one("b"), ["x"], query="q2")
    bench.until(lambda: any(slot.drains for slot in bench.dispatcher._pool.slots()))
    others = bench.answers
    bench.run(one("a"), ["y"], query="q3")
    bench.dispatcher.status()
    bench.engines["a"].release("user:slow")
    bench.until(lambda: "<user:x>" in bench.answers and "<user:y>" in bench.answers)
    assert others is not bench.answers
    assert bench.log.count("+b") == 1
