from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_graph import Call, CallGraph, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor.engines.base import EngineRequest, Prefix, Tokens, pack_tokens, pin_budget
from spark_helium.gpu_executor.engines.simulator import SimulatorEngine
from spark_helium.gpu_executor.pins import PinKeeper, PinPolicy
from spark_helium.gpu_executor.static_prefix import StaticPrefixes
from spark_helium.gpu_executor.stream import Stream


def prefix(letter: int, blocks: int, block_size: int = 4) -> Tokens:
    return pack_tokens([letter] * (blocks * block_size))


def planned(policy: PinPolicy) -> list[Tokens]:
    return [tokens for tokens, _ in policy.plan()]


def test_the_order_is_tokens_times_expected_calls() -> None:
    policy = PinPolicy(block_size=4, budget=100)
    policy.begin("q")
    policy.called(Prefix(prefix(1, 10)), 3)
    policy.called(Prefix(prefix(2, 2)), 20)
    policy.called(Prefix(prefix(3, 5)), 7)
    assert planned(policy) == [prefix(2, 2), prefix(3, 5), prefix(1, 10)]
    assert [policy.value(p) for p in policy.plan()] == [160, 140, 120]


def test_one_call_is_not_worth_a_pin() -> None:
    policy = PinPolicy(4, 100)
    policy.begin("q")
    assert policy.called(Prefix(prefix(1, 3)), 1) == 1
    assert planned(policy) == []
    assert policy.called(Prefix(prefix(1, 3)), 1) == 2
    assert planned(policy) == [prefix(1, 3)]


def test_only_whole_blocks_count() -> None:
    policy = PinPolicy(4, 100)
    policy.begin("q")
    assert policy.called(Prefix(pack_tokens([1, 1, 1])), 50) == 0
    policy.called(Prefix(prefix(1, 2) + pack_tokens([7])), 5)
    policy.called(Prefix(prefix(1, 2) + pack_tokens([8])), 5)
    assert planned(policy) == [prefix(1, 2)]
    assert policy.value(Prefix(prefix(1, 2))) == 80


def test_unused_prefixes_fade_with_every_query_and_stay_while_there_is_room() -> None:
    policy = PinPolicy(4, 4)
    policy.begin("first")
    policy.called(Prefix(prefix(1, 3)), 64)
    values = []
    for query in ("a", "b", "b", "c"):  # the same query again does not count
        policy.begin(query)
        values.append(policy.value(Prefix(prefix(1, 3))))
    assert values == [384, 192, 192, 96]
    assert planned(policy) == [prefix(1, 3)]
    policy.called(
        Prefix(prefix(2, 3)), 9
    )  # 108 beats 96: it takes three blocks of four, the head of the other the last
    assert planned(policy) == [prefix(2, 3), prefix(1, 1)]


def test_nested_prefixes_are_paid_once() -> None:
    policy = PinPolicy(4, 5)
    policy.begin("q")
    policy.called(Prefix(prefix(1, 2)), 100)
    policy.called(Prefix(prefix(1, 2) + prefix(2, 3)), 10)
    assert planned(policy) == [prefix(1, 2), prefix(1, 2) + prefix(2, 3)]


uses = st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 1), max_size=12), st.integers(1, 40)), max_size=40)


