"""Which rows of a filter a small model may decide: thresholds on its scores, learnt from rows that both models saw.

Rows that the *proxy* scores above ``upper`` are true and those below ``lower`` are false; what lies between is for
the main model, whose answers are the truth here::

    score   0 ........ lower ................ upper ........ 1
             false     |   the main model     |    true

What is guaranteed: of the rows that the sample was drawn from, at random, the filter finds true ones at a share of at
least the target for recall, and of those that it finds at least the target for precision are true, both at once with
probability :data:`CONFIDENCE` over the draw of the sample. That holds for any number of rows and any distribution of
scores. A sample that is too small for it gives no threshold, and a proxy that is worth nothing gives thresholds that
decide little.

The setting is that of SUPG (Kang et al., PVLDB 13(11), 2020, arXiv 2004.00827) and of the filter of LOTUS (Patel et
al., arXiv 2407.11418), which has both targets. SUPG's bounds are normal approximations, which hold in the limit of
large samples; samples here have some hundreds of rows, of which few are wrong, so the bounds here are exact ones for
binomial counts. (BARGAIN, arXiv 2509.02896, has other bounds for finite samples.) Rows are drawn evenly: importance
sampling, as in SUPG, would find more where true rows are rare, and is not there.

Recall. At most a share ``1 - target`` of the true rows may lie below ``lower``. This bounds a quantile of the true
rows' scores, which order statistics give for any distribution (Wilks 1941): among ``n`` of them the j-th smallest
lies at or below the quantile with probability P(Bin(n, 1 - target) >= j).

Precision. Among rows above ``upper`` the share of true ones must be at least the target. Given the score of a certain
rank in the sample, the rows above it are drawn like all rows above that score, so that their labels are tested
exactly (Clopper and Pearson 1934). The ranks are fixed before labels are seen, and the probability of an error is
divided among them (Bonferroni).

Each of the two fails with probability ``(1 - CONFIDENCE) / 2`` at most. Both targets are stricter than those of the
whole filter: rows that the main model decides are never wrong. A sample of a finite number of rows is drawn without
replacement, which makes the counts hypergeometric and such small tails smaller still than the binomial ones used.

How many rows that takes: with 0.95 for both, 72 true ones in the sample for recall, and 113 above one rank, none of
them wrong, for precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95  # with which both targets are met by one pair of thresholds
RANKS = 8  # thresholds that are tried for precision: above an eighth of the sample, above two eighths, ...


@dataclass(frozen=True, slots=True)
class Label:
    """A row that both models saw: the proxy's probability that it is true, and what the main model says."""

    score: float
    is_true: bool


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Rows above ``upper`` are true, rows below ``lower`` are false. Infinite ones decide nothing."""

    lower: float = -math.inf
    upper: float = math.inf

    def decide(self, score: float) -> bool | None:
        """What the score alone says of a row; None: ask the main model."""
        if score > self.upper:
            return True
        return False if score < self.lower else None


@dataclass(frozen=True, slots=True)
class Achieved:
    """What thresholds would have done to labelled rows.

    Attributes
    ----------
    rows, decided: labelled rows, and those that scores alone decide.
    found, right, true: rows that the whole filter finds, those of them that are true, and all that are.
    """

    rows: int
    decided: int
    found: int
    right: int
    true: int

    @property
    def precision(self) -> float:
        """Of what is found, the share that is true; 1 where nothing is found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Of what is true, the share that is found; 1 where nothing is."""
        return self.right / self.true if self.true else 1.0


def learn(labels: Sequence[Label], precision: float, recall: float, confidence: float = CONFIDENCE) -> Thresholds:
    """Thresholds with which precision and recall are both met with the given probability.

    Parameters
    ----------
    labels: rows drawn like those that the thresholds will decide.
    precision, recall: the targets, between 0 and 1.
    confidence: that both are met; half of what is missing to 1 is spent on each.
    """
    delta = (1 - confidence) / 2
    lower, upper = _lower(labels, recall, delta), _upper(labels, precision, delta)
    # Precision is shown for all that lies above upper together, so that lower must not take some of it away.
    return Thresholds(min(lower, upper), upper)


def achieved(labels: Sequence[Label], thresholds: Thresholds) -> Achieved:
    """How well thresholds decide labelled rows; what they leave open is right."""
    decided = found = right = true = 0
    for label in labels:
        says = thresholds.decide(label.score)
        decided += says is not None
        is_found = label.is_true if says is None else says
        found += is_found
        true += label.is_true
        right += is_found and label.is_true
    return Achieved(len(labels), decided, found, right, true)


def _lower(labels: Sequence[Label], recall: float, delta: float) -> float:
    """The largest of the true rows' scores that is at most their quantile 1 - recall, with probability 1 - delta."""
    scores = sorted(label.score for label in labels if label.is_true)
    n, below = len(scores), 0
    # P(Bin >= j) >= 1 - delta is P(Bin <= j - 1) <= delta.
    while below < n and binomial_tail(n, 1 - recall, below) <= delta:
        below += 1
    return scores[below - 1] if below else -math.inf


def _upper(labels: Sequence[Label], precision: float, delta: float) -> float:
    """The smallest score of a fixed rank above which the precision holds with probability 1 - delta."""
    ordered = sorted(labels, key=lambda label: label.score, reverse=True)
    upper = math.inf
    for i in range(1, RANKS + 1):
        rank = len(ordered) * i // RANKS
        if rank == 0:
            continue
        # The row of the rank itself is where the threshold lies; what ties with it is not above it.
        score = ordered[rank - 1].score
        above = [label for label in ordered[: rank - 1] if label.score > score]
        wrong = sum(not label.is_true for label in above)
        if above and binomial_tail(len(above), 1 - precision, wrong) <= delta / RANKS:
            upper = score
    return upper


def binomial_tail(n: int, p: float, k: int) -> float:
    """P(Bin(n, p) <= k), for 0 < p < 1.

    >>> round(binomial_tail(2, 0.5, 1), 12)
    0.75
    """
    if k >= n:
        return 1.0
    terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p)
        for i in range(k + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, terms)))
