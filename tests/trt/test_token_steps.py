from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_helium.errors import InstanceError, ScheduleError
from spark_helium.trt.instance import workload_from_json
from spark_helium.trt.token_steps import NO_CALL, Call, CallId, Segment, Worker, Workload, shared_tokens
from tests.trt.workloads import calls, makespan, plain_makespan, random_workload, two_agents

# Helium's worked example, in the paper's Fig. 4; the figures were computed by hand and by the paper's own artefact.


def test_usages_of_the_worked_example() -> None:
    workload = workload_from_json(two_agents(1))
    op1, op2, op3 = (workload.index[id_] for id_ in calls("op1.0", "op2.0", "op3.0"))
    assert workload.usages_after(0, NO_CALL)[op1] == 50 * 150 + 1275 == 8775
    assert workload.usages_after(0, op1)[op2] == 9775
    assert workload.usages_after(0, op2)[op3] == 50 * (222 - 160) + 1275 == 4375
    assert workload.usages_after(0, op1)[op3] == 12375
    assert workload.delay[0][op1] == 50_000


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("op1.0 op2.0 op3.0", 63_150),
        ("op2.0 op1.0 op3.0", 80_925),
        ("op1.0 op1.1 op2.0 op3.0 op2.1 op3.1", 74_300),
        ("op1.0 op1.1 op2.0 op2.1 op3.0 op3.1", 77_525),
        ("op1.0 op2.0 op3.0 op1.1 op2.1 op3.1", 126_300),
        (" ".join(f"op{k}.{row}" for k in (1, 2, 3) for row in range(4)), 96_700),
        (" ".join(f"op{k}.{row}" for row in range(4) for k in (1, 2, 3)), 252_600),
        (" ".join([*(f"op1.{r}" for r in range(8)), *(f"op{k}.{r}" for r in range(8) for k in (2, 3))]), 148_400),
        (" ".join(f"op{k}.{row}" for k in (1, 2, 3) for row in range(8)), 188_400),
        (" ".join([*(f"op1.{r}" for r in range(5)), *(f"op{k}.{r}" for r in range(5) for k in (2, 3))]), 107_750),
    ],
)
def test_makespans_of_the_worked_example(order: str, expected: int) -> None:
    ids = calls(*order.split())
    rows = 1 + max(id_.row for id_ in ids)
    assert makespan(two_agents(rows), {"w0": ids}) == expected


def test_start_and_idle_of_the_worked_example() -> None:
    timing = workload_from_json(two_agents(1)).simulate({"w0": calls("op1.0", "op2.0", "op3.0")})
    assert timing.start[CallId("op3", 0)] == 58_775
    assert timing.finish[CallId("op2", 0)] == 18_550
    assert timing.busy == {"w0": 8775 + 9775 + 4375}
    assert timing.idle == {"w0": 58_775 - 18_550}


def test_only_the_call_before_on_the_same_worker_shares() -> None:
    same, other = Segment("s", 100), Segment("t", 10)
    made = [Call(CallId("a", row), (same, other), 1) for row in range(2)] + [Call(CallId("b", 0), (other,), 1)]
    workload = Workload(made, [Worker("w0", 0), Worker("w1", 0)])
    assert workload.simulate({"w0": calls("a.0", "a.1", "b.0")}).makespan == 111 + 1 + 11
    assert workload.simulate({"w0": calls("a.0", "b.0", "a.1")}).makespan == 111 + 11 + 111
    assert workload.simulate({"w0": calls("a.0", "b.0"), "w1": calls("a.1")}).makespan == 111 + 11


def test_fractions_of_workers_are_exact() -> None:
    made = [Call(CallId("a", 0), (Segment("s", 1),), 1), Call(CallId("b", 0), (), 1, (CallId("a", 0),))]
    workload = Workload(made, [Worker("fast", 7, Fraction(1, 3)), Worker("slow", 7, Fraction(1, 7))])
    timing = workload.simulate({"fast": calls("a.0"), "slow": calls("b.0")})
    assert workload.scale == 21
    assert timing.makespan == Fraction(2, 3) + Fraction(7, 3) + Fraction(1, 7)


