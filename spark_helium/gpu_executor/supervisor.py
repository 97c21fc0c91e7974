"""Starts a node's daemons with an executor, and says how they are: the Python half of Spark's executor plugin.

The plugin runs it as a child of the executor, with the Python of the executor's workers, so that it finds the daemons
that tasks will look for. It reads one line of JSON (:class:`Orders`) and writes one per interval::

    {"daemons": [{"identity": .., "gpus": .., "log": .., "state": .., "reason": .., "status": the daemon's, or null}]}

It ends when its standard input does, which it does however the executor ends. The daemons do not end with it: they are
children of nobody, and have the executor among their owners.

A daemon that was killed is started again, at once and then with growing pauses. One that ended in order (it was idle or
stopped by hand) is not, because the next task starts it; nor is one that did not start, because tasks try that
themselves and tell the user why it fails.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

from spark_helium.conf import Settings
from spark_helium.errors import ConfigurationError, HeliumError
from spark_helium.gpu_executor import client, lifecycle
from spark_helium.gpu_executor.lifecycle import DaemonFiles
from spark_helium.gpu_executor.messages import Attend, Owner, Status

FIRST_PAUSE = 1.0  # before a daemon that was killed again soon is started once more; doubles
LONGEST_PAUSE = 300.0
STEADY_SECONDS = 60.0  # a daemon that was up for so long is started at once again


class State(StrEnum):
    """How a daemon is."""

    UP = "up"
    STOPPED = "stopped"  # it ended in order, and the next task starts it
    CRASHED = "crashed"
    UNRESPONSIVE = "unresponsive"  # its process is there and does not answer
    FAILED = "failed"  # it did not start


@dataclass(frozen=True, slots=True)
class Health:
    """One look at a daemon. ``reason`` says more where it is not up; ``status`` is there where it is."""

    identity: str
    gpus: str
    log: str
    state: State
    reason: str = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class Orders:
    """What the plugin says.

    Attributes
    ----------
    settings: the application's, by full key.
    gpus: addresses of the GPUs that Spark gave the executor.
    task_gpus: how many of them a task with calls gets; 0: tasks ask for none.
    interval: seconds between two looks.
    """

    settings: Settings
    gpus: tuple[str, ...] = ()
    task_gpus: float = 0.0
    interval: float = 10.0

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read the plugin's line.

        Raises
        ------
        ConfigurationError
            It is none, or a setting in it is wrong.
        """
        try:
            data = json.loads(line)
            settings = Settings(data["settings"])
            return cls(settings, tuple(data["gpus"]), float(data["task_gpus"]), float(data["interval"]))
        except (ValueError, KeyError, TypeError) as e:
            raise ConfigurationError(f"expected the orders of the Spark plugin on standard input: {e!r}") from e

    def daemons(self) -> list[Settings]:
        """The settings of each daemon that tasks of the executor will look for, as far as that is known before."""
        return [lifecycle.on_gpus(self.settings, group) for group in gpu_groups(self.gpus, self.task_gpus)]

    def models(self) -> tuple[str, ...]:
        """Models whose engines are to start, by the names that calls have."""
        if not self.settings["plugin.warm"]:
            return ()
        names = [name.strip() for name in self.settings["plugin.models"].split(",") if name.strip()]
        names = names or [self.settings["model"]]
        # As for the calls of a task: the daemon runs in another directory.
        return tuple(str(Path(name).absolute()) if Path(name).is_dir() else name for name in dict.fromkeys(names))


def gpu_groups(addresses: Sequence[str], task_gpus: float) -> list[tuple[str, ...]]:
    """The sets of GPUs that tasks will get of an executor's.

    Empty where nobody can know: of four GPUs Spark gives a task any two.

    >>> gpu_groups(["0", "1"], 0.5)
    [('0',), ('1',)]
    >>> gpu_groups(["0", "1"], 2)
    [('0', '1')]
    """
    if not addresses or task_gpus <= 0 or task_gpus >= len(addresses):
        return [tuple(addresses)]
    return [(address,) for address in addresses] if task_gpus <= 1 else []


