"""The function that Spark's Python workers run for an EvalLLM node.

The JVM writes a pickle of a few bytes that names :func:`load` and gives it one text; everything else is data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql.types import StructType

from spark_helium.call_graph import CallGraph
from spark_helium.conf import PREFIX, Settings
from spark_helium.udf.worker import Columns, Task

Evaluate = Callable[[Iterable[Columns]], Iterator[pa.StructArray]]


def load(text: str) -> tuple[Evaluate, StructType]:
    """What PySpark expects of a pickled user-defined function: the function, and its return type.

    Parameters
    ----------
    text
        JSON of an object with ``graph``, ``settings``, ``application``, ``return_type`` and, where a limit wants
        few rows, ``pace``: how many to ask at first.

    Raises
    ------
    ValueError
        The text is not of that form.
    ConfigurationError
        A setting is wrong.
    """
    task = _task(text)
    return task.run, task.return_type


@lru_cache(maxsize=16)
def _task(text: str) -> Task:
    # Cached: workers are reused, and all tasks of a stage bring the same text.
    try:
        data = json.loads(text)
        graph, return_type = _object(data["graph"]), _object(data["return_type"])
        settings = {key: value for key, value in data["settings"].items() if key.startswith(PREFIX)}
        return Task(
            graph=_with_absolute_models(CallGraph.from_json(json.dumps(graph))),
            settings=Settings(settings),
            application=str(data["application"]),
            return_type=StructType.fromJson(return_type),
            pace=None if data.get("pace") is None else max(1, int(data["pace"])),
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"not a task of EvalLLM: {type(e).__name__}: {e}; text starts with {text[:80]!r}") from e


def _with_absolute_models(graph: CallGraph) -> CallGraph:
    """Model paths made absolute: the daemon runs elsewhere than the query."""
    calls = [
        replace(call, model=str(Path(call.model).absolute())) if Path(call.model).is_dir() else call
        for call in graph.calls
    ]
    return replace(graph, calls=tuple(calls))


def _object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
