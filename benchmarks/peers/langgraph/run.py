"""LangGraph: one graph with a node per step, run over all rows with ``abatch``.

Settings, and where they are recommended:

* The model is ``ChatOpenAI`` with the server's address, as "vLLM Chat" in LangChain's integrations says; what only
  vLLM knows goes into ``extra_body`` ("recommended way", reference of ``BaseChatOpenAI``).
* Steps that do not need each other are nodes that one edge each leads to, which LangGraph runs in one superstep;
  an edge from several nodes waits for all ("Graph API overview", edges). ``when`` is a conditional edge.
* ``abatch(rows, config={"max_concurrency": N})`` runs N rows at a time (reference of ``RunnableConfig``).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "shared"))
import peer_job as jobs

os.environ["LANGSMITH_TRACING"] = "false"

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

State = dict[str, Any]


def build(job: jobs.Job, model: ChatOpenAI) -> Any:
    """The compiled graph. A step with ``when`` has a node that decides before its call, and one that joins."""
    fields: dict[str, Any] = {"row": int, **dict.fromkeys(job.columns, str)}
    fields |= dict.fromkeys((step.name for step in job.steps), str)
    graph = StateGraph(TypedDict("State", fields, total=False))  # type: ignore[operator]
    ends: dict[str, str] = {}  # of each step, the node after which it is over

    def caller(step: jobs.Step) -> Callable[[State], Awaitable[State]]:
        extra = {"extra_body": step.extra_body} if step.extra_body else {}
        bound = model.bind(max_tokens=step.max_tokens, **extra)
        values = dict.fromkeys((*job.columns, *(s.name for s in job.steps)))

        async def call(state: State) -> State:
            messages = job.messages(step, {**values, **state})
            if messages is None:
                return {step.name: None}
            return {step.name: (await bound.ainvoke(messages)).text}

        return call

    for step in job.steps:
        before = [ends[name] for name in job.needs(step)] or [START]
        graph.add_node(f"call {step.name}", caller(step))
        first = f"call {step.name}"
        ends[step.name] = first
        if step.when:
            earlier, equals = step.when
            first, ends[step.name] = f"decide {step.name}", f"join {step.name}"
            graph.add_node(first, lambda state: {})
            graph.add_node(ends[step.name], lambda state: {})
            graph.add_conditional_edges(
                first,
                lambda state, earlier=earlier, equals=equals: state.get(earlier) == equals,
                {True: f"call {step.name}", False: ends[step.name]},
            )
            graph.add_edge(f"call {step.name}", ends[step.name])
        graph.add_edge(before if len(before) > 1 else before[0], first)
    needed = {name for step in job.steps for name in job.needs(step)}
    for name, node in ends.items():
        if name not in needed:
            graph.add_edge(node, END)
    return graph.compile()


async def run(folder: Path) -> None:
    job, rows = jobs.read(folder)
    model = ChatOpenAI(
        model=job.model, base_url=job.server, api_key="none", temperature=0.0, max_retries=0, timeout=3600
    )
    graph = build(job, model)
    await model.bind(max_tokens=1).ainvoke("Hello")
    # A superstep per level, and two more where a step has a condition.
    config: Any = {"max_concurrency": job.concurrency, "recursion_limit": 3 * len(job.steps) + 10}
    begun = time.perf_counter()
    states = await graph.abatch(rows, config=config)
    seconds = time.perf_counter() - begun
    answers = [{"row": state["row"], **{name: state.get(name) for name in job.outputs}} for state in states]
    jobs.write(
        folder, job, answers, seconds, ("langgraph", "langchain-core", "langchain-openai", "openai"), warm_up_calls=1
    )


if __name__ == "__main__":
    asyncio.run(run(jobs.folder_of_job()))
