"""Whose answers and whose KV a stream's calls may use.

Two rooms are told apart: that of answers (the prompt cache, and equal calls in flight, by a part of their keys) and
that of KV blocks (by a salt, which goes into the hash of a prompt's first block). A namespace has its own of both. With
``spark.helium.isolation=query`` a query has, too.
"""

from __future__ import annotations

import json
import secrets
from hashlib import blake2b

SALT_BYTES = 16


def answer_scope(namespace: str, query: str) -> str:
    """The scope of the cache keys; ``query`` is empty where answers are shared with other queries.

    >>> answer_scope("", ""), answer_scope("a", ""), answer_scope("", "a")
    ('', '["a", ""]', '["", "a"]')
    """
    return json.dumps([namespace, query]) if namespace or query else ""


def kv_salt(namespace: str, query: str, *, isolated: bool) -> str:
    """The salt of KV blocks: empty for the default namespace, else hexadecimal digits that do not show the name.

    It is the same on every node and after a restart, because an endpoint may serve several daemons. An isolated stream
    without a query's name has a salt of its own.
    """
    if not isolated:
        return _digest(namespace) if namespace else ""
    return _digest(namespace, query) if query else secrets.token_hex(SALT_BYTES)


def _digest(*names: str) -> str:
    return blake2b(json.dumps(names).encode(), digest_size=SALT_BYTES).hexdigest()
