"""Tenants of one daemon: what was computed for one never serves another."""

from __future__ import annotations

import select

import pyarrow as pa
import pytest

from spark_helium.call_graph import Call, CallGraph, InputRef, Message, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError
from spark_helium.gpu_executor.client import AnswerBatch, RowStream
from spark_helium.gpu_executor.isolation import answer_scope, kv_salt
from spark_helium.gpu_executor.messages import Counters
from tests.gpu_executor.daemons import DaemonDirectory, until

RULES = "Judge the review with care, and give your reasons in full sentences. " * 10
GRAPH = CallGraph((Call(0, "m", (Message("system", (RULES,)), Message("user", (InputRef(0),))), Sampling(16)),), 1)


def ask(settings: Settings, query: str, *texts: str, cache: bool = True) -> tuple[list[str], Counters, int]:
    """Answers in the order of the rows, what was counted, and the tokens that the stream had pinned."""
    rows = pa.record_batch([pa.array(texts, pa.string())], ["input0"])
    header = RowStream.header(GRAPH.to_json(), settings, "app", query, cache=cache)
    found: dict[int, str] = {}
    counters, pinned = Counters(), 0
    with RowStream.open(settings, header, rows.schema) as stream:
        stream.send(rows)
        while len(found) < len(texts):
            assert select.select([stream], [], [], 15)[0], "no answer"
            for item in stream.receive():
                assert isinstance(item, AnswerBatch), item
                counters.add(item.counters)
                pinned = max(pinned, item.pinned_tokens)
                found |= {row["row"]: row["text0"] for row in item.batch.to_pylist()}
    return [found[row] for row in range(len(texts))], counters, pinned


def test_answers_and_kv_of_a_namespace_serve_no_other(daemons: DaemonDirectory) -> None:
    by_name = {name: daemons.settings(namespace=name) for name in ("", "a", "b")}
    answers = {}
    for name, settings in by_name.items():
        answers[name], counters, pinned = ask(settings, "q1", "x", "y", "z")
        assert (counters.calls_sent, counters.answers_from_cache) == (3, 0)
        # The first row computes the rules: KV of another namespace is there, pinned, and not used.
        assert pinned > 0
        assert counters.cached_prompt_tokens == 2 * pinned
    assert answers[""] == answers["a"] == answers["b"]
    for name, settings in by_name.items():
        again, counters, _ = ask(settings, "q2", "x", "y", "z")
        assert (again, counters.calls_sent, counters.answers_from_cache) == (answers[name], 0, 3)
    (engine,) = daemons.status(by_name["a"]).engines
    assert engine.pins == 3  # one daemon served all, and pinned the rules once for each
    assert daemons.status(by_name[""]).rows_answered == 18


def test_the_store_on_disk_is_one_and_its_answers_are_parted(daemons: DaemonDirectory) -> None:
    ask(daemons.settings(namespace="a"), "q1", "x")
    until(lambda: any(daemons.cache.rglob("*")), "the writing")
    # Another configuration is another daemon, whose memory is empty.
    for name, sent in (("b", 1), ("a", 0)):
        _, counters, _ = ask(daemons.settings(namespace=name, simulator_block_size="32"), "q2", "x")
        assert counters.calls_sent == sent


def test_a_query_on_its_own_uses_nothing_of_others(daemons: DaemonDirectory) -> None:
    shared, alone = daemons.settings(), daemons.settings(isolation="query")
    expected, _, _ = ask(shared, "q1", "x", "y", "x")
    for query in ("q2", "q3"):
        answers, counters, pinned = ask(alone, query, "x", "y", "x")
        assert answers == expected
        assert (counters.calls_sent, counters.answers_from_cache) == (2, 1)  # of its own equal rows
        assert counters.cached_prompt_tokens == pinned > 0
    _, counters, _ = ask(alone, "q3", "z")
    assert counters.cached_prompt_tokens > 0  # of the same query's other task
    for _ in range(2):  # streams that name no query have nothing in common
        _, counters, _ = ask(alone, "", "z")
        assert (counters.calls_sent, counters.cached_prompt_tokens) == (1, 0)
    _, counters, _ = ask(shared, "q4", "z")
    assert counters.calls_sent == 1  # and leave nothing to others


def test_scopes_and_salts_tell_names_apart() -> None:
    pairs = [("", ""), ("a", ""), ("", "a"), ("a", "a"), ('a", "', ""), ("a", "b"), ("ab", "")]
    assert len({answer_scope(*pair) for pair in pairs}) == len(pairs)
    salts = {kv_salt(*pair, isolated=bool(pair[1])) for pair in pairs}
    assert len(salts) == len(pairs)
    assert "" in salts  # the default namespace's KV is found as before
    assert kv_salt("", "", isolated=True) != kv_salt("", "", isolated=True)
    assert kv_salt("a", "q1", isolated=False) == kv_salt("a", "q2", isolated=False)


@pytest.mark.parametrize(("key", "value"), [("namespace", "a b"), ("namespace", "a\nb"), ("isolation", "none")])
def test_bad_values_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"spark\.helium\.{key} ="):
        Settings({key: value})
