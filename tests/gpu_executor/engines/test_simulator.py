from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_helium.call_graph import CallTask, Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import EngineError
from spark_helium.gpu_executor.engines.answers import answer, embedding, score
from spark_helium.gpu_executor.engines.base import (
    EngineKind,
    EngineRequest,
    EngineResult,
    RenderedMessage,
    RenderError,
    Tokens,
    token_count,
)
from spark_helium.gpu_executor.engines.simulator import (
    SimulatorEngine,
    SimulatorRenderer,
    SimulatorTextRenderer,
    encode_text,
)
from tests.gpu_executor.engines.vectors import vector

SAMPLING = Sampling(max_tokens=256)
YES = Constraint(choices=("yes",))  # one output token


def engine_with(**given: object) -> SimulatorEngine:
    text = {"realTime": "false", **{key: str(value).lower() for key, value in given.items()}}
    return SimulatorEngine("m", Settings({f"spark.helium.simulator.{key}": value for key, value in text.items()}))


def tokens_of(*texts: str) -> list[Tokens]:
    rendered = SimulatorRenderer().render([[("user", ((text, False),))] for text in texts])
    assert all(isinstance(tokens, bytes) for tokens in rendered)
    return rendered  # type: ignore[return-value]


def prompt(count: int, first: int = 0) -> Tokens:
    """A prompt of exactly ``count`` tokens."""
    return b"".join(f"{first + i:04d}".encode() for i in range(count))


def run(engine: SimulatorEngine, requests: Sequence[EngineRequest]) -> dict[int, EngineResult]:
    engine.submit(requests)
    results: dict[int, EngineResult] = {}
    while len(results) < len(requests):
        found = engine.poll(1.0)
        assert found, "the simulator lost a request"
        results.update((result.id, result) for result in found)
    return results


# -- answers ------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    prompts=st.lists(st.text(max_size=40), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
    blocks=st.integers(1, 30),
    places=st.integers(1, 4),
)
def test_answers_are_a_pure_function(prompts: list[str], order: object, blocks: int, places: int) -> None:
    """Neither order, batches, cache nor the number of places changes an answer; `answer` predicts it."""
    constraints = [None, Constraint(choices=("a", "b", "c")), Constraint(regex=r"\d{4}")]
    tokens = tokens_of(*prompts)
    requests = [EngineRequest(i, tokens[i], SAMPLING, constraints[i % 3], priority=i % 2) for i in range(len(prompts))]
    expected = {r.id: answer(r.tokens, r.sampling, r.constraint).text for r in requests}
    order.shuffle(requests)  # type: ignore[attr-defined]
    engine = engine_with(
        kvBlocks=blocks, blockSize=4, maxNumSeqs=places, prefillMicrosPerToken=5, decodeMicrosPerToken=3
    )
    fitting = [r for r in requests if token_count(r.tokens) + 100 < engine.info.max_model_len]
    middle = len(fitting) // 2
    results = run(engine, fitting[:middle]) | run(engine, fitting[middle:])
    assert {i: result.text for i, result in results.items()} == {r.id: expected[r.id] for r in fitting}


def test_counts_tokens() -> None:
    engine = engine_with()
    result = run(engine, [EngineRequest(1, prompt(10), SAMPLING, YES)])[1]
    assert result == EngineResult(1, "yes", prompt_tokens=10, cached_prompt_tokens=0, output_tokens=1)


def test_unseeded_sampling_may_differ_by_request() -> None:
    requests = [EngineRequest(i, prompt(5), Sampling(99, temperature=1.0)) for i in range(20)]
    assert len({result.text for result in run(engine_with(), requests).values()}) == 20


def test_seeded_sampling_does_not() -> None:
    requests = [EngineRequest(i, prompt(5), Sampling(99, temperature=1.0, seed=1)) for i in range(20)]
    assert len({result.text for result in run(engine_with(), requests).values()}) == 1


# -- refusals -----------------------------------------------------------------------------------------------


