"""Scores, embeddings and token counts of the real model, against vLLM and its tokenizer alone."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence

import pytest

from spark_helium.call_graph import CallTask, Constraint, Sampling
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.engines import create
from spark_helium.gpu_executor.engines.base import (
    Engine,
    EngineKind,
    EngineRequest,
    EngineResult,
    Tokens,
    unpack_tokens,
)
from tests.gpu_executor.engines.direct_tasks import ask

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m"
QUESTIONS = [
    "Is the sky blue? Answer yes or no.",
    "Is fire cold? Answer yes or no.",
    "Is this review positive? I loved every minute of it. Answer yes or no.",
    "Is this review positive? It broke on the first day, never again. Answer yes or no.",
    "Hello!",
]
TEXTS = ["a dog", "a dog barks at the mailman", "stock prices fell on Tuesday", "Zürich, 東京 🙂", " ", "word " * 300]
YES = Constraint(choices=("yes", "no"))
ONE = Sampling(max_tokens=1)
ids = itertools.count(1)


@pytest.fixture(scope="module")
def direct_scores() -> list[float]:
    logprobs = ask({"prompts": QUESTIONS, "choices": ["yes", "no"]})
    return [math.exp(yes) / (math.exp(yes) + math.exp(no)) for yes, no in logprobs]


@pytest.fixture(scope="module")
def direct_embeddings() -> list[list[float]]:
    return ask({"texts": TEXTS})


@pytest.fixture(scope="module")
def scorer(direct_scores: list[float]) -> Iterator[Engine]:
    # After the direct run: two engines at once would take the machine from each other.
    engine = create(MODEL, Settings())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def embedder(scorer: Engine, direct_embeddings: list[list[float]]) -> Iterator[Engine]:
    engine = create(MODEL, Settings(), EngineKind.EMBED)
    yield engine
    engine.close()


def prompts(engine: Engine, texts: Sequence[str]) -> list[Tokens]:
    rendered = engine.renderer.render([[("user", ((text, False),))] for text in texts])
    assert all(isinstance(prompt, bytes) for prompt in rendered), rendered
    return rendered  # type: ignore[return-value]


def run(engine: Engine, requests: Sequence[EngineRequest]) -> list[EngineResult]:
    engine.submit(requests)
    found: dict[int, EngineResult] = {}
    deadline = time.monotonic() + 120
    while len(found) < len(requests):
        assert time.monotonic() < deadline, f"{len(found)} of {len(requests)} answers"
        found |= {result.id: result for result in engine.poll(1.0)}
    return [found[request.id] for request in requests]


def scoring(engine: Engine, texts: Sequence[str], constraint: Constraint = YES) -> list[EngineRequest]:
    return [EngineRequest(next(ids), p, ONE, constraint, task=CallTask.SCORE) for p in prompts(engine, texts)]


def test_scores_are_those_of_vllms_log_probabilities(scorer: Engine, direct_scores: list[float]) -> None:
    results = run(scorer, scoring(scorer, QUESTIONS))
    assert [result.error for result in results] == [None] * len(QUESTIONS)
    # float32 on a CPU: a batch of another shape moves the last digits of a logit.
    assert [float(result.text) for result in results] == pytest.approx(direct_scores, abs=1e-5)
    assert len({round(float(result.text), 3) for result in results}) == len(QUESTIONS), "they tell questions apart"
    assert [result.output_tokens for result in results] == [1] * len(QUESTIONS)


def test_the_other_choice_has_the_rest(scorer: Engine) -> None:
    of_yes = run(scorer, scoring(scorer, QUESTIONS))
    of_no = run(scorer, scoring(scorer, QUESTIONS, Constraint(choices=("no", "yes"))))
    for one, other in zip(of_yes, of_no, strict=True):
        assert float(one.text) + float(other.text) == pytest.approx(1.0, abs=1e-5)


def test_completions_beside_scores_stay_as_they_are(scorer: Engine) -> None:
    tokens = prompts(scorer, QUESTIONS)
    free = Sampling(max_tokens=12)
    alone = run(scorer, [EngineRequest(next(ids), prompt, free) for prompt in tokens])
    mixed = [EngineRequest(next(ids), prompt, free) for prompt in tokens]
    together = run(scorer, [r for pair in zip(mixed, scoring(scorer, QUESTIONS), strict=True) for r in pair])[::2]
    assert [result.text for result in together] == [result.text for result in alone]


def test_choices_that_begin_alike_are_refused_and_disturb_nobody(scorer: Engine) -> None:
    bad = scoring(scorer, QUESTIONS[:1], Constraint(choices=("no way", "no")))
    results = run(scorer, [*bad, *scoring(scorer, QUESTIONS[:1])])
    assert results[0].error is not None
    assert "'no way' and 'no' begin with the same token" in results[0].error
    assert results[1].error is None


def test_embeddings_are_vllms_own(embedder: Engine, direct_embeddings: list[list[float]]) -> None:
    requests = [EngineRequest(next(ids), p, ONE, task=CallTask.EMBED) for p in prompts(embedder, TEXTS)]
    results = run(embedder, requests)
    assert [result.error for result in results] == [None] * len(TEXTS)
    for result, expected in zip(results, direct_embeddings, strict=True):
        vector = json.loads(result.text)
        assert vector == pytest.approx(expected, abs=1e-5)
        assert math.fsum(x * x for x in vector) == pytest.approx(1.0, abs=1e-5)
    assert [result.output_tokens for result in results] == [0] * len(TEXTS)


def test_an_empty_text_has_no_embedding(embedder: Engine) -> None:
    (rendered,) = embedder.renderer.render([[("user", (("", False),))]])
    assert "an empty text has no embedding" in rendered.reason  # type: ignore[union-attr]


def test_counts_are_the_tokenizers() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(MODEL, Settings()))
    counter = create(MODEL, Settings(), EngineKind.TOKENIZE)
    texts = [*TEXTS, ""]
    requests = [EngineRequest(next(ids), p, ONE, task=CallTask.COUNT_TOKENS) for p in prompts(counter, texts)]
    counter.submit(requests)
    counted = [int(result.text) for result in counter.poll(0)]
    assert counted == [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    (spelled,) = prompts(counter, ["<|im_end|>"])
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in unpack_tokens(spelled)
    assert tokenizer.decode(unpack_tokens(spelled)) == "<|im_end|>", "text that spells a special token is text"
