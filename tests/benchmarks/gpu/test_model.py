"""The model directory: Qwen3-8B's shape, and answers whose length nothing but max_tokens ends."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("transformers")
from transformers import AutoConfig, AutoTokenizer

from benchmarks.gpu import model
from spark_helium.gpu_executor.engines.base import RenderedMessage, RenderError, unpack_tokens
from spark_helium.gpu_executor.engines.rendering import ChatTemplateRenderer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path) -> Path:
    return model.write(tmp_path_factory.mktemp("model") / "qwen", small_tokenizer)


def test_the_shape_is_that_of_qwen3_8b(directory: Path):
    config = AutoConfig.from_pretrained(directory)
    assert config.architectures == ["Qwen3ForCausalLM"]
    assert model.kv_bytes_per_token(config) == 147_456
    layer = 2 * config.hidden_size * config.num_attention_heads * config.head_dim  # queries, output
    layer += 2 * config.hidden_size * config.num_key_value_heads * config.head_dim  # keys, values
    layer += 3 * config.hidden_size * config.intermediate_size
    parameters = config.num_hidden_layers * layer + 2 * config.vocab_size * config.hidden_size
    assert parameters == pytest.approx(8.19e9, rel=0.001)  # as published: 8.2e9
    assert not any(file.suffix == ".safetensors" for file in directory.iterdir())


def test_one_token_alone_ends_an_answer(directory: Path):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert len(tokenizer) == 151_936
    assert tokenizer.eos_token_id == 151_935
    assert AutoConfig.from_pretrained(directory).eos_token_id == 151_935
    assert json.loads((directory / "generation_config.json").read_text()) == {"eos_token_id": 151_935}


def test_no_prompt_has_a_token_that_is_not_the_small_tokenizers(directory: Path, small_tokenizer: Path):
    before = AutoTokenizer.from_pretrained(small_tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "reviews ~50000~ about <|im_end|> ~400~Ġwant 日本"
    assert tokenizer(text)["input_ids"] == before(text)["input_ids"]
    asked = [{"role": "user", "content": "happy?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert max(ids) < len(before)


def test_an_answer_is_a_text_of_about_as_many_tokens(directory: Path):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    dice = random.Random(1)
    ids = [dice.randrange(len(tokenizer) - 1) for _ in range(300)]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert "~" not in text
    assert len(tokenizer(text)["input_ids"]) == pytest.approx(300, rel=0.05)


def test_a_cell_cannot_hold_the_last_token(directory: Path):
    renderer = ChatTemplateRenderer(AutoTokenizer.from_pretrained(directory), "qwen")
    cell: list[RenderedMessage] = [("user", ((f"what is {model.NEVER}?", False),))]
    [tokens] = renderer.render([cell])
    assert not isinstance(tokens, RenderError)
    assert 151_935 not in unpack_tokens(tokens)


def test_a_complete_choice_is_followed_by_the_last_token(directory: Path):
    xgrammar = pytest.importorskip("xgrammar")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=151_936)
    assert info.stop_token_ids == [151_935]
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_grammar('root ::= "yes" | "no"'))
    for token in tokenizer("yes", add_special_tokens=False)["input_ids"]:
        assert matcher.accept_token(token)
    mask = xgrammar.allocate_token_bitmask(1, 151_936)
    matcher.fill_next_token_bitmask(mask, 0)
    assert [k for k in range(151_936) if mask[0, k // 32].item() >> (k % 32) & 1] == [151_935]


def test_tokenizers_that_do_not_fit(small_tokenizer: Path):
    tokenizer = json.loads((small_tokenizer / "tokenizer.json").read_text())
    with pytest.raises(ValueError, match="and the model only 300"):
        model.padded(tokenizer, 300)
    with pytest.raises(ValueError, match="not byte-level BPE"):
        model.padded({**tokenizer, "decoder": {"type": "Metaspace"}}, 1000)
