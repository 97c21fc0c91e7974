from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_helium.call_conditions import And, Equal, In, IsNull, IsTrue, Literal, Not, Or
from spark_helium.call_graph import Call, CallGraph, CallRef, CallTask, Constraint, InputRef, Message, Part, Sampling
from spark_helium.call_parts import Data, FirstOf, Joined
from spark_helium.conf import Settings
from spark_helium.errors import EngineStartError
from spark_helium.gpu_executor import engines
from spark_helium.gpu_executor.arrays import FlawedColumn
from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.dispatcher import IDLE_SECONDS, Dispatcher
from spark_helium.gpu_executor.engines.answers import embedding, score
from spark_helium.gpu_executor.engines.base import Engine, EngineKind
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer, encode_text
from spark_helium.gpu_executor.messages import Counters, Fatal
from spark_helium.gpu_executor.ready_queue import RUN_OF_A_QUERY, SPARE_CALLS
from spark_helium.gpu_executor.stream import Answers, Stream
from tests.gpu_executor.engines.vectors import vector
from tests.gpu_executor.scripted_engine import ScriptedEngine

WAIT = 10.0
SIMULATOR = Settings({"engine": "simulator"})


class Inbox:
    """What a stream delivered, by row: ``texts[row][call]``; ``reasons[row, call]``."""

    def __init__(self) -> None:
        self.texts: dict[int, list[str | None]] = {}
        self.reasons: dict[tuple[int, int], str] = {}
        self.truncated: set[tuple[int, int]] = set()
        self.order: list[int] = []
        self.counters = Counters()
        self.fatal: Fatal | None = None
        self._changed = threading.Condition()

    def deliver(self, item: Answers | Fatal) -> None:
        with self._changed:
            assert self.fatal is None, "something came after the end"
            if isinstance(item, Fatal):
                self.fatal = item
            else:
                self.counters.add(item.counters)
                for position, row in enumerate(item.rows):
                    assert row not in self.texts, f"row {row} was answered twice"
                    self.order.append(row)
                    self.texts[row] = [texts[position] for texts in item.texts]
                for call, reasons in enumerate(item.reasons):
                    self.reasons |= {(item.rows[p], call): reason for p, reason in reasons.items()}
                for call, positions in enumerate(item.truncated):
                    self.truncated |= {(item.rows[p], call) for p in positions}
            self._changed.notify_all()

    def wait(self, rows: int) -> Inbox:
        self._wait(lambda: len(self.texts) >= rows or self.fatal is not None, f"{rows} rows")
        assert self.fatal is None, self.fatal
        assert len(self.texts) == rows
        return self

    def wait_fatal(self) -> Fatal:
        self._wait(lambda: self.fatal is not None, "the end")
        assert self.fatal is not None
        return self.fatal

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT), f"no {what}; got {self.texts}"


def call(index: int, *parts: Part, **options: Any) -> Call:
    sampling = options.pop("sampling", Sampling(max_tokens=16))
    return Call(index, options.pop("model", "m"), (Message("user", parts),), sampling, **options)


ONE = CallGraph((call(0, "ask ", InputRef(0)),), 1)
CHAIN = CallGraph((call(0, "a ", InputRef(0)), call(1, "b ", CallRef(0), " ", InputRef(1))), 2)


class Bench:
    """A dispatcher and the engines it made."""

    def __init__(self, make: Callable[[str], Engine], cache_bytes: int = 1 << 20, disk: DiskTier | None = None) -> None:
        self.engines: dict[str, list[Any]] = {}

        def create(model: str, kind: EngineKind) -> Engine:
            other = kind is not EngineKind.GENERATE
            engine = engines.create(model, SIMULATOR, kind) if other else make(model)
            self.engines.setdefault(f"{model}, {kind}" if other else model, []).append(engine)
            return engine

        self.dispatcher = Dispatcher(create, cache_bytes, disk=disk)
        self.dispatcher.start()

    def open(self, graph: CallGraph = ONE, **options: Any) -> tuple[Stream, Inbox]:
        inbox = Inbox()
        stream = Stream(graph, inbox.deliver, **options)
        self.dispatcher.open(stream)
        return stream, inbox

    def run(self, graph: CallGraph, *columns: list[Any], **options: Any) -> Inbox:
        stream, inbox = self.open(graph, **options)
        size = len(columns[0])
        self.dispatcher.feed(stream, list(columns), size)
        inbox.wait(size)
        self.dispatcher.close(stream)
        return inbox

    def engine(self, model: str = "m", number: int = 0) -> Any:
        until(lambda: len(self.engines.get(model, ())) > number)
        return self.engines[model][number]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(create: Callable[[str], Engine] = ScriptedEngine, **options: Any) -> Bench:
        made.append(Bench(create, **options))
        return made[-1]

    yield make
    for bench in made:
        assert bench.dispatcher.alive
        assert bench.dispatcher.status().calls_in_flight == 0 or any(s.closed for s in bench.dispatcher._streams)
        bench.dispatcher.stop("the test is over")
        assert not bench.dispatcher.alive
        assert all(getattr(e, "closed", True) for made_engines in bench.engines.values() for e in made_engines)


def test_one_call(benches):
    inbox = benches().run(ONE, ["x", "yy", "cut"])
    assert inbox.texts == {0: ["<user:ask x>"], 1: ["<user:ask yy>"], 2: ["<user:ask cut>"]}
    assert inbox.truncated == {(2, 0)}
    assert inbox.counters == Counters(3, 3, 0, 10 + 11 + 12, 6, 9, 0)


def test_system_and_history_messages_are_rendered_in_order(benches):
    messages = (Message("system", ("be kind",)), Message("user", ()), Message("assistant", (InputRef(1), InputRef(0))))
    graph = CallGraph((Call(0, "m", messages, Sampling(8)),), 2)
    assert benches().run(graph, ["x"], ["y"]).texts == {0: ["<system:be kind|user:|assistant:yx>"]}


def test_conversation_column(benches):
    graph = CallGraph((Call(0, "m", (), Sampling(8), conversation=InputRef(0)),), 1)
    good = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    inbox = benches().run(graph, [good, None, [], [{"role": None, "content": "x"}], [good[0], {"role": "user"}], good])
    assert inbox.texts == {0: ["<system:s|user:u>"], 1: [None], 2: [None], 3: [None], 4: [None], 5: inbox.texts[0]}
    assert inbox.reasons == {
        (2, 0): "the conversation has no messages; give at least one of role 'user'",
        (3, 0): "message 1 of the conversation has no role (it is NULL)",
        (4, 0): "message 2 of the conversation has no content (it is NULL)",
    }
    assert (inbox.counters.calls_requested, inbox.counters.calls_sent, inbox.counters.calls_failed) == (5, 1, 3)