@dataclass(slots=True)
class Supervised:
    """One daemon, and what is known of its past."""

    settings: Settings
    owner: Owner | None
    models: tuple[str, ...]
    files: DaemonFiles = field(init=False)
    _pid: int | None = None  # of the daemon that we told that the executor is there
    _up_since: float = 0.0
    _pause: float = 0.0
    _retry_at: float = 0.0
    _failure: str = ""

    def __post_init__(self) -> None:
        self.files = DaemonFiles.of(self.settings)

    def start(self) -> None:
        """Have a daemon, with the engines that are to start. Where it does not start, :meth:`look` says why."""
        self._failure = ""
        try:
            for _ in range(client.ATTEMPTS):
                lifecycle.ensure_daemon(self.settings, owner=self.owner)
                if client.attend(self.files, Attend(self.owner, self.models)):
                    return
        except HeliumError as e:
            self._failure = str(e)

    def look(self) -> Health:
        """How the daemon is now."""
        lifecycle.reap()
        try:
            status = client.ping(self.files)
        except HeliumError as e:  # it speaks another version
            return self._health(State.FAILED, str(e))
        now = time.monotonic()
        if status is not None:
            if status.pid != self._pid:
                # Somebody else's, or a new one: it must live as long as this executor.
                client.attend(self.files, Attend(self.owner))
                self._pid, self._up_since, self._failure = status.pid, now, ""
            if now - self._up_since > STEADY_SECONDS:
                self._pause = 0.0
            return self._health(State.UP, status=status)
        if lifecycle.is_alive(self.files):
            if lifecycle.is_stopping(self.files):
                return self._health(State.STOPPED, "it is on its way out")
            pid = lifecycle.process_of(self.files)
            return self._health(State.UNRESPONSIVE, f"process {pid} is there and does not answer")
        if self._failure:
            return self._health(State.FAILED, self._failure)
        if self.files.alive_lock.exists():  # what ends in order removes it
            return self._health(State.CRASHED, f"process {self._pid or '?'} was killed or crashed")
        return self._health(State.STOPPED, "it ended, as it was idle or was stopped; the next call starts it")

    def start_again(self) -> bool:
        """Start a daemon that crashed, if it is time to; says whether it tried."""
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        self._retry_at = now + self._pause
        self.start()
        return True

    def _health(self, state: State, reason: str = "", status: Status | None = None) -> Health:
        files = self.files
        return Health(files.identity, self.settings["executor.gpus"], str(files.log), state, reason, status)


def supervise(orders: Orders, say: IO[str], ended: threading.Event) -> None:
    """Start the daemons and say how they are, until ``ended``.

    Raises
    ------
    HeliumError
        The directory of the daemons cannot be used, or an engine is not known.
    """
    owner, models = lifecycle.find_owner(), orders.models()
    daemons = [Supervised(settings, owner, models) for settings in orders.daemons()]
    for daemon in daemons:
        daemon.start()
    while True:
        health = [daemon.look() for daemon in daemons]
        _say(health, say)
        crashed = [daemon for daemon, seen in zip(daemons, health, strict=True) if seen.state is State.CRASHED]
        if [daemon for daemon in crashed if daemon.start_again()]:
            continue
        if ended.wait(orders.interval):
            return


def _say(health: Sequence[Health], say: IO[str]) -> None:
    line: dict[str, Any] = {"daemons": [asdict(daemon) for daemon in health]}
    say.write(json.dumps(line, separators=(",", ":")) + "\n")
    say.flush()


def _end_with_input(source: IO[str]) -> None:
    while source.readline():
        pass
    # At once, also while a daemon starts: that one has its owner, and ends by itself.
    os._exit(0)


def main() -> int:
    """Entry point of the process that the plugin starts; returns the exit status."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the lines
    try:
        orders = Orders.parse(sys.stdin.readline())
        threading.Thread(target=_end_with_input, args=(sys.stdin,), daemon=True).start()
        supervise(orders, say, threading.Event())
    except HeliumError as e:
        print(f"spark-helium: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the executor is gone
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
