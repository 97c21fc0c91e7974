"""What the node daemon and its clients say to each other, apart from the rows themselves.

Rows travel as Arrow record batches; everything else is one of the dataclasses below, written as JSON by one
encoder. Every message starts with the protocol version, so that two releases that meet on one node say so
instead of misreading each other. Nothing is pickled.

A task's stream (``DoExchange``)::

    client                                         daemon
    descriptor: StreamHeader           ->
                                       <-          Accepted
    input columns, one batch           ->
                                       <-          answers that finished (any order), with Report
    ...                                            ...
    no rows, with EndOfRows            ->          (where the graph has cascades, which wait for their windows)
                                       <-          or, at any time: Fatal (no further answer will come)
    end, or the connection's end       ->          (what is unfinished is aborted)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from spark_helium.errors import ProtocolError

PROTOCOL_VERSION = 5

_BY_NAME: dict[str, type[WireMessage]] = {}


@dataclass(frozen=True, slots=True)
class WireMessage:
    """Root of the messages; the class name is the message's name on the wire."""

    def __init_subclass__(cls) -> None:
        _BY_NAME[cls.__name__] = cls

    def encode(self) -> bytes:
        """The wire form."""
        body = {"protocol": PROTOCOL_VERSION, "message": type(self).__name__, **asdict(self)}
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the wire form of a message of this class or of a subclass.

        Raises
        ------
        ProtocolError
            The other side speaks another version, or sent something else.
        """
        try:
            body = json.loads(data)
            version, name = body.pop("protocol"), body.pop("message")
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ProtocolError(f"expected a {cls.__name__} message, got {data[:80]!r}") from e
        if version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"the other side speaks protocol version {version}, this spark_helium speaks version "
                f"{PROTOCOL_VERSION}: install the same spark_helium for Spark's workers and for the daemon, "
                "then run `spark-helium stop`"
            )
        kind = _BY_NAME.get(name)
        if kind is None or not issubclass(kind, cls):
            raise ProtocolError(f"expected a {cls.__name__} message, got {name!r}")
        try:
            return kind._from_body(body)
        except (TypeError, ValueError, KeyError) as e:
            raise ProtocolError(f"malformed {name} message: {e}; it starts with {data[:80]!r}") from e

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Self:
        return cls(**body)


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on whose behalf the daemon runs. The start time tells a process from a later one of the same id."""

    pid: int
    created: float


@dataclass(frozen=True, slots=True)
class StreamHeader(WireMessage):
    """Opens a task's stream.

    Attributes
    ----------
    graph: wire form of the call graph.
    cache: whether the prompt cache may answer, and equal calls in flight may join.
    query: tells queries apart; an engine that failed to start is tried again for another query only.
    application: the Spark application.
    owner: the JVM that the task belongs to; None when there is none (a client run by hand).
    start_timeout: longest wait for an engine to come up, in seconds.
    idle_timeout: seconds without calls after which the daemon exits.
    pin_min_tokens: tokens from which on the shared beginning of a call's prompts is pinned; 0: none is.
    expected_calls: how many calls like each of these are expected to come; the stream's own are counted anyway.
    retries, retry_backoff: times that a call is tried again, and seconds before the first time.
    max_calls, max_tokens: the query's budget on this node; 0: none.
    cascade_rows: rows in a row for which a cascade learns its thresholds together; 0: all of the stream.
    ordered: whether calls that wait go in the order of the schedule, or in that of their arrival.
    namespace: the tenant; nothing that was computed for one serves another.
    isolated: whether nothing that was computed for other queries of the namespace serves this one either.
    """

    graph: str
    cache: bool = True
    query: str = ""
    application: str = ""
    owner: Owner | None = None
    start_timeout: float = 600.0
    idle_timeout: float = 600.0
    pin_min_tokens: int = 0
    expected_calls: int = 0
    retries: int = 0
    retry_backoff: float = 0.0
    max_calls: int = 0
    max_tokens: int = 0
    cascade_rows: int = 0
    ordered: bool = True
    namespace: str = ""
    isolated: bool = False

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Self:
        owner = body.pop("owner", None)
        return cls(owner=None if owner is None else Owner(**owner), **body)


@dataclass(frozen=True, slots=True)
class EndOfRows(WireMessage):
    """No more rows will come; those that are under way are still to be answered."""


@dataclass(frozen=True, slots=True)
class Accepted(WireMessage):
    """The daemon took the stream and will not exit under it."""

    pid: int


@dataclass(frozen=True, slots=True)
class Attend(WireMessage):
    """An executor says that it is there, before any of its tasks comes: the daemon's action ``attend``.

    Attributes
    ----------
    owner: the executor's JVM, for which the daemon runs from now on; None when there is none.
    models: models whose engines are to start now.
    """

    owner: Owner | None = None
    models: tuple[str, ...] = ()

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Self:
        owner = body.pop("owner", None)
        return cls(None if owner is None else Owner(**owner), tuple(body.pop("models")), **body)


