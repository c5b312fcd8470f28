"""How the providers are: errors by type in a sliding window, and from them who is asked last, or not at all.  Pure.

                 more than max_errors in the window
    healthy ───────────────────────────────────────▶ degraded          asked last
       ▲                                                │
       └──── at most max_errors // 2 in the window ◀────┘

and with `circuit_breaker`

                 more than max_errors in the window
    healthy ───────────────────────────────────────▶ open              not asked
       ▲                                             │  ▲
       │                                   open_time │  │ any error
       │                                             ▼  │
       └──────────── a stream is completed ◀──── half_open             tried by few (`worker.health`)

Hysteresis: half as many errors as degrade a provider are enough to keep it so.  One that fails now and then at just
the allowed rate thus changes its state once, not with every error; and one that nobody asks, as others do its work, is
back when its errors have left the window.  A success alone is no recovery, as many providers in trouble answer every
other request; of an open circuit, whose window is no measure as nobody asks, it is.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from shared.config import HealthRules
from shared.events import ProviderDegraded, ProviderRecovered
from shared.messages import Health, Trouble
from shared.records import StreamRecord

State = Literal["healthy", "degraded", "open", "half_open"]

MAX_KEPT = 20_000
"""Errors kept of each provider, far more than `max_errors` may be: a flood must not cost memory, or change a state."""

OUR_OWN = frozenset(
    {"CircuitOpen", "ConversationUnavailable", "InternalError", "LimitExceeded", "UntranslatableRequest"}
)
"""Nobody asked the provider, or the mistake was ours."""
UNUSABLE = frozenset({401, 402, 403, 408, 429})
"""Of the 4xx, those by which a provider refuses whatever is asked; for all others the request is to blame."""


class LastError(Struct, frozen=True):
    """The newest error that counted; `at` in epoch seconds."""

    type: str
    message: str
    at: float


class ProviderHealth(Struct, frozen=True, kw_only=True):
    """How one provider is, for people and for metrics."""

    state: State = "healthy"
    since: float | None = None
    """Epoch seconds; None: it has always been so."""
    errors: int = 0
    """In the window…"""
    types: dict[str, int] = {}
    """…and by type, the most frequent first."""
    last_error: LastError | None = None
    """Also when it has left the window."""


HEALTHY = ProviderHealth()
"""What holds for a provider that `HealthBoard.snapshot` does not name."""


def type_of(trouble: Trouble) -> str | None:
    """What an error counts as: its `error_type`, or its status as in `HTTP_503`; None: not at all."""
    status = trouble.http_status
    if status is not None:
        return None if 400 <= status < 500 and status not in UNUSABLE else f"HTTP_{status}"
    return None if trouble.error_type in OUR_OWN else trouble.error_type


class Window:
    """The errors of the last so many seconds."""

    def __init__(self) -> None:
        self._errors: deque[tuple[float, str]] = deque()
        self.types: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, now: float, type: str) -> None:
        """One more.  Beyond `MAX_KEPT` the oldest is forgotten for it."""
        self._errors.append((now, type))
        self.types[type] += 1
        if len(self._errors) > MAX_KEPT:
            self._forget()

    def slide(self, since: float) -> None:
        """Forget those that happened at `since` or before."""
        while self._errors and self._errors[0][0] <= since:
            self._forget()

    def clear(self) -> None:
        """Forget all."""
        self._errors.clear()
        self.types.clear()

    def _forget(self) -> None:
        _, type = self._errors.popleft()
        self.types[type] -= 1
        if not self.types[type]:
            del self.types[type]


class _Provider:
    """What is known of one provider that ever was in trouble."""

    def __init__(self) -> None:
        self.window = Window()
        self.state: State = "healthy"
        self.changed = 0.0
        """When it got into this state…"""
        self.since: float | None = None
        """…and that in epoch seconds, for people: the wall clock may jump."""
        self.offered = 0.0
        """`half_open`: when streams were last invited to try."""
        self.last_error: LastError | None = None


class HealthBoard:
    """The state of every provider.  `trouble`, `ended` and `tick` tell whether `message` is to be sent to all workers.

    `publish` gets each change between healthy and not as an event; that a circuit opens or half-opens is part of being
    degraded, and no event.  Times `now` are any monotonic seconds; epoch seconds are reckoned from those in `Trouble`.
    """

    def __init__(self, rules: HealthRules, publish: Callable[[ProviderDegraded | ProviderRecovered], None]) -> None:
        self._rules = rules
        self._publish = publish
        self._providers: dict[str, _Provider] = {}
        self._message = Health()
        self._epoch = 0.0
        """Epoch seconds at the monotonic 0, as the last `Trouble` had it."""

    def configure(self, rules: HealthRules) -> None:
        """Judge by `rules` from the next `tick` on; errors that were counted stay."""
        self._rules = rules

    def trouble(self, trouble: Trouble, now: float) -> bool:
        """An attempt failed."""
        type = type_of(trouble)
        if type is None:
            return False
        self._epoch = trouble.at - now
        provider = self._providers.setdefault(trouble.provider, _Provider())
        provider.last_error = LastError(type, trouble.message, trouble.at)
        provider.window.add(now, type)
        if provider.state == "half_open":
            self._set(provider, "open", now)
        self._settle(trouble.provider, provider, now)
        return self._changed()

    def ended(self, record: StreamRecord, now: float) -> bool:
        """A stream has its record.  One that was completed, and began after the circuit half-opened, closes it."""
        provider = self._providers.get(record.provider)
        if (
            provider is None
            or provider.state != "half_open"
            or record.status != "completed"
            or now - record.duration < provider.changed
        ):
            return False
        provider.window.clear()
        self._recover(record.provider, provider, now)
        return self._changed()

    def tick(self, now: float) -> bool:
        """Time has passed: errors leave the window, open circuits half-open, and more streams may try those."""
        try_again = [self._settle(name, provider, now) for name, provider in self._providers.items()]
        return self._changed() or any(try_again)

    def message(self) -> Health:
        """What the workers are to know."""
        return self._message

    def snapshot(self) -> dict[str, ProviderHealth]:
        """Every provider that ever was in trouble; all others are `HEALTHY`."""
        return {
            name: ProviderHealth(
                state=provider.state,
                since=provider.since,
                errors=len(provider.window),
                types=dict(provider.window.types.most_common()),
                last_error=provider.last_error,
            )
            for name, provider in self._providers.items()
        }

    def _settle(self, name: str, provider: _Provider, now: float) -> bool:
        """Go on to the state that rules, errors and time demand; whether a circuit stays half open for more to try."""
        rules, window = self._rules, provider.window
        window.slide(now - rules.window)
        if provider.state == "healthy":
            if len(window) > rules.max_errors:
                self._set(provider, "degraded", now)
                types = dict(window.types.most_common())
                self._publish(
                    ProviderDegraded(provider=name, errors=len(window), types=types, timestamp=self._epoch + now)
                )
        elif provider.state != "degraded" and not rules.circuit_breaker:
            self._set(provider, "degraded", now)
        match provider.state:
            case "degraded" if len(window) <= rules.max_errors // 2:
                self._recover(name, provider, now)
            case "degraded" if rules.circuit_breaker:
                self._set(provider, "open", now)
            case "open" if now >= provider.changed + rules.open_time:
                self._set(provider, "half_open", now)
                provider.offered = now
            case "half_open" if now >= provider.offered + rules.open_time:
                provider.offered = now
                return True
        return False

    def _recover(self, name: str, provider: _Provider, now: float) -> None:
        self._set(provider, "healthy", now)
        self._publish(ProviderRecovered(provider=name, timestamp=self._epoch + now))

    def _set(self, provider: _Provider, state: State, now: float) -> None:
        provider.state = state
        provider.changed = now
        provider.since = self._epoch + now

    def _changed(self) -> bool:
        """Put the message together anew; whether it says something else now."""

        def those(state: State) -> tuple[str, ...]:
            return tuple(name for name, provider in self._providers.items() if provider.state == state)

        before = self._message
        self._message = Health(degraded=those("degraded"), open=those("open"), half_open=those("half_open"))
        return self._message != before
