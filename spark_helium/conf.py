"""The configuration registry: every ``spark.helium.*`` setting, its type, default, bounds and meaning.

The registry is one JSON file that travels in the jar too, where Catalyst registers the same settings with
Spark's own configuration system; so ``spark.conf.set`` checks them as well. Python reads values through
:class:`Settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from spark_helium.errors import ConfigurationError

_MODEL_KEY = re.compile(r"spark\.helium\.models\.([A-Za-z0-9][A-Za-z0-9._-]*)\.([A-Za-z]+)")

PREFIX = "spark.helium."
MODELS = "spark.helium.models."

_DURATION_MS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30,
          "t": 1 << 40, "tb": 1 << 40, "p": 1 << 50, "pb": 1 << 50}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One entry of the registry. ``default`` is text, as in a Spark configuration file.

    ``type`` is one of ``boolean``, ``int``, ``long``, ``double``, ``string``, ``duration`` (read as milliseconds)
    and ``bytes``. ``check`` may hold ``min``, ``max``, ``values``, ``pattern``, ``nonempty``, and ``hidden``: a bad
    value is not shown, as somebody may have put a secret there.
    """

    key: str
    type: str
    default: str
    doc: str
    since: str
    check: Mapping[str, Any] = field(default_factory=dict)

    def parse(self, text: str) -> Any:
        """The value of ``text``.

        Raises
        ------
        ConfigurationError
            ``text`` is not of the setting's type, or out of its bounds.
        """
        try:
            value = _parse(self.type, text.strip())
        except (ValueError, KeyError):
            raise self._bad(text, f"it must be {_EXPECTED[self.type]}") from None
        check = self.check
        if "values" in check and value not in check["values"]:
            raise self._bad(text, f"it must be one of {', '.join(check['values'])}")
        if "min" in check and value < check["min"]:
            raise self._bad(text, f"it must be at least {check['min']}")
        if "max" in check and value > check["max"]:
            raise self._bad(text, f"it must be at most {check['max']}")
        if check.get("nonempty") and not value:
            raise self._bad(text, "it must not be empty")
        if "pattern" in check and not re.fullmatch(check["pattern"], value, re.DOTALL):
            raise self._bad(text, f"it must match {check['pattern']}")
        return value

    def _bad(self, text: str, reason: str) -> ConfigurationError:
        shown = "(a value that is not shown)" if self.check.get("hidden") else repr(text)
        return ConfigurationError(f"{self.key} = {shown}: {reason}. {self.doc}")


_EXPECTED = {
    "boolean": "true or false",
    "int": "a whole number",
    "long": "a whole number",
    "double": "a number",
    "string": "text",
    "duration": "a duration such as 30s or 10min",
    "bytes": "a size such as 256m or 1g",
}


def _parse(kind: str, text: str) -> Any:
    match kind:
        case "string":
            return text
        case "boolean":
            return {"true": True, "false": False}[text.lower()]
        case "int" | "long":
            return int(text)
        case "double":
            return float(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.lower())
    if match is None:
        raise ValueError(text)
    number, unit = match.groups()
    if kind == "duration":
        return int(float(number) * (_DURATION_MS[unit] if unit else 1))
    return int(float(number) * (_BYTES[unit] if unit else 1))


@cache
def registry() -> Mapping[str, Setting]:
    """Every setting by its full key, in the order of the file."""
    return {entry["key"]: Setting(**entry) for entry in _file()["settings"]}


@cache
def _file() -> Mapping[str, Any]:
    text = resources.files("spark_helium.catalyst_rules").joinpath("resources/spark-helium-settings.json").read_text()
    return dict(json.loads(text))


@cache
def model_options() -> Mapping[str, Setting]:
    """The settings of a declared model that no engine has, by their last part; their keys have ``<name>`` in them."""
    return {entry["key"].rpartition(".")[2]: Setting(**entry) for entry in _file()["patterns"]}


def engine_options(engine: str) -> Mapping[str, Setting]:
    """The settings of an engine, by what follows its name in their keys."""
    prefix = f"{PREFIX}{engine}."
    return {key.removeprefix(prefix): setting for key, setting in registry().items() if key.startswith(prefix)}


def engine_names() -> Sequence[str]:
    """What ``spark.helium.engine`` may be."""
    return tuple(registry()["spark.helium.engine"].check["values"])


