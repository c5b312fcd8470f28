"""What a run has cost: the sums of its turns, nested ones included."""

from collections.abc import Iterable
from typing import TypeVar

import trio
from msgspec import Struct, structs

from shared.config import Price
from shared.records import Status, Tokens, TokenSource
from worker.dialects.neutral import Usage
from worker.dialects.relay import Relay
from worker.streaming.accounting import Account, Counter
from worker.streaming.inquiry import Inquiry

Number = TypeVar("Number", int, float)

# The least certain of what is summed tells how certain the sum is.
_SOURCES: tuple[TokenSource, ...] = ("provider", "counted", "partial")


class Item(Struct, frozen=True, kw_only=True):
    """A turn that has ended, however; the fields are those of `Counter.account`."""

    inquiry: Inquiry
    relay: Relay | None
    status: Status
    sent: bool
    price: Price | None
    billed: bool


class Bill:
    """See the module.  Counting may take a thread, so `add` is for those who can't wait, and `settle` does it."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counting = trio.Lock()
        self._open: list[Item] = []
        self._accounts: list[Account] = []
        self._last = Usage()

    def add(self, item: Item) -> None:
        """One more turn, to be counted later."""
        self._open.append(item)

    async def settle(self) -> None:
        """Count what is not counted yet.  A cancel leaves the rest for another time."""
        async with self._counting:
            while self._open:
                item = self._open.pop(0)
                account = await self._counter.account(
                    item.inquiry, item.relay, item.status, sent=item.sent, price=item.price, billed=item.billed
                )
                self._accounts.append(account)
                self._last = _usage(account)

    @property
    def total(self) -> Account:
        """The sums of what is counted."""
        accounts = self._accounts
        beside = [account.counted_completion for account in accounts]
        return Account(
            _tokens(account.prompt for account in accounts),
            _tokens(account.completion for account in accounts),
            # The base of the accuracy: our count of just what the provider has counted.
            None if None in beside else _sum(beside),
            _sum(account.cache_read for account in accounts),
            _sum(account.cache_write for account in accounts),
            _sum(account.cost for account in accounts),
        )

    @property
    def usage(self) -> Usage:
        """The sums, as a dialect tells them."""
        return _usage(self.total)

    @property
    def last_usage(self) -> Usage:
        """The last turn's prompt, which tells how full the context is, and all that was answered."""
        return structs.replace(self._last, completion_tokens=self.usage.completion_tokens)


def _usage(account: Account) -> Usage:
    return Usage(
        prompt_tokens=None if account.prompt is None else account.prompt.count,
        completion_tokens=None if account.completion is None else account.completion.count,
        cache_read_tokens=account.cache_read,
        cache_write_tokens=account.cache_write,
    )


def _tokens(counts: Iterable[Tokens | None]) -> Tokens | None:
    known = [tokens for tokens in counts if tokens is not None]
    if not known:
        return None
    source = max((tokens.source for tokens in known), key=_SOURCES.index)
    return Tokens(sum(tokens.count for tokens in known), source)


def _sum(numbers: Iterable[Number | None]) -> Number | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
