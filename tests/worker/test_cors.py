import pytest

from shared.config import Cors
from worker.cors import is_allowed, is_same_origin, preflight_headers, response_headers

SITE = "https://chat.example"


def test_nothing_is_allowed_by_default():
    assert not is_allowed(Cors(), SITE)
    assert response_headers(Cors(), SITE) == []
    assert preflight_headers(Cors(), SITE, None) == []


def test_a_named_origin():
    cors = Cors(origins=(SITE,), max_age=60)
    assert dict(response_headers(cors, SITE))[b"access-control-allow-origin"] == SITE.encode()
    preflight = dict(preflight_headers(cors, SITE, "x-api-key"))
    assert preflight[b"access-control-allow-headers"] == b"x-api-key"
    assert preflight[b"access-control-max-age"] == b"60"


def test_a_cache_is_told_that_origins_differ():
    for origin in (None, "https://evil.example", SITE + ".evil.example", "null"):
        assert response_headers(Cors(origins=(SITE,)), origin) == [(b"vary", b"origin")]
        assert preflight_headers(Cors(origins=(SITE,)), origin, None) == []


def test_any_origin():
    assert is_allowed(Cors(origins=("*",)), SITE)
    assert not is_allowed(Cors(origins=("*",)), None)


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LocalHost:8000", "localhost:8000", True),
        ("http://localhost", "localhost:80", True),
        ("https://gateway.example", "gateway.example", True),
        ("https://gateway.example", "gateway.example:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8000", "localhost:8001", False),
        ("http://localhost:8000", "127.0.0.1:8000", False),
        ("https://gateway.example", "gateway.example:80", False),
        ("http://evil.example", "localhost", False),
        ("http://localhost", None, False),
        ("null", "null", False),
        ("null", None, False),
        ("", "", False),
    ],
)
def test_the_same_origin(origin, host, same):
    assert is_same_origin(origin, host) is same
