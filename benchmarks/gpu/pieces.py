"""A pack as pieces: files cut to a size that can be carried, with a manifest that knows every hash.

Only the standard library, as the other machine has nothing else when it joins them. ``manifest.json``::

    {"files": {"wheels/x.whl": {"sha256", "bytes", "pieces": [["wheels/x.whl.000", sha256], ...]}, ...}, ...}

A file that needs no cutting is its own only piece.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class PackError(Exception):
    """The pack cannot be used; the message says which file and what to do."""


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(pack: Path, piece_bytes: int = 0, **more: Any) -> dict[str, Any]:
    """Cut the files below ``pack`` into pieces of ``piece_bytes`` at most (0: none), and write the manifest.

    A file that is cut goes away, its pieces stand in its place.
    """
    files: dict[str, Any] = {}
    for path in sorted(p for p in pack.rglob("*") if p.is_file() and p.name != MANIFEST):
        name = path.relative_to(pack).as_posix()
        entry: dict[str, Any] = {"sha256": sha256(path), "bytes": path.stat().st_size}
        if piece_bytes and entry["bytes"] > piece_bytes:
            cut = list(_cut(path, piece_bytes))
            path.unlink()
            entry["pieces"] = [[piece.relative_to(pack).as_posix(), sha256(piece)] for piece in cut]
        else:
            entry["pieces"] = [[name, entry["sha256"]]]
        files[name] = entry
    manifest = {**more, "files": files}
    (pack / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _cut(path: Path, piece_bytes: int) -> Iterator[Path]:
    with path.open("rb") as source:
        number = 0
        while source.tell() < path.stat().st_size:
            piece = path.with_name(f"{path.name}.{number:03}")
            with piece.open("wb") as target:
                left = piece_bytes
                while left and (chunk := source.read(min(_CHUNK, left))):
                    target.write(chunk)
                    left -= len(chunk)
            number += 1
            yield piece


def read_manifest(pack: Path) -> dict[str, Any]:
    """The manifest of a pack.

    Raises
    ------
    PackError
        There is none, or it is none.
    """
    path = pack / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise PackError(f"{pack} is no pack: it has no {MANIFEST}; carry that file, too") from None
    except ValueError as e:
        raise PackError(f"{path} was damaged on the way ({e}); carry it again") from e
    return manifest


def join(pack: Path, target: Path) -> dict[str, Any]:
    """Put the files of ``pack`` together below ``target`` and check them; returns the manifest.

    A file that already stands there with the right hash is left alone.

    Raises
    ------
    PackError
        A piece is missing or differs from what was packed; the message lists all such pieces.
    """
    manifest = read_manifest(pack)
    wrong: list[str] = []
    for name, entry in manifest["files"].items():
        path = target / name
        if path.is_file() and path.stat().st_size == entry["bytes"] and sha256(path) == entry["sha256"]:
            continue
        missing = [piece for piece, _ in entry["pieces"] if not (pack / piece).is_file()]
        wrong += [f"{piece} is missing" for piece in missing]
        if missing:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as out:
            for piece, _ in entry["pieces"]:
                with (pack / piece).open("rb") as source:
                    shutil.copyfileobj(source, out, _CHUNK)
        if sha256(part) == entry["sha256"]:
            part.replace(path)
        else:
            part.unlink()
            wrong += [f"{piece} differs" for piece, digest in entry["pieces"] if sha256(pack / piece) != digest]
    if wrong:
        raise PackError(f"{len(wrong)} pieces of {pack} are not what was packed; carry them again: {', '.join(wrong)}")
    return manifest