def test_second_call_reads_first_answer(benches):
    inbox = benches().run(CHAIN, ["x", "y"], ["1", "2"])
    assert inbox.texts == {
        0: ["<user:a x>", "<user:b <user:a x> 1>"],
        1: ["<user:a y>", "<user:b <user:a y> 2>"],
    }


def test_no_barrier_between_calls(benches):
    bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: prompt == "user:a slow"))
    stream, inbox = bench.open(CHAIN)
    bench.dispatcher.feed(stream, [["slow", "fast"], ["1", "2"]], 2)
    inbox.wait(1)
    assert inbox.order == [1]
    assert bench.engine().submitted == ["user:a fast", "user:a slow", "user:b <user:a fast> 2"]
    bench.engine().release("user:a slow")
    inbox.wait(2)


def test_diamond(benches):
    graph = CallGraph(
        (
            call(0, "a ", InputRef(0)),
            call(1, "b ", CallRef(0)),
            call(2, "c ", CallRef(0)),
            call(3, CallRef(1), CallRef(2), CallRef(1)),
        ),
        1,
    )
    inbox = benches().run(graph, ["x"])
    b, c = "<user:b <user:a x>>", "<user:c <user:a x>>"
    assert inbox.texts == {0: ["<user:a x>", b, c, f"<user:{b}{c}{b}>"]}
    assert inbox.counters.calls_sent == 4


def test_null_arguments_make_no_call(benches):
    bench = benches()
    inbox = bench.run(CHAIN, ["x", None, "y", None], ["1", "2", None, None])
    assert inbox.texts == {
        0: ["<user:a x>", "<user:b <user:a x> 1>"],
        1: [None, None],
        2: ["<user:a y>", None],
        3: [None, None],
    }
    assert inbox.reasons == {}
    assert inbox.counters.calls_requested == inbox.counters.calls_sent == len(bench.engine().submitted) == 3


def test_all_rows_null_start_no_engine(benches):
    bench = benches()
    assert bench.run(ONE, [None, None]).texts == {0: [None], 1: [None]}
    assert bench.engines == {}


def test_graph_without_inputs_answers_every_row(benches):
    inbox = benches().run(CallGraph((call(0, "hi"),), 0), ["ignored"] * 3)
    assert inbox.texts == {row: ["<user:hi>"] for row in range(3)}
    assert (inbox.counters.calls_sent, inbox.counters.answers_from_cache) == (1, 2)


def test_failed_call_makes_its_readers_null(benches):
    inbox = benches().run(CHAIN, ["refused", "x"], ["1", "2"])
    assert inbox.texts[0] == [None, None]
    assert inbox.reasons == {(0, 0): "the engine refused it"}
    assert inbox.counters.calls_requested == 3
    assert inbox.counters.calls_failed == 1


def test_glue_between_calls(benches):
    graph = CallGraph(
        (
            call(0, InputRef(0)),
            call(1, "b ", FirstOf(((Data("("), CallRef(0), Data(")")), (Data("none"),)))),
            call(2, "c ", Joined(((InputRef(0),), (CallRef(0),), (InputRef(1),)), ", ")),
            call(3, "d ", FirstOf(((CallRef(0),), (InputRef(1),)))),
        ),
        2,
    )
    inbox = benches().run(graph, ["x", None, None, "refused"], [None, "y", None, "z"])
    assert inbox.texts == {
        0: ["<user:x>", "<user:b (<user:x>)>", "<user:c x, <user:x>>", "<user:d <user:x>>"],
        1: [None, "<user:b none>", "<user:c y>", "<user:d y>"],
        2: [None, "<user:b none>", "<user:c >", None],
        3: [None, "<user:b none>", None, "<user:d z>"],  # an answer that failed is NULL
    }
    assert inbox.reasons == {(3, 0): "the engine refused it", (3, 2): "the engine refused it"}


class TestOrder:
    def test_prompts_with_a_common_prefix_meet_across_tasks_and_the_engine_queue_stays_short(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True, max_num_seqs=4))
        room = 4 + SPARE_CALLS
        blocker, _ = bench.open(query="q")
        bench.dispatcher.feed(blocker, [[f"0{i:02}" for i in range(room)]], room)
        until(lambda: len(bench.engine().submitted) == room)
        inboxes = []
        for task in range(2):
            stream, inbox = bench.open(query="q")
            bench.dispatcher.feed(stream, [[f"{i % 5} of {task} number {i}" for i in range(40)]], 40)
            inboxes.append(inbox)
        bench.dispatcher.status()
        assert len(bench.engine().submitted) == room
        bench.engine().hold = lambda prompt: False
        bench.engine().release()
        for inbox in inboxes:
            inbox.wait(40)
        visited = [prompt.removeprefix("user:ask ")[0] for prompt in bench.engine().submitted[room:]]
        assert visited == sorted(visited)

    def test_two_queries_share(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True, max_num_seqs=4))
        first, _ = bench.open(query="first")
        bench.dispatcher.feed(first, [[f"a{i:03}" for i in range(300)]], 300)
        second, inbox = bench.open(query="second")
        bench.dispatcher.feed(second, [[f"b{i:03}" for i in range(20)]], 20)
        until(lambda: len(bench.engine().submitted) == 4 + SPARE_CALLS)
        bench.dispatcher.status()
        bench.engine().hold = lambda prompt: False
        bench.engine().release()
        inbox.wait(20)
        bench.dispatcher.close(first)
        last = max(i for i, prompt in enumerate(bench.engine().submitted) if "ask b" in prompt)
        assert last < 4 + SPARE_CALLS + 3 * RUN_OF_A_QUERY

    def test_a_call_goes_on_from_the_prefix_that_its_row_left(self, benches):
        held = "user:0"
        bench = benches(
            lambda m: ScriptedEngine(
                m, hold=lambda prompt: prompt.startswith(held), max_num_seqs=1, answer=lambda prompt: "ok"
            )
        )
        text = InputRef(0)
        graph = CallGraph((call(0, text, " first"), call(1, text, " second ", CallRef(0))), 1)
        stream, inbox = bench.open(graph)
        rows = [f"{i:02} " + 40 * "x" for i in range(30)]
        bench.dispatcher.feed(stream, [rows], 30)
        until(lambda: len(bench.engine().submitted) == 1 + SPARE_CALLS)
        held = "nothing"
        bench.engine().release()
        inbox.wait(30)
        numbers = [prompt.removeprefix("user:")[:2] for prompt in bench.engine().submitted]
        between = [numbers.index(n, numbers.index(n) + 1) - numbers.index(n) for n in sorted(set(numbers))]
        assert max(between) < 30  # not first all rows' first calls, then all rows' second ones

    def test_calls_of_a_stream_that_ends_leave_the_queue(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True, max_num_seqs=1))
        stream, _ = bench.open()
        bench.dispatcher.feed(stream, [[f"{i:03}" for i in range(100)]], 100)
        until(lambda: len(bench.engine().submitted) == 1 + SPARE_CALLS)
        bench.dispatcher.close(stream)
        until(lambda: len(bench.engine().aborted) == 1 + SPARE_CALLS)
        assert bench.dispatcher.status().calls_in_flight == 0
        bench.engine().hold = lambda prompt: False
        bench.run(ONE, ["more"])
        assert bench.engine().submitted[-1] == "user:ask more"
        assert len(bench.engine().submitted) == 2 + SPARE_CALLS

    def test_who_asks_what_another_query_still_waits_for_does_not_wait_with_it(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True, max_num_seqs=4))
        first, _ = bench.open(query="first")
        bench.dispatcher.feed(first, [[f"a{i:03}" for i in range(300)]], 300)
        until(lambda: len(bench.engine().submitted) == 4 + SPARE_CALLS)
        second, inbox = bench.open(query="second")
        bench.dispatcher.feed(second, [["a299"]], 1)
        bench.dispatcher.status()
        bench.engine().hold = lambda prompt: False
        bench.engine().release()
        inbox.wait(1)
        bench.dispatcher.close(first)
        assert bench.engine().submitted.index("user:ask a299") < 4 + SPARE_CALLS + 3 * RUN_OF_A_QUERY
        assert bench.engine().submitted.count("user:ask a299") == 1


