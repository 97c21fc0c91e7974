"""Pins in vLLM: the check of its signatures, the pins over a pool like vLLM's, and the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.call_graph import Call, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor.engines import create, vllm_pins
from spark_helium.gpu_executor.engines.base import EngineRequest, EngineResult, Prefix, Tokens, pack_tokens, token_count
from spark_helium.gpu_executor.engines.prefix_cache import block_keys
from spark_helium.gpu_executor.engines.vllm_engine import VllmEngine
from spark_helium.gpu_executor.engines.vllm_pins import UTILITY, VllmPins, choose_scheduler, what_is_missing
from spark_helium.gpu_executor.static_prefix import beginning

# -- signatures ---------------------------------------------------------------------------------------------

# As the released versions have them.
ALLOCATE = (
    "self, request, num_new_tokens, num_new_computed_tokens=0, new_computed_blocks=None, num_lookahead_tokens=0, "
    "num_external_computed_tokens=0, delay_cache_blocks=False, num_encoder_tokens=0"
)
REQUEST = (
    "self, request_id, prompt_token_ids, sampling_params, pooling_params, client_index=0, arrival_time=None, "
    "prompt_embeds=None, mm_features=None, lora_request=None, cache_salt=None, priority=0, trace_headers=None, "
    "block_hasher=None, resumable=False, reasoning_ended=None, reasoning_parser_kwargs=None"
)
NEWER = f"{ALLOCATE}, full_sequence_must_fit=False, reserved_blocks=0"
V0_20 = {
    "BlockPool.touch": "self, blocks",
    "BlockPool.free_blocks": "self, ordered_blocks",
    "BlockPool.get_cached_block": "self, block_hash, kv_cache_group_ids",
    "BlockPool.get_num_free_blocks": "self",
    "KVCacheManager.allocate_slots": ALLOCATE,
    "Scheduler.schedule": "self",
    "Scheduler.update_from_output": "self, scheduler_output, model_runner_output",
    "Scheduler.reset_prefix_cache": "self, reset_running_requests=False, reset_connector=False",
    "Request.__init__": REQUEST,
    "EngineCore.add_request": "self, request, request_wave=0",
}
VERSIONS: dict[str, dict[str, str]] = {
    "0.20": V0_20,
    "0.23": V0_20
    | {
        "BlockPool.free_blocks": "self, ordered_blocks, prepend=False",
        "KVCacheManager.allocate_slots": NEWER,
        "Request.__init__": f"{REQUEST}, prompt_is_token_ids=None, abort_immediately=False",
    },
    "0.27": V0_20
    | {
        "KVCacheManager.allocate_slots": f"{NEWER}, has_scheduled_reqs=True",
        "Scheduler.schedule": "self, throttle_prefills=False",
        "Request.__init__": f"{REQUEST}, prompt_is_token_ids=None, abort_immediately=False",
    },
    "0.32": V0_20
    | {
        "KVCacheManager.allocate_slots": f"{NEWER}, has_scheduled_reqs=True, skip_zeroing_group_ids=()",
        "Scheduler.schedule": "self, throttle_prefills=False",
        "Request.__init__": f"{REQUEST}, session_id=None, abort_immediately=False, kv_hints=None",
    },
}
VERSIONS["0.33"] = VERSIONS["0.32"]


def classes(signatures: dict[str, str]) -> dict[str, Any]:
    members: dict[str, dict[str, Any]] = {}
    for name, parameters in signatures.items():
        owner, method = name.split(".")
        namespace: dict[str, Any] = {}
        exec(f"def {method}({parameters}): ...", namespace)
        members.setdefault(owner, {})[method] = namespace[method]
    made = {owner: type(owner, (), methods) for owner, methods in members.items()}
    return made | {"AsyncScheduler": type("AsyncScheduler", (made["Scheduler"],), {})}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_versions_fit(version: str) -> None:
    assert what_is_missing(classes(VERSIONS[version])) == ""


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("BlockPool.touch", None, "BlockPool has no touch"),
        ("BlockPool.touch", "self", "BlockPool.touch takes other arguments"),
        ("BlockPool.get_cached_block", "self, block_hash", "BlockPool.get_cached_block takes other arguments"),
        ("KVCacheManager.allocate_slots", "self, request, num_new_tokens, computed", "allocate_slots takes other"),
        ("Scheduler.update_from_output", "self, output", "Scheduler.update_from_output takes other arguments"),
        ("Request.__init__", REQUEST.replace("block_hasher", "hasher"), "Request.__init__ takes other arguments"),
        (f"EngineCore.{UTILITY}", "self", f"EngineCore has a method {UTILITY} of its own"),
    ],
)
def test_what_is_missing_is_named(name: str, parameters: str | None, said: str) -> None:
    signatures = {key: text for key, text in V0_20.items() if key != name}
    if parameters is not None:
        signatures[name] = parameters
    assert said in what_is_missing(classes(signatures))


def config(**changes: Any) -> Any:
    made = SimpleNamespace(
        scheduler_config=SimpleNamespace(scheduler_cls=None, async_scheduling=False),
        parallel_config=SimpleNamespace(data_parallel_size=1),
        kv_transfer_config=None,
    )
    for path, value in changes.items():
        owner, _, name = path.rpartition("__")
        setattr(getattr(made, owner) if owner else made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheduler_config__scheduler_cls": "my.Scheduler"}, "a scheduler of its own: my.Scheduler"),
        ({"parallel_config__data_parallel_size": 2}, "several engine cores"),
        ({"kv_transfer_config": object()}, "a KV connector"),
    ],
)
def test_what_rules_pins_out_is_said_before_the_start(changes: dict[str, Any], said: str) -> None:
    given = config(**changes)
    assert said in choose_scheduler(given, 0.25)
    assert "spark.helium.kv.pin.budget is 0" in choose_scheduler(config(), 0.0)


def test_another_vllm_is_no_reason_not_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(vllm_pins.importlib, "import_module", absent)
    given = config()
    assert "differs in what pinning relies on: No module named" in choose_scheduler(given, 0.25)
    assert given.scheduler_config.scheduler_cls is None


# -- over a pool like vLLM's --------------------------------------------------------------------------------

SIZE = 4  # tokens per block


@dataclass(eq=False)
class Block:
    block_id: int
    ref_cnt: int = 0
    block_hash: int | None = None


class Pool:
    """vLLM's block pool as far as it matters: references, a free queue in order of eviction, blocks by hash."""

    enable_caching = True

    def __init__(self, blocks: int) -> None:
        self.num_gpu_blocks = blocks + 1
        self.blocks = [Block(i) for i in range(blocks + 1)]
        self.free = self.blocks[1:]

    def get_num_free_blocks(self) -> int:
        return len(self.free)

    def get_cached_block(self, block_hash: int, groups: list[int]) -> list[Block] | None:
        return next(([block] for block in self.blocks if block.block_hash == block_hash), None)

    def touch(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if block.ref_cnt == 0:
                self.free.remove(block)
            block.ref_cnt += 1

    def free_blocks(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt >= 0
            if block.ref_cnt == 0:
                self.free.append(block)

    def new_block(self, block_hash: int) -> Block:
        block = self.free.pop(0)
        block.block_hash, block.ref_cnt = block_hash, 1
        return block


@dataclass(eq=False)
class FakeCall:
    request_id: int
    tokens: Tokens
    num_computed_tokens: int = 0
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Hit:
    blocks: tuple[list[Block], ...]


class Manager:
    def __init__(self, pool: Pool) -> None:
        self.block_pool = pool

    def allocate_slots(self, request: FakeCall, num_new_tokens: int, *, new_computed_blocks: Hit | None = None) -> Any:
        hit = [] if new_computed_blocks is None else new_computed_blocks.blocks[0]
        fresh = block_keys(request.tokens, SIZE)[len(hit) :]
        if len(fresh) + sum(block.ref_cnt == 0 for block in hit) > self.block_pool.get_num_free_blocks():
            return None
        self.block_pool.touch(hit)
        request.blocks = [*hit, *map(self.block_pool.new_block, fresh)]
        return request.blocks


class FullAttentionSpec:
    pass


class SlidingWindowSpec:
    pass


class Scheduler:
    """Runs calls as vLLM does: a hit first, then the allocation of the rest; what does not fit waits."""

    def __init__(self, blocks: int = 20, spec: type = FullAttentionSpec, groups: int = 1, **changes: Any) -> None:
        self.kv_cache_manager = Manager(Pool(blocks))
        self.kv_cache_config = SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=spec())] * groups)
        self.block_size, self.max_model_len, self.connector = SIZE, 4 * SIZE, None
        for name, value in changes.items():
            setattr(self, name, value)
        self.pool = self.kv_cache_manager.block_pool
        self.number = 0
        self.pins = VllmPins(self)
        self.pins.start(1.0)

    def pin(self, *prefixes: Tokens) -> None:
        self.pins.pin(list(map(Prefix, prefixes)), lambda ids, salt: block_keys(pack_tokens(ids), SIZE, salt))

    def begin(self, tokens: Tokens) -> FakeCall | None:
        self.number += 1
        call = FakeCall(self.number, tokens)
        hit = []
        for key in block_keys(tokens[:-1], SIZE):
            found = self.pool.get_cached_block(key, [0])
            if found is None:
                break
            hit += found
        new = len(tokens) // 4 - len(hit) * SIZE
        return call if self.kv_cache_manager.allocate_slots(call, new, new_computed_blocks=Hit((hit,))) else None

    def end(self, call: FakeCall) -> None:
        self.pool.free_blocks(call.blocks[::-1])
        self.pins.step_is_over()


