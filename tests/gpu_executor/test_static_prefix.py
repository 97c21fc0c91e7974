from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spark_helium.call_graph import Call, Message, Sampling
from spark_helium.call_parts import CallRef, Data, FirstOf, InputRef, Joined
from spark_helium.conf import Settings
from spark_helium.gpu_executor import models
from spark_helium.gpu_executor.call_template import CallTemplate
from spark_helium.gpu_executor.engines.base import PromptRenderer, RenderError, token_count, unpack_tokens
from spark_helium.gpu_executor.engines.rendering import ChatTemplateRenderer
from spark_helium.gpu_executor.engines.simulator import SimulatorRenderer, encode_text
from spark_helium.gpu_executor.static_prefix import StaticPrefixes, beginning
from tests.gpu_executor.engines.test_rendering import MAKERS, pair

SIMULATOR = SimulatorRenderer()


def call(*messages: Message, **options: Any) -> Call:
    return Call(0, "m", messages, Sampling(4), **options)


def static_prefix(call: Call, renderer: PromptRenderer) -> bytes:
    return beginning(call, renderer).tokens


def user(*parts: Any) -> Call:
    return call(Message("user", parts))


@cache
def built_in() -> ChatTemplateRenderer:
    from transformers import AutoTokenizer

    return ChatTemplateRenderer(AutoTokenizer.from_pretrained(models.resolve("smollm2-135m", Settings())), "smollm2")


def prompt(call: Call, renderer: PromptRenderer, inputs: list[Any], answers: list[Any]) -> bytes | RenderError:
    [tokens] = CallTemplate(call).render(renderer, [[value] for value in inputs], [[value] for value in answers], [0])
    return tokens


def test_ends_before_the_last_word_of_the_static_text() -> None:
    header = SIMULATOR._header("user")
    assert static_prefix(user("rate it: ab", InputRef(0), "thanks"), SIMULATOR) == header + encode_text("rate it:")
    # Four characters a token, so that the end of the prefix is in front of the blank.
    assert static_prefix(user("12 45678", InputRef(0)), SIMULATOR) == header
    assert static_prefix(user("1 3", "4 678 0", InputRef(0)), SIMULATOR) == header + encode_text("1 34 678")
    assert static_prefix(user(InputRef(0), "1234 "), SIMULATOR) == header


def test_messages_in_front_of_the_first_placeholder_are_part_of_it() -> None:
    messages = (Message("system", ("be brief",)), Message("user", ("abcd efg", InputRef(0))), Message("user", ("x",)))
    whole = prompt(call(*messages), SIMULATOR, ["-"], [])
    found = static_prefix(call(*messages), SIMULATOR)
    assert isinstance(whole, bytes)
    assert whole.startswith(found)
    assert found.endswith(SIMULATOR._header("user") + encode_text("abcd"))


def test_a_template_without_placeholders_is_its_own_prefix() -> None:
    static = call(Message("system", ("s ", Data("<|x|>"))), Message("user", (FirstOf(((Data("u"),),)), " v")))
    assert static_prefix(static, SIMULATOR) == prompt(static, SIMULATOR, [], [])


def test_a_conversation_column_shares_what_stands_before_it() -> None:
    found = static_prefix(call(Message("system", ("be brief",)), conversation=InputRef(0)), SIMULATOR)
    system = SIMULATOR._header("system") + encode_text("be brief") + b"\xfa\xff\xff\xff"
    assert found == system + b"\xf8\xff\xff\xff"  # what begins any message
    assert token_count(static_prefix(call(conversation=InputRef(0)), SIMULATOR)) == 1


def test_a_template_that_refuses_gives_nothing() -> None:
    renderer, _ = pair(MAKERS[1])  # it knows no system messages
    assert static_prefix(call(Message("system", ("be brief",)), Message("user", (InputRef(0),))), renderer) == b""


def test_what_the_tokenizer_may_join_is_told_and_not_counted() -> None:
    found = beginning(user("rate it: ab", InputRef(0), "thanks"), SIMULATOR)
    assert found.cut == " ab"
    [shortest] = SIMULATOR.render([[("user", (("rate it:", True), ("thanks", True)))]])
    assert isinstance(shortest, bytes)
    assert found.shortest == token_count(shortest)
    assert beginning(user("rate it"), SIMULATOR).cut == ""