class TestFilters:
    @staticmethod
    def yes(k: int) -> Equal:
        return Equal((CallRef(k),), ("yes",))

    def test_are_ordered_by_what_the_rows_show(self, benches):
        # The planner has the first condition first, which drops nothing.
        def answer(prompt: str) -> str:
            return "yes" if "first" in prompt else "no"

        first, second = self.yes(0), self.yes(1)
        calls = (call(0, "first ", InputRef(0)), call(1, "second ", InputRef(0), guard=first))
        rows = [str(i) for i in range(2000)]
        sent = {}
        for filters in ((), (first, second)):
            bench = benches(lambda m: ScriptedEngine(m, max_num_seqs=8, answer=answer))
            inbox = bench.run(CallGraph(calls, 1, filters), rows, query="q")
            kept = [row for row, texts in inbox.texts.items() if texts == ["yes", "yes"]]
            assert kept == []
            sent[filters] = len(bench.engine().submitted)
        assert sent[()] == 4000
        assert sent[first, second] < 2400  # the second condition for all, the first for those before the change

    def test_a_condition_that_nobody_has_looked_at_keeps_no_other_from_its_place(self, benches):
        first, second, third = map(self.yes, range(3))
        calls = (
            call(0, "first ", InputRef(0)),
            call(1, "second ", InputRef(0), guard=first),
            call(2, "third ", InputRef(0), guard=And((first, second))),
        )
        bench = benches(
            lambda m: ScriptedEngine(m, max_num_seqs=8, answer=lambda prompt: "yes" if "first" in prompt else "no")
        )
        bench.run(CallGraph(calls, 1, (first, second, third)), [str(i) for i in range(2000)], query="q")
        assert len(bench.engine().submitted) < 2400

    def test_rows_begin_beside_another_stream_of_the_query_that_always_waits(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: m == "other", max_num_seqs=4))
        plain, _ = bench.open(CallGraph((call(0, InputRef(0), model="other"),), 1), query="q")
        bench.dispatcher.feed(plain, [[f"{i:03}" for i in range(100)]], 100)
        until(lambda: len(bench.engine("other").submitted) == 4 + SPARE_CALLS)
        first, second = self.yes(0), self.yes(1)
        calls = (call(0, "first ", InputRef(0)), call(1, "second ", InputRef(0), guard=first))
        bench.run(CallGraph(calls, 1, (first, second)), [str(i) for i in range(200)], query="q")
        bench.dispatcher.close(plain)

    def test_rows_that_wait_for_an_engine_cost_no_time(self, benches):
        started = threading.Event()

        def make(model: str) -> ScriptedEngine:
            started.wait(WAIT)
            return ScriptedEngine(model)

        bench = benches(make)
        first, second = self.yes(0), self.yes(1)
        calls = (call(0, "first ", InputRef(0)), call(1, "second ", InputRef(0), guard=first))
        stream, inbox = bench.open(CallGraph(calls, 1, (first, second)))
        bench.dispatcher.feed(stream, [[str(i) for i in range(100)]], 100)
        turns = []
        dispatch = bench.dispatcher._dispatch
        bench.dispatcher._dispatch = lambda: (turns.append(1), dispatch())
        bench.dispatcher.status()
        before = len(turns)
        time.sleep(2 * IDLE_SECONDS)
        assert len(turns) - before <= 4
        started.set()
        inbox.wait(100)

    def test_what_one_task_saw_another_one_uses(self, benches):
        first, second = self.yes(0), self.yes(1)
        calls = (call(0, "first ", InputRef(0)), call(1, "second ", InputRef(0), guard=first))
        graph = CallGraph(calls, 1, (first, second))
        bench = benches(
            lambda m: ScriptedEngine(m, max_num_seqs=8, answer=lambda prompt: "yes" if "first" in prompt else "no")
        )
        keeps, _ = bench.open(graph, query="q")
        bench.run(graph, [str(i) for i in range(500)], query="q")
        before = len(bench.engine().submitted)
        bench.run(graph, [str(i) for i in range(1000, 1100)], query="q")
        assert len(bench.engine().submitted) == before + 100
        bench.dispatcher.close(keeps)


