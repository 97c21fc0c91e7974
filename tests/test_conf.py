from __future__ import annotations

import pytest

from spark_helium import conf
from spark_helium.errors import ConfigurationError


def test_every_default_is_valid() -> None:
    settings = conf.Settings()
    assert set(settings) == {key.removeprefix(conf.PREFIX) for key in conf.registry()}


def test_every_setting_is_documented() -> None:
    for key, setting in conf.registry().items():
        assert key.startswith(conf.PREFIX)
        assert setting.doc.endswith("."), key


@pytest.mark.parametrize(
    "name", ["spark.helium.cache.enabled", "cache.enabled", "cache_enabled"], ids=["full", "short", "python"]
)
def test_spellings(name: str) -> None:
    assert conf.full_key(name) == "spark.helium.cache.enabled"


def test_python_spelling_of_camel_case() -> None:
    assert conf.full_key("vllm_max_model_len") == "spark.helium.vllm.maxModelLen"
    assert conf.full_key("max_tokens") == "spark.helium.maxTokens"


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'cache_enabled'"):
        conf.full_key("cash_enabled")
    with pytest.raises(ConfigurationError, match=r"did you mean 'spark\.helium\.cache\.enabled'"):
        conf.full_key("spark.helium.cash.enabled")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("executor.idleTimeout", "90s", 90_000),
        ("executor.idleTimeout", "10min", 600_000),
        ("executor.idleTimeout", "1500", 1500),
        ("cache.memory", "1g", 1 << 30),
        ("cache.memory", "64 MB", 64 << 20),
        ("cache.enabled", "FALSE", False),
        ("vllm.gpuMemoryUtilization", "0.5", 0.5),
    ],
)
def test_values(name: str, text: str, value: object) -> None:
    assert conf.Settings({name: text})[name] == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("engine", "magic"),
        ("model", " "),
        ("maxTokens", "0"),
        ("maxTokens", "many"),
        ("executor.idleTimeout", "ten minutes"),
        ("cache.memory", "-1"),
        ("vllm.gpuMemoryUtilization", "1.01"),
        ("vllm.extraArgs", "[1]"),
    ],
)
def test_bad_values_name_setting_and_value(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        conf.Settings({name: text})
    assert f"spark.helium.{name} = {text!r}" in str(error.value)


def test_to_text() -> None:
    assert [conf.to_text(v) for v in (True, 3, "x", {"a": 1})] == ["true", "3", "x", '{"a": 1}']
