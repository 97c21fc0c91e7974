from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.draw import Draw
from spark_helium.gpu_executor.engines.regex_sampler import compile_regex

PATTERNS = [
    "yes|no",
    r"[A-Z]{3}-\d{4}",
    r"(?P<year>\d{4})-(0[1-9]|1[0-2])-\d\d",
    r"\w+@\w+\.(com|org)",
    r"[^a-y0-9]+z?",
    r"(?i)hello [^h]",
    r"^\s?abc$",
    r"(a|b)\1\1",
    r"(?:x(y)?)+(?(1)1|2)",
    r"a*?b+?c??",
    r"(?=.*7)\d{1,3}",
    r"(?!foo)[a-z]{3}",
    r"[\d\s]{5}",
    r"[\W]{2}",
    r"(?>a|ab)c",
    r"x*+y",
    r"[\U0001F600-\U0001F64F]{2}",
    r"(?s).{5}",
    r"(?x) a b  # a comment",
    "",
    r"a{0}b",
    r"\bword\b",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_draws_full_matches(pattern: str) -> None:
    sample = compile_regex(pattern)
    for seed in range(200):
        assert re.fullmatch(pattern, sample(Draw(seed))) is not None


def test_draws_depend_on_the_seed_alone() -> None:
    texts = [compile_regex(r"\w{20}")(Draw(seed)) for seed in range(50)]
    assert texts == [compile_regex(r"\w{20}")(Draw(seed)) for seed in range(50)]
    assert len(set(texts)) == 50


@given(pattern=st.text(alphabet="ab01()[]{},-^$.*+?|\\dwsDWS:=!<>", max_size=14), seed=st.integers(0, 2**64 - 1))
def test_any_pattern_gives_a_match_or_a_value_error(pattern: str, seed: int) -> None:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError):
        assume(False)
    try:
        text = compile_regex(pattern)(Draw(seed))
    except ValueError:
        return
    assert compiled.fullmatch(text) is not None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "cannot be used"),
        ("a{2,1}", "cannot be used"),
        ("[^\\s\\S]", "leaves no character"),
        ("\ud800", "surrogate"),
        ("(?=a)b", "found no text"),
        ("a$b", "found no text"),
        ("((((a{99}){99}){99}){99})", "more than 100000 characters"),
    ],
)
def test_says_why_a_pattern_cannot_be_used(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_regex(pattern)(Draw(1))
