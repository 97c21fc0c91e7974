"""What a lookup and a write cost in the prompt cache's two tiers, and what compression would save.

Lookups of 10,000 keys, an Arrow batch at a time, all kinds in alternation, so that the ratios hold on a noisy machine:
in memory (every key a hit); on disk, warm (the tier has run before) and cold (a new tier on a store that it did not
write; the operating system's page cache is warm); new keys, which the filter keeps off the disk once it knows the keys
of the store. The store holds --entries answers.

    python benchmarks/prompt_cache.py [--entries 200000] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from spark_helium.demo import table
from spark_helium.gpu_executor import answer_store
from spark_helium.gpu_executor.disk_tier import DiskTier
from spark_helium.gpu_executor.prompt_cache import CacheKey, PromptCache
from spark_helium.gpu_executor.two_tier_cache import TwoTierCache

LOOKED_UP = 10_000
BATCH = 512
LIMIT = 4 << 30
ANSWER = "The customer is angry because the parcel came late and nobody answered the phone."


def key(number: int) -> CacheKey:
    return CacheKey(blake2b(number.to_bytes(8, "big"), digest_size=20).digest())


def look_up(cache: TwoTierCache, keys: list[CacheKey], expected: int) -> float:
    """Seconds for a lookup of all keys, in batches."""
    began = time.perf_counter()
    found = sum(len(cache.get_many(keys[start : start + BATCH])) for start in range(0, len(keys), BATCH))
    seconds = time.perf_counter() - began
    if found != expected:
        raise SystemExit(f"expected {expected} answers, found {found}")
    return seconds


def settle(tier: DiskTier) -> None:
    while not tier.is_written:
        tier.turn()
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(Path(scratch, "cache"), max(args.entries, (args.rounds + 1) * LOOKED_UP), args.rounds)
    json.dump(result, sys.stdout, indent=2)
    print()
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def run(directory: Path, entries: int, rounds: int) -> dict[str, object]:
    keys = [key(n) for n in range(entries)]
    writer = DiskTier(directory, LIMIT, writer_share=1.0)
    began = time.perf_counter()
    for start in range(0, entries, 10_000):
        for each in keys[start : start + 10_000]:
            writer.put(each, ANSWER, False)
        settle(writer)
    writing = time.perf_counter() - began
    writer.close()

    seconds: dict[str, list[float]] = {"memory": [], "disk_cold": [], "disk_warm": [], "new_keys": []}
    warm = TwoTierCache(PromptCache(0), DiskTier(directory, LIMIT))
    knows_all = new_keys_known(warm)
    for n in range(rounds):
        chosen = keys[n * LOOKED_UP : (n + 1) * LOOKED_UP]
        cold = TwoTierCache(PromptCache(1 << 30), DiskTier(directory, LIMIT))
        seconds["disk_cold"].append(look_up(cold, chosen, LOOKED_UP))
        seconds["memory"].append(look_up(cold, chosen, LOOKED_UP))
        settle_and_close(cold)
        seconds["disk_warm"].append(look_up(warm, chosen, LOOKED_UP))
        new = [key(2**50 + n * LOOKED_UP + i) for i in range(LOOKED_UP)]
        seconds["new_keys"].append(look_up(warm, new, 0))
    settle_and_close(warm)
    info = answer_store.run_once(directory, lambda store: store.info())
    assert info is not None
    memory = statistics.median(seconds["memory"])
    return {
        "entries": entries,
        "looked_up": LOOKED_UP,
        "rounds": rounds,
        "milliseconds": {kind: round(1e3 * statistics.median(each), 2) for kind, each in seconds.items()},
        "times_memory": {kind: round(statistics.median(each) / memory, 1) for kind, each in seconds.items()},
        "seconds_until_the_keys_are_known": round(knows_all, 3),
        "write_microseconds_per_answer": round(1e6 * writing / entries, 1),
        "file_bytes_per_answer": round(info.bytes / entries),
        "compression": compression(),
        "versions": {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
    }


def new_keys_known(cache: TwoTierCache) -> float:
    """Seconds until a new tier knows all keys of the store."""
    assert cache.disk is not None
    began, n = time.perf_counter(), 0
    while not cache.disk._knows_keys:
        cache.get_many([key(2**40 + n)])
        n += 1
    return time.perf_counter() - began


def settle_and_close(cache: TwoTierCache) -> None:
    assert cache.disk is not None
    settle(cache.disk)
    cache.close()


def compression() -> dict[str, object]:
    """Ratio of sizes and microseconds per answer of zlib at level 1, on English texts of three lengths."""
    bodies = [review.body for review in table.load()]
    kinds = {"one_word": [body.split()[0] for body in bodies], "one_sentence": bodies}
    kinds["a_page"] = [" ".join(bodies[i:] + bodies[:i])[:4000] for i in range(len(bodies))]
    return {kind: _ratio(texts, lambda data: zlib.compress(data, 1)) for kind, texts in kinds.items()}


def _ratio(texts: list[str], compress: Callable[[bytes], bytes]) -> dict[str, float]:
    data = [text.encode() for text in texts]
    began = time.perf_counter()
    packed = [compress(each) for each in data]
    seconds = time.perf_counter() - began
    return {
        "bytes": round(statistics.mean(map(len, data))),
        "ratio": round(sum(map(len, data)) / sum(map(len, packed)), 2),
        "microseconds": round(1e6 * seconds / len(data), 1),
    }


if __name__ == "__main__":
    main()