class TestGuards:
    def test_condition_over_columns(self, benches):
        guard = And((InputRef(1), Or((Not(Equal((InputRef(0),), ("y",))), IsNull((InputRef(2),))))))
        graph = CallGraph((call(0, "ask ", InputRef(0), guard=guard),), 3)
        bench = benches()
        inbox = bench.run(
            graph,
            ["x", "x", "x", "y", "y", None],
            [True, False, None, True, True, True],
            ["1", "1", "1", None, "1", None],
        )
        said = {0: "<user:ask x>", 3: "<user:ask y>"}
        assert inbox.texts == {row: [said.get(row)] for row in range(6)}
        assert inbox.counters.calls_requested == 2
        assert inbox.reasons == {}

    @pytest.mark.parametrize("guard", [Literal(False), Literal(None), Not(Literal(True))])
    def test_never_true_starts_no_engine(self, benches, guard):
        bench = benches()
        graph = CallGraph((call(0, InputRef(0), guard=guard),), 1)
        assert bench.run(graph, ["x", None]).texts == {0: [None], 1: [None]}
        assert bench.engines == {}

    def test_over_an_answer(self, benches):
        guard = Equal((CallRef(0),), ("<user:a x>",))
        graph = CallGraph((call(0, "a ", InputRef(0)), call(1, "b ", InputRef(1), guard=guard)), 2)
        bench = benches()
        inbox = bench.run(graph, ["x", "y", None, "refused"], ["1", "2", "3", "4"])
        assert inbox.texts == {
            0: ["<user:a x>", "<user:b 1>"],
            1: ["<user:a y>", None],
            2: [None, None],
            3: [None, None],
        }
        assert bench.engine().submitted == ["user:a refused", "user:a x", "user:a y", "user:b 1"]
        assert inbox.counters.calls_requested == 4

    def test_waits_for_the_answers_that_it_reads(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: prompt.startswith(("user:a", "user:b"))))
        guard = Not(IsNull((CallRef(1),)))
        graph = CallGraph(
            (
                call(0, "a ", InputRef(0)),
                call(1, "b ", InputRef(0)),
                call(2, "c ", CallRef(0), guard=guard),
                call(3, "d ", InputRef(0)),
            ),
            1,
        )
        stream, inbox = bench.open(graph)
        bench.dispatcher.feed(stream, [["x"]], 1)
        until(lambda: len(bench.engine().submitted) == 3)
        bench.engine().release("user:a x")
        bench.dispatcher.status()
        time.sleep(0.05)
        assert bench.engine().submitted == ["user:a x", "user:b x", "user:d x"]
        bench.engine().release("user:b x")
        assert inbox.wait(1).texts[0][2] == "<user:c <user:a x>>"

    def test_chain(self, benches):
        """Filters between calls: each call runs for the rows that the calls before let through."""
        graph = CallGraph(
            (
                call(0, "a ", InputRef(0)),
                call(1, "b ", InputRef(0), guard=IsTrue(In((CallRef(0),), frozenset(["<user:a x>", "<user:a y>"])))),
                call(2, "c ", CallRef(1), guard=Equal((CallRef(1),), (Data("<user:b x>"),))),
                call(3, "d ", Joined(((CallRef(2),), (CallRef(0),)), "+"), guard=Not(IsNull((CallRef(2),)))),
                call(4, "e", guard=IsNull((CallRef(2),))),
            ),
            1,
        )
        bench = benches()
        inbox = bench.run(graph, ["x", "y", "z", None])
        a, b, c = "<user:a x>", "<user:b x>", "<user:c <user:b x>>"
        assert inbox.texts == {
            0: [a, b, c, f"<user:d {c}+{a}>", None],
            1: ["<user:a y>", "<user:b y>", None, None, "<user:e>"],
            2: ["<user:a z>", None, None, None, "<user:e>"],
            3: [None, None, None, None, "<user:e>"],
        }
        assert inbox.counters.calls_requested == 3 + 2 + 1 + 1 + 3

    def test_choice_that_was_cut_off_is_null_for_its_readers(self, benches):
        cut = Constraint(choices=("yes", "no"))
        graph = CallGraph(
            (
                call(0, InputRef(0), constraint=cut, fail_on_error=False),
                call(1, "b ", FirstOf(((CallRef(0),), (Data("nothing"),)))),
                call(2, "c", guard=Not(IsNull((CallRef(0),)))),
            ),
            1,
        )
        inbox = benches().run(graph, ["cut", "x"])
        assert inbox.texts == {0: [None, "<user:b nothing>", None], 1: ["<user:x>", "<user:b <user:x>>", "<user:c>"]}
        assert inbox.truncated == {(0, 0)}
        assert list(inbox.reasons) == [(0, 0)]
        assert inbox.reasons[0, 0].startswith("the answer was cut off before it was a whole choice")
        assert inbox.counters.calls_failed == 1

    def test_that_cannot_be_evaluated_fails_its_row_alone(self, benches):
        flawed = FlawedColumn(["x", "?", "?", "z"], {1: "not text", 2: "not text"})
        guard = And((InputRef(1), Not(Equal((InputRef(0),), (FirstOf(((CallRef(0),), ("z",))),)))))
        graph = CallGraph((call(0, "a", guard=Literal(None)), call(1, "b", guard=guard)), 3)
        for graph_ in (graph, CallGraph((call(0, "b", guard=Not(Equal((InputRef(0),), ("z",)))),), 3)):
            inbox = benches().run(graph_, flawed, [True, True, False, True], [["no text"]] * 4)
            last = len(graph_.calls) - 1
            assert [inbox.texts[row][last] for row in range(4)] == ["<user:b>", None, None, None]
            flaws = (1,) if last else (1, 2)
            assert inbox.reasons == {(row, last): "not text" for row in flaws}
            assert inbox.counters.calls_failed == len(flaws)
        wrong = CallGraph((call(0, "b", guard=Equal((InputRef(0), "x"), ("y",))),), 1)
        inbox = benches().run(wrong, [["a list"]])
        assert inbox.reasons[0, 0].startswith("the guard could not be evaluated: TypeError")


def test_multiplicity_counts_requests_only(benches):
    graph = CallGraph((call(0, InputRef(0), multiplicity=3),), 1)
    counters = benches().run(graph, ["x", "y", None]).counters
    assert (counters.calls_requested, counters.calls_sent) == (6, 2)


def test_prompt_that_fills_the_context_fails_without_a_call(benches):
    bench = benches(lambda m: ScriptedEngine(m, max_model_len=20))
    room = 20 - 1 - len("user:ask ")
    inbox = bench.run(ONE, ["x" * room, "x" * (room + 1)])
    assert inbox.texts[0] == [f"<user:ask {'x' * room}>"]
    assert list(inbox.reasons) == [(1, 0)]
    assert "context of 20 tokens (spark.helium.scripted.maxModelLen)" in inbox.reasons[1, 0]
    assert (inbox.counters.calls_requested, inbox.counters.calls_sent, inbox.counters.calls_failed) == (2, 1, 1)


def test_choices_always_have_room(benches):
    limits = []

    class Noting(ScriptedEngine):
        def submit(self, requests):
            limits.extend(request.sampling.max_tokens for request in requests)
            super().submit(requests)

    short = Sampling(max_tokens=2)
    graph = CallGraph(
        (
            call(0, InputRef(0), sampling=short, constraint=Constraint(choices=("no", "größer"))),
            call(1, InputRef(0), sampling=short, constraint=Constraint(regex="a+")),
            call(2, InputRef(0), constraint=Constraint(choices=("yes", "no"))),
        ),
        1,
    )
    benches(Noting).run(graph, ["x"])
    assert sorted(limits) == [2, len("größer".encode()) + 1, 16]


def test_row_that_cannot_be_rendered(benches):
    inbox = benches().run(ONE, ["x", "unrenderable"])
    assert inbox.reasons == {(1, 0): "cannot render this"}
    assert inbox.counters.calls_sent == 1


