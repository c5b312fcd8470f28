"""From `[rate_limiting]` and what providers and clients say of themselves to the limits that hold."""

from shared.config import schema
from shared.config.document import Document
from shared.config.faults import key_name
from shared.config.lines import Path
from shared.config.types import RateLimit, RateLimiting

_DEFAULT_REQUESTS_PER_MINUTE = 60
_DEFAULT_BURST = 10


def resolve_limits(document: Document) -> RateLimiting:
    """What holds for all limits, and those of each client key; `enabled = false` is about the latter, too."""
    section = document.file.rate_limiting
    own = section.per_key
    values = section.given(without=("enabled", "requests_per_minute", "burst_size", "per_key"))
    if own.requests_per_minute is None:
        _check_burst(document, ("rate_limiting", "per_key"), own)
    if section.enabled is not False:
        values["max_concurrent_per_key"] = own.max_concurrent
        if own.requests_per_minute is not None:
            values["per_key"] = RateLimit(
                requests_per_minute=own.requests_per_minute, burst_size=own.burst_size or _DEFAULT_BURST
            )
    return RateLimiting(**values)


def provider_limit(document: Document, at: Path, section: schema.Provider) -> RateLimit | None:
    """A provider's own limit, or what `[rate_limiting]` says of every provider, value by value."""
    everybody = document.file.rate_limiting
    limited = everybody.enabled
    if limited is None:
        limited = everybody.requests_per_minute is not None or everybody.burst_size is not None
    if not limited and section.requests_per_minute is None:
        _check_burst(document, at, section)
        return None
    shared_rate = everybody.requests_per_minute or _DEFAULT_REQUESTS_PER_MINUTE
    shared_burst = everybody.burst_size or _DEFAULT_BURST
    return RateLimit(
        requests_per_minute=section.requests_per_minute or shared_rate, burst_size=section.burst_size or shared_burst
    )


def client_limit(document: Document, at: Path, section: schema.Client) -> RateLimit | None:
    """A client's own limit, value by value before those of `[rate_limiting.per_key]`; None: it has none of its own."""
    everybody = document.file.rate_limiting.per_key
    if document.file.rate_limiting.enabled is False:
        everybody = schema.PerKey()
    if section.requests_per_minute is None and everybody.requests_per_minute is None:
        _check_burst(document, at, section)
    rate = section.requests_per_minute or everybody.requests_per_minute
    if rate is None or (section.requests_per_minute is None and section.burst_size is None):
        return None
    return RateLimit(requests_per_minute=rate, burst_size=section.burst_size or everybody.burst_size or _DEFAULT_BURST)


def limit_warnings(document: Document) -> list[str]:
    """What is accepted but has no effect."""
    path: Path = ("rate_limiting", "per_key")
    auth = document.file.auth
    if not document.file.rate_limiting.per_key.given() or any(auth.given().values()):
        return []
    return [f"{document.where(path)}[rate_limiting.per_key] has no effect: without [auth] keys clients are all alike"]


def _check_burst(document: Document, at: Path, section: schema.Provider | schema.PerKey | schema.Client) -> None:
    if section.burst_size is not None:
        path = (*at, "burst_size")
        raise document.fault(path, f"{key_name(path)} means nothing by itself: add requests_per_minute")
