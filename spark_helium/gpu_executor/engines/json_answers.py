"""Scores and embeddings as the JSON that an engine answers with."""

from __future__ import annotations

import math
from collections.abc import Sequence


def score_text(first: float, second: float) -> str:
    """The share of the first of two choices, given the logarithms of their probabilities.

    P(first) / (P(first) + P(second)), computed so that neither a probability that is too small for a number nor a
    large difference matters.

    Raises
    ------
    ValueError
        One of the logarithms is not a number, or both probabilities are 0.

    >>> score_text(-3.0, -3.0)
    '0.5'
    >>> score_text(-2000.0, 0.0), score_text(0.0, -math.inf)
    ('0.0', '1.0')
    """
    difference = first - second
    if math.isnan(difference):
        raise ValueError(f"log-probabilities of {first} and {second} give no score")
    if difference >= 0:
        return repr(1.0 / (1.0 + math.exp(-difference)))
    odds = math.exp(difference)
    return repr(odds / (1.0 + odds))


def embedding_text(values: Sequence[float]) -> str:
    """The numbers as a JSON array. Nine digits tell all 32-bit floats apart, so that none changes on its way.

    Raises
    ------
    ValueError
        A number is not finite, which JSON cannot say.

    >>> embedding_text([1.0, -0.1])
    '[1,-0.1]'
    """
    if not all(map(math.isfinite, values)):
        raise ValueError("the embedding holds a number that is not finite")
    return f"[{','.join(['%.9g'] * len(values))}]" % tuple(values)
