from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.key_filter import KeyFilter, prefixes
from spark_helium.gpu_executor.prompt_cache import CacheKey


def key(number: int) -> CacheKey:
    return CacheKey(blake2b(number.to_bytes(8, "big"), digest_size=20).digest())


@given(added=st.sets(st.binary(min_size=20, max_size=20)), asked=st.lists(st.binary(min_size=20, max_size=20)))
def test_every_key_that_was_added_passes(added: set[bytes], asked: list[bytes]):
    filter_ = KeyFilter()
    filter_.add(prefixes([CacheKey(k) for k in added]))
    keys = [CacheKey(k) for k in [*asked, *added]]
    passing = filter_.may_hold(keys)
    assert passing == [k for k in keys if k in set(passing)], "they come in the given order"
    assert added <= set(passing)


def test_few_others_pass():
    filter_ = KeyFilter(smallest=1 << 18)
    filter_.add(prefixes([key(n) for n in range(5461)]))  # 48 bits for each
    assert not filter_.full
    assert len(filter_.may_hold([key(n) for n in range(10_000, 110_000)])) < 20
    filter_.add(prefixes([key(n) for n in range(5461, 6000)]))
    assert filter_.full
    filter_.reset(filter_.added)
    assert filter_.may_hold([key(1)]) == []
    filter_.add(prefixes([key(n) for n in range(5000)]))
    assert not filter_.full


def test_it_stops_growing():
    filter_ = KeyFilter(smallest=1 << 10, largest=1 << 10)
    filter_.add(prefixes([key(n) for n in range(1000)]))
    assert not filter_.full  # there is no larger one to begin anew with
    filter_.reset(10**9)
    assert filter_.may_hold([key(1)]) == []
    assert filter_.may_hold([]) == []
