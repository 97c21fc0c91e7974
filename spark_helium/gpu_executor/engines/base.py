"""What an inference engine is to the daemon.

An engine takes *tokens* and gives *text*: rendering a conversation into tokens is the engine's
:class:`PromptRenderer`, because only the engine knows its chat template and its tokenizer. Requests go in
and results come out in batches, so that the cost of crossing the interface is paid per batch, not per call.

The daemon's dispatcher is the only caller and calls from one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from spark_helium.call_graph import CallTask, Constraint, Sampling

RequestId = int

# Token ids as native unsigned 32-bit integers, back to back. Bytes and not a tuple, because a prompt is a
# cache key, a prefix and a message far more often than a list of numbers: one object to hash and to compare.
# Use token_count, never len, for the number of tokens.
Tokens = bytes
TOKEN_BYTES = 4


def pack_tokens(ids: Iterable[int]) -> Tokens:
    """Token ids in the packed form.

    >>> unpack_tokens(pack_tokens([1, 2, 50_000]))
    [1, 2, 50000]
    """
    return array("I", ids).tobytes()


def unpack_tokens(tokens: Tokens) -> list[int]:
    """The token ids of the packed form."""
    return array("I", tokens).tolist()


def token_count(tokens: Tokens) -> int:
    """How many tokens the packed form holds."""
    return len(tokens) // TOKEN_BYTES


class Prefix(NamedTuple):
    """The beginning of prompts. KV is shared between prompts of one ``salt`` only."""

    tokens: Tokens
    salt: str = ""


# One message as (role, segments). A segment is (text, trusted): text of a template is trusted, text from a
# column or from an earlier answer is not, and can never become a special token.
Segment = tuple[str, bool]
RenderedMessage = tuple[str, tuple[Segment, ...]]


class EngineKind(StrEnum):
    """What an engine of a model can do; a model has one of each kind that is asked for.

    Attributes
    ----------
    GENERATE: completes prompts, and scores choices by their log-probabilities.
    EMBED: makes vectors of texts.
    TOKENIZE: counts tokens; it loads no weights.
    """

    GENERATE = "generate"
    EMBED = "embed"
    TOKENIZE = "tokenize"


_KINDS = {
    CallTask.GENERATE: EngineKind.GENERATE,
    CallTask.SCORE: EngineKind.GENERATE,
    CallTask.EMBED: EngineKind.EMBED,
    CallTask.COUNT_TOKENS: EngineKind.TOKENIZE,
}


def kind_for(task: CallTask) -> EngineKind:
    """The kind of engine that answers calls of a task.

    >>> kind_for(CallTask.SCORE)
    <EngineKind.GENERATE: 'generate'>
    """
    return _KINDS[task]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the daemon must know of a running engine.

    Attributes
    ----------
    model: the name that the query used.
    fingerprint: changes when weights, tokenizer or chat template change; part of every cache key.
    max_model_len: most tokens that a prompt and its answer may have together.
    block_size: tokens per KV block; prefixes are shared in whole blocks.
    kv_blocks: KV blocks that the engine owns.
    max_num_seqs: most calls that run at once.
    instant: whether :meth:`Engine.submit` has the answers when it returns, at next to no cost. Calls of such an engine
        are neither queued nor kept in a cache, and not counted as calls.
    """

    engine: str
    model: str
    fingerprint: str
    max_model_len: int
    block_size: int
    kv_blocks: int
    version: str
    max_num_seqs: int = 256
    instant: bool = False


@dataclass(frozen=True, slots=True)
class PinStatus:
    """What an engine's pins are about.

    Attributes
    ----------
    reason: why the engine pins nothing, as a sentence for the user; empty when it does.
    budget: most KV blocks that pins may hold; 0 when the engine pins nothing.
    pins: prefixes that are pinned as a whole.
    blocks: KV blocks that pins hold, each counted once.
    released: times that a pin gave its blocks to a call that needed them.
    """

    reason: str = ""
    budget: int = 0
    pins: int = 0
    blocks: int = 0
    released: int = 0


