"""What the simulator answers, computed without Spark: the expected values of the SQL tests."""

from __future__ import annotations

import re

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.gpu_executor.engines.answers import answer
from spark_helium.gpu_executor.engines.base import Tokens
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer

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
    max_tokens: int = 256,
) -> str | None:
    """Answer to ``template``, whose placeholders are ``{0}`` and so on; None when an argument is None."""
    if any(arg is None for arg in args):
        return None
    text = re.sub(r"\{(\d+)\}", lambda m: str(args[int(m[1])]), template)
    messages = ([("system", system)] if system else []) + [("user", text)]
    constraint = Constraint(choices=choices, regex=regex) if choices or regex else None
    return chat(messages, max_tokens=max_tokens, constraint=constraint)


def yes(template: str, *args: object) -> bool | None:
    """Whether a call with the choices yes and no answers yes."""
    said = llm(template, *args, choices=("yes", "no"))
    return None if said is None else said == "yes"
