"""What the optimizer made of a query's LLM calls, for people."""

from __future__ import annotations

import html
import json
import uuid
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_helium.cascade_counts import CascadeCounts
from spark_helium.errors import ArgumentError
from spark_helium.semantic import SampledJoin

_COLUMNS = ("calls", "distinct prompts", "prompt tokens", "in shared prefixes")


@dataclass(frozen=True, slots=True)
class Note:
    """What a rule did, or why it declined."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class CallEstimate:
    """What one call is expected to ask for.

    Attributes
    ----------
    call : str
        The call as EXPLAIN shows it.
    multiplicity : int
        How many calls of the query's text it stands for.
    calls, distinct_prompts : float
        Rows that reach it, and different prompts among them.
    prompt_tokens, shared_prefix_tokens : float
        Of the distinct prompts together, and those of them that the template's fixed beginning repeats.
    measured : bool
        Whether statistics tell so; false where a documented default took part.
    """

    call: str
    multiplicity: int
    calls: float
    distinct_prompts: float
    prompt_tokens: float
    shared_prefix_tokens: float
    measured: bool


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt of the query, as its calls write it: messages with placeholders by position."""

    function: str
    model: str
    template: str


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One EvalLLM node: what is expected of its calls, why rules left it, and what it counted when it ran."""

    calls: tuple[CallEstimate, ...]
    declined: tuple[Note, ...]
    actual: dict[str, int] | None

    @property
    def cascade(self) -> CascadeCounts | None:
        """What the node's cascades did when it ran; None where it has none, or did not run."""
        return None if self.actual is None else CascadeCounts.of(self.actual)


