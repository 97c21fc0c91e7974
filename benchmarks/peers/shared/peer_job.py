"""A job for a peer: what is asked of each row, read from and written to a folder.

Every ``run.py`` imports this by path, in its own environment, so that it needs the standard library and pyarrow alone.
It holds what the peers must agree on (which calls a row makes, and with which messages) and nothing of how they are
made. The folder has

* ``job.json``: ``server`` (``http://.../v1``), ``model``, ``concurrency``, ``steps``, ``outputs`` and, for peers whose
  engine runs in their own process, ``engine``;
* ``rows.parquet``: ``row`` (int64) and columns of strings;
* ``answers.parquet`` and ``result.json``, which the peer writes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Messages = list[dict[str, str]]
Values = Mapping[str, str | None]
_ENGINE = ("model_path", "block_size", "max_model_len", "kv_cache_bytes", "dtype", "max_num_seqs")


def parts(template: str) -> list[tuple[str, str | None]]:
    """Literal texts, each with the name of the slot behind it (``None`` at the end); ``{{`` and ``}}`` are braces.

    Raises
    ------
    ValueError
        A brace without its partner, a slot without a name, or a conversion or format.
    """
    found = []
    for literal, name, form, conversion in string.Formatter().parse(template):
        if name is not None and (not name.strip() or form or conversion):
            raise ValueError(f"cannot read the template {template!r}: a slot is the name of a column or step in braces")
        found.append((literal, name))
    return found


def slots(template: str | None) -> list[str]:
    """Names in the template, in order of their first use."""
    return list(dict.fromkeys(name for _, name in parts(template or "") if name is not None))


def render(template: str, values: Values) -> str | None:
    """The text with all slots filled; ``None`` if one of them is, as in SQL."""
    text = []
    for literal, name in parts(template):
        text.append(literal)
        if name is not None:
            value = values[name]
            if value is None:
                return None
            text.append(value)
    return "".join(text)


@dataclass(frozen=True)
class Step:
    """One call per row. ``when``: an earlier step, and what it must have answered for the row to be called."""

    name: str
    user: str
    max_tokens: int
    system: str | None = None
    history: str | None = None
    choices: tuple[str, ...] | None = None
    when: tuple[str, str] | None = None

    @property
    def extra_body(self) -> dict[str, Any]:
        """What vLLM's server takes beyond the parameters of OpenAI's API."""
        return {"structured_outputs": {"choice": list(self.choices)}} if self.choices else {}


@dataclass(frozen=True)
class Job:
    server: str
    model: str
    concurrency: int
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    engine: Mapping[str, Any] | None
    columns: tuple[str, ...]

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def needs(self, step: Step) -> list[str]:
        """Earlier steps whose answers decide whether the step is called, or what it asks."""
        read = [*slots(step.system), *slots(step.user), *(step.when or ())[:1]]
        if step.history:
            before = self.step(step.history)
            read += [*self.needs(before), before.name]
        names = {s.name for s in self.steps}
        return list(dict.fromkeys(name for name in read if name in names))

    def levels(self) -> list[list[Step]]:
        """Steps that need nothing of each other, together; each level needs those before it."""
        depth: dict[str, int] = {}
        for step in self.steps:
            depth[step.name] = 1 + max((depth[name] for name in self.needs(step)), default=-1)
        return [[s for s in self.steps if depth[s.name] == level] for level in sorted(set(depth.values()))]

    def messages(self, step: Step, values: Values) -> Messages | None:
        """The conversation that the row sends for the step, or ``None`` where it is not called.

        A row is not called if ``when`` does not hold, or if a slot or an answer in its history is NULL.
        """
        if step.when and values[step.when[0]] != step.when[1]:
            return None
        return self._conversation(step, values)

    def _conversation(self, step: Step, values: Values) -> Messages | None:
        said: Messages = []
        if step.history:
            answer = values[step.history]
            before = self._conversation(self.step(step.history), values)
            if before is None or answer is None:
                return None
            said = [*before, {"role": "assistant", "content": answer}]
        for role, template in (("system", step.system), ("user", step.user)):
            if template is not None:
                text = render(template, values)
                if text is None:
                    return None
                said.append({"role": role, "content": text})
        return said

    def turns(self, step: Step) -> list[tuple[str, Step]]:
        """Roles of the conversation in order, each with the step whose template or answer it is."""
        before = []
        if step.history:
            earlier = self.step(step.history)
            before = [*self.turns(earlier), ("assistant", earlier)]
        return [*before, *([("system", step)] if step.system is not None else []), ("user", step)]


def calls(job: Job, level: Sequence[Step], rows: Sequence[dict[str, Any]]) -> list[tuple[int, Step, Messages]]:
    """Calls of a level's steps, by the places of their rows, row by row; steps that are not called become NULL."""
    made = []
    for place, row in enumerate(rows):
        for step in level:
            messages = job.messages(step, row)
            row[step.name] = None
            if messages is not None:
                made.append((place, step, messages))
    return made


