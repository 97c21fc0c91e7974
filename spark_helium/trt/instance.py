"""Workloads and schedules as JSON, the form that ``spark-helium schedule`` reads and writes.

A workload::

    {"name": "two agents", "queries": 2,
     "workers": [{"name": "w0", "kv_capacity": 8192, "alpha": 1}],
     "statics": {"sys": 40},
     "inputs": {"question": {"len": [100, 120], "value": ["A", "A"]}},
     "operators": [{"id": "op1", "prompt": [{"static": "sys"}, {"input": "question"}], "out_len": 50},
                   {"id": "op2", "prompt": [{"static": "sys"}, {"output": "op1"},
                                            {"derived": "d", "from": ["op1"], "len": 30}], "out_len": [50, 60]}]}

Every operator is applied to each of the ``queries`` rows. ``len`` and ``out_len`` are one number, or one per row. Rows
with an equal ``value`` of an input have equal text there; without ``value`` all rows differ. ``output`` is the answer
of another operator, ``derived`` a text computed from the answers of ``from``; an operator waits for these and for its
``deps``. ``alpha`` is a number, or a fraction as text (``"1/8192"``); it is 1 if not given.

A schedule: ``{"workers": {"w0": [["op1", 0], ["op1", 1], ["op2", 0], ["op2", 1]]}}``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from spark_helium.errors import InstanceError, ScheduleError
from spark_helium.trt.token_steps import Call, CallId, Order, Segment, Worker, Workload


def read_workload(path: Path) -> Workload:
    """The workload of a JSON file.

    Raises
    ------
    InstanceError
        The file cannot be read, is not JSON, or is not a workload; the message says where.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InstanceError(f"cannot read the instance {path}: {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise InstanceError(f"the instance {path} is not JSON: {e}") from e
    try:
        return workload_from_json(data)
    except InstanceError as e:
        raise InstanceError(f"the instance {path} cannot be scheduled: {e}") from e


def workload_from_json(data: Any) -> Workload:
    """The workload of parsed JSON.

    Raises
    ------
    InstanceError
        It does not have the form above; the message names the place and the value.
    """
    return _Reader(data).workload()


def schedule_to_json(order: Order) -> str:
    """The schedule of an order, one worker per line."""
    lists = ",\n ".join(
        f"{json.dumps(name)}: {json.dumps([[call.operator, call.row] for call in calls])}"
        for name, calls in order.items()
    )
    return f'{{"workers": {{\n {lists}\n}}}}'


def order_from_json(data: Any) -> dict[str, list[CallId]]:
    """The order of a parsed schedule.

    Raises
    ------
    ScheduleError
        It does not have the form above.
    """
    workers = data.get("workers") if isinstance(data, Mapping) else None
    if not isinstance(workers, Mapping):
        raise ScheduleError('a schedule is an object {"workers": {NAME: [[OPERATOR, ROW], ...]}}')
    order: dict[str, list[CallId]] = {}
    for name, calls in workers.items():
        order[name] = []
        for call in calls if isinstance(calls, list) else [calls]:
            match call:
                case [str(operator), int(row)]:
                    order[name].append(CallId(operator, row))
                case _:
                    raise ScheduleError(
                        f"worker {name!r} of the schedule has {_short(call)}; a call is [OPERATOR, ROW]"
                    )
    return order


_KINDS = ("static", "input", "output", "derived")  # of a prompt's segments


class _Reader:
    """Reads one instance. Each method names the place in its errors as ``operators[2].prompt[0]``."""

    def __init__(self, data: Any) -> None:
        self._data = _object(data, "the instance", ("name", "queries", "workers", "statics", "inputs", "operators"))
        self._rows = _count(_required(self._data, "queries", ""), "queries")
        self._statics = _object(self._data.get("statics", {}), "statics")
        self._inputs = _object(self._data.get("inputs", {}), "inputs")
        self._operators: dict[str, Mapping[str, Any]] = {}
        self._place: dict[str, str] = {}
        for k, item in enumerate(_list(_required(self._data, "operators", ""), "operators")):
            operator = _object(item, f"operators[{k}]", ("id", "prompt", "out_len", "deps"))
            id_ = _name(_required(operator, "id", f"operators[{k}]"), f"operators[{k}].id")
            if id_ in self._operators:
                raise InstanceError(f"operators[{k}].id is {id_!r}, as an earlier operator's; ids are unique")
            self._operators[id_] = operator
            self._place[id_] = f"operators[{k}]"
        self._answers = {
            id_: self._per_row(_required(operator, "out_len", self._place[id_]), f"{self._place[id_]}.out_len")
            for id_, operator in self._operators.items()
        }

    def workload(self) -> Workload:
        calls = []
        for id_, operator in self._operators.items():
            place = self._place[id_]
            columns: list[list[Segment]] = []
            reads: list[str] = []
            for k, item in enumerate(_list(_required(operator, "prompt", place), f"{place}.prompt")):
                at = f"{place}.prompt[{k}]"
                segments, read = self._segment(_object(item, at, (*_KINDS, "from", "len")), at)
                columns.append(segments)
                reads.extend(read)
            reads.extend(self._known(operator.get("deps", []), f"{place}.deps"))
            for row in range(self._rows):
                prompt = tuple(segments[row] for segments in columns)
                waits = tuple(CallId(read, row) for read in dict.fromkeys(reads))
                calls.append(Call(CallId(id_, row), prompt, self._answers[id_][row], waits))
        return Workload(calls, list(self._workers()))

    def _workers(self) -> Iterator[Worker]:
        for k, item in enumerate(_list(_required(self._data, "workers", ""), "workers")):
            place = f"workers[{k}]"
            worker = _object(item, place, ("name", "kv_capacity", "alpha"))
            name = _name(_required(worker, "name", place), f"{place}.name")
            capacity = _count(_required(worker, "kv_capacity", place), f"{place}.kv_capacity")
            given = worker.get("alpha", 1)
            try:
                alpha = Fraction(str(given))
            except (ValueError, ZeroDivisionError):
                alpha = Fraction(0)
            if isinstance(given, bool) or alpha <= 0:
                raise InstanceError(
                    f"{place}.alpha is {_short(given)}; give a number above 0, or a fraction as '1/8192'"
                )
            yield Worker(name, capacity, alpha)

    def _segment(self, item: Mapping[str, Any], place: str) -> tuple[list[Segment], list[str]]:
        """Per row the segment, and the operators that it waits for."""
        rows = range(self._rows)
        kinds = [kind for kind in _KINDS if kind in item]
        if len(kinds) != 1:
            raise InstanceError(f"{place} is {_short(item)}; a segment has one of static, input, output, derived")
        kind = kinds[0]
        name = _name(item[kind], f"{place}.{kind}")
        if kind == "static":
            if name not in self._statics:
                raise InstanceError(f"{place} names the static {name!r}, which is not in statics")
            tokens = _count(self._statics[name], f"statics.{name}")
            return [Segment(("static", name), tokens)] * self._rows, []
        if kind == "input":
            if name not in self._inputs:
                raise InstanceError(f"{place} names the input {name!r}, which is not in inputs")
            spec = _object(self._inputs[name], f"inputs.{name}", ("len", "value"))
            lengths = self._per_row(_required(spec, "len", f"inputs.{name}"), f"inputs.{name}.len")
            keys = self._values(spec, f"inputs.{name}")
            return [Segment(("input", name, keys[row]), lengths[row]) for row in rows], []
        if kind == "output":
            self._known([name], place)
            return [Segment(("output", name, row), self._answers[name][row]) for row in rows], [name]
        lengths = self._per_row(_required(item, "len", place), f"{place}.len")
        reads = self._known(item.get("from", []), f"{place}.from")
        return [Segment(("derived", name, row), lengths[row]) for row in rows], reads

    def _values(self, spec: Mapping[str, Any], place: str) -> list[str]:
        """Per row a text that is equal where the rows' values are."""
        if "value" not in spec:
            return [f"row {row}" for row in range(self._rows)]
        value = spec["value"]
        values = value if isinstance(value, list) else [value] * self._rows
        if len(values) != self._rows:
            raise InstanceError(f"{place}.value has {len(values)} values for {self._rows} queries; give one per query")
        return [f"value {json.dumps(one, sort_keys=True)}" for one in values]

    def _known(self, names: Any, place: str) -> list[str]:
        for name in _list(names, place):
            if _name(name, place) not in self._operators:
                raise InstanceError(f"{place} names the operator {name!r}, which is not in operators")
        return list(names)

    def _per_row(self, value: Any, place: str) -> list[int]:
        if not isinstance(value, list):
            return [_count(value, place)] * self._rows
        if len(value) != self._rows:
            raise InstanceError(
                f"{place} has {len(value)} numbers for {self._rows} queries; give one number, or one per query"
            )
        return [_count(one, f"{place}[{row}]") for row, one in enumerate(value)]


def _required(item: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in item:
        raise InstanceError(f"{place or 'the instance'} has no {key!r}")
    return item[key]


def _object(value: Any, place: str, keys: Sequence[str] = ()) -> Mapping[str, Any]:
    """An object with some of the keys. It may have others, such as notes, but not what looks like a slip of the pen."""
    if not isinstance(value, Mapping):
        raise InstanceError(f"{place} is {_short(value)}; an object was expected")
    for key in value if keys else ():
        meant = [] if key in keys else difflib.get_close_matches(key, keys, 1, 0.75)
        if meant and meant[0] not in value:
            raise InstanceError(f"{place} has {key!r}; did you mean {meant[0]!r}?")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise InstanceError(f"{place} is {_short(value)}; a list was expected")
    return value


def _name(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise InstanceError(f"{place} is {_short(value)}; a text was expected")
    return value


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1 != 0:
        raise InstanceError(f"{place} is {_short(value)}; a whole number of at least 0 was expected")
    return int(value)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