def pin_budget(fraction: float, blocks: int, block_size: int, max_model_len: int) -> PinStatus:
    """How many of an engine's ``blocks`` KV blocks pins may hold: a fraction, leaving room for the longest call.

    >>> pin_budget(0.25, blocks=1000, block_size=16, max_model_len=4096).budget
    250
    >>> pin_budget(0.25, blocks=256, block_size=16, max_model_len=4096).reason
    'its 256 KV blocks hold little more than one call of 4096 tokens'
    """
    if fraction == 0:
        return PinStatus("spark.helium.kv.pin.budget is 0")
    budget = min(int(fraction * blocks), blocks - -(-max_model_len // block_size) - 1)
    if budget < 1:
        return PinStatus(f"its {blocks} KV blocks hold little more than one call of {max_model_len} tokens")
    return PinStatus(budget=budget)


@dataclass(slots=True)  # not frozen: a frozen one takes twice as long to create, and there is one per call
class EngineRequest:
    """One call, rendered. ``tokens`` is the whole prompt; lower ``priority`` runs earlier.

    KV is shared with requests of the same ``salt`` only; an answer does not depend on it.
    The ``constraint`` of a score names its two choices. An engine gets tasks of its own :class:`EngineKind` only.
    """

    id: RequestId
    tokens: Tokens
    sampling: Sampling
    constraint: Constraint | None = None
    priority: int = 0
    task: CallTask = CallTask.GENERATE
    salt: str = ""


@dataclass(slots=True)  # not frozen, as EngineRequest
class EngineResult:
    """One finished call. ``error`` is None, or a sentence for the user, and then ``text`` is empty. What is no
    completion is JSON: a score a number, an embedding an array of numbers.

    ``cached_prompt_tokens`` of the ``prompt_tokens`` came from the engine's prefix cache. ``truncated`` says
    that the answer ended at ``max_tokens``. ``retryable`` is only meaningful together with ``error``: the same call
    may succeed later, after ``retry_after`` seconds at the earliest.
    """

    id: RequestId
    text: str = ""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    error: str | None = None
    retryable: bool = False
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class RenderError:
    """Why one conversation could not become tokens, as a sentence for the user."""

    reason: str


class PromptRenderer(ABC):
    """Turns conversations into prompt tokens with the model's own chat template and tokenizer.

    An engine that completes nothing has no use for the template: its renderer gives the tokens of the text that the
    messages hold.
    """

    @abstractmethod
    def render(self, conversations: Sequence[Sequence[RenderedMessage]]) -> list[Tokens | RenderError]:
        """Tokens of each conversation, generation prompt included, in the given order.

        A conversation that cannot be rendered (an unknown role, text that is not Unicode, a template that
        refuses it) gives its own :class:`RenderError` and does not disturb the others.

        A conversation whose untrusted segments hold no special-token text gives exactly the tokens that the
        plain chat template and tokenizer give for it.
        """


class Engine(ABC):
    """An inference engine. All methods but :meth:`poll` return without waiting for the model."""

    _info: EngineInfo  # set by the constructor
    _renderer: PromptRenderer

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def renderer(self) -> PromptRenderer:
        return self._renderer

    @abstractmethod
    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Queue the requests. Ids must be new. A request that cannot run comes back from poll as an error.

        Raises
        ------
        EngineError
            The engine is dead.
        """

    @abstractmethod
    def poll(self, timeout: float) -> list[EngineResult]:
        """Results that became ready, each once, in order of completion; waits up to ``timeout`` seconds for the first.

        Raises
        ------
        EngineError
            The engine is dead; no unfinished request will come back.
        """

    @abstractmethod
    def abort(self, ids: Sequence[RequestId]) -> None:
        """Stop these requests. None of them comes back from a later poll. Unknown ids are ignored."""

    def pin(self, prefixes: Sequence[Prefix]) -> None:  # noqa: B027
        """Pin these prefixes, the most valuable first, and no others.

        A pinned prefix stays in the KV cache: its full blocks are not evicted. Nothing is computed for a pin. It takes
        blocks as soon as a call has computed them, and again if it lost them. It never holds up a call: where a call
        needs its blocks, the least valuable pin gives them up first. Prefixes that share their head hold it once.
        What does not fit into the budget of :attr:`pins` is not pinned.

        An engine that cannot pin ignores this, and :attr:`pins` says why.
        """

    def unpin(self) -> None:
        """Give the blocks of all pins back."""
        self.pin(())

    @property
    def pins(self) -> PinStatus:
        """The state of the pins, as last heard; does not wait for the model."""
        return PinStatus(f"the engine {self.info.engine} does not pin prefixes")

    @abstractmethod
    def wake(self) -> None:
        """Make a waiting :meth:`poll` return now. May be called from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Stop the engine and free its memory. May be called twice."""
