"""The error tree. Everything that spark_helium raises in Python derives from :class:`HeliumError`.

Leaves also derive from the builtin that a caller would expect. What may succeed when tried again is a
:class:`RetryableError`; what cannot is a :class:`PermanentError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeliumError(Exception):
    """Root of the tree."""


class RetryableError(HeliumError):
    """The same attempt may succeed later (an engine that is restarting, a full queue)."""


class PermanentError(HeliumError):
    """The same attempt fails again until something is changed."""


class ConfigurationError(PermanentError, ValueError):
    """A setting has a name or a value that spark_helium does not know."""

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str]) -> ConfigurationError:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        return cls(f"unknown {what} {name!r}; {hint}")


class ArgumentError(PermanentError, TypeError):
    """A Python function of the public interface got an argument that it does not take."""

    @classmethod
    def not_a_column(cls, function: str, name: str, value: object, options: Iterable[str]) -> ArgumentError:
        by_letters = {option.replace("_", "").lower(): option for option in options}
        close = difflib.get_close_matches(name.replace("_", "").lower(), list(by_letters), n=1)
        hint = (
            f"did you mean the option {by_letters[close[0]]}?"
            if close
            else f"write {{{name}}} in the template, and pass a Column, a column name, or F.lit(value)"
        )
        return cls(
            f"{function}() got {name}={value!r}, which is neither an option nor a column of the template; {hint}"
        )

    @classmethod
    def unknown_option(cls, function: str, name: str, value: object, options: Iterable[str]) -> ArgumentError:
        by_letters = {option.replace("_", "").lower(): option for option in options}
        close = difflib.get_close_matches(name.replace("_", "").lower(), list(by_letters), n=1)
        hint = f"did you mean {by_letters[close[0]]}?" if close else f"options are {', '.join(by_letters.values())}"
        return cls(f"{function}() got {name}={value!r}, and has no option of that name; {hint}")


class IncompatibleSparkError(PermanentError, RuntimeError):
    """The running Spark is not the one that the jar was built for."""


class BuildError(PermanentError, RuntimeError):
    """The Scala sources could not be compiled, or the jar is missing."""


class ModelNotFoundError(PermanentError, LookupError):
    """A model name or path does not lead to weights."""


class MissingDependencyError(PermanentError, ImportError):
    """A package that the chosen engine needs is not installed."""


class EngineError(HeliumError):
    """The engine could not start, or died."""


class EngineStartError(EngineError, PermanentError, RuntimeError):
    """The engine could not start; the message carries the cause and the next step."""


class DaemonError(RetryableError, ConnectionError):
    """The node's daemon cannot be reached or broke off."""


class DaemonStartError(PermanentError, RuntimeError):
    """The node's daemon did not come up; the message ends with the daemon's own last words."""


class CacheError(PermanentError, OSError):
    """The prompt cache's files cannot be used: the disk is full, or its permissions or the disk itself forbid it."""


class ProtocolError(PermanentError, RuntimeError):
    """Two sides of a connection do not speak the same version or sent something malformed."""


class CallError(PermanentError, ValueError):
    """One call failed: the prompt is too long, the answer does not fit its type, the engine refused it."""


class InstanceError(PermanentError, ValueError):
    """A workload that is to be scheduled contradicts itself or its format."""


class ScheduleError(PermanentError, ValueError):
    """An order of calls is not one of the given workload, or no run can follow it."""
