"""Plots of results as SVG, with matplotlib (``pip install 'spark-helium[bench]'``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread


def available() -> bool:
    """Whether matplotlib is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "spark_helium"  # equal results give equal files
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def bars(path: Path, values: Mapping[str, Mapping[str, Spread]], label: str, line: float | None = None) -> None:
    """Groups of bars with their ranges: ``values[group][bar]``; ``line`` marks a value to compare with."""
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    figure, axes = _figure(max(6.0, 0.9 * len(values) * max(1.0, len(names) / 3)), 4.2)
    width = 0.8 / max(1, len(names))
    for k, name in enumerate(names):
        places = [g + k * width - 0.4 + width / 2 for g, group in enumerate(values.values()) if name in group]
        found = [group[name] for group in values.values() if name in group]
        errors = [[s.median - s.least for s in found], [s.most - s.median for s in found]]
        axes.bar(places, [s.median for s in found], width, yerr=errors, capsize=2, label=name, error_kw={"lw": 0.8})
    if line is not None:
        axes.axhline(line, color="black", lw=0.8, ls="--")
    axes.set_xticks(range(len(values)), list(values), rotation=25, ha="right")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    _save(figure, path)


def curves(path: Path, series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, title: str) -> None:
    """Lines over numbers of nodes, both axes logarithmic."""
    figure, axes = _figure(6.5, 4.2)
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", ms=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([x for x, _ in next(iter(series.values()))])
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    _save(figure, path)