def test_one_bad_request_does_not_disturb_the_others() -> None:
    engine = engine_with(maxModelLen=20, failPattern="boom ü")
    bad = tokens_of("say boom ü now")[0]
    requests = [
        EngineRequest(1, prompt(19), SAMPLING, YES),
        EngineRequest(2, prompt(20), SAMPLING, YES),
        EngineRequest(3, bad, SAMPLING, YES),
        EngineRequest(4, prompt(3), SAMPLING, Constraint(regex="(")),
        EngineRequest(5, prompt(3), SAMPLING, Constraint(json_schema="{nope")),
        EngineRequest(6, prompt(3), SAMPLING, Constraint(regex="(?=a)b")),
        EngineRequest(7, prompt(3), SAMPLING, YES),
    ]
    results = run(engine, requests)
    assert {i for i, result in results.items() if result.error is None} == {1, 7}
    assert "has 20 tokens" in (results[2].error or "")
    assert "spark.helium.simulator.maxModelLen" in (results[2].error or "")
    assert "failPattern" in (results[3].error or "")
    assert "regular expression" in (results[4].error or "")
    assert "not JSON" in (results[5].error or "")
    assert "found no text" in (results[6].error or "")
    assert all(results[i].text == "" and not results[i].retryable for i in range(2, 7))


def test_the_context_bounds_the_answer() -> None:
    engine = engine_with(maxModelLen=20)
    result = run(engine, [EngineRequest(1, prompt(18), SAMPLING)])[1]
    assert (result.output_tokens, result.truncated) == (2, True)


def test_the_context_is_no_longer_than_the_blocks() -> None:
    assert engine_with(maxModelLen=8192, kvBlocks=4, blockSize=8).info.max_model_len == 32


# -- the prefix cache ---------------------------------------------------------------------------------------


def test_shared_prefixes_are_cached_in_whole_blocks() -> None:
    engine = engine_with(blockSize=4)
    first, second = prompt(10), prompt(9) + prompt(5, first=500)
    assert run(engine, [EngineRequest(1, first, SAMPLING, YES)])[1].cached_prompt_tokens == 0
    assert run(engine, [EngineRequest(2, second, SAMPLING, YES)])[2].cached_prompt_tokens == 8
    assert run(engine, [EngineRequest(3, prompt(8), SAMPLING, YES)])[3].cached_prompt_tokens == 4


def test_an_answer_is_a_cached_prefix_of_the_next_turn() -> None:
    engine = engine_with(blockSize=1)
    [opening] = tokens_of("hi")
    constraint = Constraint(choices=("word" * 10,))  # ten tokens
    run(engine, [EngineRequest(1, opening, SAMPLING, constraint)])
    turns: list[RenderedMessage] = [("user", (("hi", False),)), ("assistant", (("word" * 10, False),))]
    [followed] = SimulatorRenderer().render([[*turns, ("user", (("and?", False),))]])
    assert isinstance(followed, bytes)
    assert followed.startswith(opening + b"word" * 10)
    result = run(engine, [EngineRequest(2, followed, SAMPLING, YES)])[2]
    # All of the answer but its last token, which was never fed back.
    assert result.cached_prompt_tokens == token_count(opening) + 9


def test_at_one_instant_an_end_comes_before_a_start() -> None:
    engine = engine_with(blockSize=1)
    constraint = Constraint(choices=("word" * 10,))
    first, second = prompt(5), prompt(5) + b"word" * 10
    requests = [EngineRequest(1, first, SAMPLING, constraint), EngineRequest(2, second, SAMPLING, constraint)]
    assert run(engine, requests)[2].cached_prompt_tokens == 14  # its own last token must run


# -- time ---------------------------------------------------------------------------------------------------


def test_prefill_is_serial_and_decode_parallel() -> None:
    engine = engine_with(prefillMicrosPerToken=1000, decodeMicrosPerToken=100_000)
    ends = []
    engine.submit([EngineRequest(i, prompt(10, first=100 * i), SAMPLING, YES) for i in range(3)])
    while len(ends) < 3:
        ends += [(result.id, round(engine.virtual_seconds, 6)) for result in engine.poll(1.0)]
    assert ends == [(0, 0.110), (1, 0.120), (2, 0.130)]


