"""The call graph: the contract between the Catalyst rules (Scala) and the node daemon (Python).

An ``EvalLLM`` node of the physical plan is one call graph. The driver writes it as JSON, the Spark task
hands it to its node's daemon, and both sides read it with this module. One row of a task's input is one
binding of the graph: a value per input column. A call reads input columns and answers of earlier calls: in its
prompt (:mod:`~spark_helium.call_parts`) and in its guard (:mod:`~spark_helium.call_conditions`).

Nothing here depends on Spark, Arrow or an engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import re2

from spark_helium.call_conditions import Condition, condition_from_json, condition_references, condition_to_json
from spark_helium.call_parts import (
    CallRef,
    Data,
    InputRef,
    Part,
    Ref,
    input_from_json,
    parts_from_json,
    parts_to_json,
    references,
)

__all__ = [
    "Call",
    "CallGraph",
    "CallRef",
    "CallTask",
    "Cascade",
    "Composite",
    "Constraint",
    "InputRef",
    "Message",
    "Part",
    "Sampling",
]

VERSION = 4


class CallTask(StrEnum):
    """What a call asks for. All but a completion give their answer as JSON, for the SQL type of the result.

    Attributes
    ----------
    GENERATE: the text that completes the prompt.
    SCORE: how probable the first of two choices is as the beginning of an answer, beside the second: a number, 0 to 1.
    EMBED: the vector of the text that stands in the prompt, without any chat template: an array of numbers.
    COUNT_TOKENS: how many tokens that text has: a whole number. No model is asked.
    """

    GENERATE = "generate"
    SCORE = "score"
    EMBED = "embed"
    COUNT_TOKENS = "count_tokens"


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message: a constant role and a template, as literal text and placeholders in order.

    The strings that stand directly in ``parts`` are the template author's own text, which may spell control tokens.
    """

    role: str
    parts: tuple[Part, ...]

    def is_static(self) -> bool:
        return next(references(self.parts), None) is None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What guided decoding allows as the answer. Exactly one field is set."""

    choices: tuple[str, ...] | None = None
    json_schema: str | None = None
    regex: str | None = None

    def allows(self, text: str) -> bool:
        """Whether an answer that was cut off is whole nevertheless. JSON is not looked at here."""
        if self.choices is not None:
            return text in self.choices
        if self.regex is None:
            return True
        matcher = _matcher(self.regex)
        return matcher is not None and matcher.fullmatch(text) is not None


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> Any:
    """The pattern for RE2, whose time is linear in the text: a user's pattern must not hold up a daemon's thread.

    None where RE2 does not know it (an engine may): then a cut answer cannot be trusted.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Generation options of a call. ``temperature`` 0 is greedy decoding; ``max_tokens`` counts output tokens."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether equal prompts give equal answers, so that a call may be merged or answered from a cache."""
        return self.temperature == 0.0 or self.seed is not None


@dataclass(frozen=True, slots=True)
class Composite:
    """How a call over an array of texts is unrolled into calls of the engine.

    The call's own ``messages`` write the first of them. There a placeholder for the column ``items`` stands for the
    texts at hand. ``further`` write all later ones; there, one for the call itself stands for the answer so far.

    Attributes
    ----------
    kind: ``"reduce"``, a tree: texts are taken together, then the answers; ``"merge"``, a tree whose texts are answers
        of such trees; ``"fold"``, a chain over the texts; or ``"top"``, a tournament: pairs of texts are compared, the
        earlier of them in the place of the answer so far.
    items: an input column of type ``list<string>``; NULLs in it are passed over, and without texts the answer is NULL.
    further: of a tree, what puts answers together; of a chain, what goes on from an answer with the next text; of a
        tournament, what compares. Its answer is a JSON array of positions in ``items``, the best first.
    budget: of a tree, tokens of texts in one prompt; 0: as the context allows.
    take: of a tournament, how many of the best texts to name.
    """

    kind: str
    items: InputRef
    further: tuple[Message, ...]
    budget: int = 0
    take: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("reduce", "merge", "fold", "top"):
            raise ValueError(
                f"{self.kind!r} is no kind of composite call; this spark_helium knows reduce, merge, fold and top"
            )
        if self.kind == "top" and self.take < 1:
            raise ValueError(f"a tournament over texts names {self.take} of them; it takes one at least")


