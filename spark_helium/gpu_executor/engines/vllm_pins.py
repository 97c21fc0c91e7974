"""Pinned prefixes in vLLM, without a fork. All contact with vLLM's internals is in this file.

vLLM has no pins, but it takes a scheduler class by name, and its block pool counts references: a block with one is
never evicted. :func:`choose_scheduler` names a subclass of vLLM's own scheduler, which vLLM imports in the process of
its engine core, and which calls it overrides only to look on::

    daemon's process                        engine core's process
    VllmEngine.pin ──call_utility──▶ EngineCore.helium_pins ──▶ VllmPins: PinTable over the block pool
                                     KVCacheManager.allocate_slots   no block left? pins give theirs, the call gets them
                                     Scheduler.update_from_output    a step is over: pins take what it computed
                                     Scheduler.reset_prefix_cache    pins give all back first, or it would refuse

All that vLLM does to admit a call, to let it grow, and to preempt another for it goes through ``allocate_slots``. So
no call waits for blocks, and none is preempted, while a pin could give them: the pin is asked before vLLM hears
that there are none. Where all pins together could not help, they keep what they have.

What is relied on is looked at twice. :func:`what_is_missing` reads the signatures of the installed version before it
starts, and :class:`VllmPins` tries the block pool of the engine that started. Where something is not as expected, the
engine runs with vLLM's plain prefix caching, and says why. It has run with 0.27.0, 0.31.0 and 0.32.0; the signatures
of 0.20, 0.23 and 0.33 fit.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Any

from spark_helium.gpu_executor.engines.base import PinStatus, Prefix, pin_budget, unpack_tokens
from spark_helium.gpu_executor.engines.pin_table import PinTable

UTILITY = "helium_pins"

_CLASSES = {
    "Scheduler": "vllm.v1.core.sched.scheduler",
    "AsyncScheduler": "vllm.v1.core.sched.async_scheduler",
    "KVCacheManager": "vllm.v1.core.kv_cache_manager",
    "BlockPool": "vllm.v1.core.block_pool",
    "Request": "vllm.v1.request",
    "EngineCore": "vllm.v1.engine.core",
}


# -- in the daemon's process --------------------------------------------------------------------------------


def choose_scheduler(config: Any, fraction: float) -> str:
    """Make vLLM's ``config`` start with the scheduler that pins; returns why not, or nothing.

    Call it when the configuration is complete, because that has settled which scheduler vLLM would take.
    """
    if fraction == 0:
        return "spark.helium.kv.pin.budget is 0"
    scheduler = config.scheduler_config
    if scheduler.scheduler_cls is not None:
        return f"vLLM runs with a scheduler of its own: {scheduler.scheduler_cls}"
    if config.parallel_config.data_parallel_size > 1:
        return "vLLM runs several engine cores (data_parallel_size), and pins are kept in one"
    if getattr(config, "kv_transfer_config", None) is not None:
        return "vLLM runs with a KV connector, which moves blocks by itself"
    try:
        found = {name: getattr(importlib.import_module(module), name) for name, module in _CLASSES.items()}
    except (ImportError, AttributeError) as e:
        return _unlike(str(e))
    missing = what_is_missing(found)
    if missing:
        return _unlike(missing)
    name = "PinningAsyncScheduler" if scheduler.async_scheduling else "PinningScheduler"
    scheduler.scheduler_cls = f"{__name__}.{name}"
    return ""


def what_is_missing(classes: dict[str, Any]) -> str:
    """The first of the methods relied on that vLLM's classes lack or that takes other arguments; else nothing."""
    relied_on: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = [
        ("BlockPool", "touch", ("blocks",), ()),
        ("BlockPool", "free_blocks", ("blocks",), ()),
        ("BlockPool", "get_cached_block", ("block_hash", "kv_cache_group_ids"), ()),
        ("BlockPool", "get_num_free_blocks", (), ()),
        ("KVCacheManager", "allocate_slots", ("request", "num_new_tokens"), ("new_computed_blocks",)),
        ("Scheduler", "update_from_output", ("scheduler_output", "model_runner_output"), ()),
        ("Scheduler", "reset_prefix_cache", (), ()),
        ("AsyncScheduler", "update_from_output", ("scheduler_output", "model_runner_output"), ()),
        ("AsyncScheduler", "reset_prefix_cache", (), ()),
        (
            "Request",
            "__init__",
            (),
            ("request_id", "prompt_token_ids", "sampling_params", "pooling_params", "block_hasher", "cache_salt"),
        ),
    ]
    for class_name, method, positional, named in relied_on:
        function = getattr(classes[class_name], method, None)
        if function is None:
            return f"{class_name} has no {method}"
        try:
            inspect.signature(function).bind(object(), *positional, **dict.fromkeys(named))
        except TypeError as e:
            return f"{class_name}.{method} takes other arguments ({e})"
    if hasattr(classes["EngineCore"], UTILITY) and classes["EngineCore"].__dict__.get(UTILITY) is not _utility:
        return f"EngineCore has a method {UTILITY} of its own"
    return ""


