"""``python -m benchmarks.gpu pack | run | model | lock``; see README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.pieces import PackError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands behind -- is for spark-helium bench.
    given, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="gather all that the GPU machine needs; needs a network")
    pack.add_argument("directory", type=Path)
    pack.add_argument("--piece-mib", type=float, default=0.0, metavar="N", help="cut files to N MiB at most")
    pack.add_argument("--python", default="3.12", help="version of the GPU machine's Python; default 3.12")
    pack.add_argument("--installed", type=Path, metavar="FILE", help="`pip freeze` of that machine: leave these out")
    pack.add_argument("--java", type=Path, metavar="DIR", help="JDK to make the Java runtime from")
    pack.add_argument("--no-java", action="store_true", help="the GPU machine has a Java 17 or newer")
    pack.add_argument("--no-wheels", action="store_true", help="everything but the wheels, which take minutes")
    pack.add_argument("--data", type=Path, metavar="DIR", help="tables to take along")
    run = commands.add_parser("run", help="on the GPU machine: run a suite; options of spark-helium bench behind --")
    run.add_argument("pack", type=Path)
    run.add_argument("suite")
    run.add_argument("--out", type=Path, default=Path("results"))
    run.add_argument("--work", type=Path, help="where the pack is unpacked; default PACK/unpacked")
    run.add_argument("--minutes", type=float, default=0.0, help="begin nothing more after so long, installing included")
    model = commands.add_parser("model", help="write a model directory without weights, to try the steps on a CPU")
    model.add_argument("directory", type=Path)
    model.add_argument("--shape", default="tiny", help="tiny or qwen3-8b")
    commands.add_parser("lock", help="resolve requirements.in anew")
    options = parser.parse_args(given)
    try:
        return _run(options, more)
    except PackError as e:
        print(f"benchmarks.gpu: {e}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, more: Sequence[str]) -> int:
    # Imports of the packing side stand below, as the GPU machine has none of their modules.
    if options.command == "run":
        from benchmarks.gpu.run import run

        work = (options.work or options.pack / "unpacked").absolute()
        return run(options.pack.absolute(), work, options.suite, options.out, options.minutes, more)
    if options.command == "model":
        from benchmarks.gpu import model
        from benchmarks.gpu.pack import built_in_tokenizer

        print(model.write(options.directory, built_in_tokenizer(), options.shape))
        return 0
    from benchmarks.gpu import pack

    if options.command == "lock":
        pack.lock()
        return 0
    manifest = pack.pack(
        pack.Request(
            options.directory.absolute(), options.python, options.piece_mib, not options.no_wheels,
            not options.no_java, options.installed, options.java, options.data,
        )
    )  # fmt: skip
    files: dict[str, dict[str, int]] = manifest["files"]  # type: ignore[assignment]
    total = sum(entry["bytes"] for entry in files.values())
    print(f"{options.directory}: {len(files)} files, {total / (1 << 20):,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
