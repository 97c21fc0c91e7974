"""The six agent workflows (``benchmarks/workflows``) as cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import ModuleType

from benchmarks.data import Tables
from benchmarks.systems.base import Case
from benchmarks.workflows import debate, map_reduce, parallel_chains, refinement, reflection, trading
from benchmarks.workflows.conversation import Size

SYSTEMS = ("helium", "unmerged", "operator-wise", "query-wise", "langgraph", "floor")
WORKFLOWS: dict[str, ModuleType] = {
    "map_reduce": map_reduce,
    "debate": debate,
    "reflection": reflection,
    "iterative_refinement": refinement,
    "parallel_chains": parallel_chains,
    "trading": trading,
}
DUPLICATES = ("map_reduce", "trading")


def case_of(name: str, tables: Tables, size: Size, round_: int, variant: str = "") -> Case:
    """A workflow over the rows of a round, with a tag in front of every system message that no other round has."""
    module = WORKFLOWS[name]
    tag = f"Run {round_}{variant}, {name}. "
    table = module.table(tables, size, round_)
    job = module.job(size, tag)
    key = table.columns[0]
    outputs = list(job.outputs)
    # The DataFrame's names of the results are the reader's; the job's are its steps'.
    return Case(
        name, name.replace("_", " "),
        lambda views, ask: module.workflow(views["rows"], ask, size, tag).toDF(key, *outputs),
        {"rows": table}, job, table, lambda answered: answered[[key, *outputs]],
        {
            "why no pandas UDF": "UDFs in a chain wait for each other, one after the other: see operator-wise",
            "calls written per row": len(job.steps),
        },
        apart=None if variant else partial(case_of, name, tables, size, round_, "b"),
    )  # fmt: skip


def cases(paper_size: bool) -> Callable[[Tables, int, int], dict[str, Callable[[], Case]]]:
    """What makes the cases of a round; ``rows`` of 0 takes each workflow's own number."""

    def made(tables: Tables, rows: int, round_: int) -> dict[str, Callable[[], Case]]:
        found = {}
        for name, module in WORKFLOWS.items():
            size: Size = module.PAPER if paper_size else module.CPU
            found[name] = partial(case_of, name, tables, replace(size, rows=rows) if rows else size, round_)
        return found

    return made