class TestCache:
    def test_answers_a_second_stream(self, benches):
        bench = benches()
        first, second = bench.run(ONE, ["x", "cut"]), bench.run(ONE, ["x", "cut", "new"])
        assert {row: second.texts[row] for row in first.texts} == first.texts
        assert second.truncated == {(1, 0)}
        assert (second.counters.calls_requested, second.counters.calls_sent) == (3, 1)
        assert second.counters.answers_from_cache == 2
        assert second.counters.prompt_tokens == len("user:ask new")

    def test_off_for_a_query(self, benches):
        bench = benches()
        bench.run(ONE, ["x"])
        off = bench.run(ONE, ["x", "x"], cache=False)
        assert (off.counters.calls_sent, off.counters.answers_from_cache) == (2, 0)
        assert bench.dispatcher.status().cache_entries == 1

    def test_not_for_random_answers(self, benches):
        bench = benches()
        graph = CallGraph((call(0, InputRef(0), sampling=Sampling(8, temperature=0.5)),), 1)
        assert bench.run(graph, ["x", "x"]).counters.calls_sent == 2
        seeded = CallGraph((call(0, InputRef(0), sampling=Sampling(8, temperature=0.5, seed=1)),), 1)
        assert bench.run(seeded, ["x", "x"]).counters.calls_sent == 1
        other_seed = CallGraph((call(0, InputRef(0), sampling=Sampling(8, temperature=0.5, seed=2)),), 1)
        assert bench.run(other_seed, ["x"]).counters.calls_sent == 1

    @pytest.mark.parametrize("options", [{}, {"query": "q"}, {"query": "q", "cache": False}])
    def test_random_answers_are_neither_joined_nor_kept(self, benches, options):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
        graph = CallGraph((call(0, InputRef(0), sampling=Sampling(8, temperature=0.5)),), 1)
        opened = [bench.open(graph, **options) for _ in range(2)]
        for stream, _ in opened:
            bench.dispatcher.feed(stream, [["x", "x"]], 2)
        until(lambda: len(bench.engine().submitted) == 4)  # equal calls in flight, within a stream and across two
        bench.engine().release("user:x")
        for _, inbox in opened:
            assert inbox.wait(2).counters.calls_sent == 2
        assert bench.run(graph, ["x"], **options).counters.calls_sent == 1  # and once they are done
        assert bench.dispatcher.status().cache_entries == 0
        for stream, _ in opened:
            bench.dispatcher.close(stream)

    def test_keeps_models_apart(self, benches):
        bench = benches()
        bench.run(ONE, ["x"])
        assert bench.run(CallGraph((call(0, "ask ", InputRef(0), model="n"),), 1), ["x"]).counters.calls_sent == 1

    def test_never_keeps_a_failure(self, benches):
        bench = benches()
        for _ in range(2):
            inbox = bench.run(ONE, ["refused"])
            assert (inbox.counters.calls_sent, inbox.counters.calls_failed) == (1, 1)


class TestCacheOnDisk:
    @pytest.fixture
    def again(self, benches, tmp_path: Path) -> Callable[..., Bench]:
        """A dispatcher as after a restart: nothing in memory, the disk as it was left."""
        before: list[Bench] = []

        def start(create: Callable[[str], Engine] = ScriptedEngine, **options: Any) -> Bench:
            for bench in before:
                bench.dispatcher.stop("a restart")
                assert not bench.dispatcher.alive
            before[:] = [Bench(create, disk=DiskTier(tmp_path / "cache", 1 << 20), **options)]
            return before[0]

        yield start
        for bench in before:
            bench.dispatcher.stop("the test is over")

    def test_second_run_after_a_restart_makes_no_call(self, again):
        first = again().run(CHAIN, ["x", "cut", "x"], ["1", "2", "1"])
        assert (first.counters.calls_requested, first.counters.calls_sent) == (6, 4)
        bench = again()
        second = bench.run(CHAIN, ["x", "cut", "x"], ["1", "2", "1"])
        assert (second.texts, second.truncated) == (first.texts, first.truncated)
        assert second.counters == Counters(calls_requested=6, answers_from_cache=6)
        status = bench.dispatcher.status()
        assert (status.cache_hits, status.cache_disk.hits, status.cache_entries) == (2, 4, 4)

    def test_chain_goes_on_where_the_first_run_stopped(self, again):
        bench = again(lambda m: ScriptedEngine(m, hold=lambda prompt: prompt.startswith("user:b")))
        stream, _ = bench.open(CHAIN)
        bench.dispatcher.feed(stream, [["x", "y"], ["1", "2"]], 2)
        until(lambda: len(bench.engine().submitted) == 4)  # the first calls are answered, the second ones hang
        bench = again()
        inbox = bench.run(CHAIN, ["x", "y"], ["1", "2"])
        assert inbox.counters == Counters(4, 2, 2, inbox.counters.prompt_tokens, 4, 6, 0)
        assert bench.engine().submitted == ["user:b <user:a x> 1", "user:b <user:a y> 2"]

    def test_switched_off_for_a_query_touches_neither_tier(self, again, tmp_path: Path):
        bench = again()
        for _ in range(2):
            assert bench.run(ONE, ["x", "y"], cache=False).counters.calls_sent == 2
        status = bench.dispatcher.status()
        assert (status.cache_entries, status.cache_hits, status.cache_disk.hits) == (0, 0, 0)
        again()
        assert not (tmp_path / "cache").exists()

    def test_failures_and_random_answers_stay_out(self, again):
        random = CallGraph((call(0, InputRef(0), sampling=Sampling(8, temperature=0.5)),), 1)
        for _ in range(2):
            bench = again()
            assert bench.run(ONE, ["refused"]).counters.calls_sent == 1
            assert bench.run(random, ["x"]).counters.calls_sent == 1

    def test_without_memory(self, again):
        bench = again(cache_bytes=0)
        assert bench.run(ONE, ["x"]).counters.calls_sent == 1
        assert bench.run(ONE, ["x"]).counters.calls_sent == 0
        assert again(cache_bytes=0).run(ONE, ["x", "y"]).counters.calls_sent == 1

    def test_cleared(self, again):
        bench = again()
        bench.run(ONE, ["x"])
        assert bench.dispatcher.clear_cache(WAIT)
        assert bench.run(ONE, ["x"]).counters.calls_sent == 1
        assert again().run(ONE, ["x"]).counters.calls_sent == 0

    def test_disk_that_fails_fails_no_call(self, again, tmp_path: Path):
        (tmp_path / "cache").write_text("a file is in the way")
        bench = again()
        for sent in (2, 0):
            assert bench.run(ONE, ["x", "y"]).counters.calls_sent == sent
        assert "cannot use the directory" in bench.dispatcher.status().cache_disk.off