@dataclass(frozen=True, slots=True)
class Cascade:
    """How a cheaper model answers some rows of a call with two choices (:mod:`~spark_helium.gpu_executor.cascade`).

    Attributes
    ----------
    model: the proxy, which scores the first choice.
    precision, recall: of the rows with the first choice, beside what the call's own model says; between 0 and 1.
    sample: different prompts per window of rows that both models answer.
    """

    model: str
    precision: float
    recall: float
    sample: int

    def __post_init__(self) -> None:
        if not (0 < self.precision < 1 and 0 < self.recall < 1 and self.sample > 0):
            raise ValueError(f"{self} is no cascade: its targets are between 0 and 1, and its sample has rows")


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call of the graph.

    Either ``messages`` (a conversation whose shape is known to the planner) or ``conversation`` (an input
    column of type ``list<struct<role, content>>``) is set. ``multiplicity`` is how many calls of the query's
    text this one stands for after equal calls were merged. The call runs only for rows where no message is NULL
    and the ``guard`` is true, not false or unknown; elsewhere its answer is NULL. ``result_type`` is Spark's JSON
    for the SQL type of the answer; ``fail_on_error`` says whether a failed row ends the query. The choices of a score
    stand in the ``constraint``. A ``composite`` call stands for several calls of the engine per row, of which the last
    gives the answer. With a ``cascade`` another model may answer a row.
    """

    index: int
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling
    conversation: InputRef | None = None
    guard: Condition | None = None
    constraint: Constraint | None = None
    result_type: str = '"string"'
    fail_on_error: bool = True
    multiplicity: int = 1
    function: str = "llm"
    task: CallTask = CallTask.GENERATE
    composite: Composite | None = None
    cascade: Cascade | None = None

    def prompt_references(self) -> Iterator[Ref]:
        """Every placeholder of the prompt, in order of appearance, repeats included."""
        if self.conversation is not None:
            yield self.conversation
        for message in self.messages:
            yield from references(message.parts)

    def references(self) -> Iterator[Ref]:
        """Every placeholder of the call; those of the guard come last."""
        yield from self.prompt_references()
        if self.guard is not None:
            yield from condition_references(self.guard)

    @property
    def dependencies(self) -> tuple[int, ...]:
        """Indexes of the calls whose answers the prompt or the guard reads, ascending, without repeats."""
        return tuple(sorted({ref.index for ref in self.references() if isinstance(ref, CallRef)}))


@dataclass(frozen=True, slots=True)
class CallGraph:
    """Calls in topological order, and how many input columns they read.

    ``filters`` are conditions on answers: a row for which one of them is not true is dropped after the graph, so that
    its other answers may be missing. Their order is free; guards follow the order that the planner chose.
    """

    calls: tuple[Call, ...]
    inputs: int
    filters: tuple[Condition, ...] = ()
    version: int = field(default=VERSION)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(
                f"call graph has version {self.version}, this spark_helium reads version {VERSION}: "
                "install the same spark_helium on the driver and on every node"
            )
        for position, call in enumerate(self.calls):
            if call.index != position:
                raise ValueError(f"call {call.index} of the call graph stands at position {position}")
            if call.task is CallTask.SCORE:
                choices = call.constraint.choices if call.constraint is not None else None
                if choices is None or len(choices) != 2:
                    raise ValueError(f"call {position} of the call graph is a score of {choices}, not of two choices")
            for ref in call.references():
                limit = self.inputs if isinstance(ref, InputRef) else position
                if not 0 <= ref.index < limit:
                    raise ValueError(f"call {position} of the call graph reads {ref}, which does not exist before it")
            if call.composite is not None:
                _check_composite(call, call.composite)
            if call.cascade is not None:
                _check_cascade(call)
        for ref in (ref for condition in self.filters for ref in condition_references(condition)):
            if not 0 <= ref.index < (self.inputs if isinstance(ref, InputRef) else len(self.calls)):
                raise ValueError(f"a filter of the call graph reads {ref}, which does not exist")

    def to_json(self) -> str:
        """The wire form read by :meth:`from_json`; keys in a fixed order."""
        return json.dumps(
            {
                "version": self.version,
                "inputs": self.inputs,
                "calls": [_call_to_dict(c) for c in self.calls],
                "filters": list(map(condition_to_json, self.filters)),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> CallGraph:
        """Read the wire form.

        Raises
        ------
        ValueError
            The text is not a call graph of this version, or a reference points nowhere.
        """
        try:
            data = json.loads(text)
            calls = tuple(_call_from_dict(i, c) for i, c in enumerate(data["calls"]))
            filters = tuple(map(condition_from_json, data.get("filters", ())))
            return cls(calls=calls, inputs=int(data["inputs"]), filters=filters, version=int(data["version"]))
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"not a call graph: {type(e).__name__}: {e}; text starts with {text[:80]!r}") from e
        except RecursionError as e:
            raise ValueError("not a call graph: its texts or conditions are nested too deeply") from e


def _check_composite(call: Call, composite: Composite) -> None:
    """The prompts of a composite call read what is at hand, and nothing else."""
    further = {ref for message in composite.further for ref in references(message.parts)}
    so_far = {CallRef(call.index)} if composite.kind in ("fold", "top") else set()
    parts = [part for message in (*call.messages, *composite.further) for part in message.parts]
    plain = all(isinstance(part, str | Data | InputRef | CallRef) for part in parts)
    if not plain or set(call.prompt_references()) != {composite.items} or further - so_far != {composite.items}:
        raise ValueError(f"the prompts of the composite call {call.index} read other things than its items")


def _check_cascade(call: Call) -> None:
    choices = call.constraint.choices if call.constraint is not None else None
    plain = call.task is CallTask.GENERATE and call.composite is None and call.sampling.temperature == 0
    if not plain or choices is None or len(set(choices)) != 2:
        raise ValueError(f"call {call.index} has a cascade, but is no completion of temperature 0 with two choices")


def _call_to_dict(call: Call) -> dict[str, Any]:
    out: dict[str, Any] = {
        "function": call.function,
        "task": call.task.value,
        "model": call.model,
        "messages": _messages_to_json(call.messages),
        "sampling": {
            "max_tokens": call.sampling.max_tokens,
            "temperature": call.sampling.temperature,
            "top_p": call.sampling.top_p,
            "seed": call.sampling.seed,
            "stop": list(call.sampling.stop),
        },
        "result_type": call.result_type,
        "fail_on_error": call.fail_on_error,
        "multiplicity": call.multiplicity,
    }
    if call.conversation is not None:
        out["conversation"] = {"input": call.conversation.index}
    if call.guard is not None:
        out["guard"] = condition_to_json(call.guard)
    if call.composite is not None:
        out["composite"] = {
            "kind": call.composite.kind,
            "items": {"input": call.composite.items.index},
            "further": _messages_to_json(call.composite.further),
            "budget": call.composite.budget,
            "take": call.composite.take,
        }
    if call.cascade is not None:
        out["cascade"] = asdict(call.cascade)
    if call.constraint is not None:
        c = call.constraint
        out["constraint"] = {
            k: v
            for k, v in (
                ("choices", list(c.choices) if c.choices is not None else None),
                ("json_schema", c.json_schema),
                ("regex", c.regex),
            )
            if v is not None
        }
    return out


def _call_from_dict(index: int, data: Mapping[str, Any]) -> Call:
    sampling = data["sampling"]
    constraint = data.get("constraint")
    conversation = data.get("conversation")
    guard = data.get("guard")
    composite = data.get("composite")
    cascade = data.get("cascade")
    choices = constraint.get("choices") if constraint else None
    return Call(
        index=index,
        function=str(data.get("function", "llm")),
        task=CallTask(data.get("task", CallTask.GENERATE)),
        model=str(data["model"]),
        messages=_messages_from_json(data["messages"]),
        sampling=Sampling(
            max_tokens=int(sampling["max_tokens"]),
            temperature=float(sampling.get("temperature", 0.0)),
            top_p=float(sampling.get("top_p", 1.0)),
            seed=None if sampling.get("seed") is None else int(sampling["seed"]),
            stop=tuple(sampling.get("stop") or ()),
        ),
        conversation=None if conversation is None else input_from_json(conversation),
        guard=None if guard is None else condition_from_json(guard),
        constraint=None
        if constraint is None
        else Constraint(
            choices=None if choices is None else tuple(choices),
            json_schema=constraint.get("json_schema"),
            regex=constraint.get("regex"),
        ),
        result_type=str(data.get("result_type", '"string"')),
        fail_on_error=bool(data.get("fail_on_error", True)),
        multiplicity=int(data.get("multiplicity", 1)),
        composite=None
        if composite is None
        else Composite(
            kind=str(composite["kind"]),
            items=input_from_json(composite["items"]),
            further=_messages_from_json(composite["further"]),
            budget=int(composite.get("budget", 0)),
            take=int(composite.get("take", 0)),
        ),
        cascade=None
        if cascade is None
        else Cascade(
            model=str(cascade["model"]),
            precision=float(cascade["precision"]),
            recall=float(cascade["recall"]),
            sample=int(cascade["sample"]),
        ),
    )


def _messages_to_json(messages: tuple[Message, ...]) -> list[Any]:
    return [{"role": m.role, "parts": parts_to_json(m.parts)} for m in messages]


def _messages_from_json(value: Any) -> tuple[Message, ...]:
    return tuple(Message(str(m["role"]), parts_from_json(m["parts"])) for m in value)
