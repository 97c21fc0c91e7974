"""The calls of a case without Spark: what every system that is not a DataFrame query is given.

A job is a list of steps that run for every row of a table. A step is one chat completion; its templates name columns
and earlier steps in braces (``{{`` and ``}}`` are literal braces), and ``history`` names an earlier step whose whole
conversation, answer included, stands before its user message. Temperatures are 0.

On disk, for a system in an environment of its own (``peers/<name>/run.py JOB_DIR``)::

    JOB_DIR/job.json         {"server", "model", "concurrency", "steps": [...], "outputs": [...]}, and "engine" for a
                             system whose engine runs in its own process
    JOB_DIR/rows.parquet     row (int64), and the columns as strings
    JOB_DIR/answers.parquet  row, one string column per output; NULL where a step's "when" did not hold
    JOB_DIR/result.json      {"seconds": of the work, without imports and start-up, "versions": {...}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

Message = dict[str, str]

_TOKEN = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True)
class When:
    """The step runs only for rows where the answer of ``step`` is ``equals``."""

    step: str
    equals: str


@dataclass(frozen=True)
class Step:
    """One call per row.

    Attributes
    ----------
    name: how later steps and the outputs name it.
    user, system: templates of the messages.
    history: a step whose conversation goes before; then ``system`` is that conversation's.
    max_tokens: most output tokens.
    choices: texts of which one is the answer, by guided decoding.
    when: rows for which it runs; None: all of them.
    """

    name: str
    user: str
    system: str | None = None
    history: str | None = None
    max_tokens: int = 16
    choices: tuple[str, ...] | None = None
    when: When | None = None


@dataclass(frozen=True)
class Job:
    """Steps in an order in which they can run, and the steps whose answers are wanted."""

    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    by_name: dict[str, Step] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        seen: dict[str, Step] = self.by_name
        for step in self.steps:
            for named in (step.history, step.when.step if step.when else None):
                if named is not None and named not in seen:
                    raise ValueError(f"step {step.name!r} needs {named!r}, which is no earlier step")
            if step.name in seen:
                raise ValueError(f"two steps are named {step.name!r}")
            seen[step.name] = step
        if missing := set(self.outputs) - set(seen):
            raise ValueError(f"outputs {sorted(missing)} are no steps")

    def needs(self, step: Step) -> tuple[str, ...]:
        """Earlier steps whose answers the step's conversation, or its condition, reads."""
        found: dict[str, None] = {}
        if step.history is not None:
            found |= dict.fromkeys((*self.needs(self.by_name[step.history]), step.history))
        named = placeholders(step.user) + (placeholders(step.system) if step.system else [])
        found |= dict.fromkeys(name for name in named if name in self.by_name)
        if step.when is not None:
            found[step.when.step] = None
        return tuple(found)

    def levels(self) -> list[list[Step]]:
        """Steps by how many others must come before; those of one level do not read each other."""
        depth: dict[str, int] = {}
        for step in self.steps:
            depth[step.name] = 1 + max((depth[name] for name in self.needs(step)), default=-1)
        return [
            [s for s in self.steps if depth[s.name] == level] for level in range(max(depth.values(), default=-1) + 1)
        ]

    def runs(self, step: Step, values: Mapping[str, str | None]) -> bool:
        """Whether the step is a call for a row: its condition holds and nothing that it reads is missing."""
        if step.when is not None and values.get(step.when.step) != step.when.equals:
            return False
        return all(values.get(name) is not None for name in self.needs(step))

    def messages(self, step: Step, values: Mapping[str, str | None]) -> list[Message]:
        """The conversation of a step for a row's columns and earlier answers."""
        user = {"role": "user", "content": fill(step.user, values)}
        if step.history is not None:
            said = {"role": "assistant", "content": values[step.history] or ""}
            return [*self.messages(self.by_name[step.history], values), said, user]
        if step.system is None:
            return [user]
        return [{"role": "system", "content": fill(step.system, values)}, user]

    def save(
        self,
        directory: Path,
        rows: pd.DataFrame,
        *,
        server: str,
        model: str,
        concurrency: int,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the job and its rows into a directory; ``engine`` for a system that runs its own."""
        steps = [asdict(step) for step in self.steps]
        body: dict[str, Any] = {"server": server, "model": model, "concurrency": concurrency}
        body |= {"steps": steps, "outputs": list(self.outputs)}
        if engine is not None:
            body["engine"] = dict(engine)
        (directory / "job.json").write_text(json.dumps(body, indent=1))
        texts = rows.reset_index(drop=True).map(lambda value: None if value is None or value != value else str(value))
        texts.insert(0, "row", range(len(texts)))
        texts.to_parquet(directory / "rows.parquet", index=False)


def job_from_json(body: Mapping[str, Any]) -> Job:
    """The job in what :meth:`Job.save` wrote."""
    steps = []
    for entry in body["steps"]:
        when = When(**entry["when"]) if entry.get("when") else None
        choices = tuple(entry["choices"]) if entry.get("choices") else None
        steps.append(Step(**{**entry, "when": when, "choices": choices}))
    return Job(tuple(steps), tuple(body["outputs"]))


def placeholders(template: str) -> list[str]:
    """What a template names, in order.

    >>> placeholders("{a} and {{b}} and {c}")
    ['a', 'c']
    """
    return [match.group(1) for match in _TOKEN.finditer(template) if match.group(1)]


def fill(template: str, values: Mapping[str, str | None]) -> str:
    """A template with its values.

    >>> fill("{a} {{b}}", {"a": "{x}"})
    '{x} {b}'
    """

    def text(match: re.Match[str]) -> str:
        name = match.group(1)
        return match.group(0)[0] if name is None else (values[name] or "")

    return _TOKEN.sub(text, template)


def as_json(values: Mapping[str, Any]) -> str:
    """A row as the JSON object that stands where a template says ``{fields}``, in the order of ``values``.

    >>> as_json({"b": "x", "a": None, "n": 1})
    '{"b":"x","n":1}'
    """
    known = {name: value for name, value in values.items() if value is not None and value == value}
    return json.dumps(known, ensure_ascii=False, separators=(",", ":"))


def calls_of(job: Job, answers: Sequence[Mapping[str, str | None]]) -> int:
    """How many calls the job asks for, given what was answered, when nothing is merged."""
    return sum(job.runs(step, values) for values in answers for step in job.steps)
