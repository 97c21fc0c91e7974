"""The suites of ``spark-helium bench``, one file each. To add one, list here what runs it with the command's
options."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.engines import GPU


def _relational(options: argparse.Namespace) -> None:
    from benchmarks.command import run_comparison
    from benchmarks.suites import relational

    run_comparison(
        options, "relational", relational.cases, rows=relational.ROWS[options.scale], systems=relational.SYSTEMS,
        kv=("small", "ample"), max_model_len=1024,
    )  # fmt: skip


def _workflows(options: argparse.Namespace) -> None:
    from benchmarks.command import run_comparison
    from benchmarks.suites import workflows

    paper_size = options.paper_size or options.scale == GPU
    run_comparison(
        options, "workflows", workflows.cases(paper_size), rows=0, systems=workflows.SYSTEMS, kv=("ample",),
        max_model_len=32_768 if paper_size else 2048,
    )  # fmt: skip


def _quality(options: argparse.Namespace) -> None:
    from benchmarks.command import run_comparison
    from benchmarks.suites import quality

    run_comparison(
        options, "quality", quality.cases, rows=quality.DEFAULT_ROWS, systems=quality.SYSTEMS, kv=("ample",),
        max_model_len=2048,
    )  # fmt: skip


def _ablation(options: argparse.Namespace) -> None:
    from benchmarks.suites import ablation

    ablation.run(options)


def _schedule(options: argparse.Namespace) -> None:
    from benchmarks.suites import schedule

    schedule.run(options)


def _scale(options: argparse.Namespace) -> None:
    from benchmarks.suites import scale

    scale.run(options)


SUITES: dict[str, Callable[[argparse.Namespace], None]] = {
    "relational": _relational,
    "workflows": _workflows,
    "ablation": _ablation,
    "schedule": _schedule,
    "scale": _scale,
    "quality": _quality,
}