def text(kind: int, blocks: int, then: int = 0) -> Tokens:
    """Blocks of a prefix, and a block of its own for a call."""
    return pack_tokens([kind] * (blocks * SIZE) + ([then] * SIZE if then else []))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": SlidingWindowSpec}, "does not keep all of its context in one KV cache"),
        ({"groups": 2}, "does not keep all of its context in one KV cache"),
        ({"connector": object()}, "a KV connector"),
        ({"block_size": 5}, ""),
        ({"blocks": 5}, "hold little more than one call of 16 tokens"),
    ],
)
def test_what_rules_pins_out_is_said_after_the_start(changes: dict[str, Any], said: str) -> None:
    scheduler = Scheduler(**changes)
    assert said in scheduler.pins.report().reason
    if said:
        scheduler.pin(text(1, 3))
        call = scheduler.begin(text(1, 3, 9))
        assert call is not None
        scheduler.end(call)
        assert (scheduler.pins.report().blocks, len(scheduler.pool.free)) == (0, scheduler.pool.num_gpu_blocks - 1)


@pytest.mark.parametrize("lacking", ["num_gpu_blocks", "blocks", "enable_caching"])
def test_a_pool_that_lacks_something_is_no_reason_not_to_serve(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler()
    pool = SimpleNamespace(**{k: v for k, v in vars(scheduler.pool).items() if k != lacking})
    scheduler.kv_cache_manager.block_pool = pool
    assert "differs in what pinning relies on: AttributeError" in VllmPins(scheduler).report().reason


def test_a_pool_whose_references_do_not_hold_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "touch", lambda self, blocks: None)
    monkeypatch.setattr(Pool, "free_blocks", lambda self, blocks: None)
    assert "a reference does not keep a block" in Scheduler().pins.report().reason


