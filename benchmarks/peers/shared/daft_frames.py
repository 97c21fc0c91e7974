"""Steps of a job as columns of a Daft frame, for both ways to call the model."""

from __future__ import annotations

from functools import reduce

import daft
import peer_job as jobs
from daft import DataFrame, Expression, col, lit


def text(template: str) -> Expression:
    """The template over columns; NULL in a slot gives NULL, as concatenation does."""
    pieces = []
    for literal, name in jobs.parts(template):
        pieces += [lit(literal)] if literal else []
        pieces += [col(name)] if name is not None else []
    return reduce(lambda left, right: left + right, pieces or [lit("")])


def called(job: jobs.Job, step: jobs.Step) -> Expression | None:
    """Which rows are called, or ``None`` for all: columns are not NULL, but the answer to a conditional step may be."""
    reads = [name for name in job.needs(step) if conditional(job, job.step(name))]
    conditions = [col(name).not_null() for name in reads if not (step.when and step.when[0] == name)]
    if step.when:
        conditions.append(col(step.when[0]).fill_null("") == step.when[1])
        if conditional(job, job.step(step.when[0])):
            conditions.append(col(step.when[0]).not_null())
    return reduce(lambda left, right: left & right, conditions) if conditions else None


def conditional(job: jobs.Job, step: jobs.Step) -> bool:
    return step.when is not None or any(conditional(job, job.step(name)) for name in job.needs(step))


def with_step(job: jobs.Job, frame: DataFrame, step: jobs.Step, asked: Expression) -> DataFrame:
    """The frame with the step's column, which ``asked`` computes for the rows that are called."""
    condition = called(job, step)
    if condition is None:
        return frame.with_column(step.name, asked)
    # A conditional expression would ask for every row. Both sides read the frame, which must not run twice.
    frame = frame.collect()
    others = frame.where(~condition).with_column(step.name, lit(None).cast(daft.DataType.string()))
    return frame.where(condition).with_column(step.name, asked).concat(others)
