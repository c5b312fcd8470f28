"""What a client is told of the limits that hold for it: refused with 429, or let in and told what is left.  Pure."""

import math
from datetime import UTC, datetime

from shared.errors import UpstreamError
from shared.messages import LimitState
from shared.records import Dialect
from worker.asgi import Header


class LimitExceeded(UpstreamError):
    """A provider was not asked, as one of the gateway's own limits forbids it now.  `headers` say when to come back."""

    error_type = "LimitExceeded"

    def __init__(self, limit: LimitState, headers: list[Header]) -> None:
        what = "streams at once" if limit.concurrent else "requests a minute"
        wait = f"{limit.retry_after:.3g}" if limit.retry_after < 100 else f"{limit.retry_after:.0f}"
        super().__init__(f"the limit of {limit.limit} {what} for {limit.name} is reached; try again in {wait} s")
        self.headers = headers


def limit_headers(limit: LimitState, dialect: Dialect, now: float) -> list[Header]:
    """The limit as OpenAI's clients read it, and for others in their own words too.  `now` in epoch seconds.

    https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits
    """
    values = {
        "x-ratelimit-limit-requests": str(limit.limit),
        "x-ratelimit-remaining-requests": str(limit.remaining),
        "x-ratelimit-reset-requests": duration(limit.reset_after),
    }
    if dialect == "anthropic":
        reset = datetime.fromtimestamp(math.ceil(now + limit.reset_after), UTC)
        values |= {
            "anthropic-ratelimit-requests-limit": str(limit.limit),
            "anthropic-ratelimit-requests-remaining": str(limit.remaining),
            "anthropic-ratelimit-requests-reset": f"{reset:%Y-%m-%dT%H:%M:%SZ}",
        }
    if limit.retry_after > 0:
        values |= {
            "retry-after": str(math.ceil(limit.retry_after)),
            "retry-after-ms": str(math.ceil(limit.retry_after * 1000)),
        }
    return [(name.encode(), value.encode()) for name, value in values.items()]


def duration(seconds: float) -> str:
    """As Go prints it, and so OpenAI: `17ms`, `1.2s`, `6m0s`, `1h0m0s`."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    minutes, ms = divmod(ms, 60_000)
    text = f"{ms / 1000:g}s"
    if minutes:
        text = f"{minutes % 60}m{text}"
    return f"{minutes // 60}h{text}" if minutes >= 60 else text
