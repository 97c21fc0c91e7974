from __future__ import annotations

import email.utils
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, EngineError, EngineStartError
from spark_helium.gpu_executor.engines import create
from spark_helium.gpu_executor.engines.base import Engine, EngineRequest, EngineResult
from spark_helium.gpu_executor.engines.openai_engine import retry_after
from tests.gpu_executor.chat_endpoint import Endpoint, Reply, completion, echo, endpoint, error

KEY = "sk-canary-0123456789"
WAIT = 15.0
PLAIN = Sampling(max_tokens=16)
COLORS = Constraint(choices=("red", "green"))


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Endpoint, Engine]]]:
    """An endpoint that answers so, and an engine for it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    contexts: list[Any] = []
    engines: list[Engine] = []

    def start(answer: Callable[[dict[str, Any]], Reply] = echo, **given: str) -> tuple[Endpoint, Engine]:
        contexts.append(endpoint(answer))
        serving = contexts[-1].__enter__()
        options = {f"openai.{name}": value for name, value in given.items()}
        engines.append(create("some-model", Settings({"engine": "openai", "openai.baseUrl": serving.url} | options)))
        return serving, engines[-1]

    yield start
    for engine in engines:
        engine.close()
        engine.close()
    for context in contexts:
        context.__exit__(None, None, None)


def request(
    engine: Engine, number: int, text: str = "hi", sampling: Sampling = PLAIN, constraint: Constraint | None = None
) -> EngineRequest:
    [tokens] = engine.renderer.render([[("system", (("Be brief.", True),)), ("user", ((text, False),))]])
    assert isinstance(tokens, bytes)
    return EngineRequest(number, tokens, sampling, constraint)


def results(engine: Engine, *requests: EngineRequest) -> list[EngineResult]:
    """By id."""
    engine.submit(requests)
    found: list[EngineResult] = []
    deadline = time.monotonic() + WAIT
    while len(found) < len(requests):
        assert time.monotonic() < deadline, found
        found += engine.poll(0.1)
    return sorted(found, key=lambda result: result.id)


def failure(engine: Engine, *args: Any) -> EngineResult:
    [result] = results(engine, request(engine, 1, *args))
    assert result.error is not None
    assert result.text == ""
    assert KEY not in result.error
    return result


def test_messages_options_and_usage(serve):
    serving, engine = serve()
    full = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("END",))
    plain, other = results(engine, request(engine, 1, "<|im_end|> hi"), request(engine, 2, "yo", full))
    assert plain == EngineResult(1, "<<|im_end|> hi>", 7, 3, 2)
    assert other.text == "<yo>"
    bodies = sorted(serving.requests, key=lambda body: body["max_tokens"])
    assert bodies[1] == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<|im_end|> hi"}],
        "temperature": 0.0,
        "max_tokens": 16,
    }
    assert {k: bodies[0][k] for k in ("max_tokens", "temperature", "top_p", "seed", "stop")} == {
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["END"],
    }  # fmt: skip
    assert set(serving.keys) == {KEY}


def test_further_fields_and_the_newer_name_of_max_tokens(serve):
    serving, engine = serve(maxTokensField="max_completion_tokens", extraBody='{"reasoning_effort": "low"}')
    results(engine, request(engine, 1))
    [body] = serving.requests
    assert (body["max_completion_tokens"], body["reasoning_effort"]) == (16, "low")
    assert "max_tokens" not in body


def test_an_endpoint_that_wants_no_key_gets_none(serve, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    serving, engine = serve(apiKeyVariable="")
    assert results(engine, request(engine, 1))[0].text == "<hi>"
    assert serving.keys == ["-"]


def test_a_key_under_another_name(serve, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    serving, engine = serve(apiKeyVariable="OTHER_KEY")
    results(engine, request(engine, 1))
    assert serving.keys == ["sk-other"]


def test_a_missing_key_names_its_variable(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineStartError, match=r"OPENAI_API_KEY.*apiKeyVariable"):
        create("m", Settings({"engine": "openai"}))


@pytest.mark.parametrize("address", ["http://[bad/v1", "http:///v1", "http://host:port/v1", "http://h\x07/v1"])
def test_a_client_that_cannot_be_made_is_a_failed_start(monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(EngineStartError, match=r"spark\.helium\.openai\.baseUrl") as raised:
        create("m", Settings({"engine": "openai", "openai.baseUrl": address}))
    assert KEY not in str(raised.value)


def test_an_environment_that_no_client_can_use(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    with pytest.raises(EngineStartError, match="SSL_CERT_FILE"):
        create("m", Settings({"engine": "openai", "openai.baseUrl": "https://localhost/v1"}))


@pytest.mark.parametrize("key", ["sk-schlüssel", "sk-a\nb"])
def test_a_key_that_no_header_takes(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EngineStartError, match="apiKeyVariable") as raised:
        create("m", Settings({"engine": "openai"}))
    assert key not in str(raised.value)


@pytest.mark.parametrize("asked", ["3600", "inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_that_is_too_long_is_bounded_and_told(serve, asked):
    serving, engine = serve(lambda _: error(429, "slow down", retry_after=asked), maxRetryAfter="50ms")
    result = failure(engine)
    assert (result.retryable, result.retry_after) == (True, 0.05)
    assert "spark.helium.openai.maxRetryAfter" in str(result.error)
    assert "asks to wait" in str(result.error)
    failure(engine)  # the calls beside it are not held up for longer, either
    assert len(serving.requests) == 2


def test_extra_body_must_be_json(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match="extraBody"):
        create("m", Settings({"engine": "openai", "openai.extraBody": "{nonsense}"}))


# -- constraints


def test_choices_and_regex_are_an_object_around_the_answer(serve):
    serving, engine = serve()
    chosen = results(engine, request(engine, 1, constraint=COLORS))[0]
    assert (chosen.text, chosen.error) == ("red", None)
    matched = results(engine, request(engine, 2, constraint=Constraint(regex="[xy]")))[0]
    assert (matched.text, matched.error) == ("x", None)
    formats = [body["response_format"] for body in serving.requests]
    assert [f["type"] for f in formats] == ["json_schema"] * 2
    assert [f["json_schema"]["strict"] for f in formats] == [True, True]
    schemas = [f["json_schema"]["schema"] for f in formats]
    assert schemas[0]["properties"]["answer"] == {"type": "string", "enum": ["red", "green"]}
    assert schemas[1]["properties"]["answer"] == {"type": "string", "pattern": "^(?:[xy])$"}
    assert serving.requests[0]["max_tokens"] > PLAIN.max_tokens, "the object needs tokens as well"


@pytest.mark.parametrize(("optional", "strict"), [(False, True), (True, False)])
def test_a_schema_is_strict_where_openai_takes_it_so(serve, optional, strict):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": [] if optional else ["a"],
        "additionalProperties": False,
    }
    serving, engine = serve()
    answer = results(engine, request(engine, 1, constraint=Constraint(json_schema=json.dumps(schema))))[0]
    assert json.loads(answer.text) == {"a": "x"}
    assert serving.requests[0]["response_format"]["json_schema"] == {
        "name": "answer", "schema": schema, "strict": strict,
    }  # fmt: skip


def test_vllm_gets_its_own_constraints(serve):
    serving, engine = serve(server="vllm")
    assert results(engine, request(engine, 1, constraint=COLORS))[0].text == "red"
    results(engine, request(engine, 2, constraint=Constraint(regex="[xy]")))
    results(engine, request(engine, 3, constraint=Constraint(json_schema='{"type": "object"}')))
    assert [body["structured_outputs"] for body in serving.requests] == [
        {"choice": ["red", "green"]}, {"regex": "[xy]"}, {"json": {"type": "object"}},
    ]  # fmt: skip
    assert all("response_format" not in body for body in serving.requests)


@pytest.mark.parametrize("text", ["blue", '{"answer": "blue"}', '{"color": "red"}', "[]"])
def test_an_endpoint_that_does_not_enforce_a_choice_is_found_out(serve, text):
    _, engine = serve(lambda _: completion(text))
    result = failure(engine, "hi", PLAIN, COLORS)
    assert not result.retryable
    assert "response_format" in str(result.error)
    assert (result.prompt_tokens, result.output_tokens) == (7, 2), "it was paid for"


def test_half_an_object_is_a_failure_that_says_so(serve):
    _, engine = serve(lambda _: completion('{"answer": "re', finish_reason="length"))
    assert "max_tokens" in str(failure(engine, "hi", PLAIN, COLORS).error)


def test_truncated_answers_refusals_and_filters(serve):
    replies = {
        "long": completion("and so o", finish_reason="length"),
        "bad": completion(None, refusal="I cannot help with that"),
        "filtered": completion("", finish_reason="content_filter"),
        "empty": completion(None),
        "bare": completion("x", cached=None),
    }
    _, engine = serve(lambda body: replies[body["messages"][-1]["content"]])
    long, bad, filtered, empty, bare = results(engine, *(request(engine, i, text) for i, text in enumerate(replies)))
    assert (long.text, long.truncated) == ("and so o", True)
    assert "I cannot help" in str(bad.error)
    assert "filter" in str(filtered.error)
    assert (empty.text, empty.error) == ("", None)
    assert (bare.text, bare.cached_prompt_tokens) == ("x", 0)


# -- failures


@pytest.mark.parametrize(
    ("reply", "retryable", "wait", "words"),
    [
        (error(429, "slow down", retry_after="2"), True, 2.0, "status 429: slow down"),
        (error(429, "slow down", retry_after_ms="40"), True, 0.04, "status 429"),
        (error(429, "no money", "insufficient_quota", retry_after="2"), False, 0.0, "no money"),
        (error(500, "oops"), True, 0.0, "status 500: oops"),
        (error(503, "busy", retry_after="1"), True, 1.0, "status 503"),
        (error(400, "bad schema"), False, 0.0, "status 400: bad schema"),
        (error(401, "wrong key"), False, 0.0, "spark.helium.openai.apiKeyVariable"),
        (error(404, "no such model"), False, 0.0, "'some-model'"),
        (Reply(502, "<html>bad gateway</html>"), True, 0.0, "status 502"),
        (Reply(200, "{nonsense"), True, 0.0, "no chat completion"),
        (Reply(200, '{"choices": []}'), True, 0.0, "no chat completion"),
        (Reply(200, "[1]"), True, 0.0, "no chat completion"),
        (Reply(200, None), True, 0.0, "cannot be reached"),
    ],
)
def test_what_may_pass_and_what_may_not(serve, reply, retryable, wait, words):
    serving, engine = serve(lambda _: reply)
    result = failure(engine)
    assert words in str(result.error)
    assert (result.retryable, result.retry_after) == (retryable, wait)
    assert len(serving.requests) == 1, "the dispatcher tries again, not the client"


def test_a_timeout(serve):
    _, engine = serve(lambda _: Reply(delay=1.0), timeout="100ms")
    result = failure(engine)
    assert result.retryable
    assert "spark.helium.openai.timeout" in str(result.error)


def test_nobody_listens(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        engine = create(
            "m", Settings({"engine": "openai", "openai.baseUrl": f"http://127.0.0.1:{free.getsockname()[1]}/v1"})
        )
        result = failure(engine)
        assert result.retryable
        assert "spark.helium.openai.baseUrl" in str(result.error)
        engine.close()


def test_a_key_that_the_endpoint_echoes_is_taken_out(serve, caplog):
    for reply in (
        error(401, f"Incorrect API key provided: {KEY}"),
        error(500, f"header was Bearer {KEY}"),
        Reply(400, f"what is {KEY}?"),
        completion(None, refusal=f"your key is {KEY}"),
        completion(f"{KEY}"),
    ):
        _, engine = serve(lambda _, reply=reply: reply)
        assert "(the API key)" in str(failure(engine, "hi", PLAIN, COLORS).error)
    assert KEY not in caplog.text


def test_bad_rows_do_not_cost_others(serve):
    _, engine = serve(lambda body: error(400, "no") if "bad" in body["messages"][-1]["content"] else echo(body))
    found = results(engine, *(request(engine, i, "bad" if i % 3 == 0 else f"row {i}") for i in range(9)))
    assert [r.text for r in found] == ["" if i % 3 == 0 else f"<row {i}>" for i in range(9)]


# -- how much at once


def test_concurrency_is_bounded(serve):
    serving, engine = serve(lambda body: Reply(body=echo(body).body, delay=0.02), maxConcurrency="3")
    assert engine.info.max_num_seqs == 3
    results(engine, *(request(engine, i, f"row {i}") for i in range(12)))
    assert serving.most_open == 3


def test_when_one_call_is_told_to_wait_all_do(serve):
    replies = iter([error(429, "slow down", retry_after_ms="400")])
    serving, engine = serve(lambda body: next(replies, None) or echo(body))
    failure(engine)
    results(engine, request(engine, 2), request(engine, 3))
    assert serving.times[1] - serving.times[0] >= 0.4


@pytest.mark.parametrize("limit", ["requestsPerMinute", "tokensPerMinute"])
def test_rate_limits_hold_back_requests(serve, limit):
    serving, engine = serve(**{limit: "1"})  # the next one passes in a minute
    assert results(engine, request(engine, 1))[0].text == "<hi>"
    engine.submit([request(engine, 2)])
    assert engine.poll(0.3) == []
    assert len(serving.requests) == 1
    engine.abort([2])


def test_tokens_that_were_not_used_are_given_back(serve):
    # Each call counts 12 tokens of prompt and 16 of answer at first, and has 7 and 2: a minute's 100 do for eight.
    _, engine = serve(tokensPerMinute="100")
    results(engine, *(request(engine, i, f"row {i}") for i in range(8)))


def test_aborted_calls_do_not_come_back(serve):
    _, engine = serve(lambda body: Reply(body=echo(body).body, delay=0.3 if "slow" in str(body) else 0.0))
    engine.submit([request(engine, 1, "slow"), request(engine, 2)])
    engine.abort([1, 77])
    found = [result for _ in range(10) for result in engine.poll(0.05)]
    assert [result.id for result in found] == [2]


def test_wake_and_close(serve):
    _, engine = serve()
    engine.wake()
    began = time.monotonic()
    assert engine.poll(10) == []
    assert time.monotonic() - began < 5
    engine.close()
    with pytest.raises(EngineError):
        engine.submit([])
    with pytest.raises(EngineError):
        engine.poll(0)


def test_retry_after_as_a_date() -> None:
    assert 55 < retry_after({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)}) < 61
    assert retry_after({"retry-after": email.utils.formatdate(time.time() - 60, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) == 0
    assert retry_after({}) == 0
