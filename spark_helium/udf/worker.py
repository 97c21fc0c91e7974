"""One Spark task: batches of rows in, a stream to the node's daemon, batches of answers out in row order.

::

    JVM ──input batches──▶ fill: send rows while fewer than maxInFlight are open
                             │
                           daemon ──answers, any order──▶ RowOrder ──rows without a gap──▶ JVM

Rows leave as soon as all rows before them have left. Where a limit wants few rows (``Task.pace``), few are sent at
first. Spark does not say when it has enough; it hangs up. So when all that was sent has been handed over, the task
pauses, and sends more only if Spark is still there. Nothing runs in parallel here but the stream's receiving
thread, so the order of things is: hand over what is ready, send what fits, wait.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
from pyspark.sql import types as t

from spark_helium.call_graph import CallGraph
from spark_helium.conf import Settings
from spark_helium.errors import HeliumError
from spark_helium.gpu_executor.arrays import lenient_value
from spark_helium.gpu_executor.call_template import CallTemplate, shorten
from spark_helium.gpu_executor.client import AnswerBatch, RowStream
from spark_helium.gpu_executor.lifecycle import on_gpus
from spark_helium.gpu_executor.messages import Counters, Fatal
from spark_helium.udf.outputs import Failure, Outputs
from spark_helium.udf.row_order import RowOrder
from spark_helium.udf.spark_worker import SparkWorker, gpu_addresses, query_id

Columns: TypeAlias = "pa.Array | tuple[pa.Array, ...]"

MAX_SEND = 1024  # rows of one message to the daemon
BUFFERED = 4  # a slow first row may hold back this many times maxInFlight answers
FEW_ROWS = 256  # fewer ready rows than this wait a moment for more,
MOMENT = 0.005  # this long, in seconds
LIMIT_PAUSE = 0.05  # seconds that Spark has for the rows it got, until it is asked for as wanting more
PACE_GROWTH = 4  # then so many times the rows so far may be sent


@dataclass(frozen=True, slots=True)
class Task:
    """What the driver says about a stage's calls; the same for all its tasks.

    ``pace`` is how many rows to ask at first, because a limit above wants few; None where all are wanted.
    """

    graph: CallGraph
    settings: Settings
    application: str
    return_type: t.StructType
    pace: int | None = None

    def run(self, batches: Iterable[Columns]) -> Iterator[pa.StructArray]:
        """Answers for the rows of ``batches``: as many rows, in the same order, in batches of other sizes."""
        yield from TaskRun(self, iter(batches)).run()


class TaskRun:
    """The state of one running task."""

    def __init__(self, task: Task, batches: Iterator[Columns]) -> None:
        self._task = task
        self._batches = batches
        self._window: int = task.settings["stream.maxInFlight"]
        self._has_cascade = any(call.cascade is not None for call in task.graph.calls)
        if self._has_cascade:
            # A window must arrive as a whole before its first row can be answered; the next one begins meanwhile.
            self._window = max(self._window, task.settings["cascade.windowRows"] * 5 // 4 + 1)
        # Rows that may be sent in all; None: any number. A window of a cascade would never be full.
        self._allowed = None if self._has_cascade else task.pace
        self._spark = SparkWorker.find()
        self._spark.end_with_the_jvm()
        self._order = RowOrder()
        self._counters = Counters()  # received and not handed over
        self._stream: RowStream | None = None
        self._outputs: Outputs | None = None
        self._fatal: Fatal | None = None
        self._inputs: deque[tuple[int, pa.RecordBatch]] = deque()  # sent and not handed over, with their first row
        self._unsent: pa.RecordBatch | None = None
        self._more_input = True
        self._said_end = False
        self._sent = 0
        self._last_yield = 0.0

    def run(self) -> Iterator[pa.StructArray]:
        """See :meth:`Task.run`."""
        try:
            while True:
                if self._order.ready and not self._worth_waiting():
                    out, failed = self._hand_over()
                    yield out
                    self._spark.flush()
                    self._last_yield = time.monotonic()
                    if failed:
                        break
                if self._fatal is not None and not self._order.ready:
                    break
                sent = self._fill()
                self._receive()
                if not self._order.ready and not self._more_input and self._order.next_row == self._sent:
                    return
                if not sent and self._fatal is None:
                    self._wait()
        except HeliumError as e:
            self._fatal = Fatal(str(e))
        finally:
            if self._stream is not None:
                self._stream.close()
        yield from self._without_answers()

    def _worth_waiting(self) -> bool:
        """Whether so few rows are ready that some more should join them, for a moment."""
        return (
            self._order.ready < FEW_ROWS
            and self._order.ready < self._sent - self._order.next_row
            and self._fatal is None
            and time.monotonic() - self._last_yield < MOMENT
        )

    def _fill(self) -> bool:
        """Send one message of rows if they fit, reading input as needed; says whether it did."""
        in_flight = self._sent - self._order.received
        held_back = self._sent - self._order.next_row
        room = min(self._window - in_flight, BUFFERED * self._window - held_back, MAX_SEND)
        few = max(1, min(MAX_SEND, self._window) // 8)
        if self._allowed is not None and held_back:
            # With nothing left to hand over, the next rows are read first: at the end of the input nobody waits.
            room = min(room, self._allowed - self._sent)
            few = min(few, max(1, self._allowed - self._sent))
        if room < few or self._fatal is not None:
            return False
        if self._unsent is None:
            self._unsent = self._read()
            if self._unsent is None:
                self._say_end()
                return False
        if self._allowed == self._sent:
            self._ask_for_more()
            if self._fatal is not None:
                return False
        if self._allowed is not None:
            room = min(room, self._allowed - self._sent)
        if self._stream is None:
            task = self._task
            execution = query_id()
            query = f"{task.application}/{execution}" if execution else ""
            settings = on_gpus(task.settings, gpu_addresses())
            header = RowStream.header(task.graph.to_json(), settings, task.application, query)
            self._stream = RowStream.open(settings, header, self._unsent.schema)
        part, rest = self._unsent.slice(0, room), self._unsent.slice(room)
        self._unsent = rest if rest.num_rows else None
        self._inputs.append((self._sent, part))
        self._sent += part.num_rows
        self._stream.send(part)
        return True

    def _ask_for_more(self) -> None:
        """All that may be sent was handed over: more rows may be sent if Spark is there after a pause.

        Raises
        ------
        TaskGoneError
            Spark has what it needs.
        """
        assert self._stream is not None, "nothing was sent, and yet more is to be asked"
        assert self._allowed is not None, "any number of rows may be sent"
        end = self._last_yield + LIMIT_PAUSE
        while (left := end - time.monotonic()) > 0 and self._fatal is None:
            if self._spark.wait(self._stream.fileno(), left):
                self._receive()
        more = self._allowed * PACE_GROWTH
        self._allowed = more if more < self._window else None

    def _say_end(self) -> None:
        if self._has_cascade and self._stream is not None and not self._said_end:
            self._said_end = True
            self._stream.end()

    def _read(self) -> pa.RecordBatch | None:
        """The next input batch that has rows, or None at the end."""
        for columns in self._batches if self._more_input else ():
            arrays: list[pa.Array] = list(columns) if isinstance(columns, tuple) else [columns]
            size = len(arrays[0])
            if self._outputs is None:
                large = any(map(_is_large, arrays))
                self._outputs = Outputs(self._task.graph, self._task.return_type, large=large)
            if size:
                if not self._task.graph.inputs:
                    arrays = [pa.nulls(size)]  # carries nothing but the number of rows
                return pa.record_batch(arrays, [f"input{i}" for i in range(len(arrays))])
        self._more_input = False
        return None

    def _wait(self) -> None:
        assert self._stream is not None, "nothing was sent, and yet something is awaited"
        # With rows ready and held back for a moment, the wait is that moment.
        self._spark.wait(self._stream.fileno(), MOMENT if self._order.ready else None)

    def _receive(self) -> None:
        if self._stream is None:
            return
        for item in self._stream.receive():
            if isinstance(item, AnswerBatch):
                self._order.add(item.batch)
                self._counters.add(item.counters)
            else:
                self._fatal = item

    def _hand_over(self) -> tuple[pa.StructArray, bool]:
        """The rows that are ready, and whether one of them ends the query."""
        assert self._outputs is not None, "answers came before rows"
        first = self._order.next_row
        answers = self._order.take()
        columns, failures = [], []
        for call in self._task.graph.calls:
            column = self._outputs.call_column(call, answers)
            columns.append(column.array)
            reasons = answers.column(f"reason{call.index}")
            self._counters.calls_failed += sum(1 for position in column.errors if not reasons[position].is_valid)
            if column.errors and call.fail_on_error:
                position = min(column.errors)
                failures.append((position, call, column.errors[position]))
        failure = None
        if failures:
            position, call, reason = min(failures, key=lambda f: f[0])
            prompt = self._prompt(CallTemplate(call), first + position, answers.slice(position, 1))
            failure = Failure(position, call.function, call.model, prompt, reason)
        out = self._outputs.rows(columns, self._counters, failure, answers.num_rows)
        self._counters = Counters()
        self._forget_inputs()
        return out, failure is not None

    def _prompt(self, template: CallTemplate, row: int, answers: pa.RecordBatch) -> str:
        """What the failed row asked, shortened."""
        first, batch = next((first, batch) for first, batch in self._inputs if first <= row < first + batch.num_rows)
        inputs = [lenient_value(column[row - first]) for column in batch.columns]
        texts = [answers.column(f"text{k}")[0].as_py() for k in range(len(self._task.graph.calls))]
        return shorten(template.last_message(inputs, texts))

    def _forget_inputs(self) -> None:
        while self._inputs and self._inputs[0][0] + self._inputs[0][1].num_rows <= self._order.next_row:
            self._inputs.popleft()

    def _without_answers(self) -> Iterator[pa.StructArray]:
        """The query failed: the reason, if it is not out yet, then NULLs for as long as the JVM still reads."""
        failure = None
        if self._fatal is not None:
            models = dict.fromkeys(call.model for call in self._task.graph.calls)
            model = self._fatal.model or ", ".join(models)
            failure = Failure(0, self._fatal.kind, model, "", self._fatal.reason)
        pending = self._sent - self._order.next_row
        if self._unsent is not None:
            pending += self._unsent.num_rows
        while True:
            if pending:
                assert self._outputs is not None, "rows came before their schema"
                yield self._outputs.nulls(pending, self._counters, failure)
                self._spark.flush()
                self._counters, failure = Counters(), None
            batch = self._read()
            if batch is None:
                return
            pending = batch.num_rows


def _is_large(array: pa.Array) -> bool:
    """Whether a column is text of Arrow's large types, or an array of such text."""
    nested = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    return bool(pa.types.is_large_string(array.type.value_type if nested else array.type))