def test_a_prefix_is_computed_once_and_stays() -> None:
    scheduler = Scheduler()
    scheduler.pin(text(1, 3))
    assert scheduler.pins.report().blocks == 0
    call = scheduler.begin(text(1, 3, 9))
    assert call is not None
    scheduler.end(call)
    assert (scheduler.pins.report().pins, scheduler.pins.report().blocks) == (1, 3)
    for i in range(20, 40):
        other = scheduler.begin(text(i, 4))
        assert other is not None
        scheduler.end(other)
    again = scheduler.begin(text(1, 3, 8))
    assert again is not None
    assert again.blocks[:3] == call.blocks[:3]
    scheduler.pin()
    scheduler.end(again)
    assert len(scheduler.pool.free) == 20


def test_a_pin_gives_its_blocks_before_a_call_waits_the_least_valuable_first() -> None:
    scheduler = Scheduler()
    for kind in (1, 2):
        call = scheduler.begin(text(kind, 3, 9))
        assert call is not None
        scheduler.end(call)
    scheduler.pin(text(2, 3), text(1, 3))
    running = [scheduler.begin(text(i, 4)) for i in (10, 11, 12)]
    assert scheduler.pins.report().blocks == 6
    running.append(scheduler.begin(text(13, 4)))  # 12 and 6 blocks are taken, 2 are free
    assert None not in running
    assert scheduler.pins.report().blocks == 3
    assert scheduler.pool.get_cached_block(block_keys(text(2, 3), SIZE)[0], [0])[0].ref_cnt == 1
    assert scheduler.pins.report().released == 1
    scheduler.pins.check_integrity()


