from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from spark_helium.call_graph import Constraint, Sampling
from spark_helium.gpu_executor.prompt_cache import ENTRY_OVERHEAD, CacheKey, CallKeys, PromptCache, entry_size

LIMIT = 4 * ENTRY_OVERHEAD + 40
keys = st.sampled_from([CacheKey(bytes([i])) for i in range(8)])
texts = st.one_of(st.text(max_size=12), st.sampled_from(["x" * 60, "y" * (LIMIT - ENTRY_OVERHEAD), "z" * LIMIT]))


class AgainstAList(RuleBasedStateMachine):
    """The cache and a list of (key, text, truncated), least recently used first, do the same things."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PromptCache(LIMIT)
        self.model: list[tuple[CacheKey, str, bool]] = []

    @rule(key=keys, text=texts, truncated=st.booleans())
    def put(self, key: CacheKey, text: str, truncated: bool) -> None:
        self.cache.put(key, text, truncated)
        self.model = [entry for entry in self.model if entry[0] != key]
        if entry_size(text) <= LIMIT:
            self.model.append((key, text, truncated))
            while sum(entry_size(text) for _, text, _ in self.model) > LIMIT:
                del self.model[0]

    @rule(key=keys)
    def get(self, key: CacheKey) -> None:
        found = [entry for entry in self.model if entry[0] == key]
        assert self.cache.get(key) == (found[0][1:] if found else None)
        assert self.cache.get_many([key, key]) == ({key: found[0][1:]} if found else {})
        if found:
            self.model.remove(found[0])
            self.model.append(found[0])

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def same_books(self) -> None:
        self.cache.check_integrity()
        assert len(self.cache) == len(self.model)
        assert self.cache.bytes == sum(entry_size(text) for _, text, _ in self.model) <= LIMIT


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_cache_of_no_bytes_keeps_nothing():
    cache = PromptCache(0)
    cache.put(CacheKey(b"k"), "", False)
    assert len(cache) == cache.bytes == 0


def test_everything_that_changes_an_answer_changes_the_key():
    sampling = Sampling(8)
    variants = [
        CallKeys("print", sampling, None),
        CallKeys("other", sampling, None),
        CallKeys("print", sampling, None, scope="a query"),
        CallKeys("print", sampling, None, kind="another kind of result"),
        CallKeys("print", Sampling(9), None),
        CallKeys("print", Sampling(8, temperature=0.1, seed=1), None),
        CallKeys("print", Sampling(8, temperature=0.1, seed=2), None),
        CallKeys("print", Sampling(8, temperature=0.1, top_p=0.5, seed=2), None),
        CallKeys("print", Sampling(8, stop=("a",)), None),
        CallKeys("print", Sampling(8, stop=("a", "b")), None),
        CallKeys("print", sampling, Constraint(choices=("a", "b"))),
        CallKeys("print", sampling, Constraint(choices=("b", "a"))),
        CallKeys("print", sampling, Constraint(regex="a")),
        CallKeys("print", sampling, Constraint(json_schema="a")),
    ]
    made = [keys.key(tokens) for keys in variants for tokens in (b"", b"\0\0\0\0", b"\1\0\0\0")]
    assert len(set(made)) == len(made)
    assert CallKeys("print", Sampling(8), None).key(b"\1\0\0\0") == variants[0].key(b"\1\0\0\0")
