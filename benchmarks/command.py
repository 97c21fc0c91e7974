"""``spark-helium bench``: runs suites and writes a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import compare, report
from benchmarks.engines import CPU, GPU, KV_BYTES, MODEL, SIMULATOR, VLLM, EngineSettings
from benchmarks.suites import SUITES
from spark_helium.errors import ConfigurationError

EXAMPLES = """\
examples:
  spark-helium bench --engine simulator              every suite, without a model: checks the harness, its times say
  nothing spark-helium bench relational --data tables        queries over tables, on vLLM
  spark-helium bench relational --only limit,case --systems helium,udf --kv small --rounds 5
  spark-helium bench workflows --only trading --systems helium,unmerged,operator-wise,langgraph
  spark-helium bench schedule                        orders of calls in token steps; no engine
  spark-helium bench relational --scale gpu --model DIR --dummy-weights         see benchmarks/gpu/README.md
  spark-helium bench report --out benchmark-results  write the report of what the folder holds again

A run into the folder of another goes on where that ended, unless rows or engine differ.
Delete a file to measure it anew.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="spark-helium bench",
        description="Measure spark_helium against loops, pandas UDFs and other products on the same engine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="?", default="all", choices=["all", *SUITES, "report"], metavar="SUITE",
                        help=f"one of {', '.join(SUITES)}; report; all, the default")  # fmt: skip
    parser.add_argument("--engine", choices=[VLLM, SIMULATOR], default=VLLM)
    parser.add_argument("--rows", type=int, help="rows of a case; by default what a CPU can do, see docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each system and case, in turn; default 3")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of tables; also SPARK_HELIUM_BENCH_DATA")
    parser.add_argument("--kv", choices=[*KV_BYTES, "both"], default=None, help="KV space of the engine")
    parser.add_argument("--only", default="", metavar="CASE,...", help="some cases of the suite")
    parser.add_argument("--systems", default="", metavar="NAME,...", help=f"of {', '.join(compare.SYSTEMS)}")
    parser.add_argument(
        "--paper-size", action="store_true", help="workflows as large as in the Helium paper, for a GPU"
    )
    parser.add_argument("--scale", choices=[CPU, GPU], default=CPU,
                        help="rows, KV space and concurrency; gpu: one GPU, a model of 8B parameters")  # fmt: skip
    parser.add_argument("--model", default=MODEL, metavar="MODEL", help=f"directory or name; default {MODEL}")
    parser.add_argument("--dummy-weights", action="store_true", help="random weights: the model needs no file of them")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="begin nothing more after so long; default: no limit"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1 or (options.rows is not None and options.rows < 1):
        raise ConfigurationError("--rows and --rounds must be at least 1")
    if options.suite == "quality" and options.dummy_weights:
        raise ConfigurationError("quality compares answers with the truth, and those of --dummy-weights are noise")
    if unknown := set(_listed(options.systems)) - set(compare.SYSTEMS):
        raise ConfigurationError(f"--systems: {sorted(unknown)[0]!r} is none of {', '.join(compare.SYSTEMS)}")
    if options.suite != "report":
        all_of_them = [name for name in SUITES if name != "quality" or not options.dummy_weights]
        for name in all_of_them if options.suite == "all" else [options.suite]:
            print(f"== {name} ==", file=sys.stderr)
            SUITES[name](options)
    print(report.write(options.out))
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def engine_settings(options: argparse.Namespace, kv: str, max_model_len: int) -> EngineSettings:
    """The engine that the options of the command ask for."""
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    return EngineSettings(options.engine, kv, max_model_len, model, options.scale, options.dummy_weights)


def run_comparison(
    options: argparse.Namespace,
    suite: str,
    make: compare.MakeCases,
    *,
    rows: int,
    systems: Sequence[str],
    kv: Sequence[str],
    max_model_len: int,
) -> None:
    """Run a suite of cases with the options of the command; the others are the suite's own defaults."""
    chosen = list(KV_BYTES) if options.kv == "both" else [options.kv] if options.kv else kv
    for space in chosen:
        compare.run(
            compare.Plan(
                suite=suite,
                make=make,
                rows=options.rows or rows,
                rounds=options.rounds,
                engine=engine_settings(options, space, max_model_len),
                systems=_listed(options.systems) or tuple(systems),
                only=_listed(options.only),
                out=options.out,
                data=options.data,
                minutes=options.minutes,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
