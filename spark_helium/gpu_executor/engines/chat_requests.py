"""Calls as requests of OpenAI's chat completions, and what is asked for with them.

A constraint must be enforced by the endpoint, and each knows its own way:

==============  ====================================================  =============================================
constraint      an endpoint of any kind                               vLLM
==============  ====================================================  =============================================
JSON schema     ``response_format`` of type ``json_schema``           ``structured_outputs.json``
choices         the same: an object whose ``answer`` is an enum       ``structured_outputs.choice``
regex           the same: an object whose ``answer`` has a pattern    ``structured_outputs.regex``
==============  ====================================================  =============================================

An object around the answer is taken off again. What came out is checked, because endpoints differ in what of a schema
they enforce.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from spark_helium.call_graph import Constraint, Sampling

# Tokens of {"answer":""} around a choice, generously: models differ in how they cut it.
_ENVELOPE_TOKENS = 16
_ANSWER = "answer"


class UnfitAnswerError(Exception):
    """The answer is not what the constraint allows; the text is for the user."""


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """What all calls with one sampling and one constraint have in common.

    Attributes
    ----------
    fields: of the request, beside model and messages.
    extra: fields that OpenAI's own endpoint does not know.
    max_tokens: most tokens of the answer, with what is put around it.
    """

    fields: dict[str, Any]
    extra: dict[str, Any]
    max_tokens: int
    constraint: Constraint | None
    enveloped: bool

    def answer(self, content: str, *, truncated: bool) -> str:
        """The call's answer in what the endpoint wrote.

        Raises
        ------
        UnfitAnswerError
            It is not what the constraint allows.
        """
        if self.constraint is None:
            return content
        if not self.enveloped:
            # A regex that vLLM enforced need not be one that Python can check.
            if self.constraint.choices is not None and not truncated and content not in self.constraint.choices:
                raise UnfitAnswerError(_unfit(content))
            return content
        try:
            answer = json.loads(content)[_ANSWER]
        except (ValueError, TypeError, KeyError):
            if truncated:
                raise UnfitAnswerError(f"the answer was cut off at max_tokens = {self.max_tokens}; raise it") from None
            raise UnfitAnswerError(_unfit(content)) from None
        if not isinstance(answer, str) or not self.constraint.allows(answer):
            raise UnfitAnswerError(_unfit(content))
        return answer


def plan_for(sampling: Sampling, constraint: Constraint | None, server: str, max_tokens_field: str) -> ChatPlan:
    """The plan for calls to an endpoint that is ``generic`` or ``vllm``."""
    enveloped = server == "generic" and constraint is not None and constraint.json_schema is None
    max_tokens = sampling.max_tokens + (_ENVELOPE_TOKENS if enveloped else 0)
    fields: dict[str, Any] = {"temperature": sampling.temperature, max_tokens_field: max_tokens}
    if sampling.top_p != 1.0:
        fields["top_p"] = sampling.top_p
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    extra: dict[str, Any] = {}
    if constraint is not None:
        if server == "vllm":
            extra["structured_outputs"] = _structured_outputs(constraint)
        else:
            schema = _schema(constraint)
            described = {"name": _ANSWER, "schema": schema, "strict": _is_strict(schema)}
            fields["response_format"] = {"type": "json_schema", "json_schema": described}
    return ChatPlan(fields, extra, max_tokens, constraint, enveloped)


def _structured_outputs(constraint: Constraint) -> dict[str, Any]:
    if constraint.choices is not None:
        return {"choice": list(constraint.choices)}
    if constraint.regex is not None:
        return {"regex": constraint.regex}
    return {"json": json.loads(constraint.json_schema or "{}")}


def _schema(constraint: Constraint) -> dict[str, Any]:
    if constraint.json_schema is not None:
        return dict(json.loads(constraint.json_schema))
    answer: dict[str, Any] = {"type": "string"}
    if constraint.choices is not None:
        answer["enum"] = list(constraint.choices)
    else:
        answer["pattern"] = f"^(?:{constraint.regex})$"
    return {"type": "object", "properties": {_ANSWER: answer}, "required": [_ANSWER], "additionalProperties": False}


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes the schema: its objects require all of their properties and no others."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema or schema.get("type") == "object":
        complete = set(schema.get("required", ())) == set(schema.get("properties", ()))
        if not complete or schema.get("additionalProperties") is not False:
            return False
    return all(_is_strict(value) for key, value in schema.items() if key not in ("enum", "const"))


def _unfit(content: str) -> str:
    shown = content if len(content) <= 80 else content[:77] + "..."
    return (
        f"the endpoint did not keep to what the call allows, and answered {shown!r}: choose a model or an endpoint "
        "that enforces response_format json_schema, or set spark.helium.openai.server=vllm if it is vLLM"
    )
