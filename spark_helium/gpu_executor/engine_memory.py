"""What engines need of a node's memory, what the node has, and which engine makes room for another.

On a CPU an engine needs its weights, as its number format has them, and its KV blocks; what else its process needs
(libraries, activations) is not counted, and the node keeps a fifth of its memory for it. On a GPU an engine takes the
fraction that ``gpuMemoryUtilization`` says. An endpoint needs nothing.

An engine that does not fit waits until others are idle. So the calls of an engine that is there go first, whatever
waits for the other one, and a query whose calls alternate between two models swaps once per wave of rows and not once
per call. An engine is closed after a short rest (``LINGER_SECONDS``), because its next rows may be on their way, and
takes no new calls when another has waited long (``PATIENCE_SECONDS``), so that nobody waits for ever. A busy engine is
never closed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from spark_helium.conf import Settings

log = logging.getLogger(__name__)

DEFAULT_SHARE = 0.8  # of the memory that is available when the daemon starts
LINGER_SECONDS = 0.5
PATIENCE_SECONDS = 30.0

_CGROUP = Path("/sys/fs/cgroup")
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_LONGEST_HEADER = 100 << 20  # what the safetensors format allows


@dataclass(frozen=True, slots=True)
class Need:
    """Memory in bytes, and a share of the GPU's memory."""

    bytes: int = 0
    gpu: float = 0.0

    def __add__(self, other: Need) -> Need:
        return Need(self.bytes + other.bytes, self.gpu + other.gpu)

    def fits(self, limit: Need) -> bool:
        """Whether this is within ``limit``."""
        return self.bytes <= limit.bytes and self.gpu <= limit.gpu + 1e-9

    @property
    def counts(self) -> bool:
        """Whether it takes anything."""
        return bool(self.bytes or self.gpu)

    def __str__(self) -> str:
        parts = [f"{self.bytes / (1 << 30):.2f} GiB"] if self.bytes or not self.gpu else []
        return " and ".join([*parts, *([f"{self.gpu:.2f} of the GPU"] if self.gpu else [])])


class Resident(Protocol):
    """An engine that holds memory."""

    @property
    def need(self) -> Need: ...
    @property
    def last_used(self) -> float:
        """When it last had a call, in seconds of the pool's clock; infinity while it has one, or starts."""
        ...


R = TypeVar("R", bound=Resident)


@dataclass(frozen=True, slots=True)
class Room:
    """How one engine gets room: ``close`` these now, or let those ``drain``, or (None) wait."""

    close: Sequence[Any] | None
    drain: Sequence[Any] = ()


class EngineMemory:
    """Decides which engines may be there together.

    Parameters
    ----------
    need_of: estimates a model's need; may take long and may raise.
    limit: what all of them may need together.
    linger, patience: see the module's text; given by tests.
    """

    def __init__(
        self,
        need_of: Callable[[str], Need],
        limit: Need,
        linger: float = LINGER_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._need_of = need_of
        self.limit = limit
        self._linger = linger
        self.patience = patience

    @classmethod
    def of(cls, settings: Settings) -> EngineMemory:
        """The node's memory under these settings."""
        most = settings["executor.memory"] or int(DEFAULT_SHARE * available_memory())
        return cls(lambda model: need_of(model, settings), Need(most, 1.0))

    def need_of(self, model: str) -> Need:
        """What the model's engine will need. What cannot be estimated counts nothing: its start will say why."""
        try:
            return self._need_of(model)
        except Exception as e:
            log.info("the memory that model %r needs is not known: %s", model, type(e).__name__)
            return Need()

    def fits(self, need: Need, residents: Sequence[Resident]) -> bool:
        """Whether an engine fits beside others.

        Alone it always does, as an estimate must not forbid what may work, and what needs nothing is beside nobody.
        """
        others = [r.need for r in residents if r.need.counts]
        return not need.counts or not others or sum(others, need).fits(self.limit)

    def room_for(self, need: Need, residents: Sequence[R], now: float, waited: float) -> Room:
        """How an engine that waits gets room.

        Parameters
        ----------
        residents: the engines that are there.
        now: on the clock of ``last_used``.
        waited: seconds that it has waited.
        """
        by_use = sorted(residents, key=lambda r: r.last_used)
        rested = [r for r in by_use if now - r.last_used >= self._linger]
        chosen = self._first_that_make_room(need, residents, rested)
        if chosen is not None or waited < self.patience:
            return Room(chosen)
        return Room(None, self._first_that_make_room(need, residents, by_use) or ())

    def _first_that_make_room(self, need: Need, residents: Sequence[R], candidates: Sequence[R]) -> list[R] | None:
        for count in range(len(candidates) + 1):
            closed = list(candidates[:count])
            if self.fits(need, [r for r in residents if r not in closed]):
                for r in candidates[:count]:  # those that are too small to matter stay
                    if self.fits(need, [o for o in residents if o not in closed or o is r]):
                        closed.remove(r)
                return closed
        return None


def need_of(model: str, settings: Settings) -> Need:
    """What the engine of ``model`` is expected to need.

    Raises
    ------
    HeliumError
        The model is not there.
    """
    declared = settings.models.get(model)
    path, own = settings.of_model(model)
    memory = declared.memory if declared is not None else 0
    if own["engine"] != "vllm":
        return Need(memory)
    from spark_helium.gpu_executor import models
    from spark_helium.gpu_executor.engines.vllm_engine import engine_arguments, is_cpu_build

    on_cpu = is_cpu_build()
    if on_cpu and memory:
        return Need(memory)
    arguments = engine_arguments(path, own, on_cpu=on_cpu)
    if not on_cpu:
        return Need(gpu=float(arguments["gpu_memory_utilization"]))
    weights = weights_bytes(Path(models.resolve(path, own)), arguments["dtype"])
    return Need(weights + int(arguments["kv_cache_memory_bytes"]))


def weights_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a checkpoint's weights as ``dtype``; 0 for one that is not on this node yet.

    Safetensors files say what they hold: their floating-point tensors change their width, quantized ones do not.
    Files of other formats count as they are.
    """
    safetensors = sorted(folder.glob("*.safetensors"))
    if safetensors:
        return sum(_safetensors_bytes(file, _WIDTHS.get(dtype)) for file in safetensors)
    return sum(file.stat().st_size for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for file in folder.glob(pattern))


def _safetensors_bytes(file: Path, width: int | None) -> int:
    """See https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header, the tensors."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if length > min(_LONGEST_HEADER, file.stat().st_size):
            return file.stat().st_size
        header: dict[str, Any] = json.loads(content.read(length))
    total = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        is_float = width is not None and tensor["dtype"] in _FLOATS
        total += math.prod(tensor["shape"]) * width if is_float and width is not None else end - begin
    return total


def available_memory() -> int:
    """Bytes that new processes can have: the machine's, or what the control group of a container leaves."""
    import psutil

    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        most = int((_CGROUP / "memory.max").read_text())
        available = min(available, max(0, most - int((_CGROUP / "memory.current").read_text())))
    return available
