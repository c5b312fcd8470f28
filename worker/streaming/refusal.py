"""What a client is told when its stream fails before the first byte.  Pure."""

import math

import httpx

from shared.config import Provider
from shared.errors import UpstreamError, UpstreamTimeout
from shared.records import CancelReason
from worker.asgi import JSON, Header
from worker.dialects.error_status import status_of_error
from worker.dialects.exchange import UPSTREAMS, Exchange
from worker.dialects.fault import field_in
from worker.dialects.foreign_error import foreign_message
from worker.dialects.overflow import OPENAI_CODE, find_overflow
from worker.health import CircuitOpen
from worker.streaming.limits import LimitExceeded

Refusal = tuple[int, bytes, list[Header]]

# Asking again can't help: the client should not.
FINAL_STATUSES = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422})
NO_RETRY: Header = (b"x-should-retry", b"false")
PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
PASSED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
MAX_SAID_CHARS = 2000

CANCELLED: dict[CancelReason, tuple[int, str, str]] = {
    "client_disconnect": (499, "the client left", "cancelled"),
    "client_cancel": (499, "the client cancelled it", "cancelled"),
    "registry_new_stream": (409, "a newer stream of the same session took the place of this one", "cancelled"),
    "admin": (503, "the stream was cancelled by an administrator", "cancelled"),
    "shutdown": (503, "the gateway is shutting down; try again", "service_unavailable_error"),
    "timeout": (408, "the client did not read its answer in time", "timeout_error"),
}


class UpstreamRejection(UpstreamError):
    """An upstream answered with a status that is no success; `body` is what it said."""

    error_type = "HTTPStatusError"

    def __init__(
        self, status: int, headers: httpx.Headers, body: bytes, provider: str, message: str | None = None
    ) -> None:
        super().__init__(message or f"provider {provider} answered with status {status}")
        self.status = status
        self.headers = headers
        self.body = body


class StreamedRejection(UpstreamRejection):
    """The same where an error stands in the place of a stream: its response began with 200 and told `body` at once.

    The status is the one that the error names, or else 502.  `message` is what it says.
    """

    error_type = "UpstreamError"

    def __init__(self, headers: httpx.Headers, body: bytes, provider: str, message: str) -> None:
        super().__init__(status_of_error(body) or 502, headers, body, provider, message)


class UntranslatableRequest(UpstreamError):
    """A request says what the provider's dialect has no words for; nothing was sent."""

    error_type = "UntranslatableRequest"


def of_upstream_error(exchange: Exchange, provider: Provider, error: UpstreamError) -> Refusal:
    """Status, body and headers for an upstream's failure.  Its own error passes unchanged where dialects match."""
    if isinstance(error, LimitExceeded):
        status, body, headers = plain(exchange, 429, str(error), "rate_limit_exceeded")
        return status, body, [*headers, *error.headers]
    if isinstance(error, CircuitOpen):
        status, body, headers = plain(exchange, 503, str(error), "circuit_open")
        return status, body, [*headers, (b"retry-after", b"%d" % math.ceil(error.retry_after))]
    if not isinstance(error, UpstreamRejection):
        status = 400 if isinstance(error, UntranslatableRequest) else 504 if isinstance(error, UpstreamTimeout) else 502
        return plain(exchange, status, str(error), error.error_type)
    headers = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in error.headers.items()
        if name in PASSED_HEADERS or name.startswith(PASSED_PREFIXES)
    ]
    if "x-should-retry" not in error.headers:
        headers += _retry_headers(error.status)
    said = exchange.error_message(provider, error.body)
    if error.status < 400:
        return plain(exchange, 502, f"{error}: redirects are not followed; check base_url", error.error_type)
    if said is not None and exchange.passes_errors_of(provider):
        return error.status, error.body, [JSON, *headers]
    status, body = _in_our_words(exchange, error, said)
    return status, body, [JSON, *headers]


def _in_our_words(exchange: Exchange, error: UpstreamRejection, said: str | None) -> tuple[int, bytes]:
    """Status and body for a rejection that can't pass as it is.  `said`: its message, if it has one where it should."""
    if said is None:
        said = _said_anyhow(error.body)
    overflow = find_overflow(error.status, error.body, said or "")
    if overflow is None:
        return error.status, exchange.error_body(error.status, said or str(error))
    message = said or str(error)
    if exchange.dialect == "anthropic":
        message = overflow.in_anthropic_s_words(message)
    return 400, exchange.error_body(400, message, OPENAI_CODE)


def _said_anyhow(body: bytes) -> str | None:
    """Providers that speak one dialect may well say their errors in the other's, or in neither."""
    in_dialects = (codec.error_message(body) for codec in UPSTREAMS.values())
    return next((message for message in in_dialects if message), None) or foreign_message(body)


def sentence(error: Exception) -> str:
    """A failure where that is all that can be told of it: with what the upstream itself says, if it has refused."""
    if not isinstance(error, UpstreamRejection) or isinstance(error, StreamedRejection):
        return str(error)
    said = _said_anyhow(error.body)
    return f"{error}: {said[:MAX_SAID_CHARS]}" if said else str(error)


def plain(exchange: Exchange, status: int, message: str, code: str | None) -> Refusal:
    """An error of our own."""
    param = field_in(message) if status == 400 else None
    return status, exchange.error_body(status, message, code, param), [JSON, *_retry_headers(status)]


def of_cancel(exchange: Exchange, reason: CancelReason) -> Refusal:
    """What the client of a cancelled stream is told that has got no answer yet."""
    status, message, code = CANCELLED[reason]
    refusal = plain(exchange, status, message, code)
    if reason == "registry_new_stream":
        # SDKs repeat what gets 409; that would cancel the newer stream, whose SDK would do the same.
        refusal[2].append(NO_RETRY)
    return refusal


def _retry_headers(status: int) -> list[Header]:
    return [NO_RETRY] if status in FINAL_STATUSES else []
