"""Pin what the prompts of a template have in common before the first query asks (``spark-helium warm``).

It goes the way of every call: a stream of one row, whose header says how many calls like it are expected. So the
daemon and the engine start as they do for a query, the call computes the prefix, and the daemon pins it.
"""

from __future__ import annotations

import re
import select
import time

import pyarrow as pa

from spark_helium.call_graph import Call, CallGraph, Message, Sampling
from spark_helium.call_parts import InputRef, Part
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, DaemonError
from spark_helium.gpu_executor.client import AnswerBatch, RowStream, ping
from spark_helium.gpu_executor.engines.base import EngineKind
from spark_helium.gpu_executor.lifecycle import DaemonFiles
from spark_helium.gpu_executor.messages import EngineStatus, Fatal

REPORT_SECONDS = 5.0  # longest wait for the engine to say that the prefix is pinned
_PIECE = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


def template_parts(text: str) -> tuple[Part, ...]:
    """A call's template as ``llm()`` reads it, as far as it matters here: every placeholder is the same one.

    >>> template_parts("Rate {review} from {{1}} to 5")
    ('Rate ', InputRef(index=0), ' from {1} to 5')

    Raises
    ------
    ConfigurationError
        A brace stands alone.
    """
    parts: list[Part] = []
    literal: list[str] = []
    end = 0
    for match in _PIECE.finditer(text):
        literal.append(text[end : match.start()])
        end = match.end()
        piece = match.group()
        if len(piece) == 1:
            raise ConfigurationError(
                f"the template cannot be read at character {match.start()}: {piece!r} stands alone; "
                "write {{ and }} for braces that are text"
            )
        if piece in ("{{", "}}"):
            literal.append(piece[0])
            continue
        parts += [joined] if (joined := "".join(literal)) else []
        literal = []
        parts.append(InputRef(0))
    literal.append(text[end:])
    parts += [joined] if (joined := "".join(literal)) else []
    return tuple(parts)


def warm(settings: Settings, model: str, system: str | None, template: str | None, calls: int) -> EngineStatus:
    """Compute and pin the beginning of the template's prompts; returns the engine's state afterwards.

    ``calls`` are expected to use it. A missing template stands for prompts of which only ``system`` is known.

    Raises
    ------
    ConfigurationError
        The settings or the template rule out a pin.
    DaemonError
        The daemon or the engine did not do it; the message says why.
    """
    if not settings["kv.pin.enabled"]:
        raise ConfigurationError("spark.helium.kv.pin.enabled is false, so no prefix is pinned")
    messages = [Message("system", (system,))] if system is not None else []
    messages.append(Message("user", template_parts(template) if template is not None else (InputRef(0),)))
    graph = CallGraph((Call(0, model, tuple(messages), Sampling(max_tokens=1)),), 1)
    rows = pa.record_batch([pa.array(["-"], pa.string())], ["input0"])
    # Without the prompt cache, and without a query's name: the call must reach the engine.
    header = RowStream.header(graph.to_json(), settings, "", "", expected_calls=calls, cache=False)
    with RowStream.open(settings, header, rows.schema) as stream:
        stream.send(rows)
        planned = _answer(stream).pinned_tokens
    if not planned:
        engine = _engine(settings, model)
        reason = engine.pin_reason or (
            f"what its prompts share has fewer than {settings['kv.pin.minTokens']} tokens "
            f"(spark.helium.kv.pin.minTokens) or no full KV block of {engine.block_size}, or prefixes of more worth "
            f"fill the {engine.pin_budget} blocks that pins may hold (spark.helium.kv.pin.budget)"
        )
        raise DaemonError(f"nothing was pinned for model {model!r}: {reason}")
    deadline = time.monotonic() + REPORT_SECONDS
    while (engine := _engine(settings, model)).pin_tokens < planned and time.monotonic() < deadline:
        time.sleep(0.1)  # the engine reports a moment after the call
    return engine


def _answer(stream: RowStream) -> AnswerBatch:
    while True:
        select.select([stream], [], [])
        for item in stream.receive():
            if isinstance(item, Fatal):
                raise DaemonError(f"the prefix could not be computed: {item.reason}")
            (reason,) = item.batch.column("reason0").to_pylist()
            if reason:
                raise DaemonError(f"the prefix could not be computed: {reason}")
            return item


def _engine(settings: Settings, model: str) -> EngineStatus:
    status = ping(DaemonFiles.of(settings))
    for engine in () if status is None else status.engines:
        if engine.model == model and engine.kind == EngineKind.GENERATE and engine.state == "ready":
            return engine
    raise DaemonError(f"the engine of model {model!r} is gone since it was warmed; run the command again")