@given(block_size=st.integers(1, 3), budget=st.integers(1, 10), uses=uses)
def test_any_plan_keeps_to_the_budget_and_follows_value(
    block_size: int, budget: int, uses: list[tuple[int, list[int], int]]
) -> None:
    policies = [PinPolicy(block_size, budget) for _ in range(2)]
    seen: set[Tokens] = set()
    for query, ids, calls in uses:
        tokens = pack_tokens(ids)
        seen.add(tokens[: len(ids) // block_size * block_size * 4])
        for policy in policies:
            policy.begin(str(query))
            policy.called(Prefix(tokens), calls)
    policy = policies[0]
    plan = planned(policy)
    assert plan == planned(policies[1]) == planned(policy)  # deterministic, and planning changes nothing
    size = block_size * 4
    blocks = {p[:end] for p in plan for end in range(size, len(p) + 1, size)}
    assert len(blocks) <= budget
    assert all(p and len(p) % size == 0 for p in plan)
    assert len(set(plan)) == len(plan)
    # By value: when a prefix is cut or left out, those above it fill the budget.
    wanted = sorted((p for p in seen if p), key=lambda p: policy.value(Prefix(p)), reverse=True)
    totals: dict[Tokens, int] = {}
    for _, ids, calls in uses:
        whole = pack_tokens(ids)[: len(ids) // block_size * size]
        totals[whole] = totals.get(whole, 0) + calls
    worthwhile = [p for p in wanted if totals[p] > 1]
    if any(totals[p] != calls and totals[p] <= 2 for p in wanted for _, _, calls in uses):
        worthwhile = []  # two calls of two queries may have faded to one
    taken: set[Tokens] = set()
    for p in worthwhile:
        mine = {p[:end] for end in range(size, len(p) + 1, size)}
        ties = [q for q in worthwhile if policy.value(Prefix(q)) == policy.value(Prefix(p)) and q != p]
        if ties:
            break
        if not mine <= blocks:
            assert len(blocks) == budget
            break
        taken |= mine
        assert p in plan


def test_equal_prefixes_of_two_salts_are_two() -> None:
    policy = PinPolicy(4, 6)
    policy.begin("q")
    policy.called(Prefix(prefix(1, 4), "a"), 10)
    policy.called(Prefix(prefix(1, 4), "b"), 9)
    assert policy.plan() == [Prefix(prefix(1, 4), "a"), Prefix(prefix(1, 2), "b")]
    assert policy.value(Prefix(prefix(1, 4))) == 0


def test_a_budget_leaves_room_for_the_longest_call() -> None:
    assert pin_budget(1.0, 100, 16, 1000).budget == 100 - 63 - 1
    assert pin_budget(0.1, 100, 16, 1000).budget == 10
    assert "hold little more than one call of 1000 tokens" in pin_budget(1.0, 64, 16, 1000).reason
    assert "spark.helium.kv.pin.budget is 0" in pin_budget(0.0, 100, 16, 1000).reason


# -- with an engine -----------------------------------------------------------------------------------------

RULES = "You are a strict reviewer. Judge with care, and give your reasons in full sentences. " * 4


def simulator(**given: str) -> SimulatorEngine:
    return SimulatorEngine("m", Settings({"simulator_kv_blocks": "64", "simulator_max_model_len": "400"} | given))


def keeper_of(engine: SimulatorEngine) -> PinKeeper:
    return PinKeeper(engine, StaticPrefixes(engine.renderer))


class Query:
    """A stream of one query, whose rows go to the engine as the dispatcher sends them."""

    def __init__(self, keeper: PinKeeper, engine: SimulatorEngine, name: str, system: str, **options: int) -> None:
        self.keeper, self.engine = keeper, engine
        call = Call(0, "m", (Message("system", (system,)), Message("user", (InputRef(0),))), Sampling(4))
        options = {"pin_min_tokens": 32} | options
        self.stream = Stream(CallGraph((call,), 1), lambda _: None, query=name, **options)

    def ask(self, *texts: str) -> list[int]:
        """Cached tokens of each prompt."""
        prompts = self.stream.templates[0].render(self.engine.renderer, [list(texts)], [], range(len(texts)))
        assert all(isinstance(prompt, bytes) for prompt in prompts)
        requests = [EngineRequest(i, p, Sampling(4)) for i, p in enumerate(prompts) if isinstance(p, bytes)]
        self.keeper.before_submit(self.stream, self.stream.graph.calls[0], len(requests))
        self.engine.submit(requests)
        found = {}
        while len(found) < len(requests):
            found |= {result.id: result.cached_prompt_tokens for result in self.engine.poll(5.0)}
        return [found[i] for i in range(len(requests))]

    def thrash(self) -> None:
        """Fill the cache with prompts that nobody asks again, without the keeper."""
        filler = [EngineRequest(i, pack_tokens([1000 + i] * 300), Sampling(1)) for i in range(20)]
        self.engine.submit(filler)
        done = 0
        while done < len(filler):
            done += len(self.engine.poll(5.0))


def test_the_first_row_computes_what_the_others_share_and_later_queries_find() -> None:
    engine = simulator()
    keeper = keeper_of(engine)
    first = Query(keeper, engine, "q1", RULES)
    cold, *others = first.ask("a", "b", "c")
    assert cold == 0
    assert all(cached >= 80 for cached in others)
    assert engine.pins.pins == 1
    assert engine.pins.blocks * 16 == others[0]
    assert first.stream.pinned_tokens == others[0]
    first.thrash()
    assert Query(keeper, engine, "q2", RULES).ask("d", "e") == [others[0]] * 2


@pytest.mark.parametrize("options", [{"pin_min_tokens": 0}, {"pin_min_tokens": 1000}])
def test_nothing_is_pinned_where_it_is_switched_off_or_too_short(options: dict[str, int]) -> None:
    engine = simulator()
    query = Query(keeper_of(engine), engine, "q1", RULES, **options)
    query.ask("a", "b", "c")
    query.thrash()
    assert (engine.pins.blocks, query.ask("a"), query.stream.pinned_tokens) == (0, [0], 0)


def test_a_budget_of_nothing_says_so() -> None:
    engine = simulator(kv_pin_budget="0")
    Query(keeper_of(engine), engine, "q1", RULES).ask("a", "b", "c")
    assert (engine.pins.blocks, engine.pins.reason) == (0, "spark.helium.kv.pin.budget is 0")


def test_a_single_row_is_not_pinned_until_a_second_comes() -> None:
    engine = simulator()
    query = Query(keeper_of(engine), engine, "q1", RULES)
    query.ask("a")
    assert engine.pins.blocks == 0
    query.ask("b")
    assert engine.pins.pins == 1


def test_a_row_that_stands_for_many_is_pinned_at_once() -> None:
    engine = simulator()
    Query(keeper_of(engine), engine, "", RULES, expected_calls=1000).ask("a")
    assert engine.pins.pins == 1


def test_the_prefix_of_an_old_query_makes_way_for_those_of_new_ones() -> None:
    engine = simulator(kv_pin_budget="0.25")  # 16 blocks, and each of the prefixes takes 5
    keeper = keeper_of(engine)
    old = Query(keeper, engine, "q0", "old " + RULES)
    old.ask(*"abcdef")
    for i in range(1, 4):
        Query(keeper, engine, f"q{i}", f"{i} new {RULES}").ask(*"abcdef")
    old.thrash()
    assert engine.pins.blocks == 16
    found = {i: Query(keeper, engine, f"q{i}", f"{i} new {RULES}").ask("x") for i in (3, 2, 1)}
    assert found == {3: [80], 2: [80], 1: [80]}
    assert Query(keeper, engine, "q3", "old " + RULES).ask("x") == [16]  # its head has the last place