def full_key(name: str) -> str:
    """The registry's key for ``name``: a full key, one without prefix, or a Python spelling of it.

    ``cache_enabled`` and ``cache.enabled`` both mean ``spark.helium.cache.enabled``.

    Raises
    ------
    ConfigurationError
        No such setting; the message names the nearest one.
    """
    for candidate in (name, PREFIX + name):
        if candidate in registry():
            return candidate
        if candidate.startswith(MODELS):
            return candidate  # which options there are depends on the model's engine: see DeclaredModel
    by_spelling = {_python_spelling(key): key for key in registry()}
    if name in by_spelling:
        return by_spelling[name]
    raise ConfigurationError.unknown("setting", name, registry() if name.startswith(PREFIX) else by_spelling)


def _python_spelling(key: str) -> str:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", key.removeprefix(PREFIX)).replace(".", "_").lower()


def to_text(value: Any) -> str:
    """The configuration text of a Python value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)


@dataclass(frozen=True, slots=True)
class DeclaredModel:
    """A model that ``spark.helium.models.<name>.*`` declares.

    Attributes
    ----------
    path: what it is: a built-in name, a path, a hub name, or a name at an endpoint.
    engine: vllm, openai or simulator.
    memory: bytes that its engine needs on a CPU; 0: to be estimated.
    options: texts of its engine's settings that differ for this model, by full key.
    """

    name: str
    path: str
    engine: str
    memory: int
    options: Mapping[str, str]


def declared_models(texts: Mapping[str, str], engine: str) -> dict[str, DeclaredModel]:
    """The models that the settings ``texts`` declare, by name; ``engine`` is the one of a model that names none.

    An option is any setting of the model's engine. Where the model names no engine it may be an option of any, and
    takes part only if the engine has it, so that ``spark.helium.engine`` can change for a trial.

    Raises
    ------
    ConfigurationError
        A key or a value is none that a model can have.
    """
    given: dict[str, dict[str, str]] = {}
    for key, text in texts.items():
        if not key.startswith(MODELS):
            continue
        match = _MODEL_KEY.fullmatch(key)
        if match is None:
            raise ConfigurationError(
                f"{key} declares no model: write spark.helium.models.NAME.OPTION, where the name has letters, digits, "
                f"'_', '-' and '.', and the option is {', '.join(model_options())}, or a setting of the model's engine"
            )
        given.setdefault(match.group(1), {})[match.group(2)] = text
    return {name: _declared(name, options, engine) for name, options in given.items()}


def _declared(name: str, given: Mapping[str, str], default_engine: str) -> DeclaredModel:
    own = {
        option: replace(setting, key=setting.key.replace("<name>", name)).parse(given.get(option, setting.default))
        for option, setting in model_options().items()
    }
    engine = own["engine"] or default_engine
    possible = (engine,) if own["engine"] else (engine, *engine_names())
    options = {}
    for option in sorted(given.keys() - own.keys()):
        key = f"{MODELS}{name}.{option}"
        found = next((e for e in possible if option in engine_options(e)), None)
        if found is None:
            known = {*own, *(o for e in possible for o in engine_options(e))}
            raise ConfigurationError.unknown(f"option in {key} of a model on the engine {engine}:", option, known)
        setting = engine_options(found)[option]
        replace(setting, key=key).parse(given[option])
        if found == engine:
            options[setting.key] = given[option]
    return DeclaredModel(name, own["path"] or name, engine, own["memory"], options)


class Settings(Mapping[str, Any]):
    """Checked values of all settings, by key without the ``spark.helium.`` prefix.

    Settings of declared models are there as texts, and as :attr:`models` by name.

    >>> Settings({"spark.helium.engine": "simulator"})["engine"]
    'simulator'
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._text = {key: setting.default for key, setting in registry().items()}
        for key, text in (given or {}).items():
            self._text[full_key(key)] = text
        self._values = {
            key.removeprefix(PREFIX): registry()[key].parse(text)
            for key, text in self._text.items()
            if not key.startswith(MODELS)
        }
        self.models = declared_models(self._text, self._values["engine"])
        self._values |= {k.removeprefix(PREFIX): text for k, text in self._text.items() if k.startswith(MODELS)}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def to_text(self) -> dict[str, str]:
        """Full key to text of every setting, defaults included."""
        return dict(self._text)

    def with_prefix(self, prefix: str) -> dict[str, Any]:
        """Values whose key starts with ``prefix``, the prefix removed."""
        return {k.removeprefix(prefix): v for k, v in self._values.items() if k.startswith(prefix)}

    def of_model(self, model: str) -> tuple[str, Settings]:
        """What ``model`` is (see :attr:`DeclaredModel.path`), and the settings of its engine."""
        declared = self.models.get(model)
        if declared is None:
            return model, self
        return declared.path, Settings({**self._text, "spark.helium.engine": declared.engine, **declared.options})
