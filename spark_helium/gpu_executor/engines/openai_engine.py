"""Any endpoint that speaks OpenAI's chat completions, behind the :class:`Engine` interface.

::

    dispatcher's thread                    thread "openai-engine", with an event loop            endpoint
    submit ──call_soon_threadsafe──▶ one task per request: place ▶ rate limits ▶ POST ──HTTPS──▶
    poll   ◀──────────SimpleQueue─── EngineResult                                     ◀─────────

The endpoint renders messages with its model's chat template, so that messages go there, and not tokens
(:mod:`.message_rendering`). Numbers of tokens are the endpoint's own. A failure that may pass is reported as
retryable; the dispatcher tries again. When the endpoint says how long to wait, all calls of the engine do.

The API key is read from the environment of this process. It stands in no setting, and :meth:`OpenAIEngine._said`
takes it out of everything that the endpoint says.
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import json
import logging
import os
import queue
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, EngineError, EngineStartError, MissingDependencyError
from spark_helium.gpu_executor.engines.base import (
    Engine,
    EngineInfo,
    EngineRequest,
    EngineResult,
    RequestId,
    token_count,
)
from spark_helium.gpu_executor.engines.chat_requests import ChatPlan, UnfitAnswerError, plan_for
from spark_helium.gpu_executor.engines.message_rendering import MessageRenderer, messages_of
from spark_helium.gpu_executor.engines.rate_limit import RateLimit

log = logging.getLogger(__name__)

BLOCK_SIZE = 32  # what the daemon counts shared beginnings in; endpoints share in blocks of 16 to 128 tokens
_RETRYABLE_STATUS = frozenset((408, 409, 425, 429))  # and all from 500 on
_NO_RETRY_CODES = frozenset(("insufficient_quota", "billing_hard_limit_reached"))  # a 429 that no wait mends
_MOST_SAID = 300
_MOST_PLANS = 1024
_CLOSE_SECONDS = 10.0


class OpenAIEngine(Engine):
    """Sends the calls of ``model``, a name at the endpoint; the constructor asks the endpoint for nothing.

    Raises
    ------
    MissingDependencyError
        The package openai is not installed.
    EngineStartError
        The environment variable of the API key is not set, or no client can be made: a base URL that is none, a key
        that no HTTP header takes, a proxy or a certificate of the environment.
    ConfigurationError
        ``spark.helium.openai.extraBody`` is not a JSON object.
    """

    def __init__(self, model: str, settings: Settings) -> None:
        check_installed()
        given = settings.with_prefix("openai.")
        self._key = _key(given["apiKeyVariable"])
        self._address: str = given["baseUrl"].rstrip("/")
        self._model = model
        self._server: str = given["server"]
        self._max_tokens_field: str = given["maxTokensField"]
        self._timeout: float = given["timeout"] / 1000
        self._longest_wait: float = given["maxRetryAfter"] / 1000
        self._extra = _json_object(given["extraBody"])
        self._tokens_are_limited = given["tokensPerMinute"] > 0
        places: int = given["maxConcurrency"]
        import openai

        # At the level of the daemon's log they write a line per request, with its address.
        for name in ("openai", "httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._openai = openai
        self._info = EngineInfo(
            engine="openai",
            model=model,
            fingerprint=json.dumps([self._address, model, self._extra], sort_keys=True),
            max_model_len=given["maxModelLen"],
            block_size=BLOCK_SIZE,
            kv_blocks=places * -(-given["maxModelLen"] // BLOCK_SIZE),
            version=openai.__version__,
            max_num_seqs=places,
        )
        self._renderer = MessageRenderer()
        self._results: queue.SimpleQueue[EngineResult | None] = queue.SimpleQueue()
        self._live: set[RequestId] = set()  # submitted and neither returned nor aborted; the caller's thread only
        self._closed = False
        # The loop's thread only, from here on.
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}
        self._plans: dict[tuple[Sampling, Constraint | None], ChatPlan] = {}
        self._places = asyncio.Semaphore(places)
        self._requests = RateLimit(given["requestsPerMinute"], time.monotonic)
        self._tokens = RateLimit(given["tokensPerMinute"], time.monotonic)
        # Here, where a failure is that of the engine's start: on the loop it would leave its calls without an answer.
        self._client = self._make_client()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="openai-engine", daemon=True)
        self._thread.start()

    def _make_client(self) -> Any:
        where = f"the client of the endpoint {self._address!r} cannot be made"
        try:
            address = urllib.parse.urlsplit(self._address)
            is_address = bool(address.hostname)
        except ValueError:
            is_address = False
        if not is_address:
            raise EngineStartError(
                f"{where}: spark.helium.openai.baseUrl must be an address such as https://api.openai.com/v1"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineStartError(
                f"{where}: the API key in the environment variable that spark.helium.openai.apiKeyVariable names has "
                "characters that no HTTP header takes; set it to the key alone"
            )
        try:
            # The dispatcher tries again, for all engines in one way: the client must not.
            return self._openai.AsyncOpenAI(
                api_key=self._key or "-", base_url=self._address, max_retries=0, timeout=self._timeout
            )
        except Exception as e:
            raise EngineStartError(
                f"{where} ({type(e).__name__}: {self._said(e)}): check spark.helium.openai.baseUrl, and the proxies "
                "and certificates that the daemon's environment names (HTTPS_PROXY, SSL_CERT_FILE); a daemon keeps the "
                "environment that it was started with: `spark-helium stop` ends it"
            ) from e

    # -- the caller's thread ------------------------------------------------------------------------------

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        if self._closed:
            raise EngineError("the connection to the endpoint is closed")
        self._live.update(request.id for request in requests)
        self._loop.call_soon_threadsafe(self._begin, list(requests))

    def poll(self, timeout: float) -> list[EngineResult]:
        found = []
        try:
            entry = self._results.get(timeout=max(timeout, 0.0))
            while True:
                if entry is not None and entry.id in self._live:
                    self._live.discard(entry.id)
                    found.append(entry)
                entry = self._results.get_nowait()
        except queue.Empty:
            pass
        if self._closed and not found:
            raise EngineError("the connection to the endpoint is closed")
        return found

    def abort(self, ids: Sequence[RequestId]) -> None:
        gone = [request_id for request_id in ids if request_id in self._live]
        self._live.difference_update(gone)
        if gone and not self._closed:
            self._loop.call_soon_threadsafe(self._cancel, gone)

    def wake(self) -> None:
        self._results.put(None)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=_CLOSE_SECONDS)
        except Exception as e:
            log.warning("the connection to the endpoint did not close in order: %s", type(e).__name__)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=_CLOSE_SECONDS)
        self._results.put(None)

    # -- the loop's thread --------------------------------------------------------------------------------

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def _begin(self, requests: Sequence[EngineRequest]) -> None:
        for request in requests:
            self._tasks[request.id] = self._loop.create_task(self._answer(request))

    def _cancel(self, ids: Iterable[RequestId]) -> None:
        for request_id in ids:
            if (task := self._tasks.get(request_id)) is not None:
                task.cancel()

    async def _answer(self, request: EngineRequest) -> None:
        try:
            async with self._places:
                result = await self._ask(request)
        except Exception as e:
            result = self._failure(request.id, e)
        finally:
            self._tasks.pop(request.id, None)
        self._results.put(result)

    async def _ask(self, request: EngineRequest) -> EngineResult:
        plan = self._plan(request.sampling, request.constraint)
        # What another endpoint caches is its own affair: it has no field to ask for.
        salted = {"cache_salt": request.salt} if request.salt and self._server == "vllm" else {}
        expected = token_count(request.tokens) + plan.max_tokens if self._tokens_are_limited else 0
        await self._requests.take(1)
        await self._tokens.take(expected)
        used = expected  # a request that fails may have been counted
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._client.chat.completions.create(
                    model=self._model,
                    messages=messages_of(request.tokens),
                    extra_body={**plan.extra, **salted, **self._extra} or None,
                    **plan.fields,
                )
            result = self._to_result(request, plan, reply)
            used = result.prompt_tokens + result.output_tokens
            return result
        finally:
            if self._tokens_are_limited:
                self._tokens.correct(expected, used)

    def _plan(self, sampling: Sampling, constraint: Constraint | None) -> ChatPlan:
        key = (sampling, constraint)
        if key not in self._plans:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            self._plans[key] = plan_for(sampling, constraint, self._server, self._max_tokens_field)
        return self._plans[key]

    def _to_result(self, request: EngineRequest, plan: ChatPlan, reply: Any) -> EngineResult:
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise _MalformedReplyError(f"it has no choices; it is {type(reply).__name__}")
        choice = choices[0]
        usage = getattr(reply, "usage", None)
        details = getattr(usage, "prompt_tokens_details", None)
        result = EngineResult(
            id=request.id,
            prompt_tokens=getattr(usage, "prompt_tokens", None) or token_count(request.tokens),
            cached_prompt_tokens=getattr(details, "cached_tokens", None) or 0,
            output_tokens=getattr(usage, "completion_tokens", None) or 0,
            truncated=choice.finish_reason == "length",
        )
        if refusal := getattr(choice.message, "refusal", None):
            result.error = f"the model refuses to answer: {self._said(refusal)}"
        elif choice.finish_reason == "content_filter":
            result.error = "a content filter of the endpoint stopped the answer; change the prompt"
        else:
            content = self._without_key(choice.message.content or "")  # or it would be kept in the prompt cache
            try:
                result.text = plan.answer(content, truncated=result.truncated)
            except UnfitAnswerError as e:
                result.error = str(e)
        return result

    # -- failures -----------------------------------------------------------------------------------------

    def _failure(self, request_id: RequestId, error: Exception) -> EngineResult:
        """The result of a call that failed, for the user. Never the error's own text as it is: it may hold the key."""
        openai = self._openai
        where = f"the endpoint {self._address}"
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            reason = (
                f"{where} did not answer within {self._timeout:g} s; raise spark.helium.openai.timeout or lower "
                "max_tokens"
            )
            return EngineResult(request_id, error=reason, retryable=True)
        if isinstance(error, openai.APIStatusError):
            return self._refusal(request_id, error, where)
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            reason = (
                f"{where} cannot be reached ({self._said(cause)}): check spark.helium.openai.baseUrl, and the endpoint"
            )
            return EngineResult(request_id, error=reason, retryable=True)
        if isinstance(error, _MalformedReplyError | ValueError):  # ValueError: what should be JSON is none
            reason = f"{where} sent a reply that is no chat completion ({self._said(error)}): is its address right?"
            return EngineResult(request_id, error=reason, retryable=True)
        log.error("a call to %s failed: %s", self._address, type(error).__name__)
        return EngineResult(request_id, error=f"{where} failed: {type(error).__name__}: {self._said(error)}")

    def _refusal(self, request_id: RequestId, error: Any, where: str) -> EngineResult:
        status: int = error.status_code
        retryable = (status in _RETRYABLE_STATUS or status >= 500) and error.code not in _NO_RETRY_CODES
        asked = retry_after(error.response.headers)
        wait = min(asked, self._longest_wait)
        if retryable and wait:
            self._requests.stop_for(wait)
        body = error.body if isinstance(error.body, Mapping) else {}
        said = self._said(body.get("message") or error.response.text or error.message)
        reason = f"{where} refuses this call with status {status}: {said}"
        if retryable and asked > wait:
            reason += (
                f". It asks to wait {asked:,.0f} s, and calls wait {wait:g} s at most "
                "(spark.helium.openai.maxRetryAfter): run the query later, or raise that"
            )
        if status == 401:
            reason += (
                ". Check the API key in the environment variable that spark.helium.openai.apiKeyVariable names; a "
                "daemon keeps the environment that it was started with: `spark-helium stop` ends it"
            )
        elif status == 404:
            reason += f". Check that it has the model {self._model!r}, and spark.helium.openai.baseUrl"
        return EngineResult(request_id, error=reason, retryable=retryable, retry_after=wait if retryable else 0.0)

    def _said(self, what: object) -> str:
        """What an endpoint or a library said: in one line, not too long, and without the key."""
        text = self._without_key(" ".join(str(what).split()) or type(what).__name__)
        return text if len(text) <= _MOST_SAID else text[:_MOST_SAID] + " ..."

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(the API key)") if self._key else text


class _MalformedReplyError(Exception):
    """The reply is not a chat completion."""


def check_installed() -> None:
    """Raise MissingDependencyError, with the command to run, if there is no openai package in this Python."""
    if importlib.util.find_spec("openai") is None:
        raise MissingDependencyError(
            "spark.helium.engine=openai needs the package openai, which this Python does not have "
            f"({sys.executable}). Install it with: pip install 'spark-helium[openai]'. spark.helium.executor.python "
            "chooses another Python"
        )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a reply asks to wait (RFC 9110, 10.2.3, and OpenAI's ``retry-after-ms``); 0 if it says nothing.

    >>> retry_after({"retry-after": "3"})
    3.0
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            continue
    return 0.0


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EngineStartError(
            f"the environment variable {variable}, which spark.helium.openai.apiKeyVariable names, is not set in the "
            "node's daemon: set it where Spark's workers run, or where `spark-helium serve` does; or set "
            "spark.helium.openai.apiKeyVariable to an empty text if the endpoint wants no key"
        )
    return key


def _json_object(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError as e:
        raise ConfigurationError(f"spark.helium.openai.extraBody is not a JSON object: {e}") from e