def test_pins_keep_what_would_not_help() -> None:
    scheduler = Scheduler()
    for kind in (1, 2):
        call = scheduler.begin(text(kind, 3, 9))
        assert call is not None
        scheduler.end(call)
    scheduler.pin(text(2, 3), text(1, 3))
    user = scheduler.begin(text(1, 3, 8))  # runs over the pinned blocks: the pin could not give them
    running = [scheduler.begin(text(i, 4)) for i in (10, 11, 12)]
    assert user is not None
    assert None not in running
    held = scheduler.pins.report()
    free = len(scheduler.pool.free)
    for _ in range(2):
        assert scheduler.begin(text(14, 4 * 5)) is None
        assert (scheduler.pins.report(), len(scheduler.pool.free)) == (held, free)
    scheduler.pins.check_integrity()


def test_a_cache_to_be_reset_has_no_references_of_pins() -> None:
    scheduler = Scheduler()
    call = scheduler.begin(text(1, 3, 9))
    assert call is not None
    scheduler.end(call)
    scheduler.pin(text(1, 3))
    scheduler.pins.let_go()
    assert len(scheduler.pool.free) == 20
    scheduler.pins.step_is_over()
    assert scheduler.pins.report().blocks == 3


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("begin"), st.integers(1, 5), st.integers(0, 4), st.integers(11, 14)),
            st.tuples(st.just("end"), st.integers(0, 20)),
            st.tuples(st.just("pin"), st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=4)),
            st.tuples(st.just("reset")),
        ),
        max_size=60,
    )
)
def test_no_call_waits_while_pins_could_give_it_its_blocks(steps: list[tuple[Any, ...]]) -> None:
    scheduler = Scheduler(blocks=16)
    running: list[FakeCall] = []
    for step in steps:
        match step:
            case ("begin", kind, blocks, then):
                tokens = text(kind, blocks, then)
                call = scheduler.begin(tokens)
                in_use = {block.block_id for c in running for block in c.blocks}
                if call is None:
                    keys = set(block_keys(tokens, SIZE))
                    shared = {b.block_id for b in scheduler.pool.blocks if b.block_hash in keys} & in_use
                    assert len(in_use) + len(keys) - len(shared) > 16
                else:
                    running.append(call)
                    assert len({id(block) for block in call.blocks}) == blocks + 1
            case ("end", number) if running:
                scheduler.end(running.pop(number % len(running)))
            case ("pin", prefixes):
                scheduler.pin(*dict.fromkeys(text(*prefix) for prefix in prefixes))
            case ("reset",):
                scheduler.pins.let_go()
        scheduler.pins.check_integrity()
        in_use = {block.block_id for call in running for block in call.blocks}
        assert (
            len({b.block_id for b in scheduler.pool.blocks[1:] if b.ref_cnt} - in_use) <= scheduler.pins.report().blocks
        )
        assert scheduler.pins.report().blocks <= scheduler.pins.report().budget == 11
    scheduler.pin()
    for call in running:
        scheduler.end(call)
    assert len(scheduler.pool.free) == 16