@dataclass(frozen=True, slots=True)
class PrefilterRecall:
    """What the pre-filter of a semantic join kept of the matches of a sample.

    Attributes
    ----------
    rows : int
        Left rows of the sample that have a pair.
    matches, kept : int
        Pairs for which the template is true, and those of them that the pre-filter let through.
    recall : float or None
        Their share; None without matches.
    calls, calls_saved : int
        Different pairs of texts, and those of them that the pre-filter spares.
    """

    rows: int
    matches: int
    kept: int
    recall: float | None
    calls: int
    calls_saved: int

    def __str__(self) -> str:
        share = "no match, so that the recall is not known" if self.recall is None else f"recall {self.recall:.3f}"
        return (
            f"{share}: kept {self.kept:,} of {self.matches:,} matches of {self.rows:,} left rows, "
            f"and spared {self.calls_saved:,} of {self.calls:,} calls"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The result of :func:`explain`; a text when printed, a table in a notebook.

    Attributes
    ----------
    before, after : str
        The optimized plan with spark_helium's rules off and on.
    did : tuple of Note
        What the rules did.
    nodes : tuple of NodeReport
        The EvalLLM nodes of the plan.
    templates : tuple of PromptTemplate
        The prompts of its calls, each once per function and model.
    prefilter : PrefilterRecall or None
        Of a join with a sample that was analyzed.
    """

    before: str
    after: str
    did: tuple[Note, ...]
    nodes: tuple[NodeReport, ...]
    templates: tuple[PromptTemplate, ...] = ()
    prefilter: PrefilterRecall | None = None

    def __str__(self) -> str:
        parts = ["== Without the rules ==", self.before.rstrip(), "", "== With the rules ==", self.after.rstrip(), ""]
        parts += ["== What the rules did ==", *[f"{note.rule}: {note.text}" for note in self.did or (_NOTHING,)], ""]
        if self.templates:
            parts += ["== Prompt templates ==", *map(_template_lines, self.templates), ""]
        for number, node in enumerate(self.nodes, 1):
            parts.append(f"== Node {number} ==")
            parts += [f"declined: {note.rule}: {note.text}" for note in node.declined]
            parts += [_shortened(f"  {call.call}", 80) + f"\n    expected {_expected(call)}" for call in node.calls]
            if node.actual is not None:
                parts += [f"  expected in all: {_total(node)}", f"  actual:          {_actual(node.actual)}"]
            if node.cascade is not None:
                parts += [f"  cascade:         {line}" for line in node.cascade.lines()]
            parts.append("")
        if self.prefilter is not None:
            parts += ["== Pre-filter, on the sample ==", str(self.prefilter)]
        return "\n".join(parts).rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def table(rows: list[list[str]], head: list[str]) -> str:
            top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f"<table><tr>{top}</tr>{body}</table>"

        parts = [table([[note.rule, note.text] for note in self.did or (_NOTHING,)], ["rule", "what it did"])]
        for number, node in enumerate(self.nodes, 1):
            parts.append(f"<h4>Node {number}</h4>")
            rows = [[call.call, *_numbers(call), "" if call.measured else "default"] for call in node.calls]
            parts.append(table(rows, ["call", *_COLUMNS, ""]))
            if node.actual is not None:
                pair = [["expected", _total(node)], ["actual", _actual(node.actual)]]
                pair += [["cascade", line] for line in (node.cascade.lines() if node.cascade is not None else ())]
                parts.append(table(pair, ["", "all calls of the node"]))
            if node.declined:
                parts.append(table([[note.rule, note.text] for note in node.declined], ["rule", "why it declined"]))
        if self.prefilter is not None:
            parts.append(table([[str(self.prefilter)]], ["pre-filter, on the sample"]))
        if self.templates:
            shown = [[t.function, t.model, t.template] for t in self.templates]
            parts.append(table(shown, ["function", "model", "prompt template"]))
        for title, plan in (("Without the rules", self.before), ("With the rules", self.after)):
            parts.append(f"<details><summary>{title}</summary><pre>{html.escape(plan)}</pre></details>")
        return "\n".join(parts)


def explain(df: DataFrame | SampledJoin, *, analyze: bool = False) -> Report:
    """Report what the optimizer makes of the LLM calls of a query.

    Parameters
    ----------
    df
        A DataFrame of a classic or a Connect session with spark_helium, or a join with a sample.
    analyze
        Run the query, throw its rows away, and put what each node counted beside what was expected. Of a join with a
        sample, ask all pairs of the sample too, and tell what its pre-filter lost.

    Returns
    -------
    Report
        Plans before and after, what each rule did, why others declined, and expected calls, distinct prompts and
        tokens.

    Examples
    --------
    >>> print(spark_helium.explain(df))  # doctest: +SKIP
    """
    if isinstance(df, SampledJoin):
        report = explain(df.rows, analyze=analyze)
        if not analyze:
            return report
        [told] = df.recall.collect()
        return replace(report, prefilter=PrefilterRecall(**told.asDict()))
    if not isinstance(df, DataFrame):
        raise ArgumentError(f"explain() got {df!r:.80}; pass a DataFrame, such as spark.sql(...)")
    view = f"helium_explain_{uuid.uuid4().hex}"
    spark = df.sparkSession
    df.createTempView(view)
    try:
        # Not spark.sql: a Connect server analyses its text twice, and the analysis is what runs the query.
        row = spark.range(1).select(F.call_function("helium_explain", F.lit(view), F.lit(analyze))).collect()[0]
    finally:
        spark.catalog.dropTempView(view)
    return _report(json.loads(row[0]))


_NOTHING = Note("nothing", "no rule applied")


def _report(data: dict[str, Any]) -> Report:
    def notes(items: list[dict[str, str]]) -> tuple[Note, ...]:
        return tuple(Note(item["rule"], item["text"]) for item in items)

    nodes = tuple(
        NodeReport(
            tuple(
                CallEstimate(
                    call=call["call"],
                    multiplicity=call["multiplicity"],
                    calls=call["calls"],
                    distinct_prompts=call["distinct"],
                    prompt_tokens=call["prompt_tokens"],
                    shared_prefix_tokens=call["prefix_tokens"],
                    measured=call["measured"],
                )
                for call in node["calls"]
            ),
            notes(node["declined"]),
            node["actual"],
        )
        for node in data["nodes"]
    )
    templates = tuple(PromptTemplate(t["function"], t["model"], t["template"]) for t in data["templates"])
    return Report(data["before"], data["after"], notes(data["did"]), nodes, templates)


def _template_lines(template: PromptTemplate) -> str:
    lines = [_shortened(line, 76) for line in template.template.split("\n")]
    return "\n".join([f"{template.function} on {template.model}:", *(f"    {line}" for line in lines)])


def _numbers(call: CallEstimate) -> list[str]:
    values = (call.calls, call.distinct_prompts, call.prompt_tokens, call.shared_prefix_tokens)
    return [f"{value:,.0f}" for value in values]


def _expected(call: CallEstimate) -> str:
    named = ", ".join(f"{value} {name}" for value, name in zip(_numbers(call), _COLUMNS, strict=True))
    return named + ("" if call.measured else " (by default: no statistics)")


def _total(node: NodeReport) -> str:
    """What is expected of all calls of a node, in the words of :func:`_actual`."""
    calls, prompts, tokens = (
        sum(getattr(call, name) for call in node.calls) for name in ("calls", "distinct_prompts", "prompt_tokens")
    )
    return f"{calls:,.0f} calls, {prompts:,.0f} sent to the engine, {tokens:,.0f} prompt tokens"


def _actual(counts: dict[str, int]) -> str:
    return (
        f"{counts['calls_requested']:,} calls, {counts['calls_sent']:,} sent to the engine, "
        f"{counts['answers_from_cache']:,} from the cache, {counts['prompt_tokens']:,} prompt tokens, "
        f"{counts['cached_prompt_tokens']:,} of them in the KV cache, {counts['output_tokens']:,} output tokens"
    )


def _shortened(text: str, width: int) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= width else line[: width - 3] + "..."