def test_calls_are_numbered_in_radix_order() -> None:
    prompts = ["ab", "c", "abd", "ca", "a", ""]
    made = [Call(CallId(text, 0), tuple(Segment(letter, 1) for letter in text), 1) for text in prompts]
    workload = Workload(made, [Worker("w0", 0)])
    assert [call.id.operator for call in workload.calls] == ["", "a", "ab", "abd", "c", "ca"]
    assert workload.most_shared() == [0, 1, 2, 2, 1, 1]


@given(st.integers(0, 10**6), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_simulation_is_the_definition(seed: int, workers: int) -> None:
    rng = random.Random(seed)
    workload = random_workload(rng, rng.randrange(1, 9), workers)
    sequences: list[list[int]] = [[] for _ in workload.workers]
    for number in rng.sample(range(len(workload)), len(workload)) if rng.random() < 0.3 else workload.topological:
        rng.choice(sequences).append(number)
    expected = plain_makespan(workload, sequences)
    order = workload.order(sequences)
    assert workload.numbers(order) == sequences
    if expected is None:
        with pytest.raises(ScheduleError):
            workload.simulate(order)
    else:
        timing = workload.simulate(order)
        assert timing.makespan == expected
        for w, sequence in enumerate(sequences):
            ids = [workload.calls[number].id for number in sequence]
            name = workload.workers[w].name
            assert timing.busy[name] == sum(timing.finish[id_] - timing.start[id_] for id_ in ids)
            assert timing.busy[name] + timing.idle[name] == max((timing.finish[id_] for id_ in ids), default=0)


@given(st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_tables_agree_with_the_prompts(seed: int) -> None:
    workload = random_workload(random.Random(seed), 7, 2)
    prompts = [call.prompt for call in workload.calls]
    for before in range(NO_CALL, len(workload)):
        shared = [shared_tokens(prompts[before], prompt) if before >= 0 else 0 for prompt in prompts]
        assert workload.shared_with(before) == shared
        for w in range(2):
            usages = [workload.usage(w, call, tokens) for call, tokens in enumerate(shared)]
            assert workload.usages_after(w, before) == usages
    others = [
        max(shared_tokens(prompts[i], prompts[j]) for i in range(len(workload)) if i != j) for j in range(len(workload))
    ]
    assert workload.most_shared() == others


def test_workloads_that_contradict_themselves() -> None:
    worker = Worker("w0", 10)
    a = Call(CallId("a", 0), (), 1)
    with pytest.raises(InstanceError, match="a of row 0 is given twice"):
        Workload([a, a], [worker])
    with pytest.raises(InstanceError, match="no worker"):
        Workload([a], [])
    with pytest.raises(InstanceError, match="worker w0 is given twice"):
        Workload([a], [worker, worker])
    with pytest.raises(InstanceError, match="x of row 1"):
        Workload([Call(CallId("a", 0), (), 1, (CallId("x", 1),))], [worker])
    circle = [Call(CallId("a", 0), (), 1, (CallId("b", 0),)), Call(CallId("b", 0), (), 1, (CallId("a", 0),))]
    with pytest.raises(InstanceError, match="circle"):
        Workload(circle, [worker])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"w0": calls("op1.0", "op2.0")}, "lacks op3 of row 0"),
        ({"w0": calls("op1.0", "op2.0", "op1.0")}, "op1 of row 0 twice"),
        ({"w0": calls("op1.0", "op2.0", "op3.1")}, "op3 of row 1"),
        ({"w9": calls("op1.0", "op2.0", "op3.0")}, "'w9'"),
        ({"w0": calls("op3.0", "op1.0", "op2.0")}, "op3 of row 0 stands before"),
    ],
)
def test_orders_that_do_not_fit(order: dict[str, list[CallId]], said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        workload_from_json(two_agents(1)).simulate(order)


def test_nothing_to_do() -> None:
    timing = Workload([], [Worker("w0", 10)]).simulate({})
    assert (timing.makespan, timing.busy, timing.idle) == (0, {"w0": 0}, {"w0": 0})