class TestTaskThatRunsAgain:
    """A task that failed, was speculated, or whose result got lost asks the same once more."""

    ROWS = ("a", "b", "c", "d")

    def test_after_it_died_half_way(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: prompt[-1] in "cd"))
        attempt, inbox = bench.open()
        bench.dispatcher.feed(attempt, [list(self.ROWS)], 4)
        inbox._wait(lambda: len(inbox.texts) == 2, "the first answers")
        bench.dispatcher.close(attempt)
        until(lambda: len(bench.engine().aborted) == 2)
        bench.engine().hold = lambda prompt: False
        again = bench.run(ONE, list(self.ROWS))
        assert (again.counters.calls_sent, again.counters.answers_from_cache) == (2, 2)
        assert sorted(bench.engine().submitted) == [f"user:ask {x}" for x in ("a", "b", "c", "c", "d", "d")]

    def test_beside_the_first_attempt(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
        attempts = [bench.open() for _ in range(2)]
        for attempt, _ in attempts:
            bench.dispatcher.feed(attempt, [list(self.ROWS)], 4)
        until(lambda: len(bench.engine().submitted) == 4)
        bench.engine().release("user:ask a", "user:ask b")
        attempts[1][1]._wait(lambda: len(attempts[1][1].texts) == 2, "the first answers")
        bench.dispatcher.close(attempts[0][0])  # the scheduler kills one of them, and the other takes its calls over
        bench.engine().release("user:ask c", "user:ask d")
        assert set(attempts[1][1].wait(4).texts) == set(range(4))
        assert bench.engine().aborted == []
        assert sorted(bench.engine().submitted) == [f"user:ask {x}" for x in self.ROWS]

    def test_after_it_was_done(self, benches):
        bench = benches()
        bench.run(ONE, list(self.ROWS))
        assert bench.run(ONE, list(self.ROWS)).counters == Counters(calls_requested=4, answers_from_cache=4)


class TestSingleFlight:
    def test_equal_calls_in_flight_join(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
        stream, inbox = bench.open()
        bench.dispatcher.feed(stream, [["x", "x", "y"]], 3)
        other, other_inbox = bench.open()
        bench.dispatcher.feed(other, [["x"]], 1)
        until(lambda: len(bench.engine().submitted) == 2 and bench.dispatcher.status().calls_in_flight == 2)
        bench.engine().release("user:ask x", "user:ask y")
        inbox.wait(3)
        other_inbox.wait(1)
        assert inbox.texts[0] == inbox.texts[1] == other_inbox.texts[0] == ["<user:ask x>"]
        assert (inbox.counters.calls_sent, inbox.counters.answers_from_cache) == (2, 1)
        assert other_inbox.counters == Counters(calls_requested=1, answers_from_cache=1)

    def test_joined_calls_share_a_failure(self, benches):
        inbox = benches().run(ONE, ["refused", "refused"])
        assert set(inbox.reasons) == {(0, 0), (1, 0)}
        assert inbox.counters.calls_failed == 2
        assert (inbox.counters.calls_sent, inbox.counters.answers_from_cache) == (1, 0)

    def test_survives_the_stream_that_sent_the_call(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
        sender, _ = bench.open()
        bench.dispatcher.feed(sender, [["x", "alone"]], 2)
        joined, inbox = bench.open()
        bench.dispatcher.feed(joined, [["x"]], 1)
        until(lambda: len(bench.engine().submitted) == 2)
        bench.dispatcher.status()
        bench.dispatcher.close(sender)
        until(lambda: bench.engine().aborted == ["user:ask alone"])
        bench.engine().release("user:ask x")
        inbox.wait(1)
        assert inbox.counters == Counters(1, 1, 0, len("user:ask x"), 2, 3, 0)
        assert bench.engine().submitted == ["user:ask alone", "user:ask x"]


def test_closed_stream_is_aborted_and_forgotten(benches):
    bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
    stream, inbox = bench.open(CHAIN)
    bench.dispatcher.feed(stream, [["x", "y"], ["1", "2"]], 2)
    until(lambda: len(bench.engine().submitted) == 2)
    bench.dispatcher.close(stream)
    until(lambda: sorted(bench.engine().aborted) == ["user:a x", "user:a y"])
    assert bench.dispatcher.status().calls_in_flight == 0
    assert bench.dispatcher._streams == {}
    assert bench.dispatcher._by_key == {}
    assert inbox.texts == {}
    # An equal call of a later stream is a new one: nothing waits for the aborted one.
    later, later_inbox = bench.open()
    bench.dispatcher.feed(later, [["x"]], 1)
    until(lambda: "user:ask x" in bench.engine().submitted)
    bench.engine().release("user:ask x")
    later_inbox.wait(1)


class TestEngines:
    def test_slow_start_holds_up_nobody_else(self, benches):
        gate = threading.Event()

        def create(model: str) -> Engine:
            if model == "slow":
                assert gate.wait(WAIT)
            return ScriptedEngine(model)

        bench = benches(create)
        slow, slow_inbox = bench.open(CallGraph((call(0, InputRef(0), model="slow"),), 1))
        bench.dispatcher.feed(slow, [["x"]], 1)
        assert bench.run(ONE, ["y"]).texts == {0: ["<user:ask y>"]}
        assert [(e.model, e.state) for e in bench.dispatcher.status().engines] == [("slow", "starting"), ("m", "ready")]
        gate.set()
        slow_inbox.wait(1)

    def test_one_graph_may_use_two_models(self, benches):
        graph = CallGraph((call(0, InputRef(0)), call(1, CallRef(0), model="n")), 1)
        bench = benches()
        assert bench.run(graph, ["x", "y"]).texts[1] == ["<user:y>", "<user:<user:y>>"]
        assert bench.engine("n").submitted == ["user:<user:x>", "user:<user:y>"]

    def test_one_model_may_need_an_engine_of_each_kind(self, benches):
        yes = Constraint(choices=("yes", "no"))
        one = Sampling(max_tokens=1)
        graph = CallGraph(
            (
                call(0, "good? ", InputRef(0)),
                call(1, "good? ", InputRef(0), constraint=yes, sampling=one, task=CallTask.SCORE),
                call(2, InputRef(0), sampling=one, task=CallTask.EMBED),
                call(3, InputRef(0), sampling=one, task=CallTask.COUNT_TOKENS),
            ),
            1,
        )
        bench = benches(lambda m: engines.create(m, SIMULATOR))
        inbox = bench.run(graph, ["a dog", None, "a dog", "", "a cat"])
        (tokens,) = SimulatorRenderer().render([[("user", (("good? a dog", True),))]])
        text, scored, embedded, count = inbox.texts[0]
        assert (scored, vector(embedded), count) == (score(tokens), embedding(encode_text("a dog")), "2")
        assert text not in (None, scored)
        assert inbox.texts[1] == [None] * 4
        assert inbox.texts[2] == inbox.texts[0]
        assert inbox.texts[3][2:] == [None, "0"]
        assert "an empty text has no embedding" in inbox.reasons[3, 2]
        assert {name: len(made) for name, made in bench.engines.items()} == {"m": 1, "m, embed": 1, "m, tokenize": 1}
        assert {e.kind for e in bench.dispatcher.status().engines} == {"generate", "embed", "tokenize"}
        # Of four texts three are different; counting is no call.
        assert (inbox.counters.calls_requested, inbox.counters.calls_sent) == (12, 8)
        assert inbox.counters.calls_failed == 1

    def test_counting_asks_no_model_and_leaves_no_trace(self, benches):
        graph = CallGraph((call(0, InputRef(0), task=CallTask.COUNT_TOKENS),), 1)
        bench = benches()
        inbox = bench.run(graph, FlawedColumn(["one", "five5five5", "?", None], {2: "no text"}))
        assert inbox.texts == {0: ["1"], 1: ["3"], 2: [None], 3: [None]}
        assert inbox.reasons == {(2, 0): "no text"}
        assert inbox.counters == Counters(calls_failed=1)
        assert list(bench.engines) == ["m, tokenize"]
        assert len(bench.dispatcher.cache.memory) == 0
        assert bench.run(graph, ["again"] * 3000).texts[2999] == ["2"], "no queue makes it wait"

    def test_equal_prompts_of_different_tasks_share_no_entry_of_the_cache(self, benches):
        yes = Constraint(choices=("yes", "no"))
        one = Sampling(max_tokens=3)
        completed = CallGraph((call(0, InputRef(0), constraint=yes, sampling=one),), 1)
        scored = CallGraph((call(0, InputRef(0), constraint=yes, sampling=one, task=CallTask.SCORE),), 1)
        bench = benches(lambda m: engines.create(m, SIMULATOR))
        first = bench.run(completed, ["x"])
        second = bench.run(scored, ["x"])
        assert first.texts[0][0] in ("yes", "no")
        assert 0 <= float(second.texts[0][0]) <= 1
        assert second.counters.answers_from_cache == 0
        again = bench.run(scored, ["x"])
        assert (again.texts, again.counters.answers_from_cache) == (second.texts, 1)

    def test_a_tokenizer_that_does_not_load_ends_its_streams_alone(self, benches, monkeypatch):
        monkeypatch.setattr(engines, "create", lambda *_: (_ for _ in ()).throw(EngineStartError("no tokenizer here")))
        bench = benches()
        stream, inbox = bench.open(CallGraph((call(0, InputRef(0), task=CallTask.COUNT_TOKENS),), 1))
        bench.dispatcher.feed(stream, [["x"]], 1)
        assert inbox.wait_fatal() == Fatal("no tokenizer here", "m")
        assert bench.run(ONE, ["y"]).texts == {0: ["<user:ask y>"]}

    def test_an_engine_that_dies_while_it_counts_is_started_again(self, benches):
        graph = CallGraph((call(0, InputRef(0), task=CallTask.COUNT_TOKENS),), 1)
        bench = benches()
        bench.run(graph, ["x"])
        bench.engine("m, tokenize").close()
        stream, inbox = bench.open(graph)
        bench.dispatcher.feed(stream, [["x"]], 1)
        assert "the tokenizer is closed" in inbox.wait_fatal().reason
        assert bench.run(graph, ["x"]).texts == {0: ["1"]}

    def test_many_embeddings_of_one_row_wait_in_the_queue(self, benches):
        graph = CallGraph(tuple(call(k, InputRef(k), task=CallTask.EMBED) for k in range(2)), 2)
        columns = [[f"{name} {i}" for i in range(600)] for name in "ab"]
        inbox = benches().run(graph, *columns)
        assert vector(inbox.texts[599][1]) == embedding(encode_text("b 599"))

    def test_failed_start_reaches_all_and_is_not_repeated_within_the_query(self, benches):
        attempts = []
        gate = threading.Event()

        def create(model: str) -> Engine:
            attempts.append(model)
            assert gate.wait(WAIT)
            if len(attempts) == 1:
                raise EngineStartError("no weights on this disk")
            return ScriptedEngine(model)

        bench = benches(create)
        inboxes = []
        for query in ("q1", "q1", "q2"):
            stream, inbox = bench.open(query=query)
            bench.dispatcher.feed(stream, [["x"]], 1)
            inboxes.append(inbox)
        until(lambda: len(attempts) == 1)
        bench.dispatcher.status()
        gate.set()
        assert {inbox.wait_fatal() for inbox in inboxes} == {Fatal("no weights on this disk", "m")}
        late, late_inbox = bench.open(query="q1")  # another task of the same query
        bench.dispatcher.feed(late, [["x"]], 1)
        assert late_inbox.wait_fatal().reason == "no weights on this disk"
        assert len(attempts) == 1
        assert bench.run(ONE, ["x"], query="q3").texts == {0: ["<user:ask x>"]}
        assert len(attempts) == 2

    def test_start_that_takes_too_long(self, benches):
        gate = threading.Event()

        def create(model: str) -> Engine:
            gate.wait(WAIT)
            return ScriptedEngine(model)

        bench = benches(create)
        stream, inbox = bench.open(start_timeout=0.3)
        bench.dispatcher.feed(stream, [["x"]], 1)
        assert "not up after 0 s" in inbox.wait_fatal().reason
        gate.set()
        assert bench.run(ONE, ["x"]).texts == {0: ["<user:ask x>"]}

    def test_death_ends_its_streams_only_and_the_next_stream_gets_a_new_one(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, hold=lambda prompt: "hold" in prompt))
        other_graph = CallGraph((call(0, InputRef(0), model="n"),), 1)
        other, other_inbox = bench.open(other_graph)
        bench.dispatcher.feed(other, [["hold"]], 1)
        stream, inbox = bench.open()
        bench.dispatcher.feed(stream, [["fine", "hold"]], 2)
        inbox.wait(1)
        until(lambda: len(bench.engine("n").submitted) == 1)
        bench.engine().dead = True
        assert inbox.wait_fatal() == Fatal("the engine died: it lost its GPU", "m")
        until(lambda: bench.engine().closed)
        bench.engine("n").release("user:hold")
        other_inbox.wait(1)
        assert bench.run(ONE, ["again"]).texts == {0: ["<user:ask again>"]}
        assert len(bench.engines["m"]) == 2

    def test_death_is_no_end_where_calls_may_be_tried_again(self, benches):
        bench = benches(lambda m: ScriptedEngine(m, max_num_seqs=4, hold=lambda prompt: "hold" in prompt))
        stream, inbox = bench.open(retries=1)
        other, other_inbox = bench.open(retries=1, cache=False)
        rows = [f"hold {k}" for k in range(20)]
        bench.dispatcher.feed(stream, [["fine", *rows]], 21)
        bench.dispatcher.feed(other, [["hold 3"]], 1)
        inbox._wait(lambda: len(inbox.texts) == 1, "the first answer")
        until(lambda: len(bench.engine().submitted) >= 5)
        in_engine = len(bench.engine()._open)
        bench.engine().dead = True
        second = bench.engine(number=1)
        second.release(*(f"user:ask {row}" for row in rows))
        inbox.wait(21)
        other_inbox.wait(1)
        assert bench.engine().closed
        assert sorted(second.submitted) == sorted(f"user:ask {row}" for row in [*rows, "hold 3"]), "fine was answered"
        total = Counters()
        for box in (inbox, other_inbox):
            total.add(box.counters)
        assert (total.calls_requested, total.calls_sent, total.calls_retried) == (22, 22, in_engine)
        assert bench.dispatcher.status().calls_in_flight == 0

    def test_call_that_always_kills_its_engine_ends_its_query_alone(self, benches):
        class Fragile(ScriptedEngine):
            def poll(self, timeout):
                self.dead = self.dead or any("poison" in prompt for _, prompt in self._open.values())
                return super().poll(timeout)

        bench = benches(Fragile)
        stream, inbox = bench.open(retries=2)
        bench.dispatcher.feed(stream, [["a", "poison", "b"]], 3)
        assert inbox.wait_fatal() == Fatal("the engine died: it lost its GPU (3 times; spark.helium.retries.max)", "m")
        assert len(bench.engines["m"]) == 3
        assert bench.run(ONE, ["c"]).texts == {0: ["<user:ask c>"]}
        assert bench.dispatcher.status().calls_in_flight == 0

    def test_engine_that_does_not_come_back_is_one_clear_error(self, benches):
        made: list[ScriptedEngine] = []

        def create(model: str) -> Engine:
            if made:
                raise EngineStartError("no memory left")
            made.append(ScriptedEngine(model, hold=lambda prompt: True))
            return made[0]

        bench = benches(create)
        stream, inbox = bench.open(retries=3, query="q")
        bench.dispatcher.feed(stream, [["x", "y"]], 2)
        until(lambda: len(made) == 1 and len(made[0].submitted) == 2)
        made[0].dead = True
        assert inbox.wait_fatal() == Fatal("no memory left", "m")
        assert bench.dispatcher.status().calls_in_flight == 0

    def test_query_that_is_cancelled_while_its_engine_comes_back(self, benches):
        gate, made = threading.Event(), []

        def create(model: str) -> Engine:
            if made:
                gate.wait(WAIT)
            made.append(ScriptedEngine(model, hold=lambda prompt: "hold" in prompt))
            return made[-1]

        bench = benches(create)
        stream, _ = bench.open(retries=3)
        bench.dispatcher.feed(stream, [["hold"]], 1)
        until(lambda: len(made) == 1 and len(made[0].submitted) == 1)
        made[0].dead = True
        until(lambda: made[0].closed)
        bench.dispatcher.close(stream)
        until(lambda: bench.dispatcher.status().calls_in_flight == 0)
        gate.set()
        assert bench.run(ONE, ["x"]).texts == {0: ["<user:ask x>"]}
        assert made[1].submitted == ["user:ask x"]

    def test_stop_tells_open_streams(self, benches):
        bench = Bench(lambda m: ScriptedEngine(m, hold=lambda prompt: True))
        stream, inbox = bench.open()
        bench.dispatcher.feed(stream, [["x"]], 1)
        engine = bench.engine()
        until(lambda: len(engine.submitted) == 1)
        bench.dispatcher.stop("maintenance")
        assert inbox.fatal == Fatal("maintenance")
        assert engine.closed
        assert not bench.dispatcher.alive


@pytest.mark.parametrize("cache", [True, False])
def test_two_streams_on_the_simulator_get_what_each_would_get_alone(benches, cache):
    settings = Settings({"engine": "simulator", "simulator.decodeMicrosPerToken": "100", "simulator.maxNumSeqs": "7"})
    rows = [["one", "two", None, "three"] * 20, [None if i % 7 == 0 else f"n{i % 11}" for i in range(80)]]
    alone = benches(lambda m: engines.create(m, settings)).run(CHAIN, *rows, cache=False)
    assert (alone.counters.calls_sent, alone.counters.calls_failed) == (alone.counters.calls_requested, 0)
    bench = benches(lambda m: engines.create(m, settings))
    streams = [bench.open(CHAIN, cache=cache) for _ in range(2)]
    for start in range(0, 80, 10):
        for stream, _ in streams:
            bench.dispatcher.feed(stream, [column[start : start + 10] for column in rows], 10)
    total = Counters()
    for _, inbox in streams:
        assert inbox.wait(80).texts == alone.texts
        total.add(inbox.counters)
    assert total.calls_requested == 2 * alone.counters.calls_requested
    assert total.calls_sent + total.answers_from_cache == total.calls_requested
    assert total == bench.dispatcher.status().counters
    first_calls = {f"a {x}" for x in rows[0] if x}
    second_calls = {(x, y) for x, y in zip(*rows, strict=True) if x and y}
    if cache:
        assert total.calls_sent == len(first_calls) + len(second_calls)
    else:
        assert total.answers_from_cache == 0


def test_a_stream_that_breaks_fails_alone(benches, monkeypatch: pytest.MonkeyPatch):
    bench = benches()
    broken, inbox = bench.open()
    monkeypatch.setattr(broken, "settle", lambda *_: 1 / 0)
    bench.dispatcher.feed(broken, [["x"]], 1)
    assert "ZeroDivisionError" in inbox.wait_fatal().reason
    assert bench.run(ONE, ["y"]).texts == {0: ["<user:ask y>"]}
    bench.dispatcher.close(broken)


def test_a_chain_may_have_any_length(benches):
    calls = [call(0, InputRef(0))] + [call(k, CallRef(k - 1)) for k in range(1, 1500)]
    inbox = benches().run(CallGraph(tuple(calls), 1), [None])
    assert inbox.texts == {0: [None] * 1500}


def test_equal_calls_in_flight_join_within_a_namespace_only(benches):
    bench = benches(lambda model: ScriptedEngine(model, hold=lambda _: True))
    inboxes = []
    for namespace in ("a", "a", "b", ""):
        stream, inbox = bench.open(namespace=namespace, query=f"q{len(inboxes)}")
        bench.dispatcher.feed(stream, [["x"]], 1)
        inboxes.append(inbox)
    engine = bench.engine()
    until(lambda: len(engine.submitted) == 3)
    assert bench.dispatcher.status().calls_in_flight == 3
    engine.release(engine.submitted[0])
    assert [inbox.wait(1).texts for inbox in inboxes] == [{0: ["<user:ask x>"]}] * 4
    assert sorted(inbox.counters.calls_sent for inbox in inboxes) == [0, 1, 1, 1]
