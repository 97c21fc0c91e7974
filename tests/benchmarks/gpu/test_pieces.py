"""A pack survives being cut, carried and joined, and says what did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import pieces
from benchmarks.gpu.pieces import PackError


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "large.whl").write_bytes(bytes(range(256)) * 10)
    (folder / "wheels" / "even.whl").write_bytes(b"x" * 2000)
    (folder / "small.txt").write_text("small")
    (folder / "empty").touch()
    return folder


def test_cut_and_joined(pack: Path, tmp_path: Path):
    manifest = pieces.write_manifest(pack, 1000, python="3.12")
    assert [name for name, _ in manifest["files"]["wheels/large.whl"]["pieces"]] == [
        f"wheels/large.whl.00{k}" for k in range(3)
    ]
    assert len(manifest["files"]["wheels/even.whl"]["pieces"]) == 2
    assert max(path.stat().st_size for path in (pack / "wheels").iterdir()) == 1000
    assert pieces.join(pack, tmp_path / "there")["python"] == "3.12"
    assert (tmp_path / "there/wheels/large.whl").read_bytes() == bytes(range(256)) * 10
    assert (tmp_path / "there/wheels/even.whl").read_bytes() == b"x" * 2000
    assert (tmp_path / "there/small.txt").read_text() == "small"
    assert (tmp_path / "there/empty").read_bytes() == b""


def test_uncut(pack: Path, tmp_path: Path):
    pieces.write_manifest(pack)
    pieces.join(pack, tmp_path / "there")
    assert (tmp_path / "there/wheels/large.whl").stat().st_size == 2560


def test_a_flipped_byte_is_found_and_the_other_files_are_joined(pack: Path, tmp_path: Path):
    pieces.write_manifest(pack, 1000)
    damaged = pack / "wheels/large.whl.001"
    content = bytearray(damaged.read_bytes())
    content[500] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(PackError, match=r"1 pieces of .*carry them again: wheels/large.whl.001 differs$"):
        pieces.join(pack, tmp_path / "there")
    assert not list((tmp_path / "there/wheels").glob("large*"))
    content[500] ^= 1
    damaged.write_bytes(content)
    (pack / "wheels/even.whl.000").unlink()  # joined already, so that it is not needed any more
    pieces.join(pack, tmp_path / "there")
    assert (tmp_path / "there/wheels/large.whl").stat().st_size == 2560


def test_missing_pieces_are_listed(pack: Path, tmp_path: Path):
    pieces.write_manifest(pack, 1000)
    (pack / "wheels/large.whl.000").unlink()
    (pack / "wheels/even.whl.001").unlink()
    with pytest.raises(PackError, match=r"even.whl.001 is missing, wheels/large.whl.000 is missing"):
        pieces.join(pack, tmp_path / "there")


def test_no_pack(tmp_path: Path):
    with pytest.raises(PackError, match="carry that file, too"):
        pieces.read_manifest(tmp_path)
    (tmp_path / pieces.MANIFEST).write_text('{"files": ')
    with pytest.raises(PackError, match="damaged on the way"):
        pieces.read_manifest(tmp_path)
