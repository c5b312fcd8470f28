import json

import pytest

from worker.dialects.anthropic.errors import WORDS, error_body, error_event, error_message, error_type
from worker.dialects.foreign_error import foreign_message
from worker.dialects.openai import errors as openai
from worker.dialects.sse import payloads

# Status → Anthropic's type, OpenAI's.
TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    402: ("billing_error", "insufficient_quota"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("timeout_error", "timeout_error"),
    409: ("invalid_request_error", "conflict_error"),
    413: ("request_too_large", "invalid_request_error"),
    415: ("invalid_request_error", "invalid_request_error"),
    418: ("invalid_request_error", "invalid_request_error"),
    422: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    499: ("invalid_request_error", "invalid_request_error"),
    500: ("api_error", "server_error"),
    502: ("api_error", "upstream_error"),
    503: ("api_error", "service_unavailable_error"),
    504: ("timeout_error", "timeout_error"),
    529: ("overloaded_error", "overloaded_error"),
    599: ("api_error", "server_error"),
}


@pytest.mark.parametrize("status", TYPES)
def test_types(status):
    assert (error_type(status), openai.error_type(status)) == TYPES[status]


def test_a_body():
    assert json.loads(error_body(429, "slow down", request_id="req_1")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "slow down"},
        "request_id": "req_1",
    }
    assert json.loads(error_body(500, "x"))["request_id"] is None


@pytest.mark.parametrize("word", ["upstream_error", "cancelled", "service_unavailable_error", "", "DialectError"])
def test_words_that_the_dialect_lacks(word):
    (payload,) = payloads(error_event("m", type=word))
    assert json.loads(payload)["error"]["type"] == "api_error"
    assert json.loads(error_body(400, "m", type=word))["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("word", sorted(WORDS))
def test_words_that_it_has(word):
    event = error_event("m", type=word, request_id="req_1")
    assert event.startswith(b"event: error\ndata: {")
    (payload,) = payloads(event)
    told = json.loads(payload)
    assert told == {"type": "error", "error": {"type": word, "message": "m"}, "request_id": "req_1"}
    assert error_message(payload) == "m"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m"}, "type": "error", "more": 1}', "m"),
        (b'{"type": "error", "error": {"type": "t"}}', "t"),
        (b'{"type": "error", "error": {"message": "", "type": null}}', "unnamed error"),
        (b'{"type": "error", "error": {"message": 5}}', "5"),
        (b'{"error": {"message": "m"}}', None),
        (b'{"type": "message", "error": {"message": "m"}}', None),
        (b'{"type": "error", "error": "m"}', None),
        (b'{"type": "error"}', None),
        (b"[]", None),
        (b"", None),
        (b"<html>", None),
        (b'{"type": "error", "error": {"message": "\xff"}}', None),
        (b'{"type": "error", "error": ' + b"[" * 100_000, None),
    ],
)
def test_what_a_body_says(body, message):
    assert error_message(body) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"object": "error", "message": "no such model", "code": 1500}', "no such model"),
        (b'{"message": {"detail": [{"type": "missing", "msg": "Field required"}]}}', "Field required"),
        (b'{"detail": "Not\\n Found"}', "Not Found"),
        (b'[{"error": {"code": 400, "message": "API key not valid"}}]', "API key not valid"),
        (b'{"error": "plain"}', "plain"),
        (b'{"error": {}, "message": "m"}', "m"),
        (b'"text"', "text"),
        (b"{}", None),
        (b"[]", None),
        (b"5", None),
        (b'{"message": "   "}', None),
        (b"<html>", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_what_a_body_of_another_kind_says(body, message):
    assert foreign_message(body) == message
