"""What the simulator answers, computed without Spark: the expected values of the SQL tests."""

from __future__ import annotations

import math
import re

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.gpu_executor.engines import answers
from spark_helium.gpu_executor.engines.answers import answer
from spark_helium.gpu_executor.engines.base import Tokens, token_count
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer, encode_text

_renderer = SimulatorRenderer()


def tokens_of(messages: list[tuple[str, str]]) -> Tokens:
    rendered = _renderer.render([[(role, ((text, True),)) for role, text in messages]])[0]
    assert isinstance(rendered, bytes)
    return rendered


def chat(messages: list[tuple[str, str]], *, max_tokens: int = 256, constraint: Constraint | None = None) -> str:
    return answer(tokens_of(messages), Sampling(max_tokens=max_tokens), constraint).text


def llm(
    template: str,
    *args: object,
    system: str | None = None,
    choices: tuple[str, ...] | None = None,
    regex: str | None = None,
    json_schema: str | None = None,
    max_tokens: int = 256,
) -> str | None:
    """Answer to ``template``, whose placeholders are ``{0}`` and so on; None when an argument is None."""
    if any(arg is None for arg in args):
        return None
    text = re.sub(r"\{(\d+)\}", lambda m: str(args[int(m[1])]), template)
    messages = ([("system", system)] if system else []) + [("user", text)]
    constraint = None
    if choices or regex or json_schema:
        constraint = Constraint(choices=choices, regex=regex, json_schema=json_schema)
    return chat(messages, max_tokens=max_tokens, constraint=constraint)


def yes(template: str, *args: object) -> bool | None:
    """Whether a call with the choices yes and no answers yes."""
    said = llm(template, *args, choices=("yes", "no"))
    return None if said is None else said == "yes"


def score(template: str, *args: object, choices: tuple[str, str] = ("yes", "no")) -> float | None:
    """What ai_score() gives for a template and its arguments."""
    if any(arg is None for arg in args):
        return None
    text = re.sub(r"\{(\d+)\}", lambda m: str(args[int(m[1])]), template)
    asked = tokens_of([("user", f"Answer with {choices[0]} or {choices[1]}.\n\n{text}")])
    return float(answers.score(asked, choices))


def embed(text: str | None) -> list[float] | None:
    """What ai_embed() gives for a text."""
    return None if text is None else answers.embedding(encode_text(text))


def similarity(one: str | None, other: str | None) -> float | None:
    """The cosine of two texts' embeddings, as exact as doubles are; SQL's is a FLOAT."""
    if one is None or other is None:
        return None
    a, b = answers.embedding(encode_text(one)), answers.embedding(encode_text(other))
    length = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / length


def count_tokens(text: str | None) -> int | None:
    """What ai_count_tokens() gives for a text."""
    return None if text is None else token_count(encode_text(text))
