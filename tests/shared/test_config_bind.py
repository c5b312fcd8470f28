"""`shared.config.bind`: the forms of an address to listen on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config.bind import Bind, InheritedFd, Tcp, Unix, is_loopback, is_loopback_host, parse_bind
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000)),
        ("127.0.0.1:0", Tcp("127.0.0.1", 0)),
        ("localhost:65535", Tcp("localhost", 65535)),
        ("proxy_1.example.com:80", Tcp("proxy_1.example.com", 80)),
        ("0.0.0.0:8000", Tcp("0.0.0.0", 8000)),
        ("[::1]:8000", Tcp("::1", 8000)),
        ("[0:0::0:1]:8000", Tcp("::1", 8000)),
        ("[fe80::1%eth0]:8000", Tcp("fe80::1%eth0", 8000)),
        ("unix:/run/proxy.sock", Unix("/run/proxy.sock")),
        ("unix:///run/proxy.sock", Unix("/run/proxy.sock")),
        ("fd://3", InheritedFd(3)),
    ],
)
def test_accepts(text: str, expected: Bind):
    assert parse_bind(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no port"),
        ("8000", "no port"),
        (":8000", "names no host"),
        ("*:8000", "0.0.0.0"),
        ("127.0.0.1:", "port"),
        ("127.0.0.1:65536", "65535"),
        ("127.0.0.1:-1", "port"),
        ("127.0.0.1:http", "port"),
        ("127.0.0.1:٣", "port"),
        ("127.1:8000", "IPv4"),
        ("256.0.0.1:80", "IPv4"),
        ("::1:8000", "brackets"),
        ("[::1]", "brackets"),
        ("[::g]:80", "IPv6"),
        ("http://127.0.0.1:8000", "brackets"),
        ("-x:80", "host"),
        ("a b:80", "host"),
        ("unix:relative.sock", "absolute"),
        ("unix:/run/", "absolute"),
        ("unix:/run/\0", "character"),
        ("unix:/" + "x" * 107, "108 bytes"),
        ("fd://2", "from 3 up"),
        ("fd://x", "from 3 up"),
        ("fd://", "from 3 up"),
    ],
)
def test_refuses_with_a_reason(text: str, word: str):
    with pytest.raises(ConfigError, match=word):
        parse_bind(text)


@settings(deadline=None)
@given(st.text() | st.from_regex(r"(unix:|fd://|\[)?[\w.:/\]]{0,20}(:\d{1,6})?", fullmatch=True))
def test_any_text_is_an_address_or_a_config_error(text: str):
    try:
        bind = parse_bind(text)
    except ConfigError:
        return
    is_loopback(bind)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "LocalHost:1", "unix:/a", "fd://3"]
)
def test_loopback(text: str):
    assert is_loopback(parse_bind(text))


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "example.com:1"])
def test_elsewhere(text: str):
    assert not is_loopback(parse_bind(text))


def test_a_name_that_only_begins_like_localhost_is_elsewhere():
    assert not is_loopback_host("localhost.example.com")
    assert is_loopback_host("localhost.")
