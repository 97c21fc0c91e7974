"""``spark.helium.models.<name>.*``: several models, each with an engine and options of its own."""

from __future__ import annotations

import pytest

from spark_helium.conf import Settings, full_key
from spark_helium.errors import ConfigurationError
from spark_helium.gpu_executor import engines, lifecycle
from spark_helium.gpu_executor.engines.simulator import SimulatorEngine


def test_options_replace_those_of_the_engine() -> None:
    settings = Settings(
        {
            "vllm.maxModelLen": "2048",
            "models.small.path": "smollm2-135m",
            "models.small.maxModelLen": "512",
            "models.small.memory": "2g",
            "models.gpt-5.1.engine": "openai",
            "models.gpt-5.1.maxConcurrency": "4",
        }
    )
    path, small = settings.of_model("small")
    assert (path, small["engine"], small["vllm.maxModelLen"], settings["vllm.maxModelLen"]) == (
        "smollm2-135m", "vllm", 512, 2048,
    )  # fmt: skip
    assert settings.models["small"].memory == 2 << 30
    path, remote = settings.of_model("gpt-5.1")
    assert (path, remote["engine"], remote["openai.maxConcurrency"]) == ("gpt-5.1", "openai", 4)


def test_a_model_that_is_not_declared_has_the_settings_of_all() -> None:
    settings = Settings({"models.small.maxModelLen": "512"})
    assert settings.of_model("org/other") == ("org/other", settings)


def test_a_declared_name_may_be_a_built_in_one() -> None:
    path, settings = Settings({"models.smollm2-135m.maxModelLen": "512"}).of_model("smollm2-135m")
    assert (path, settings["vllm.maxModelLen"]) == ("smollm2-135m", 512)


def test_options_of_another_engine_rest_while_the_model_names_none() -> None:
    _, settings = Settings({"engine": "simulator", "models.m.dtype": "bfloat16"}).of_model("m")
    assert (settings["engine"], settings["vllm.dtype"]) == ("simulator", "auto")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"models.m.engine": "magic"}, ["spark.helium.models.m.engine = 'magic'", "openai"]),
        ({"models.m.maxModelLen": "-1"}, ["spark.helium.models.m.maxModelLen = '-1'", "at least 0"]),
        ({"models.m.maxModelLength": "9"}, ["spark.helium.models.m.maxModelLength", "did you mean 'maxModelLen'"]),
        ({"models.m.engine": "simulator", "models.m.dtype": "auto"}, ["models.m.dtype", "engine simulator"]),
        ({"models.m.path": "./here"}, ["spark.helium.models.m.path = './here'"]),
        ({"models.a b.path": "x"}, ["spark.helium.models.a b.path", "letters"]),
        ({"models.path": "x"}, ["spark.helium.models.path", "NAME.OPTION"]),
    ],
)
def test_bad_declarations_name_key_and_value(given: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        Settings(given)
    assert all(word in str(error.value) for word in words), error.value


def test_a_key_put_in_place_of_its_variable_is_not_shown() -> None:
    for key in ("openai.apiKeyVariable", "models.m.apiKeyVariable"):
        with pytest.raises(ConfigurationError) as error:
            Settings({key: "sk-canary-123"})
        assert "canary" not in str(error.value)


def test_declared_models_are_part_of_the_daemons_identity() -> None:
    plain = lifecycle.identity(Settings())
    declared = lifecycle.identity(Settings({"models.m.path": "org/m"}))
    assert len({plain, declared, lifecycle.identity(Settings({"models.m.path": "org/n"}))}) == 3


def test_settings_survive_their_text() -> None:
    settings = Settings({"models.m.path": "org/m", "models.m.blockSize": "64"})
    assert Settings(settings.to_text()).models == settings.models
    assert full_key("models.m.path") == "spark.helium.models.m.path"


def test_the_engine_of_a_declared_model_is_made_with_its_options() -> None:
    settings = Settings({"models.m.engine": "simulator", "models.m.maxModelLen": "777"})
    engine = engines.create("m", settings)
    assert isinstance(engine, SimulatorEngine)
    assert engine.info.max_model_len == 777
    engine.close()