def parse(said: Mapping[str, Any], columns: Sequence[str]) -> Job:
    """A job from the contents of ``job.json`` and the names of the columns of strings.

    Raises
    ------
    ValueError
        A name is used twice or is none of a column or an earlier step, or an output is no step.
    """
    steps: list[Step] = []
    known = set(columns)
    for given in said["steps"]:
        when = given.get("when")
        step = Step(
            name=given["name"],
            user=given["user"],
            max_tokens=int(given["max_tokens"]),
            system=None if given.get("history") else given.get("system"),  # the history's is the conversation's
            history=given.get("history"),
            choices=tuple(given["choices"]) if given.get("choices") else None,
            when=(when["step"], when["equals"]) if when else None,
        )
        earlier = {s.name for s in steps}
        if step.name in known or step.name == "row":
            raise ValueError(f"step {step.name!r} has the name of a column or of an earlier step; give it another")
        for name in (*slots(step.system), *slots(step.user)):
            if name not in known:
                raise ValueError(f"step {step.name!r} reads {name!r}, which is no column and no earlier step")
        for what, name in (("history", step.history), ("when", when["step"] if when else None)):
            if name is not None and name not in earlier:
                raise ValueError(f"{what!r} of step {step.name!r} names {name!r}, which is no earlier step")
        steps.append(step)
        known.add(step.name)
    for name in said["outputs"]:
        if name not in {s.name for s in steps}:
            raise ValueError(f"the output {name!r} is no step")
    return Job(
        server=said["server"],
        model=said["model"],
        concurrency=int(said["concurrency"]),
        steps=tuple(steps),
        outputs=tuple(said["outputs"]),
        engine=said.get("engine"),
        columns=tuple(columns),
    )


def read(folder: Path) -> tuple[Job, list[dict[str, Any]]]:
    """The job and its rows, in the order of the file. A NULL in a column is read as an empty text."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "rows.parquet")
    columns = [name for name in table.column_names if name != "row"]
    rows = [{name: "" if value is None else value for name, value in row.items()} for row in table.to_pylist()]
    return parse(json.loads((folder / "job.json").read_text()), columns), rows


def folder_of_job() -> Path:
    """The one argument of every ``run.py``."""
    parser = argparse.ArgumentParser(description="Runs the job of a folder; see benchmarks/peers/shared/peer_job.py.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    return folder.resolve()


def set_engine_variables() -> None:
    """As on the other sides of a benchmark; before vLLM is imported. What the user has set stays."""
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_of(job: Job) -> dict[str, Any]:
    """The job's engine as arguments of vLLM, with what all sides of a benchmark have in common.

    Raises
    ------
    ValueError
        The job says nothing of an engine, or not all.
    """
    engine = job.engine or {}
    missing = [name for name in _ENGINE if name not in engine]
    if missing:
        raise ValueError(f"this peer's engine runs in its own process: 'engine' in job.json lacks {', '.join(missing)}")
    return {
        "max_model_len": engine["max_model_len"],
        "block_size": engine["block_size"],
        "kv_cache_memory_bytes": engine["kv_cache_bytes"],
        "dtype": engine["dtype"],
        "max_num_seqs": engine["max_num_seqs"],
        "enable_prefix_caching": True,
        "enforce_eager": True,
    }


def write(
    folder: Path,
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    seconds: float,
    distributions: Sequence[str],
    **more: Any,
) -> None:
    """Answers and figures; ``rows`` have ``row`` and the outputs, in any order. ``more`` goes into ``result.json``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = sorted(rows, key=lambda row: row["row"])
    answers = {"row": pa.array([row["row"] for row in rows], pa.int64())}
    for name in job.outputs:
        answers[name] = pa.array([row[name] for row in rows], pa.string())
    pq.write_table(pa.table(answers), folder / "answers.parquet")
    versions = {"python": platform.python_version(), **{name: version(name) for name in distributions}}
    (folder / "result.json").write_text(json.dumps({"seconds": seconds, "versions": versions, **more}, indent=2) + "\n")
