"""What the fake models answer; read by tests and, without them, in the environments of peers."""

from __future__ import annotations

from collections.abc import Sequence


def reply_to(whole: str, choices: Sequence[str] | None) -> str:
    if choices:
        return choices[-1] if "broke" in whole else choices[0]
    return f"<{len(whole)} {sum(map(ord, whole)) % 9973} {whole[:20]}>"
