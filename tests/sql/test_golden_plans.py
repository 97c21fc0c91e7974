"""The optimized plan of each query in ``golden_queries`` is the one in its file below ``golden/``.

After a change that is meant, ``make golden`` writes the files anew; ``git diff`` then shows what changed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill

import pytest
from py4j.java_gateway import JavaObject, JVMView
from pyspark.sql import SparkSession

from .golden_queries import GOLDEN, SETTINGS, Golden, create_tables, drop_tables

FILES = Path(__file__).parent / "golden"
CALL = re.compile(r"[ :]*\|  +")  # how a line of a node's calls begins


@pytest.fixture(scope="module", autouse=True)
def tables(spark: SparkSession, session_kind: str) -> Iterator[None]:
    if session_kind != "classic":
        pytest.skip("a Connect client has no optimized plan")
    create_tables(spark)
    yield
    drop_tables(spark)


def calls_of(plan: JavaObject, jvm: JVMView) -> Iterator[list[str]]:
    """The lines of each EvalLLM node before EXPLAIN wraps them, in the order in which the tree is printed."""
    if plan.nodeName() == "EvalLLM":
        plans = jvm.org.apache.spark.sql.helium.plans
        notes = plans.EvalLLM.shown(plan.notes(), plan.pace())
        lines = plans.CallLines.apply(plan.calls(), plan.answers(), notes)
        yield [lines.apply(i).replace("\n", "\\n") for i in range(lines.size())]
    for below in (plan.innerChildren(), plan.children()):
        for i in range(below.size()):
            yield from calls_of(below.apply(i), jvm)


def printed(plan: JavaObject, jvm: JVMView) -> str:
    """The plan with ids by order of appearance, as Spark numbers expressions over a whole session.

    Calls are wrapped after that: where EXPLAIN wraps them depends on how many digits their ids have.
    """
    nodes = calls_of(plan, jvm)
    lines: list[str] = []
    for line in plan.toString().splitlines():
        if CALL.match(line):
            continue
        lines.append(line.rstrip())
        if node := re.fullmatch(r"([ :]*)([+:]- )?EvalLLM \d+ calls?", line):
            levels = node[1] + {"+- ": "   ", ":- ": ":  ", None: ""}[node[2]]
            lines += [f"{levels}|  {call}" for call in next(nodes)]
    ids: dict[str, int] = {}
    text = re.sub(r"#(\d+)", lambda m: f"#{ids.setdefault(m[1], len(ids) + 1)}", "\n".join(lines))
    return "".join(f"{wrapped(line)}\n" for line in text.splitlines())


def wrapped(line: str) -> str:
    call = CALL.match(line)
    if call is None:
        return line
    further = f"{call[0]}  "
    return fill(line, 80, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)


def rendered(golden: Golden, spark: SparkSession) -> str:
    plan = golden.dataframe(spark)._jdf.queryExecution().optimizedPlan()
    head = fill(golden.shows, 80, initial_indent="-- ", subsequent_indent="-- ") + "\n"
    settings = "".join(f"SET {key}={value};\n" for key, value in golden.settings.items())
    return f"{head}{settings}{golden.text}\n\n== Optimized plan ==\n{printed(plan, spark._jvm)}"


@pytest.mark.parametrize("name", GOLDEN)
def test_plan(
    spark: SparkSession, set_setting: Callable[[str, str], None], request: pytest.FixtureRequest, name: str
) -> None:
    for key, value in {**SETTINGS, **GOLDEN[name].settings}.items():
        set_setting(key, value)
    actual = rendered(GOLDEN[name], spark)
    file = FILES / f"{name}.txt"
    if request.config.getoption("--regenerate-golden"):
        file.write_text(actual, encoding="utf-8")
        return
    expected = file.read_text(encoding="utf-8") if file.exists() else ""
    if actual != expected:
        diff = difflib.unified_diff(expected.splitlines(), actual.splitlines(), str(file), "now", lineterm="")
        pytest.fail("\n".join([*diff, "", "If the change is meant: make golden, and read git diff."]), pytrace=False)


def test_each_file_has_a_query(request: pytest.FixtureRequest) -> None:
    without_query = [file for file in FILES.iterdir() if file.stem not in GOLDEN or file.suffix != ".txt"]
    if request.config.getoption("--regenerate-golden"):
        for file in without_query:
            file.unlink()
        return
    assert not without_query
    assert {file.stem for file in FILES.iterdir()} == set(GOLDEN)
