import hashlib

import pytest

from shared.config import Auth
from worker.auth import Authenticator, is_loopback_host

HASHED = "sha256:" + hashlib.sha256(b"hidden").hexdigest()


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "accepted"),
    [
        ("Bearer plain", None, True),
        ("bearer   plain ", None, True),
        ("Bearer hidden", None, True),
        (None, "plain", True),
        ("Bearer wrong", "plain", True),
        ("Bearer plain", "wrong", True),
        (None, None, False),
        ("", "", False),
        ("plain", None, False),
        ("Basic plain", None, False),
        ("Bearer", None, False),
        ("Bearer plain extra", None, False),
        ("Bearer " + HASHED, None, False),
        (None, "plaın", False),
    ],
)
def test_credentials(authorization, x_api_key, accepted):
    found = Authenticator(Auth(keys=("plain", HASHED))).identify(authorization, x_api_key)
    assert (found is not None) is accepted


@pytest.mark.parametrize("key", ["plain", "hidden"])
def test_a_caller_is_known_by_the_hash_of_the_key(key):
    authenticator = Authenticator(Auth(keys=("plain", HASHED)))
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:12]
    assert authenticator.identify(f"Bearer {key}", None) == fingerprint
    assert authenticator.identify("Bearer wrong", key) == fingerprint


def test_without_keys_everybody_may_ask():
    open_house = Authenticator(Auth())
    assert not open_house.required
    assert open_house.identify("Bearer any", None) is None
    assert Authenticator(Auth(keys=("k",))).required


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        (None, True),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.", True),
        ("app.localhost:1", True),
        ("127.0.0.1:8000", True),
        ("127.1.2.3", True),
        ("[::1]:8000", True),
        ("::1", True),
        ("", False),
        ("example.com", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("192.168.0.1:8000", False),
        ("[2001:db8::1]:80", False),
        ("evil.com:127.0.0.1", False),
        ("notlocalhost", False),
        ("[", False),
    ],
)
def test_loopback_hosts(host, loopback):
    assert is_loopback_host(host) is loopback
