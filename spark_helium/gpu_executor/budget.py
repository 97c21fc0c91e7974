"""What one query may use on a node, and what it has used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

# A query is over when it had no stream for this long: between two of its stages Spark may do other work.
KEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Budget:
    """Most calls, and most tokens of prompts and answers; 0: any number."""

    calls: int = 0
    tokens: int = 0

    def __bool__(self) -> bool:
        return bool(self.calls or self.tokens)


@dataclass(slots=True)
class Spending:
    """What the tasks of one query used of their budget on this node. Only the dispatcher's thread uses it.

    A call counts when it is made, with its prompt; its answer when it is there. So the number of calls is never more
    than the budget, and tokens may pass it by the answers that are on their way when it is reached. What was made
    before is still answered, so that its answers are kept; then the query ends.

    Attributes
    ----------
    calls: made so far.
    tokens: of the calls that are done.
    over: why the query ends; empty while it does not.
    """

    budget: Budget
    calls: int = 0
    tokens: int = 0
    over: str = ""
    _open: int = 0
    _open_tokens: int = 0

    def admit(self, prompt_tokens: int) -> bool:
        """Whether one more call may be made; counts it if so."""
        if self.over:
            return False
        budget = self.budget
        expected = self.tokens + self._open_tokens + prompt_tokens
        if budget.calls and self.calls >= budget.calls:
            self.over = _reason("calls", "maxCalls", budget.calls, f"{self.calls:,} calls were made")
        elif budget.tokens and expected > budget.tokens:
            used = f"{self.tokens:,} tokens were used, and the calls on their way and the next one need more"
            self.over = _reason("tokens", "maxTokens", budget.tokens, used)
        else:
            self.calls += 1
            self._open += 1
            self._open_tokens += prompt_tokens
        return not self.over

    def done(self, prompt_tokens: int, used_tokens: int) -> None:
        """A call that was admitted with ``prompt_tokens`` ended; it used ``used_tokens``, 0 if it was aborted."""
        self._open -= 1
        self._open_tokens -= prompt_tokens
        self.tokens += used_tokens

    @property
    def ends(self) -> bool:
        """Whether the budget is used up, and nothing that was made before is missing."""
        return bool(self.over) and not self._open


class _Spender(Protocol):
    """A stream: whose budget it is, and how much."""

    account: str
    budget: Budget


class Spendings:
    """The spending of each query that has a budget. Only the dispatcher's thread uses it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_account: dict[str, Spending] = {}
        self._last_use: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._by_account)

    def of(self, stream: _Spender) -> Spending | None:
        """What the stream's query has spent; None where it has no budget. Equal budgets of one query are one."""
        if not stream.budget:
            return None
        spending = self._by_account.get(stream.account)
        if spending is None:
            spending = self._by_account[stream.account] = Spending(stream.budget)
        self._last_use[stream.account] = self._clock()  # asked for in each turn while a stream is open
        return spending

    def forget_finished(self) -> None:
        """Forget queries that have had no stream for :data:`KEEP_SECONDS`."""
        now = self._clock()
        for account, last in list(self._last_use.items()):
            if now - last > KEEP_SECONDS:
                del self._last_use[account], self._by_account[account]


def _reason(what: str, setting: str, limit: int, used: str) -> str:
    return (
        f"the query reached its budget of {limit:,} {what} (spark.helium.budget.{setting}) on this node: {used}. Its "
        "answers so far are in the prompt cache and cost nothing when it runs again. Raise the budget, or ask for "
        "less: filter rows before the calls, or use LIMIT"
    )
