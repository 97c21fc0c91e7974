from __future__ import annotations

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.engines.pin_table import PinTable


class Pool:
    """Cached blocks by hash, and how many references each has."""

    def __init__(self, cached: str) -> None:
        self.references = dict.fromkeys(cached, 0)
        self.given_back: list[str] = []

    def take(self, key: Hashable) -> str | None:
        if key not in self.references:
            return None
        self.references[key] += 1
        return str(key)

    def give_back(self, blocks: list[str]) -> None:
        for block in blocks:
            self.references[block] -= 1
            self.given_back.append(block)

    def held(self) -> str:
        return "".join(sorted(key for key, count in self.references.items() if count))


def table(pool: Pool, budget: int) -> PinTable[str]:
    return PinTable(budget, pool.take, pool.give_back)


def anything(block: str) -> bool:
    return True


def test_nested_prefixes_hold_a_block_once() -> None:
    pool = Pool("abcde")
    pins = table(pool, 10)
    pins.put({"Q": "abde", "P": "ab"})
    assert pool.references == {"a": 1, "b": 1, "c": 0, "d": 1, "e": 1}
    assert (pins.blocks, pins.pinned) == (4, 2)
    pins.put({"P": "ab"})
    assert (pool.held(), pool.given_back) == ("ab", ["e", "d"])  # the tail is evicted first
    pins.put({})
    assert pool.given_back == ["e", "d", "b", "a"]


def test_a_pin_takes_blocks_as_they_are_computed() -> None:
    pool = Pool("ac")
    pins = table(pool, 10)
    pins.put({"P": "abc"})
    assert (pool.held(), pins.pinned, pins.growing) == ("a", 0, True)  # c is of no use without b
    pool.references["b"] = 0
    pins.grow()
    assert (pool.held(), pins.pinned, pins.growing) == ("abc", 1, False)


def test_at_the_budget_the_less_valuable_pin_gives_way() -> None:
    pool = Pool("xy")
    pins = table(pool, 2)
    pins.put({"P": "ab", "Q": "xy"})
    assert pool.held() == "xy"  # nothing of P is computed
    pool.references |= {"a": 0, "b": 0}
    pins.grow()
    assert pool.held() == "ab"
    pins.put({"Q": "xy", "P": "ab"})
    assert pool.held() == "xy"


def test_pins_that_hold_the_same_blocks_give_them_up_together() -> None:
    pool = Pool("ab")
    pins = table(pool, 10)
    pins.put({"P": "abc", "Q": "ab", "R": "abd"})
    assert pool.held() == "ab"
    assert pins.release(anything)
    assert pool.held() == ""


def test_blocks_are_released_by_value_and_only_where_that_helps() -> None:
    pool = Pool("abcxy")
    pins = table(pool, 10)
    pins.put({"P": "abc", "Q": "xy", "R": "ab"})
    assert pins.release(anything)  # R shares all it has with P: releasing it would free nothing
    assert pool.held() == "abc"
    assert not pins.release(lambda block: block in "xy")
    assert pins.release(anything)
    assert pool.held() == "ab"  # R holds these still
    assert pins.release(anything)
    assert not pins.release(anything)
    assert (pool.held(), len(pins), pins.growing) == ("", 3, True)
    pins.grow()
    assert pool.held() == "abcxy"
    pins.clear()
    assert (pool.held(), len(pins)) == ("", 3)


chains = st.text("ab", min_size=1, max_size=5).map(lambda path: tuple(path[: i + 1] for i in range(len(path))))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(chains, max_size=4, unique=True)),
        st.tuples(st.just("compute"), chains),
        st.tuples(st.just("evict"), st.integers(0, 50)),
        st.tuples(st.just("release"), st.booleans()),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=30,
)


@given(budget=st.integers(0, 8), operations=operations)
def test_never_above_the_budget_and_one_reference_per_block(budget: int, operations: list) -> None:
    pool = Pool("")
    pins = table(pool, budget)
    wanted: list[tuple[str, ...]] = []
    for name, argument in operations:
        match name:
            case "put":
                wanted = argument
                pins.put({chain: chain for chain in argument})
            case "compute":
                pool.references |= {key: 0 for key in argument if key not in pool.references}
                pins.grow()
            case "evict":
                free = sorted(key for key, count in pool.references.items() if not count)
                if free:
                    del pool.references[free[argument % len(free)]]
            case "release":
                before = pool.held()
                assert pins.release(anything) == bool(before)
                assert len(pool.held()) < len(before) or not before
                if argument:
                    pins.grow()
            case "clear":
                pins.clear()
                assert pins.blocks == 0
        pins.check_integrity()
        assert set(pool.references.values()) <= {0, 1}
        held = {key for key, count in pool.references.items() if count}
        assert len(held) == pins.blocks <= budget
        assert held <= {key for chain in wanted for key in chain}
        for key in held:  # a block without its head is of no use
            assert key[:-1] in held or len(key) == 1


@given(budget=st.integers(1, 8), wanted=st.lists(chains, min_size=1, max_size=5, unique=True))
def test_with_all_computed_the_most_valuable_pins_are_whole(budget: int, wanted: list[tuple[str, ...]]) -> None:
    pool = Pool("")
    pool.references = {key: 0 for chain in wanted for key in chain}
    pins = table(pool, budget)
    pins.put({chain: chain for chain in wanted})
    whole: set[str] = set()
    for chain in wanted:
        if len(whole | set(chain)) > budget:
            break
        whole |= set(chain)
    assert whole <= {key for key, count in pool.references.items() if count}
