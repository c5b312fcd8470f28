"""What to do when an upstream failed before the first byte went to the client: the same again, another, or give up.

failure                            same target again      next fallback
connect (also a connect timeout)   up to max_retries      then
broken                             up to max_retries      then
timeout (no first byte)            no: it would double    yes
                                   the wait
5xx                                up to max_retries      then
401 402 403 404 408 429, 3xx       no                     yes
any other 4xx                      no                     no: the request itself is at fault
untranslatable (nothing was sent)  no                     yes: it may speak the client's dialect
limited (nothing was sent)         no: it has waited      yes: it has limits of its own
"""

from email.utils import parsedate_to_datetime
from typing import Literal

from msgspec import Struct

from shared.config import Provider
from shared.errors import UpstreamConnectError, UpstreamError, UpstreamTimeout

# Another provider may well have the key, the credit, the model or the capacity that this one lacks.
FALLBACK_STATUSES = frozenset({401, 402, 403, 404, 408, 429})


class Failure(Struct, frozen=True):
    """How one attempt ended.  `retry_after`: seconds the upstream asked to wait, if it did."""

    kind: Literal["connect", "timeout", "broken", "status", "untranslatable", "limited"]
    status: int | None = None
    retry_after: float | None = None


class Retry(Struct, frozen=True):
    """Ask the same target again after `delay` seconds."""

    delay: float


class NextTarget(Struct, frozen=True):
    """Ask the next fallback now, with its own count of attempts."""


class GiveUp(Struct, frozen=True):
    """Tell the client about this failure."""


Step = Retry | NextTarget | GiveUp


def next_step(failure: Failure, attempt: int, provider: Provider, *, fallbacks_left: int) -> Step:
    """The step after `failure`.

    `attempt` counts the attempts at this target that came before the failed one: 0 after the first.  `provider` is
    the target's; `fallbacks_left` is how many targets have not been tried.
    """
    elsewhere: Step = NextTarget() if fallbacks_left > 0 else GiveUp()
    status = failure.status if failure.kind == "status" else None
    if status is not None and status < 500:
        return elsewhere if status < 400 or status in FALLBACK_STATUSES else GiveUp()
    if failure.kind in ("timeout", "untranslatable", "limited") or attempt >= provider.max_retries:
        return elsewhere
    wanted = failure.retry_after or 0.0
    if wanted > provider.max_backoff:
        return elsewhere  # sooner is no use, and that late the client can ask by itself
    return Retry(max(wanted, _backoff(attempt, provider)))


def _backoff(attempt: int, provider: Provider) -> float:
    # The exponent is bounded before 2**n leaves what a float holds.
    return min(provider.backoff_base * 2.0 ** min(attempt, 60), provider.max_backoff)


def failure_of(error: UpstreamError) -> Failure:
    """The failure that an exception of the client stands for."""
    if isinstance(error, UpstreamConnectError) or error.error_type == "ConnectTimeout":
        return Failure("connect")
    return Failure("timeout" if isinstance(error, UpstreamTimeout) else "broken")


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from `now` (epoch seconds) that a `retry-after` header asks for; RFC 9110, 10.2.3.

    Both forms, a number of seconds and an HTTP date; a moment that has passed is 0.0, and garbage None.
    """
    if value is None:
        return None
    text = value.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():  # some providers send fractions
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