@dataclass(slots=True)
class Counters:
    """What calls cost. On the wire: what was counted since the last report of the stream.

    What begins with ``cascade`` is of calls with a proxy; each row of such a call is in one of the first three. All are
    sums, as those of all tasks are added up: thresholds in millionths, beside how many windows have one.

    Attributes
    ----------
    cascade_by_proxy: rows that the proxy decided.
    cascade_by_main: rows that the main model answered, as the proxy was not sure, failed, or could not be used.
    cascade_labelled: rows that the main model answered for a sample.
    cascade_windows: windows for which thresholds were looked for.
    cascade_found, cascade_right, cascade_true: of the samples' prompts, those that the thresholds would find true,
        those of them that are, and all that are.
    cascade_lowers, cascade_lower_sum, cascade_uppers, cascade_upper_sum: the thresholds that were found.
    """

    calls_requested: int = 0
    calls_sent: int = 0
    answers_from_cache: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    calls_failed: int = 0
    calls_retried: int = 0
    cascade_by_proxy: int = 0
    cascade_by_main: int = 0
    cascade_labelled: int = 0
    cascade_windows: int = 0
    cascade_found: int = 0
    cascade_right: int = 0
    cascade_true: int = 0
    cascade_lowers: int = 0
    cascade_lower_sum: int = 0
    cascade_uppers: int = 0
    cascade_upper_sum: int = 0

    def add(self, other: Counters) -> None:
        """Add the counts of ``other``."""
        for name in COUNTER_NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in COUNTER_NAMES)


COUNTER_NAMES = tuple(f.name for f in fields(Counters))


@dataclass(frozen=True, slots=True)
class Report(WireMessage):
    """Travels with a batch of answers. ``pinned_tokens``: of the beginnings that the stream's calls share, so far."""

    counters: Counters
    pinned_tokens: int = 0

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Self:
        return cls(counters=Counters(**body.pop("counters")), **body)


@dataclass(frozen=True, slots=True)
class Fatal(WireMessage):
    """The stream ends here: the engine or the daemon cannot go on, or (kind ``budget``) the query may not."""

    reason: str
    model: str = ""
    kind: str = "daemon"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine of the daemon; ``state`` is starting, ready, failed, or "waits for memory", ``kind`` an
    :class:`~spark_helium.gpu_executor.engines.base.EngineKind`.

    ``memory`` is what it is expected to need on a CPU, in bytes. ``calls_waiting`` are ready and not in the engine,
    ``kv_tokens`` what those in it are expected to need of its KV blocks. What begins with ``pin`` is
    :class:`~spark_helium.gpu_executor.engines.base.PinStatus`, and the tokens that the pinned blocks hold.
    """

    model: str
    state: str
    engine: str = ""
    version: str = ""
    max_model_len: int = 0
    kv_blocks: int = 0
    block_size: int = 0
    calls_in_flight: int = 0
    pins: int = 0
    pin_blocks: int = 0
    pin_tokens: int = 0
    pin_budget: int = 0
    pins_released: int = 0
    pin_reason: str = ""
    kind: str = "generate"
    memory: int = 0
    calls_waiting: int = 0
    kv_tokens: int = 0


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """The prompt cache's tier on disk, as one daemon sees it.

    Attributes
    ----------
    off: why the daemon does not use it; empty while it does.
    full: why it writes nothing; empty while it does.
    slow: why lookups pause; empty while they do not.
    hits, damaged: answers found, and answers dropped because their checksum was wrong, since the daemon began.
    not_kept: answers that were too large, or came faster than the disk could write.
    """

    directory: str
    limit: int
    off: str = ""
    full: str = ""
    slow: str = ""
    hits: int = 0
    damaged: int = 0
    not_kept: int = 0


@dataclass(frozen=True, slots=True)
class Status(WireMessage):
    """The daemon's answer to ``ping`` and ``status``. ``cache_*`` are the prompt cache's tier in memory; ``cache_disk``
    is None when the tier on disk is switched off. ``engine_swaps``: engines closed to make room for others.
    """

    pid: int
    package: str
    identity: str
    uptime: float
    idle: float
    by_hand: bool
    streams: int
    calls_in_flight: int
    rows_answered: int
    counters: Counters
    cache_entries: int
    cache_bytes: int
    cache_limit: int
    owners: tuple[int, ...] = ()
    engines: tuple[EngineStatus, ...] = field(default=())
    cache_hits: int = 0
    cache_disk: DiskStatus | None = None
    engine_swaps: int = 0

    @classmethod
    def _from_body(cls, body: dict[str, Any]) -> Self:
        counters, engines, owners, disk = (body.pop(name) for name in ("counters", "engines", "owners", "cache_disk"))
        return cls(
            counters=Counters(**counters),
            cache_disk=None if disk is None else DiskStatus(**disk),
            engines=tuple(EngineStatus(**e) for e in engines),
            owners=tuple(owners),
            **body,
        )
