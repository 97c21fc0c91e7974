from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.conf import Settings
from spark_helium.gpu_executor import engine_memory
from spark_helium.gpu_executor.engine_memory import EngineMemory, Need, need_of, weights_bytes

MIB = 1 << 20


@dataclass(eq=False)
class Engine:
    need: Need
    last_used: float = math.inf


def memory(limit: Need, linger: float = 1.0, patience: float = 10.0) -> EngineMemory:
    return EngineMemory(lambda _: Need(), limit, linger, patience)


def test_what_fits_together() -> None:
    node = memory(Need(100, 1.0))
    assert node.fits(Need(60), [Engine(Need(40))])
    assert not node.fits(Need(60), [Engine(Need(41))])
    assert node.fits(Need(gpu=0.6), [Engine(Need(gpu=0.4))])
    assert not node.fits(Need(gpu=0.9), [Engine(Need(gpu=0.9))])
    assert node.fits(Need(101), []), "alone it is tried"


def test_what_needs_nothing_neither_waits_nor_stands_in_the_way() -> None:
    node = memory(Need(100))
    too_large, endpoint = Engine(Need(120)), Engine(Need(), 1.0)
    assert node.fits(Need(), [too_large])
    assert node.fits(Need(120), [endpoint]), "it is alone"
    assert node.room_for(Need(120), [endpoint], now=5.0, waited=0.0).close == []


def test_the_least_recently_used_idle_engine_goes_first() -> None:
    old, new, busy = Engine(Need(40), 1.0), Engine(Need(40), 2.0), Engine(Need(20))
    room = memory(Need(100)).room_for(Need(30), [new, busy, old], now=5.0, waited=0.0)
    assert room.close == [old]


def test_no_more_than_needed_is_closed() -> None:
    small, large = Engine(Need(5), 1.0), Engine(Need(90), 2.0)
    assert memory(Need(100)).room_for(Need(90), [small, large], 5.0, 0.0).close == [large]


def test_an_engine_rests_a_moment_before_it_is_closed() -> None:
    idle = Engine(Need(80), 4.5)
    node = memory(Need(100))
    assert node.room_for(Need(30), [idle], now=5.0, waited=0.5).close is None
    assert node.room_for(Need(30), [idle], now=5.5, waited=1.0).close == [idle]


def test_a_busy_engine_is_never_closed_but_drains_when_another_waited_long() -> None:
    busy = Engine(Need(80))
    node = memory(Need(100))
    early, late = (node.room_for(Need(30), [busy], 100.0, waited) for waited in (9.0, 11.0))
    assert (early.close, list(early.drain)) == (None, [])
    assert (late.close, list(late.drain)) == (None, [busy])


NEEDS = st.integers(0, 60)
RESIDENTS = st.lists(st.tuples(NEEDS, st.one_of(st.floats(0, 100), st.just(math.inf))), max_size=6)


@given(NEEDS, RESIDENTS)
def test_what_is_closed_makes_room_and_is_idle(need: int, given_residents: list[tuple[int, float]]) -> None:
    residents = [Engine(Need(size), used) for size, used in given_residents]
    node = memory(Need(100))
    room = node.room_for(Need(need), residents, now=100.0, waited=0.0)
    idle = [r for r in residents if 100.0 - r.last_used >= 1.0]
    if room.close is None:
        assert not node.fits(Need(need), [r for r in residents if r not in idle])
        return
    assert all(r in idle for r in room.close)
    left = [r for r in residents if r not in room.close]
    assert node.fits(Need(need), left)
    assert all(not node.fits(Need(need), [*left, r]) for r in room.close), "each of them was needed"


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * end)


def test_weights_in_the_number_format_of_the_engine(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", [10, 3], 60), "q": ("I8", [7], 7)})
    write_safetensors(tmp_path / "b.safetensors", {"y": ("F32", [5], 20)})
    assert weights_bytes(tmp_path, "float32") == 30 * 4 + 7 + 20
    assert weights_bytes(tmp_path, "bfloat16") == 30 * 2 + 7 + 10
    assert weights_bytes(tmp_path, "auto") == 60 + 7 + 20


def test_other_formats_count_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\0" * 123)
    assert weights_bytes(tmp_path, "float32") == 123
    assert weights_bytes(tmp_path / "not there yet", "float32") == 0
    (tmp_path / "model.bin").unlink()
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 50)
    assert weights_bytes(tmp_path, "float32") == 50


def checkpoint(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", {"x": ("BF16", [1 << 20], 2 << 20)})
    return folder


@pytest.mark.parametrize("on_cpu", [True, False])
def test_need_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_cpu: bool) -> None:
    monkeypatch.setattr("spark_helium.gpu_executor.engines.vllm_engine.is_cpu_build", lambda: on_cpu)
    settings = Settings(
        {
            "models.m.path": str(checkpoint(tmp_path)),
            "models.m.kvCacheSpace": "64m",
            "models.m.gpuMemoryUtilization": "0.3",
        }
    )
    expected = Need((4 + 64) * MIB) if on_cpu else Need(gpu=0.3)
    assert need_of("m", settings) == expected


def test_a_declared_size_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_helium.gpu_executor.engines.vllm_engine.is_cpu_build", lambda: True)
    assert need_of("m", Settings({"models.m.memory": "3g"})) == Need(3 << 30)
    assert need_of("m", Settings({"engine": "simulator", "models.m.memory": "3g"})) == Need(3 << 30)
    assert need_of("m", Settings({"engine": "openai"})) == Need()


def test_an_unknown_need_counts_nothing() -> None:
    node = EngineMemory(lambda model: need_of(model, Settings()), Need(100))
    assert node.need_of("/no/such/model") == Need()


def test_a_model_of_the_hub_that_is_not_here_yet_counts_its_kv_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spark_helium.gpu_executor.engines.vllm_engine.is_cpu_build", lambda: True)
    assert need_of("org/no-such-model", Settings({"vllm.kvCacheSpace": "2g"})) == Need(2 << 30)


def test_the_limit_is_a_setting_or_a_share_of_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EngineMemory.of(Settings({"executor.memory": "5g"})).limit == Need(5 << 30, 1.0)
    monkeypatch.setattr(engine_memory, "available_memory", lambda: 1000)
    assert EngineMemory.of(Settings()).limit == Need(800, 1.0)


def test_a_control_group_bounds_what_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_memory, "_CGROUP", tmp_path)
    free = engine_memory.available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert engine_memory.available_memory() > free // 2
    (tmp_path / "memory.max").write_text(f"{3 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{MIB}\n")
    assert engine_memory.available_memory() == 2 * MIB


def test_needs_read_well() -> None:
    assert (str(Need(3 << 29)), str(Need(gpu=0.9)), str(Need())) == ("1.50 GiB", "0.90 of the GPU", "0.00 GiB")
