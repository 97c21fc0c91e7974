"""The operators of a call graph: what the tree and the planner know of a query.

The tokens that a prompt begins with depend on the chat template, and on how the tokenizer treats the end of text before
a value. So they are found by rendering the same conversation with several probes in place of the values: it is what all
of these begin with. Text behind the first value is known as text, and its length in tokens is an estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from spark_helium.call_graph import Call, CallGraph
from spark_helium.call_parts import CallRef, Data, FirstOf, InputRef, Joined, Part, references
from spark_helium.trt.templates import TOKEN_BYTES, Placeholder, Symbol, Template, answer, column, common_bytes, known
from spark_helium.trt.tree import Operator

# A conversation as the daemon's renderers take it: (role, ((text, trusted), ...)) per message.
Conversation: TypeAlias = tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]
Render: TypeAlias = Callable[[Sequence[Conversation]], Sequence[object]]  # packed tokens, or what went wrong

# Beginnings with which a tokenizer may or may not join the text before: letters, digits, white space, marks.
PROBES = ("a", "Zq", "7", " x", "\n\n", ".", "é", "漢")
INPUT_TOKENS = 100.0
SELECTIVITY = 0.5


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is known of a query's data before it runs.

    Attributes
    ----------
    input_tokens: mean length of input columns, :data:`INPUT_TOKENS` where not given.
    constants: input columns that have the same text in every row, and the text.
    output_tokens: mean length of the answers of calls, their ``max_tokens`` where not given.
    selectivities: share of the rows for which a call's guard is true, :data:`SELECTIVITY` where not given.
    """

    input_tokens: Mapping[int, float] = field(default_factory=dict)
    constants: Mapping[int, str] = field(default_factory=dict)
    output_tokens: Mapping[int, float] = field(default_factory=dict)
    selectivities: Mapping[int, float] = field(default_factory=dict)


def operators_of(
    graph: CallGraph, query: Hashable, render: Render, expected: Expectations | None = None
) -> list[Operator]:
    """The operators of a query's call graph, in the graph's sequence.

    ``render`` is asked for ``len(PROBES)`` conversations per call, all at once; what is not bytes in its answer (a
    conversation that the model's template refuses) leaves the call without tokens that are known.
    """
    reader = _Reader(graph, query, expected or Expectations())
    conversations = [reader.filled(call, probe) for call in graph.calls for probe in PROBES]
    rendered = render(conversations)
    return [
        reader.operator(call, rendered[k * len(PROBES) : (k + 1) * len(PROBES)]) for k, call in enumerate(graph.calls)
    ]


class _Reader:
    def __init__(self, graph: CallGraph, query: Hashable, expected: Expectations) -> None:
        self._query = query
        self._expected = expected
        self._outputs = [
            expected.output_tokens.get(call.index, float(call.sampling.max_tokens)) for call in graph.calls
        ]

    def filled(self, call: Call, probe: str) -> Conversation:
        """The call's messages with ``probe`` for every value that is not known."""
        messages = [
            (message.role, tuple(self._segment(part, probe) for part in message.parts)) for message in call.messages
        ]
        if call.conversation is not None:
            messages.append(("user", ((probe, False),)))
        return tuple(messages)

    def operator(self, call: Call, rendered: Sequence[object]) -> Operator:
        prompts = [tokens for tokens in rendered if isinstance(tokens, bytes)]
        prefix = prompts[0] if len(prompts) == len(rendered) else b""
        for other in prompts[1:]:
            prefix = prefix[: common_bytes(prefix, other)]
        symbols: list[Symbol] = [prefix]
        # Text in front of the first value is in the prefix, unless there is none.
        texts = list(self._texts(call, begun=not prefix))
        if texts:
            left = 0
            if prompts:
                values = sum(1 for text in texts if not isinstance(text, str))
                left = max(min(map(len, prompts)) // TOKEN_BYTES - len(prefix) // TOKEN_BYTES - values, 0)
            letters = sum(len(text) for text in texts if isinstance(text, str))
            symbols += [self._symbol(text, left / letters if letters else 0.0) for text in texts]
        guarded = self._expected.selectivities.get(call.index, SELECTIVITY) if call.guard is not None else 1.0
        return Operator(Template(symbols), self._outputs[call.index], call.dependencies, guarded)

    def _segment(self, part: Part, probe: str) -> tuple[str, bool]:
        match part:
            case str():
                return part, True
            case Data(text):
                return text, False
            case InputRef(index) if index in self._expected.constants:
                return self._expected.constants[index], False
            case _:
                return probe, False

    def _texts(self, call: Call, begun: bool) -> Iterator[str | Part]:
        """Values that are not known, and texts with marks where messages begin; ``begun``: the first text too."""
        text = ""
        for message in call.messages:
            text += f"\x1e{message.role}\x1e"
            for part in message.parts:
                match part:
                    case str() | Data():
                        text += part if isinstance(part, str) else part.text
                        continue
                    case InputRef(index) if index in self._expected.constants:
                        text += self._expected.constants[index]
                        continue
                if begun and text:
                    yield text
                yield part
                text, begun = "", True
        if call.conversation is not None:
            if begun and text:
                yield text
            yield call.conversation
        elif begun and text:
            yield text

    def _symbol(self, text: str | Part, tokens_per_letter: float) -> Placeholder:
        match text:
            case str():
                return known(text, len(text) * tokens_per_letter)
            case InputRef(index):
                return column(self._query, index, self._expected.input_tokens.get(index, INPUT_TOKENS))
            case CallRef(index):
                return answer(self._query, index, self._outputs[index])
            case FirstOf() | Joined():
                lengths = [self._symbol(ref, tokens_per_letter).tokens for ref in references((text,))]
                # Of alternatives one is written, of joined texts all are.
                length = max(lengths, default=0.0) if isinstance(text, FirstOf) else sum(lengths)
                return Placeholder(("glue", self._query, text), length)
            case _:
                raise AssertionError(f"{text!r} is no value of a prompt")
