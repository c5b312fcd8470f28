"""An upstream's error inside its stream: what it says, and which of the words that both dialects know fits it."""

from typing import Any

import msgspec
from msgspec import Struct

from worker.dialects.anthropic.errors import TYPES, WORDS
from worker.dialects.foreign_error import foreign_message
from worker.dialects.neutral import Failed
from worker.dialects.openai.wire import BAD_JSON, error_message

# The words that both dialects know are Anthropic's; of statuses, hosts have more than it does.
_BY_STATUS = {**TYPES, 422: "invalid_request_error", 503: "overloaded_error"}
# Pieces of the words that hosts use; the first that fits.
_BY_WORD = (
    ("overload", "overloaded_error"),
    ("capacity", "overloaded_error"),
    ("unavailable", "overloaded_error"),
    ("insufficient_quota", "billing_error"),
    ("exceeded_current_quota", "billing_error"),
    ("rate_limit", "rate_limit_error"),
    ("too_many_requests", "rate_limit_error"),
    ("resource_exhausted", "rate_limit_error"),
    ("timeout", "timeout_error"),
)


class _Detail(Struct):
    code: Any = None
    type: Any = None
    status: Any = None


class _Body(_Detail):
    error: _Detail | str | None = None
    object: Any = None


_body: msgspec.json.Decoder[_Body] = msgspec.json.Decoder(_Body)


def failed(payload: bytes) -> Failed:
    """The event for an error chunk."""
    cause = cause_of(payload)
    word = "api_error" if cause is None else cause[1]
    message = error_message(payload) or foreign_message(payload) or "the upstream reported an error"
    return Failed(message, word, payload)


def flat_failure(payload: bytes) -> Failed | None:
    """The same where no `error` is around it, as vLLM and SGLang have it; None for anything else.

    `{"object": "error", "message": "…", "type": "BadRequestError", "code": 400}`
    """
    try:
        is_error = _body.decode(payload).object == "error"
    except BAD_JSON:
        return None
    return failed(payload) if is_error else None


def cause_of(payload: bytes) -> tuple[Any, str] | None:
    """What of an error, in either dialect, tells its cause (a status or a word of the host's), and the known word."""
    try:
        body = _body.decode(payload)
    except BAD_JSON:
        return None
    detail = body.error if isinstance(body.error, _Detail) else body
    for told in (detail.code, detail.status, detail.type):
        word = _known_word(told)
        if word is not None:
            return told, word
    return None


def _known_word(value: Any) -> str | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value) if len(value) == 3 else None
    if isinstance(value, int):
        return _BY_STATUS.get(value)
    if not isinstance(value, str):
        return None
    word = value.lower()
    if word in WORDS:
        return word
    return next((known for piece, known in _BY_WORD if piece in word), None)
