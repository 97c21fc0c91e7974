"""Prompts as templates: runs of tokens, and placeholders for what differs or is not known as tokens.

Templates are compared symbol by symbol, tokens one by one (Helium, arXiv 2603.16104, compares characters, and
placeholders by the operator they come from). A placeholder whose text is known is equal to any other of equal text,
under whatever name and in whatever query; one whose text is not known is equal only to itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

# Token ids travel as native unsigned 32-bit integers, back to back, as everywhere in the daemon.
TOKEN_BYTES = 4
Tokens: TypeAlias = bytes


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Text in a prompt that is not there as tokens.

    Attributes
    ----------
    key: equal keys mean equal text; for a ``per_row`` placeholder, in the same row.
    tokens: expected length. Not part of what is compared: it is an estimate, which may be revised.
    per_row: whether the text differs between rows, as far as is known.
    """

    key: Hashable
    tokens: float
    per_row: bool = True


def column(query: Hashable, index: int, tokens: float) -> Placeholder:
    """An input column of a query."""
    return Placeholder(("column", query, index), tokens)


def answer(query: Hashable, operator: int, tokens: float) -> Placeholder:
    """The answer of an earlier operator of a query."""
    return Placeholder(("answer", query, operator), tokens)


def known(text: str | bytes, tokens: float) -> Placeholder:
    """A text that is known, and the same in every row: a document, a constant, the text between two placeholders."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return Placeholder(("text", hashlib.sha256(data).digest()), tokens, per_row=False)


Symbol: TypeAlias = Tokens | Placeholder


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the prompts of a template have in common as tokens.

    Attributes
    ----------
    tokens: what every prompt begins with; empty where that is not known.
    cut: static text behind it that a tokenizer may join with the value that follows.
    shortest: length of the shortest prompt, without ``cut``, in tokens.
    """

    tokens: Tokens = b""
    cut: str = ""
    shortest: int = 0


class Template:
    """A prompt's symbols, adjacent runs of tokens joined and empty ones dropped.

    Raises
    ------
    ValueError
        A run of tokens is not a whole number of tokens.
    """

    __slots__ = ("symbols",)

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        joined: list[Symbol] = []
        for symbol in symbols:
            if isinstance(symbol, Placeholder):
                joined.append(symbol)
            elif symbol:
                if len(symbol) % TOKEN_BYTES:
                    raise ValueError(f"{len(symbol)} bytes are no whole number of packed tokens")
                if joined and isinstance(joined[-1], bytes):
                    joined[-1] += symbol
                else:
                    joined.append(symbol)
        self.symbols: tuple[Symbol, ...] = tuple(joined)

    @property
    def tokens(self) -> float:
        """Expected length."""
        return sum(map(symbol_tokens, self.symbols))

    def __repr__(self) -> str:
        parts = (f"{symbol_tokens(s):g} tokens" if isinstance(s, bytes) else f"<{s.key}>" for s in self.symbols)
        return f"Template({', '.join(parts)})"


def symbol_tokens(symbol: Symbol) -> float:
    """Length of a run, expected length of a placeholder, in tokens."""
    return symbol.tokens if isinstance(symbol, Placeholder) else len(symbol) // TOKEN_BYTES


def common_bytes(ours: Tokens, theirs: Tokens, unit: int = TOKEN_BYTES) -> int:
    """Bytes of the common beginning of two runs in whole units of ``unit`` bytes. O(length), at memcmp's speed.

    >>> common_bytes(b"aaaabbbbcccc", b"aaaabbbbdddd")
    8
    """
    low, high = 0, min(len(ours), len(theirs)) // unit
    if ours[: high * unit] == theirs[: high * unit]:
        return high * unit
    while high - low > 1:  # ours and theirs agree in `low` units, and differ within `high`
        middle = (low + high) // 2
        if ours[low * unit : middle * unit] == theirs[low * unit : middle * unit]:
            low = middle
        else:
            high = middle
    return low * unit
