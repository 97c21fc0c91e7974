"""What cascades did, from the counters of the node daemons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COUNTERS = (
    "cascade_by_proxy",
    "cascade_by_main",
    "cascade_labelled",
    "cascade_windows",
    "cascade_found",
    "cascade_right",
    "cascade_true",
    "cascade_lowers",
    "cascade_lower_sum",
    "cascade_uppers",
    "cascade_upper_sum",
)


@dataclass(frozen=True, slots=True)
class CascadeCounts:
    """What the cascades (``ai_filter(..., proxy_model=...)``) of some queries did.

    Attributes
    ----------
    by_proxy : int
        Rows that the proxy decided.
    by_main : int
        Rows that the main model answered, as the proxy was not sure, failed, or had nothing to offer.
    labelled : int
        Rows that the main model answered for the samples.
    windows : int
        Runs of rows for which thresholds were looked for, in all partitions.
    lower, upper : float or None
        Means of the thresholds below which a row is false and above which it is true; None where no window has one.
    precision, recall : float or None
        What the thresholds achieve on the samples beside the main model; None without a sample, or where nothing in it
        is found, or is to be found.
    """

    by_proxy: int
    by_main: int
    labelled: int
    windows: int
    lower: float | None
    upper: float | None
    precision: float | None
    recall: float | None

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> CascadeCounts | None:
        """Read the counters; None where no row came to a cascade."""
        n = {name: counts.get(name, 0) for name in COUNTERS}
        if not (n["cascade_by_proxy"] or n["cascade_by_main"] or n["cascade_labelled"]):
            return None

        def share(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        return cls(
            by_proxy=n["cascade_by_proxy"],
            by_main=n["cascade_by_main"],
            labelled=n["cascade_labelled"],
            windows=n["cascade_windows"],
            lower=share(n["cascade_lower_sum"], 1_000_000 * n["cascade_lowers"]),
            upper=share(n["cascade_upper_sum"], 1_000_000 * n["cascade_uppers"]),
            precision=share(n["cascade_right"], n["cascade_found"]),
            recall=share(n["cascade_right"], n["cascade_true"]),
        )

    def lines(self) -> list[str]:
        """The counts as two lines of text."""

        def shown(value: float | None) -> str:
            return "-" if value is None else f"{value:.3f}"

        who = f"{self.by_proxy:,} rows by the proxy, {self.by_main:,} by the main model, {self.labelled:,} for samples"
        thresholds = (
            f"false below {shown(self.lower)}, true above {shown(self.upper)} (means of {self.windows:,} windows)"
        )
        quality = f"precision {shown(self.precision)}, recall {shown(self.recall)} on the samples"
        return [who, f"{thresholds}; {quality}"]