def _unlike(detail: str) -> str:
    return f"the installed vLLM differs in what pinning relies on: {detail}"


async def start(engine: Any, fraction: float) -> PinStatus:
    """Give the pins of an ``AsyncLLM`` that has just started their budget."""
    try:
        return await _call(engine, "start", fraction)
    except Exception as e:  # whatever another version raises: it serves without pins
        return PinStatus(_unlike(f"the engine core does not answer: {e}"))


async def pin(engine: Any, prefixes: Sequence[Prefix]) -> PinStatus:
    """See :meth:`Engine.pin`."""
    return await _call(engine, "pin", list(prefixes))


async def status(engine: Any) -> PinStatus:
    """The state of the pins of a running ``AsyncLLM``."""
    return await _call(engine, "status", None)


async def _call(engine: Any, operation: str, argument: Any) -> PinStatus:
    return PinStatus(**await engine.engine_core.call_utility_async(UTILITY, operation, argument))


# -- in the engine core's process ---------------------------------------------------------------------------


class VllmPins:
    """The pins of one scheduler.

    ``status`` says from the start whether this scheduler can pin. A pin keeps a block by a reference of its own.
    """

    def __init__(self, scheduler: Any) -> None:
        self.status = PinStatus()
        self._table: PinTable[Any] = PinTable(0, self._take, self._give_back)
        self._short_of_blocks = False
        # The last call that all pins could not help: its id and tokens, and the blocks that were free with theirs.
        self._hopeless: tuple[object, int] = (None, 0)
        try:
            self._scheduler = scheduler
            self._pool = scheduler.kv_cache_manager.block_pool
            reason = _why_not(scheduler)
            if not reason:
                self._allocate_slots = scheduler.kv_cache_manager.allocate_slots
                scheduler.kv_cache_manager.allocate_slots = self.allocate_slots
        except Exception as e:  # an attribute that another version lacks: never a reason not to serve
            reason = _unlike(f"{type(e).__name__}: {e}")
        if reason:
            self.status = PinStatus(reason)

    def start(self, fraction: float) -> None:
        """Set the budget."""
        if not self.status.reason:
            blocks = self._pool.num_gpu_blocks - 1  # block 0 is no block
            self.status = pin_budget(fraction, blocks, self._scheduler.block_size, self._scheduler.max_model_len)
            self._table.budget = self.status.budget

    def pin(self, prefixes: Sequence[Prefix], hashes_of: Callable[[list[int], str], Sequence[Hashable]]) -> None:
        """See :meth:`Engine.pin`. ``hashes_of`` gives the hashes of the full blocks of a prompt with a salt."""
        if not self.status.reason:
            self._table.put({prefix: hashes_of(unpack_tokens(prefix.tokens), prefix.salt) for prefix in prefixes})

    def report(self) -> PinStatus:
        """The state of the pins."""
        if self.status.reason:
            return self.status
        table = self._table
        return PinStatus("", table.budget, table.pinned, table.blocks, table.released)

    def allocate_slots(self, request: Any, num_new_tokens: int, *args: Any, **kwargs: Any) -> Any:
        """``KVCacheManager.allocate_slots``, which returns None when blocks are lacking; here pins come before that."""
        blocks = self._allocate_slots(request, num_new_tokens, *args, **kwargs)
        if blocks is not None or not self._table.blocks:
            return blocks
        self._short_of_blocks = True
        free = self._pool.get_num_free_blocks
        wanted: object = (request.request_id, num_new_tokens, request.num_computed_tokens)
        if self._hopeless[0] == wanted and free() + self._table.blocks <= self._hopeless[1]:
            return None
        # The call's own prefix is no help: it would take the very blocks that the pin gives.
        hit = kwargs.get("new_computed_blocks")
        own = {block.block_id for block in hit.blocks[0]} if hit is not None and hit.blocks else set()
        released = 0
        while blocks is None and self._table.release(lambda b: b.ref_cnt == 1 and b.block_id not in own):
            released += 1
            blocks = self._allocate_slots(request, num_new_tokens, *args, **kwargs)
        if blocks is None:
            self._hopeless = wanted, free()
            self._table.grow()  # nothing was taken meanwhile: every block is still there
        else:
            self._table.released += released
        return blocks

    def step_is_over(self) -> None:
        """Let pins take what was computed, unless calls are short of blocks."""
        if not self._short_of_blocks and self._table.growing:
            self._table.grow()
        self._short_of_blocks = False

    def let_go(self) -> None:
        """Give all blocks back. Pins take them again when they are computed again."""
        self._table.clear()

    def check_integrity(self) -> None:
        """Assert that the books balance."""
        self._table.check_integrity()

    def _take(self, block_hash: Hashable) -> Any:
        found = self._pool.get_cached_block(block_hash, [0])
        if found is None:
            return None
        self._pool.touch([found[0]])
        return found[0]

    def _give_back(self, blocks: list[Any]) -> None:
        self._pool.free_blocks(blocks)


