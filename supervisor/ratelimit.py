"""The limits of the service: who may ask a provider now, who waits, and who is refused.

A limit belongs to a provider or to a client's key, and is one of two kinds.

    Bucket   requests a minute: `burst_size` at once, then as fast as it fills up
    Slots    streams at once: a place is taken on being let in, and given back on leaving

    ask ─▶ waiting ─┬─▶ inside ─▶ withdraw
                    └─▶ refused, when `max_wait` is over

A stream takes what it needs of all its limits in one step, or waits and holds nothing.  It is first come, first served
at each limit; but who waits for one limit keeps nobody waiting who does not need that one.
"""

import math
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from msgspec import Struct

from shared.config import Config, RateLimit
from shared.messages import LimitState

SLOT_RETRY = 1.0
"""When a place gets free, nobody knows; asking once a second is fair."""
_WHOLE = 1 - 1e-9  # a token that was put together from many small parts
_OF_PROVIDER, _OF_KEY = "provider ", "key "


class Decision(Struct, frozen=True):
    """What has become of a stream that asked; `limit` as in `shared.messages.Verdict`."""

    id: str
    admitted: bool
    limit: LimitState | None


class Bucket:
    """Requests a minute."""

    def __init__(self, name: str, limit: RateLimit, now: float) -> None:
        self.name = name
        self._limit = limit
        self._level = float(limit.burst_size)
        self._at = now

    def configure(self, limit: RateLimit, now: float) -> None:
        """Other numbers from now on; what is in the bucket stays, if it still fits."""
        self._settle(now)
        self._limit = limit
        self._level = min(self._level, limit.burst_size)

    def has_room(self, now: float) -> bool:
        """Whether there is a token."""
        self._settle(now)
        return self._level >= _WHOLE

    def take(self) -> None:
        """Take one; after `has_room`."""
        self._level -= 1.0

    def give_back(self, *, unused: bool) -> None:
        """A stream leaves; the token of one that came to nothing goes back."""
        if unused:
            self._level = min(self._level + 1.0, self._limit.burst_size)

    def state(self, ahead: int | None = None) -> LimitState:
        """As it stands after `has_room`.  `ahead`: how many others one who was refused would come behind."""
        rate = self._limit.requests_per_minute / 60.0
        return LimitState(
            name=self.name,
            limit=self._limit.requests_per_minute,
            remaining=math.floor(self._level + 1 - _WHOLE),
            reset_after=max((self._limit.burst_size - self._level) / rate, 0.0),
            retry_after=0.0 if ahead is None else max((1 + ahead - self._level) / rate, 0.0),
        )

    def _settle(self, now: float) -> None:
        if now > self._at:
            gained = (now - self._at) * self._limit.requests_per_minute / 60.0
            self._level = min(self._level + gained, self._limit.burst_size)
            self._at = now


class Slots:
    """Streams at once.  They are counted even while there is no limit: a reload may set one."""

    def __init__(self, name: str, limit: int | None) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0

    def has_room(self, now: float) -> bool:
        """Whether a place is free."""
        return self.limit is None or self.taken < self.limit

    def take(self) -> None:
        """Take one; after `has_room`."""
        self.taken += 1

    def give_back(self, *, unused: bool) -> None:
        """A stream leaves."""
        self.taken -= 1

    def state(self, ahead: int | None = None) -> LimitState:
        """As it stands.  `ahead`: how many others one who was refused would come behind."""
        limit = self.limit or 0
        wait = 0.0 if ahead is None else SLOT_RETRY
        return LimitState(self.name, limit, max(limit - self.taken, 0), wait, wait, concurrent=True)


Limit = Bucket | Slots
Line = tuple[str, str | None]
"""A provider, and the client's key if it has one: who shares both is under the same limits, and waits in one line."""


class _Rules(Struct, frozen=True):
    """What holds for a line."""

    limits: tuple[Limit, ...]
    """Those that are asked."""
    counts: tuple[Limit, ...]
    """Those that have to know who is inside."""


class _Waiter(Struct, frozen=True):
    number: int
    """In the order of coming, over all lines."""
    since: float


