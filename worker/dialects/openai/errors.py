"""Errors in the OpenAI dialect: `{"error": {message, type, param, code}}`, as a body or as an event of a stream."""

import msgspec

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "service_unavailable_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(status: int) -> str:
    """The dialect's name for an HTTP status."""
    return TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")


def error_body(
    status: int, message: str, *, code: str | None = None, param: str | None = None, type: str | None = None
) -> bytes:
    """A JSON error body."""
    fields = {"message": message, "type": type or error_type(status), "param": param, "code": code}
    return msgspec.json.encode({"error": fields})


def error_event(message: str, *, type: str = "upstream_error", code: str | None = None) -> bytes:
    """The event that ends a stream which broke; no `[DONE]` follows it."""
    return b"data: " + error_body(502, message, code=code, type=type) + b"\n\n"
