import json

import pytest

from worker.dialects.error_status import status_of_error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429, "type": "server_error"}, 429),
        ({"code": "400"}, 400),
        ({"code": 503, "type": "server_error"}, 503),
        ({"code": "context_length_exceeded", "type": "invalid_request_error"}, 400),
        ({"code": 500, "status": "RESOURCE_EXHAUSTED"}, 429),
        ({"type": "authentication_error"}, 401),
        ({"type": "exceeded_current_quota_error"}, 402),
        ({"type": "permission_error"}, 403),
        ({"type": "not_found_error"}, 404),
        ({"type": "request_too_large"}, 413),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "timeout_error"}, 504),
        ({"type": "overloaded_error"}, 529),
        ({"type": "api_error"}, None),
        ({"type": "novel"}, None),
        ({"code": 200}, None),
        ({"code": True}, None),
        ({"code": "1301"}, None),
        ("words", None),
        (None, None),
    ],
)
def test_the_status_of_an_error(error, status):
    for body in ({"error": error}, {"type": "error", "error": error, "request_id": "r"}):
        assert status_of_error(json.dumps(body).encode()) == status


def test_what_is_no_error_has_none():
    for data in (b"", b"[]", b"{}", b"\xff", b'{"error": [1]}'):
        assert status_of_error(data) is None
