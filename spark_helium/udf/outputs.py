"""The columns that a task returns: one per call, and ``usage`` and ``failure``."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import types as t
from pyspark.sql.pandas.types import to_arrow_type

from spark_helium.call_graph import Call, CallGraph
from spark_helium.gpu_executor.arrays import int64_array
from spark_helium.gpu_executor.messages import COUNTER_NAMES, Counters
from spark_helium.udf.typed import AnswerType, TypedColumn, cut_off, is_json


@dataclass(frozen=True, slots=True)
class Failure:
    """What ends the query: the content of the ``failure`` column, and the row it stands on."""

    position: int
    function: str
    model: str
    prompt: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallColumn:
    """One call's column of a batch, and why some of its rows failed."""

    array: pa.Array
    errors: dict[int, str]


class Outputs:
    """Makes the struct column of a task's output.

    Parameters
    ----------
    graph: the calls.
    return_type: Spark's type of the struct, as the JVM expects it.
    large: whether Spark wants Arrow's large types, as its inputs have them.
    """

    def __init__(self, graph: CallGraph, return_type: t.StructType, *, large: bool = False) -> None:
        self._graph = graph
        arrow = to_arrow_type(return_type, timezone="UTC", prefers_large_types=large)
        self._fields: list[pa.Field] = [arrow.field(i) for i in range(arrow.num_fields)]
        if len(self._fields) != len(graph.calls) + 2:
            raise ValueError(f"{len(graph.calls)} calls need {len(graph.calls) + 2} output fields, got {return_type}")
        self._types: list[AnswerType] = []
        for call, field in zip(graph.calls, return_type.fields, strict=False):
            answer = field.dataType
            if not call.fail_on_error:
                assert isinstance(answer, t.StructType), f"call {call.index} reports errors but returns {answer}"
                answer = answer.fields[0].dataType
            self._types.append(AnswerType(answer, large=large))
        self._usage, self._failure = self._fields[-2], self._fields[-1]

    def call_column(self, call: Call, answers: pa.RecordBatch) -> CallColumn:
        """The column of a call from the daemon's answers, which are in row order."""
        k = call.index
        reasons, flags = answers.column(f"reason{k}"), answers.column(f"truncated{k}")
        column = self._types[k].column(answers.column(f"text{k}"), lambda i: flags[i].as_py(), call.sampling.max_tokens)
        errors = column.errors
        if self._types[k].is_text and call.constraint is not None and call.constraint.json_schema is not None:
            # JSON that stays text is not read otherwise; half of it is of no use.
            column, errors = _whole_json(column, flags, call.sampling.max_tokens)
        if reasons.null_count < len(reasons):
            errors = errors | {i: reason for i, reason in enumerate(reasons.to_pylist()) if reason is not None}
        if call.fail_on_error:
            return CallColumn(column.values, errors)
        return CallColumn(self._with_errors(self._fields[k].type, column.values, errors), errors)

    @staticmethod
    def _with_errors(type_: pa.StructType, values: pa.Array, errors: dict[int, str]) -> pa.Array:
        """``struct<response, errorMessage>``; NULL as a whole where there is neither."""
        messages = pa.nulls(len(values), type_.field(1).type)
        if errors:
            messages = pa.array([errors.get(i) for i in range(len(values))], type_.field(1).type)
        nothing = pc.and_(pc.is_null(values), pc.is_null(messages))
        return pa.StructArray.from_arrays([values, messages], fields=list(type_.fields), mask=nothing)

    def rows(self, columns: list[pa.Array], counters: Counters, failure: Failure | None, size: int) -> pa.StructArray:
        """The struct column for ``size`` rows."""
        usage = failed = None
        if counters:
            counts = [int64_array([getattr(counters, name)]) for name in COUNTER_NAMES]
            usage = pa.StructArray.from_arrays(counts, fields=list(self._usage.type.fields))
        if failure is not None:
            what = {name: getattr(failure, name) for name in ("function", "model", "prompt", "reason")}
            failed = pa.array([what], self._failure.type)
        arrays = [
            *columns,
            _only(self._usage.type, size, 0, usage),
            _only(self._failure.type, size, 0 if failure is None else failure.position, failed),
        ]
        return pa.StructArray.from_arrays(arrays, fields=self._fields)

    def nulls(self, size: int, counters: Counters, failure: Failure | None = None) -> pa.StructArray:
        """``size`` rows without answers."""
        columns = [pa.nulls(size, field.type) for field in self._fields[:-2]]
        return self.rows(columns, counters, failure, size)


def _whole_json(column: TypedColumn, cut: pa.Array, max_tokens: int) -> tuple[TypedColumn, dict[int, str]]:
    """The column without texts of JSON that were cut off, and why they are missing."""
    errors = dict(column.errors)
    for position in pc.indices_nonzero(pc.fill_null(cut, False)).to_pylist():
        text = column.values[position].as_py()
        if text is not None and not is_json(text):
            errors[position] = cut_off(max_tokens)
    if not errors:
        return column, errors
    lost = pa.array([position in errors for position in range(len(column.values))])
    return TypedColumn(pc.if_else(lost, pa.nulls(len(lost), column.values.type), column.values), errors), errors


def _only(type_: pa.DataType, size: int, position: int, value: pa.Array | None) -> pa.Array:
    """An array of NULLs with one value, given as an array of it alone."""
    if value is None or size == 0:
        return pa.nulls(size, type_)
    return pa.concat_arrays([pa.nulls(position, type_), value, pa.nulls(size - position - 1, type_)])
