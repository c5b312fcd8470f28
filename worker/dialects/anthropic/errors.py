"""Errors in Anthropic's dialect: `{"type": "error", "error": {type, message}, "request_id"}`, as a body or an event.

https://docs.anthropic.com/en/api/errors
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from worker.dialects.lenient import BAD_JSON
from worker.dialects.sse import encode_event

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
WORDS = frozenset({*TYPES.values(), "api_error"})
"""The types that the dialect has; its SDKs know no others."""


class _Error(Struct):
    type: Any = None
    message: Any = None


class _ErrorBody(Struct):
    type: Literal["error"]
    error: _Error


_error_body: msgspec.json.Decoder[_ErrorBody] = msgspec.json.Decoder(_ErrorBody)


def error_type(status: int) -> str:
    """The dialect's name for an HTTP status."""
    return TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_body(status: int, message: str, *, request_id: str | None = None, type: str | None = None) -> bytes:
    """A JSON error body.  A `type` that is no word of the dialect counts as none."""
    word = type if type in WORDS else error_type(status)
    fields = {"type": "error", "error": {"type": word, "message": message}, "request_id": request_id}
    return msgspec.json.encode(fields)


def error_event(message: str, *, type: str, request_id: str | None = None) -> bytes:
    """The event that ends a stream which broke; nothing follows it.  A `type` foreign to the dialect is `api_error`."""
    return encode_event("error", error_body(500, message, request_id=request_id, type=type))


def error_message(body: bytes) -> str | None:
    """What an error body, or an error event's data, says; None where it isn't one of this dialect."""
    try:
        error = _error_body.decode(body).error
    except BAD_JSON:
        return None
    return str(error.message or error.type or "unnamed error")