# -- with the real engine -----------------------------------------------------------------------------------

RULES = "You are a careful reviewer of product reviews. Read every word, and give your verdict in one word. " * 30
SHORT = Sampling(max_tokens=6)


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    """64 KV blocks of 32 tokens, half of which pins may hold."""
    given = {"vllm.kvCacheSpace": str(90 << 20), "vllm.maxModelLen": "1024", "kv.pin.budget": "0.5"}
    started = create("smollm2-135m", Settings(given))
    assert isinstance(started, VllmEngine)
    yield started
    started.close()


def run(engine: VllmEngine, requests: Sequence[EngineRequest], seconds: float = 120) -> dict[int, EngineResult]:
    engine.submit(requests)
    results: dict[int, EngineResult] = {}
    deadline = time.monotonic() + seconds
    while len(results) < len(requests) and time.monotonic() < deadline:
        results.update((result.id, result) for result in engine.poll(1.0))
    assert len(results) == len(requests), "vLLM lost a request"
    assert all(result.error is None for result in results.values())
    return results


class Asker:
    """Calls whose prompts begin with the same rules, about this many tokens."""

    def __init__(self, engine: VllmEngine, name: str, tokens: int, ids: Iterator[int]) -> None:
        self.engine, self.ids = engine, ids
        rules = f"{name} {RULES}"[: tokens * 5]  # about five characters a token
        self.call = Call(0, "m", (Message("system", (rules,)), Message("user", (InputRef(0),))), SHORT)
        whole = beginning(self.call, engine.renderer).tokens
        self.prefix = whole[: token_count(whole) // 32 * 32 * 4]

    def requests(self, *texts: str) -> list[EngineRequest]:
        [(_, rules)] = [(m.role, m.parts[0]) for m in self.call.messages[:1]]
        prompts = self.engine.renderer.render(
            [[("system", ((str(rules), True),)), ("user", ((text, False),))] for text in texts]
        )
        return [EngineRequest(next(self.ids), prompt, SHORT) for prompt in prompts if isinstance(prompt, bytes)]

    def ask(self, *texts: str) -> list[EngineResult]:
        requests = self.requests(*texts)
        results = run(self.engine, requests)
        return [results[request.id] for request in requests]


@pytest.fixture(scope="module")
def ids() -> Iterator[int]:
    return iter(range(1, 100_000))


def thrash(engine: VllmEngine, ids: Iterator[int]) -> None:
    """More tokens than the cache holds, two prompts at a time, so that there is room beside a pin."""
    for _ in range(3):
        run(engine, [EngineRequest(i, pack_tokens([1000 + i] * 500), Sampling(1)) for i in (next(ids), next(ids))])


def report(engine: VllmEngine) -> Any:
    """The pins, when the engine has had the time to tell."""
    time.sleep(1.0)
    return engine.pins


@pytest.mark.engine
def test_a_prefix_outlives_the_cache_with_pins_on_and_not_with_pins_off(engine: VllmEngine, ids: Iterator[int]) -> None:
    assert (engine.info.kv_blocks, engine.pins.reason, engine.pins.budget) == (64, "", 30)
    seen = {}
    for pinned in (True, False):
        asker = Asker(engine, f"Version {pinned}.", 550, ids)
        tokens = token_count(asker.prefix)
        assert 480 <= tokens <= 640
        engine.pin([Prefix(asker.prefix)] if pinned else [])
        # All at once and nothing cached: the first computes the prefix, and the others do not.
        first = asker.ask("It broke on day one.", "I love it.", "As promised.")
        assert sorted(result.cached_prompt_tokens for result in first) == [0, tokens, tokens]
        assert report(engine).blocks == (tokens // 32 if pinned else 0)
        thrash(engine, ids)
        again = asker.ask("It broke on day one.", "I love it.", "As promised.")
        assert [result.text for result in again] == [result.text for result in first]
        seen[pinned] = again[0].cached_prompt_tokens, tokens
        assert report(engine).released == 0
    print(f"cached tokens, tokens of the prefix: with pins {seen[True]}, without {seen[False]}")
    assert seen[True][0] == seen[True][1]
    assert seen[False][0] == 0


@pytest.mark.engine
def test_everything_completes_with_pins_at_their_budget_and_the_cache_nearly_full(
    engine: VllmEngine, ids: Iterator[int]
) -> None:
    askers = [Asker(engine, "First.", 550, ids), Asker(engine, "Second.", 550, ids)]
    calls = [EngineRequest(i, pack_tokens([2000 + i] * 1000), Sampling(8)) for i in (next(ids), next(ids), next(ids))]
    engine.unpin()
    expected = [result.text for asker in askers for result in asker.ask("It broke.", "I love it.")]
    expected += [run(engine, [call])[call.id].text for call in calls]
    prefixes = [asker.prefix for asker in askers]
    prefixes[1] = prefixes[1][: (30 * 32 * 4) - len(prefixes[0])]
    engine.pin(list(map(Prefix, prefixes)))
    for asker in askers:
        asker.ask("-")
    before = report(engine)
    assert (before.pins, before.blocks) == (2, 30)
    # Each long call takes half of the cache, and what pins hold is the other half.
    again = [EngineRequest(next(ids), call.tokens, call.sampling) for call in calls]
    short = [request for asker in askers for request in asker.requests("It broke.", "I love it.")]
    results = run(engine, [*again, *short])
    assert [results[request.id].text for request in [*short, *again]] == expected
    after = report(engine)
    print(f"pins before {before} and after {after}")
    assert after.released > before.released
    assert after.blocks <= 30


@pytest.mark.engine
def test_the_cache_can_be_reset_while_prefixes_are_pinned(engine: VllmEngine, ids: Iterator[int]) -> None:
    asker = Asker(engine, "Third.", 200, ids)
    engine.pin([Prefix(asker.prefix)])
    asker.ask("a")
    assert report(engine).pins == 1
    reset = asyncio.run_coroutine_threadsafe(engine._engine.reset_prefix_cache(), engine._loop)
    assert reset.result(30) is not False
    assert asker.ask("a")[0].cached_prompt_tokens == 0
    assert report(engine).pins == 1
    engine.unpin()
    assert report(engine).blocks == 0


@pytest.mark.engine
def test_both_of_vllms_schedulers_can_pin() -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler as VllmAsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler

    for is_async, base in ((False, VllmScheduler), (True, VllmAsyncScheduler)):
        given = config(scheduler_config__async_scheduling=is_async)
        assert choose_scheduler(given, 0.25) == ""
        module, name = given.scheduler_config.scheduler_cls.rsplit(".", 1)
        assert module == vllm_pins.__name__
        made = getattr(vllm_pins, name)
        assert issubclass(made, base)
        assert made.schedule is base.schedule


@pytest.mark.engine
def test_kv_and_pins_of_a_salt_serve_no_other(engine: VllmEngine, ids: Iterator[int]) -> None:
    asker = Asker(engine, "Fourth.", 300, ids)
    tokens = token_count(asker.prefix)
    assert tokens >= 256
    engine.pin([Prefix(asker.prefix, "a"), Prefix(asker.prefix, "b")])

    def ask(salt: str) -> EngineResult:
        (request,) = asker.requests("It broke on day one.")
        request.salt = salt
        return run(engine, [request])[request.id]

    results = [ask(salt) for salt in ("a", "b", "", "a", "b", "")]
    cached = [result.cached_prompt_tokens for result in results]
    print(f"cached tokens of two rounds with the salts a, b and none: {cached}, prefix {tokens}")
    assert cached[:3] == [0, 0, 0]
    assert min(cached[3:]) >= tokens
    assert len({result.text for result in results}) == 1
    assert report(engine).pins == 2
    thrash(engine, ids)
    assert [ask(salt).cached_prompt_tokens for salt in ("a", "b", "")] == [tokens, tokens, 0]
    engine.unpin()
