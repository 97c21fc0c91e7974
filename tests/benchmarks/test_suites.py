"""Every case on the simulator: all systems that need no model give the answers that spark_helium gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import spark_helium
from benchmarks import command, compare, report
from benchmarks.data import REAL, SYNTHETIC, Tables
from benchmarks.engines import Server
from benchmarks.measure import agreement, equal_share
from benchmarks.simulator_server import SimulatorServer
from benchmarks.suites import SUITES, ablation, relational, workflows
from benchmarks.systems.base import Case
from benchmarks.systems.helium import Helium, changed
from benchmarks.systems.loops import OperatorWise, QueryWise
from benchmarks.systems.pandas_udf import PandasUdf
from benchmarks.systems.spark import SparkTables
from spark_helium import cli
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError

ROWS = 6


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with SimulatorServer(Settings({"spark.helium.engine": "simulator"})) as simulator:
        yield Server(simulator.address)


@pytest.fixture(autouse=True)
def classic(session_kind: str) -> None:
    if session_kind != "classic":
        pytest.skip("the harness runs classic sessions")


@pytest.fixture
def tables(spark: SparkSession) -> SparkTables:
    return SparkTables(spark)


@pytest.mark.parametrize("name", relational.CASES)
def test_relational(name: str, tables: SparkTables, server: Server, set_setting: Callable[[str, str], None]):
    set_setting("spark.helium.cache.enabled", "false")
    case = relational.CASES[name](Tables(), ROWS, 0)
    ours = Helium(tables).run(case)
    assert len(ours.result) or name == "multi_call", "nothing to compare"
    for system in (PandasUdf(tables, server, "simulator", 4), OperatorWise(server, "simulator")):
        theirs = system.run(case)
        if "prompts differ" in case.notes:
            assert len(ours.result) == len(theirs.result), system.name
        else:
            assert agreement(ours.result, theirs.result, case.any_rows) in (1.0, None), system.name
        assert ours.counts.calls <= theirs.counts.calls, system.name


@pytest.mark.parametrize("name", workflows.WORKFLOWS)
def test_workflows(name: str, tables: SparkTables, server: Server, set_setting: Callable[[str, str], None]):
    set_setting("spark.helium.cache.enabled", "false")
    module = workflows.WORKFLOWS[name]
    case = workflows.cases(paper_size=False)(Tables(), 2, 0)[name]()
    rows = len(case.rows)
    ours = Helium(tables).run(case)
    assert ours.counts.calls == module.DISTINCT * rows
    assert ours.notes["calls_requested"] == module.CALLS * rows == len(case.job.steps) * rows
    theirs = [QueryWise(server, "simulator").run(case), OperatorWise(server, "simulator").run(case)]
    for outcome in theirs:
        assert equal_share(ours.result, outcome.result) == 1.0
        assert outcome.counts.calls == module.CALLS * rows


@pytest.mark.parametrize("name", workflows.DUPLICATES)
def test_duplicates_that_are_not_merged(name: str, tables: SparkTables):
    case = workflows.cases(paper_size=False)(Tables(), 1, 1)[name]()
    assert Helium(tables, merged=False).run(case).counts.calls == workflows.WORKFLOWS[name].CALLS


def test_the_papers_sizes_have_the_papers_calls():
    calls = {}
    for name, make in workflows.cases(paper_size=True)(Tables(), 1, 0).items():
        case: Case = make()
        calls[name] = len(case.job.steps)
    assert calls == {
        "map_reduce": 15, "debate": 6, "reflection": 4, "iterative_refinement": 6, "parallel_chains": 50, "trading": 88,
    }  # fmt: skip


def test_results_and_report(tmp_path: Path, tables: SparkTables, server: Server):
    systems = {"spark_helium": Helium(tables), "operator-wise": OperatorWise(server, "simulator")}
    case = relational.CASES["filter"](Tables(), ROWS, 0)
    not_run: dict[str, str] = {"floor": "no"}
    rounds = [compare.run_round(case, systems, round_, not_run) for round_ in range(2)]
    record = {
        "suite": "relational", "case": "filter", "title": case.title, "rows": ROWS, "rounds": rounds, "data": {},
        "engine": {"kind": "simulator", "kv": "small"}, "not run": not_run, "environment": compare.environment(),
    }  # fmt: skip
    folder = tmp_path / "relational" / "small"
    folder.mkdir(parents=True)
    (folder / "filter.json").write_text(json.dumps(record))
    text = report.write(tmp_path).read_text()
    assert "| operator-wise |" in text
    assert "Not run: floor: no" in text
    assert rounds[1]["operator-wise"]["equal to ours"] == 1.0


def test_a_system_that_fails_is_listed(tables: SparkTables):
    class Broken(Helium):
        def run(self, case: Case):
            raise RuntimeError("out of order")

    not_run: dict[str, str] = {}
    case = relational.CASES["filter"](Tables(), ROWS, 0)
    said = compare.run_round(case, {"broken": Broken(tables, "broken")}, 0, not_run)
    assert "broken" not in said
    assert not_run["broken"] == "it failed: RuntimeError: out of order"


def test_tables_of_the_user_come_first(tmp_path: Path):
    Tables()["fever"].head(3).to_parquet(tmp_path / "fever.parquet")
    tables = Tables(tmp_path)
    assert len(tables["fever"]) == 3
    assert len(tables["squad"]) > 3
    assert tables.sources == {"fever": REAL, "squad": SYNTHETIC}
    with pytest.raises(ConfigurationError, match="does not exist"):
        Tables(tmp_path / "nowhere")


def test_help_names_every_suite(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said
    assert all(name in said for name in SUITES)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--systems", "no-such"], ["relational", "--only", "x"]])
def test_wrong_usage(arguments: list[str], tmp_path: Path):
    given = [*arguments, "--engine", "simulator", "--out", str(tmp_path)]
    with pytest.raises(ConfigurationError):
        command.main(given)
    assert cli.main(["bench", *given]) == cli.WRONG_USAGE


def test_an_installed_package_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(cli, "__file__", "/nowhere/site-packages/spark_helium/cli.py")
    assert cli.main(["bench"]) == cli.WRONG_USAGE
    assert "checkout" in capsys.readouterr().err


def test_the_session_of_the_ablation_has_the_same_answers_with_the_rules_off(
    spark: SparkSession, set_setting: Callable[[str, str], None]
):
    set_setting("spark.helium.cache.enabled", "false")
    frames = ablation.tables_of(Tables(), 8, 0)
    views = {name: spark.createDataFrame(frame) for name, frame in frames.items()}
    calls: dict[str, int] = {}

    def answers(part: str) -> dict[str, list[tuple[object, ...]]]:
        settings = {f"spark.helium.{name}.enabled": "false" for name in ablation.OFF.get(part, ())}
        # The order of fields is another prompt; everything else may change no answer.
        settings["spark.helium.optimizer.orderFields.enabled"] = "false"
        with changed(spark, settings), spark_helium.measure(spark) as usage:
            found = {name: sorted(map(tuple, q(views).collect())) for name, q in ablation.session("Run.").items()}
        calls[part] = usage.calls_sent
        return found

    expected = answers(ablation.EVERYTHING)
    assert answers("all rules") == expected
    assert answers("schedule") == expected
    assert calls["all rules"] > calls[ablation.EVERYTHING] == calls["schedule"]