def test_cached_tokens_need_no_prefill() -> None:
    engine = engine_with(prefillMicrosPerToken=1000, blockSize=4)
    run(engine, [EngineRequest(1, prompt(9), SAMPLING, YES)])
    assert engine.virtual_seconds == pytest.approx(0.009)
    run(engine, [EngineRequest(2, prompt(9), SAMPLING, YES)])
    assert engine.virtual_seconds == pytest.approx(0.010)


def test_places_are_bounded_and_priority_decides_who_waits() -> None:
    engine = engine_with(decodeMicrosPerToken=1_000_000, maxNumSeqs=2)
    order = [(0, 5), (1, 5), (2, 9), (3, 1), (4, 1)]  # id, priority
    engine.submit([EngineRequest(i, prompt(4, first=100 * i), SAMPLING, YES, p) for i, p in order])
    rounds = []
    while sum(map(len, rounds)) < 5:
        rounds.append(sorted(result.id for result in engine.poll(1.0)))
        assert engine.virtual_seconds == pytest.approx(len(rounds))
    assert rounds == [[3, 4], [0, 1], [2]]


def test_virtual_time_costs_no_time() -> None:
    engine = engine_with(decodeMicrosPerToken=1e9)
    started = time.monotonic()
    run(engine, [EngineRequest(i, prompt(4), SAMPLING, YES) for i in range(10)])
    assert engine.virtual_seconds >= 1000
    assert time.monotonic() - started < 5


def test_real_time_passes_on_the_clock() -> None:
    engine = engine_with(realTime=True, prefillMicrosPerToken=20_000, decodeMicrosPerToken=40_000)
    started = time.monotonic()
    engine.submit([EngineRequest(1, prompt(5), SAMPLING, YES)])
    assert engine.poll(0.01) == []
    [result] = engine.poll(10.0)
    assert result.id == 1
    assert time.monotonic() - started >= 0.14


# -- the interface ------------------------------------------------------------------------------------------


def test_abort_forgets_waiting_running_and_finished_requests() -> None:
    engine = engine_with(maxNumSeqs=1, decodeMicrosPerToken=1000)
    engine.submit([EngineRequest(i, prompt(4), SAMPLING, YES) for i in range(4)])
    assert [result.id for result in engine.poll(1.0)] == [0]  # 1 has the only place now, 2 and 3 wait
    engine.abort([1, 2, 77])
    assert [result.id for result in engine.poll(1.0)] == [3]
    engine = engine_with(failPattern="0000")
    engine.submit([EngineRequest(5, prompt(4), SAMPLING, YES)])
    engine.abort([5])
    assert engine.poll(0.0) == []


@pytest.mark.parametrize("real_time", [True, False])
def test_wake_ends_a_waiting_poll(real_time: bool) -> None:
    engine = engine_with(realTime=real_time)
    timer = threading.Timer(0.1, engine.wake)
    timer.start()
    started = time.monotonic()
    assert engine.poll(30.0) == []
    assert 0.05 < time.monotonic() - started < 20
    timer.join()
    engine.wake()  # before the poll: it must not get lost
    started = time.monotonic()
    assert engine.poll(30.0) == []
    assert time.monotonic() - started < 20


def test_an_idle_poll_waits_for_its_timeout() -> None:
    started = time.monotonic()
    assert engine_with().poll(0.1) == []
    assert time.monotonic() - started >= 0.1


def test_a_closed_engine_says_so() -> None:
    engine = engine_with()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit([EngineRequest(1, prompt(4), SAMPLING)])
    with pytest.raises(EngineError, match="closed"):
        engine.poll(0.0)


# -- rendering ----------------------------------------------------------------------------------------------


def read_back(tokens: Tokens) -> Iterator[tuple[str, str]]:
    """Role and content of every message, by the special tokens alone; the generation prompt's content is open."""
    words = [tokens[i : i + 4] for i in range(0, len(tokens), 4)]
    special = {b"\xf8\xff\xff\xff", b"\xf9\xff\xff\xff", b"\xfa\xff\xff\xff"}
    fields: list[bytes] = []
    for word in words:
        if word in special:
            fields.append(b"")
        else:
            fields[-1] += word.rstrip(b"\xff")
    texts = [field.decode() for field in fields]
    while texts:
        yield texts[0], texts[1] if len(texts) > 1 else ""
        texts = texts[3:]