def _why_not(scheduler: Any) -> str:
    """Why this scheduler cannot pin. Tries the block pool, and leaves it as it was."""
    manager, groups = scheduler.kv_cache_manager, scheduler.kv_cache_config.kv_cache_groups
    pool = manager.block_pool
    if not pool.enable_caching:
        return "vLLM runs without prefix caching"
    kinds = [cls.__name__ for cls in type(groups[0].kv_cache_spec).__mro__] if len(groups) == 1 else []
    if "FullAttentionSpec" not in kinds:
        return "the model does not keep all of its context in one KV cache (it mixes kinds of attention)"
    if getattr(pool, "hash_block_size", scheduler.block_size) != scheduler.block_size:
        return "vLLM hashes blocks of another size than it allocates"
    if scheduler.connector is not None:
        return "vLLM runs with a KV connector, which moves blocks by itself"
    free, block = pool.get_num_free_blocks(), pool.blocks[-1]
    if block.ref_cnt != 0:
        return _unlike("a block of an engine without calls has references")
    pool.touch([block])
    held = (block.ref_cnt, pool.get_num_free_blocks())
    pool.free_blocks([block])
    if held != (1, free - 1) or (block.ref_cnt, pool.get_num_free_blocks()) != (0, free):
        return _unlike("a reference does not keep a block out of the free ones")
    return ""


def _utility(core: Any, operation: str, argument: Any = None) -> dict[str, Any]:
    """``EngineCore.helium_pins``: runs in the engine core's loop, between two steps."""
    pins: VllmPins = core.scheduler.helium_pins
    match operation:
        case "start":
            pins.start(argument)
        case "pin":
            prefixes = [Prefix(*prefix) for prefix in argument]
            pins.pin(prefixes, lambda tokens, salt: _block_hashes(core, tokens, salt))
        case "status":
            pass
        case _:
            raise ValueError(f"unknown operation {operation!r}; known: start, pin, status")
    return asdict(pins.report())


def _block_hashes(core: Any, tokens: list[int], salt: str) -> list[Hashable]:
    """The hashes that vLLM gives the full blocks of a call with these tokens and this salt."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    request = Request(
        request_id="helium-pin",
        prompt_token_ids=tokens,
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        block_hasher=core.request_block_hasher,
        cache_salt=salt or None,
    )
    return list(request.block_hashes)


class Pinning:
    """Mixed into a scheduler of vLLM's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.helium_pins = VllmPins(self)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """A step's output has come; calls that it finished have given their blocks back."""
        outputs = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        self.helium_pins.step_is_over()
        return outputs

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the cache, which vLLM refuses while a block has a reference."""
        self.helium_pins.let_go()
        return super().reset_prefix_cache(*args, **kwargs)  # type: ignore[misc]


def __getattr__(name: str) -> Any:
    """``PinningScheduler`` and ``PinningAsyncScheduler``, made when vLLM asks for one: only then is there a vLLM."""
    bases = {"PinningScheduler": "Scheduler", "PinningAsyncScheduler": "AsyncScheduler"}
    if name not in bases:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = getattr(importlib.import_module(_CLASSES[bases[name]]), bases[name])
    core = importlib.import_module(_CLASSES["EngineCore"]).EngineCore
    setattr(core, UTILITY, _utility)
    made = globals()[name] = type(name, (Pinning, base), {"__module__": __name__})
    return made