class Limits:
    """All limits, and all who wait for them or are inside.  Time is what the callers say it is."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clients = {client.fingerprint: client for client in config.auth.clients}
        self._now = -math.inf
        self._asked = 0
        self._buckets: dict[str, Bucket] = {}
        self._slots: dict[str, Slots] = {}
        self._rules: dict[Line, _Rules] = {}
        self._inside: dict[str, Line] = {}
        self._waiting: dict[str, Line] = {}
        self._lines: dict[Line, dict[str, _Waiter]] = {}
        """Those in which somebody waits."""

    @property
    def waiting(self) -> int:
        """How many streams wait."""
        return len(self._waiting)

    @property
    def inside(self) -> int:
        """How many streams have been let in and have not left."""
        return len(self._inside)

    def is_waiting(self, id: str) -> bool:
        """Whether a stream has asked and not been answered."""
        return id in self._waiting

    def configure(self, config: Config) -> None:
        """Other limits from now on; levels, places that are taken, and who waits stay."""
        self._config = config
        self._clients = {client.fingerprint: client for client in config.auth.clients}
        self._rules.clear()
        for name, bucket in list(self._buckets.items()):
            limit = self._rate_limit(name)
            if limit is None:
                del self._buckets[name]
            else:
                bucket.configure(limit, self._now)
                bucket.name = self._shown(name)
        self._slots = {name: slots for name, slots in self._slots.items() if slots.taken}
        for name, slots in self._slots.items():
            slots.limit = self._max_concurrent(name)
            slots.name = self._shown(name)

    def ask(self, id: str, provider: str, client: str | None, now: float) -> list[Decision]:
        """A stream wants in.  Its own decision is among those returned, unless it waits.

        A place that it has is taken from it first: a stream asks one provider at a time.
        """
        self._remove(id, unused=False)
        line = (provider, client)
        self._asked += 1
        self._waiting[id] = line
        waiter = _Waiter(self._asked, now)
        if waiters := self._lines.get(line):
            waiters[id] = waiter  # behind others, so there is nothing to decide: under overload most come like this
            return []
        self._lines[line] = {id: waiter}
        return self.tick(now)

    def withdraw(self, ids: Iterable[str], now: float, *, unused: bool = False) -> list[Decision]:
        """Streams leave, from inside or while they wait; what that means for others.  Unknown ones are no error.

        `unused`: they never got to their provider.
        """
        for id in ids:
            self._remove(id, unused=unused)
        return self.tick(now)

    def tick(self, now: float) -> list[Decision]:
        """Let in who may come in, and refuse who has waited for too long."""
        self._now = max(self._now, now)
        if not self._lines:
            return []
        decisions: list[Decision] = []
        awaited = self._let_in(decisions)
        self._refuse(decisions, awaited)
        return decisions

    def _let_in(self, decisions: list[Decision]) -> set[Limit]:
        """Those who get in; the limits that the others wait for.

        The first ones of all lines are looked at in the order of their coming.  One that has to wait claims the limits
        that it waits for, so that nobody who came later overtakes it there.
        """
        awaited: set[Limit] = set()
        heads = [(next(iter(waiters.values())).number, line) for line, waiters in self._lines.items()]
        heapify(heads)
        while heads:
            _, line = heappop(heads)
            rules = self._rules_of(line)
            blocking = [limit for limit in rules.limits if limit in awaited or not limit.has_room(self._now)]
            if blocking:
                awaited.update(blocking)
                continue
            waiters = self._lines[line]
            id = next(iter(waiters))
            self._remove(id, unused=True)
            self._inside[id] = line
            for limit in rules.counts:
                limit.take()
            decisions.append(Decision(id, True, _tightest(rules.limits)))
            if waiters:
                heappush(heads, (next(iter(waiters.values())).number, line))
        return awaited

    def _refuse(self, decisions: list[Decision], awaited: set[Limit]) -> None:
        since = self._now - self._config.rate_limiting.max_wait
        for line, waiters in list(self._lines.items()):
            while waiters and next(iter(waiters.values())).since <= since:
                id = next(iter(waiters))
                self._remove(id, unused=True)
                limits = [limit for limit in self._rules_of(line).limits if limit in awaited]
                states = [limit.state(self._waiting_for(limit)) for limit in limits]
                decisions.append(Decision(id, False, max(states, key=lambda state: state.retry_after)))

    def _remove(self, id: str, *, unused: bool) -> bool:
        """Take a stream from its place, wherever that is."""
        if line := self._inside.pop(id, None):
            for limit in self._rules_of(line).counts:
                limit.give_back(unused=unused)
        elif line := self._waiting.pop(id, None):
            waiters = self._lines[line]
            del waiters[id]
            if not waiters:
                del self._lines[line]
        return line is not None

    def _waiting_for(self, limit: Limit) -> int:
        return sum(len(waiters) for line, waiters in self._lines.items() if limit in self._rules_of(line).limits)

    def _rules_of(self, line: Line) -> _Rules:
        rules = self._rules.get(line)
        if rules is None:
            provider, client = line
            names = [_OF_PROVIDER + provider] if client is None else [_OF_PROVIDER + provider, _OF_KEY + client]
            buckets = [bucket for name in names if (bucket := self._bucket(name))]
            slots = [self._slots_of(name) for name in names]
            counts: tuple[Limit, ...] = (*buckets, *slots)
            limits = tuple(limit for limit in counts if isinstance(limit, Bucket) or limit.limit is not None)
            rules = self._rules[line] = _Rules(limits, counts)
        return rules

    def _bucket(self, name: str) -> Bucket | None:
        if name not in self._buckets and (limit := self._rate_limit(name)):
            self._buckets[name] = Bucket(self._shown(name), limit, self._now)
        return self._buckets.get(name)

    def _slots_of(self, name: str) -> Slots:
        if name not in self._slots:
            self._slots[name] = Slots(self._shown(name), self._max_concurrent(name))
        return self._slots[name]

    def _shown(self, name: str) -> str:
        """What clients are told that a limit is of: his name rather than his key's, if he has one."""
        client = self._clients.get(name.removeprefix(_OF_KEY)) if name.startswith(_OF_KEY) else None
        return name if client is None else f"client {client.name}"

    def _rate_limit(self, name: str) -> RateLimit | None:
        if name.startswith(_OF_KEY):
            client = self._clients.get(name.removeprefix(_OF_KEY))
            own = client.rate_limit if client is not None else None
            return own or self._config.rate_limiting.per_key
        provider = self._config.providers.get(name.removeprefix(_OF_PROVIDER))
        return provider.rate_limit if provider is not None else None

    def _max_concurrent(self, name: str) -> int | None:
        if name.startswith(_OF_KEY):
            client = self._clients.get(name.removeprefix(_OF_KEY))
            own = client.max_concurrent if client is not None else None
            return own or self._config.rate_limiting.max_concurrent_per_key
        provider = self._config.providers.get(name.removeprefix(_OF_PROVIDER))
        return provider.max_concurrent if provider is not None else None


def _tightest(limits: tuple[Limit, ...]) -> LimitState | None:
    """Of the limits behind somebody who was let in, the one with the least left; those of requests come first."""
    states = [limit.state() for limit in limits]
    return min(states, key=lambda state: (state.concurrent, state.remaining), default=None)