def test_a_beginning_is_found_once_and_never_ends_a_query() -> None:
    rendered = []

    class Renderer(SimulatorRenderer):
        def render(self, conversations: Any) -> Any:
            rendered.append(len(conversations))
            if "refuse" in str(conversations[0]):
                raise RuntimeError("no such thing")
            return super().render(conversations)

    prefixes = StaticPrefixes(Renderer())
    assert prefixes.of(user("rate: ", InputRef(0))) is prefixes.of(user("rate: ", InputRef(0)))
    assert len(rendered) == 1
    assert prefixes.of(user("refuse ", InputRef(0))).tokens == b""
    assert prefixes.of(user("refuse ", InputRef(0))).tokens == b""
    assert len(rendered) == 2


TEXT = st.one_of(
    st.text(alphabet="abc hello lamp\n\t<|>.,:'0123🙂é語\u0301", max_size=20),
    st.sampled_from(["<|im_start|>", "<|im_end|>", "s", "'s", "  ", " \n", "lo", "mp.", "9", "<s>", "e\u0301"]),
)
# Static text as people write it: it may end in a word, in a blank, in punctuation, in half a word.
LEAD = st.lists(
    st.sampled_from(["rate", " the", " lamp", ":", " ", "\n", "hello", "1", "2", ".", "-", "é", " a", "<|im_end|>"]),
    max_size=12,
).map("".join)
SLOT = st.sampled_from(
    [
        InputRef(0),
        CallRef(0),
        FirstOf(((InputRef(0),), (Data("none"),))),
        Joined(((InputRef(0),), (CallRef(0),)), ", "),
    ]
)


def check(renderer: PromptRenderer, lead: str, system: str, slot: Any, tail: str, cell: str, answer: str) -> None:
    messages = [Message("system", (system,))] if system else []
    template = call(*messages, Message("user", (lead[:4], lead[4:], slot, tail)))
    whole = prompt(template, renderer, [cell], [answer])
    if isinstance(whole, bytes):
        found = static_prefix(template, renderer)
        assert whole.startswith(found), (unpack_tokens(found), unpack_tokens(whole))
        assert len(found) < len(whole)


@pytest.mark.parametrize("renderer", [lambda: SIMULATOR, *[lambda maker=maker: pair(maker)[0] for maker in MAKERS]])
@given(lead=LEAD, system=st.sampled_from(["", "Be brief."]), slot=SLOT, tail=TEXT, cell=TEXT, answer=TEXT)
@settings(max_examples=150)
def test_every_filling_begins_with_it(
    renderer: Callable[[], PromptRenderer], lead: str, system: str, slot: Any, tail: str, cell: str, answer: str
) -> None:
    check(renderer(), lead, system, slot, tail, cell, answer)


@pytest.mark.engine  # needs the model's tokenizer, no engine
@example(lead="", system="", slot=InputRef(0), tail="", cell=" ", answer="")
@example(lead="", system="", slot=InputRef(0), tail="", cell=" \n\t", answer="")
@given(lead=LEAD, system=st.sampled_from(["", "Be brief."]), slot=SLOT, tail=TEXT, cell=TEXT, answer=TEXT)
@settings(max_examples=150)
def test_every_filling_begins_with_it_for_the_built_in_model(
    lead: str, system: str, slot: Any, tail: str, cell: str, answer: str
) -> None:
    check(built_in(), lead, system, slot, tail, cell, answer)


@pytest.mark.engine
@given(roles=st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=3), content=TEXT)
@example(roles=["system"], content=" ")
@settings(max_examples=50)
def test_every_conversation_begins_with_it_for_the_built_in_model(roles: list[str], content: str) -> None:
    conversation = [{"role": role, "content": content} for role in roles]
    for messages in ((), (Message("system", ("Be brief.",)),)):
        template = call(*messages, conversation=InputRef(0))
        whole = prompt(template, built_in(), [conversation], [])
        assert isinstance(whole, bytes)
        assert whole.startswith(static_prefix(template, built_in()))


@pytest.mark.engine
def test_little_is_lost_for_the_built_in_model() -> None:
    rules = "Classify the review as positive or negative. " * 10
    renderer = built_in()
    found = static_prefix(user(rules + "Review: ", InputRef(0)), renderer)
    [whole] = renderer.render([[("user", ((rules + "Review:", True),))]])
    assert isinstance(whole, bytes)
    ending = 5  # end of the turn, and the mark, role and line that open the answer
    assert token_count(whole) - ending - token_count(found) in (2, 3)  # "Review" and ":"