@given(messages=st.lists(st.tuples(st.sampled_from(["user", "system", "tool"]), st.text()), min_size=1, max_size=4))
def test_no_text_can_forge_a_message(messages: list[tuple[str, str]]) -> None:
    [tokens] = SimulatorRenderer().render([[(role, ((text, False),)) for role, text in messages]])
    assert isinstance(tokens, bytes)
    assert len(tokens) % 4 == 0
    assert list(read_back(tokens)) == [*messages, ("assistant", "")]


@given(shared=st.text(min_size=1), first=st.text(), second=st.text())
def test_equal_beginnings_give_equal_tokens(shared: str, first: str, second: str) -> None:
    one, two = tokens_of(shared + first, shared + second)
    head = len(tokens_of("")[0]) - len(tokens_of("")[0].lstrip(b"\xf8"))  # lower bound: the first special token
    same = head + len(shared.encode()) // 4 * 4
    assert one[:same] == two[:same]


def test_bad_conversations_fail_alone() -> None:
    good: list[RenderedMessage] = [("user", (("hi", True),))]
    rendered = SimulatorRenderer().render(
        [good, [], [("user\n", (("hi", True),))], [("user", (("a\ud800", False),))], good]
    )
    assert rendered[0] == rendered[4]
    assert isinstance(rendered[0], bytes)
    assert [type(entry) for entry in rendered[1:4]] == [RenderError] * 3
    reasons = [entry.reason for entry in rendered[1:4] if isinstance(entry, RenderError)]
    assert "no messages" in reasons[0]
    assert "role" in reasons[1]
    assert "Unicode" in reasons[2]


# -- other tasks --------------------------------------------------------------------------------------------


def test_scores_and_completions_share_the_engine_and_its_cache() -> None:
    engine = engine_with(blockSize=4)
    (tokens,) = tokens_of("is this one good or bad")
    choices = Constraint(choices=("yes", "no"))
    run(engine, [EngineRequest(1, tokens, SAMPLING, YES)])
    result = run(engine, [EngineRequest(2, tokens, SAMPLING, choices, task=CallTask.SCORE)])[2]
    assert (result.text, result.output_tokens, result.truncated) == (score(tokens), 1, False)
    assert result.cached_prompt_tokens > 0
    mixed = [
        EngineRequest(3, tokens, SAMPLING, choices),
        EngineRequest(4, tokens, SAMPLING, choices, task=CallTask.SCORE),
    ]
    results = run(engine, mixed)
    assert (results[3].text, results[4].text) == (answer(tokens, SAMPLING, choices).text, score(tokens))


def test_an_embedding_is_a_prefill_of_the_bare_text() -> None:
    settings = {"spark.helium.simulator.realTime": "false", "spark.helium.simulator.prefillMicrosPerToken": "1000"}
    engine = SimulatorEngine("m", Settings(settings), EngineKind.EMBED)
    (tokens,) = engine.renderer.render([[("user", (("a dog ", False), ("barks", False)))]])
    assert tokens == encode_text("a dog barks")
    result = run(engine, [EngineRequest(1, tokens, SAMPLING, task=CallTask.EMBED)])[1]
    assert vector(result.text) == embedding(tokens)
    assert (result.prompt_tokens, result.output_tokens) == (3, 0)
    assert engine.virtual_seconds == pytest.approx(0.003)
    assert engine.pins.reason


def test_an_empty_text_has_tokens_to_count_but_no_embedding() -> None:
    empty, flawed = [("user", (("", False),))], [("user", (("\ud800", False),))]
    whole = SimulatorTextRenderer(whole=True).render([empty, flawed])
    assert isinstance(whole[0], RenderError)
    assert "an empty text has no embedding" in whole[0].reason
    assert isinstance(whole[1], RenderError)
    assert SimulatorTextRenderer(whole=False).render([empty]) == [b""]
