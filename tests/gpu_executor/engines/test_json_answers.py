from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.json_answers import embedding_text, score_text

logarithms = st.floats(-1e4, 0)


@given(first=logarithms, second=logarithms)
def test_a_score_is_the_share_of_the_first_choice(first: float, second: float) -> None:
    score, rest = json.loads(score_text(first, second)), json.loads(score_text(second, first))
    assert 0 <= score <= 1
    assert score + rest == pytest.approx(1)
    assert score >= 0.5 if first >= second else score <= 0.5
    if min(first, second) > -700:
        assert score == pytest.approx(math.exp(first) / (math.exp(first) + math.exp(second)))


def test_no_score_where_both_are_impossible() -> None:
    with pytest.raises(ValueError, match="give no score"):
        score_text(-math.inf, -math.inf)
    assert json.loads(score_text(-3.0, -math.inf)) == 1.0


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_an_embedding_comes_back_as_it_was(values: list[float]) -> None:
    assert np.array(json.loads(embedding_text(values)), dtype=np.float32).tolist() == values


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_name_for_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        embedding_text([1.0, value])
