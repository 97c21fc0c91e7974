"""The operators of a call graph: what the tree and the planner know of a query.

The tokens that a prompt begins with are found by who knows the chat template and the tokenizer, and given as a
:class:`~.templates.Beginning`. Text behind them is known as text, and its length in tokens is an estimate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spark_helium.call_graph import Call, CallGraph
from spark_helium.call_parts import CallRef, Data, FirstOf, InputRef, Joined, Part, references
from spark_helium.trt.templates import TOKEN_BYTES, Beginning, Placeholder, Symbol, Template, answer, column, known
from spark_helium.trt.tree import Operator

INPUT_TOKENS = 100.0
TOKENS_PER_LETTER = 0.25  # of a text of which no length in tokens is known
SELECTIVITY = 0.5


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is known of a query's data before it runs.

    Attributes
    ----------
    input_tokens: mean length of input columns, :data:`INPUT_TOKENS` where not given.
    output_tokens: mean length of the answers of calls, their ``max_tokens`` where not given.
    selectivities: share of the rows for which a call's guard is true, :data:`SELECTIVITY` where not given.
    """

    input_tokens: Mapping[int, float] = field(default_factory=dict)
    output_tokens: Mapping[int, float] = field(default_factory=dict)
    selectivities: Mapping[int, float] = field(default_factory=dict)


def operators_of(
    graph: CallGraph,
    query: Hashable,
    beginnings: Sequence[Beginning | None],
    expected: Expectations | None = None,
    salt: str = "",
) -> list[Operator]:
    """The operators of a query's call graph, in the graph's sequence; ``beginnings``: one per call.

    Prompts share KV with those of the same ``salt`` only.

    A call without a beginning runs elsewhere. It is an operator without prompt and answer, so that others wait for
    nothing.
    """
    reader = _Reader(graph, query, expected or Expectations(), salt)
    return [reader.operator(call, beginning) for call, beginning in zip(graph.calls, beginnings, strict=True)]


class _Reader:
    def __init__(self, graph: CallGraph, query: Hashable, expected: Expectations, salt: str) -> None:
        self._salt: list[Symbol] = [Placeholder(("salt", salt), 0.0, per_row=False)] if salt else []
        self._query = query
        self._expected = expected
        self._outputs = [
            expected.output_tokens.get(call.index, float(call.sampling.max_tokens)) for call in graph.calls
        ]

    def operator(self, call: Call, beginning: Beginning | None) -> Operator:
        guarded = self._expected.selectivities.get(call.index, SELECTIVITY) if call.guard is not None else 1.0
        if beginning is None:
            return Operator(Template(()), 0.0, call.dependencies, guarded)
        symbols: list[Symbol] = [*self._salt, beginning.tokens]
        # Text in front of the first value is in the beginning, but for its last word, unless nothing is known.
        texts = list(self._texts(call, begun=not beginning.tokens))
        left = max(beginning.shortest - len(beginning.tokens) // TOKEN_BYTES, 0)
        letters = sum(len(text) for text in texts if isinstance(text, str))
        tokens_per_letter = left / letters if letters and left else TOKENS_PER_LETTER
        if beginning.cut:
            texts.insert(0, beginning.cut)
        symbols += [self._symbol(text, tokens_per_letter) for text in texts]
        return Operator(Template(symbols), self._outputs[call.index], call.dependencies, guarded)

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
