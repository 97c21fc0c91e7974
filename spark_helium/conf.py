"""The configuration registry: every ``spark.helium.*`` setting, its type, default, bounds and meaning.

The registry is one JSON file that travels in the jar too, where Catalyst registers the same settings with
Spark's own configuration system; so ``spark.conf.set`` checks them as well. Python reads values through
:class:`Settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from spark_helium.errors import ConfigurationError

PREFIX = "spark.helium."

_DURATION_MS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES = {"b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "g": 1 << 30, "gb": 1 << 30,
          "t": 1 << 40, "tb": 1 << 40, "p": 1 << 50, "pb": 1 << 50}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One entry of the registry. ``default`` is text, as in a Spark configuration file.

    ``type`` is one of ``boolean``, ``int``, ``double``, ``string``, ``duration`` (read as milliseconds) and
    ``bytes``. ``check`` may hold ``min``, ``max``, ``values``, ``pattern`` and ``nonempty``.
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
        return ConfigurationError(f"{self.key} = {text!r}: {reason}. {self.doc}")


_EXPECTED = {
    "boolean": "true or false",
    "int": "a whole number",
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
        case "int":
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
    text = resources.files("spark_helium.catalyst_rules").joinpath("resources/spark-helium-settings.json").read_text()
    return {entry["key"]: Setting(**entry) for entry in json.loads(text)["settings"]}


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
    by_spelling = {_python_spelling(key): key for key in registry()}
    if name in by_spelling:
        return by_spelling[name]
    raise ConfigurationError.unknown("setting", name, by_spelling)


def _python_spelling(key: str) -> str:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", key.removeprefix(PREFIX)).replace(".", "_").lower()


def to_text(value: Any) -> str:
    """The configuration text of a Python value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)


class Settings(Mapping[str, Any]):
    """Checked values of all settings, by key without the ``spark.helium.`` prefix.

    >>> Settings({"spark.helium.engine": "simulator"})["engine"]
    'simulator'
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._text = {key: setting.default for key, setting in registry().items()}
        for key, text in (given or {}).items():
            self._text[full_key(key)] = text
        self._values = {key.removeprefix(PREFIX): registry()[key].parse(text) for key, text in self._text.items()}

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
