"""What HTTP/1.1 lets a client say in more than one way."""

import pytest

from worker.http1 import is_framed_twice, origin_form

HEADERS = [(b"host", b"here"), (b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://there", b"/"),
        (b"http://there/a/b?c=/d", b"/a/b?c=/d"),
        (b"HTTPS://there?c=/d", b"/?c=/d"),
        (b"http://", b"/"),
    ],
)
def test_a_target_with_a_host(target, path):
    host = b"there" if b"there" in target else b""
    assert origin_form(target, HEADERS) == (path, [(b"host", host), (b"accept", b"*/*")])


def test_a_target_s_host_is_told_where_no_header_does():
    """HTTP/1.0 has no need of one."""
    assert origin_form(b"http://there/a", [(b"accept", b"*/*")]) == (b"/a", [(b"host", b"there"), (b"accept", b"*/*")])


@pytest.mark.parametrize("target", [b"*", b"there:80", b"?a", b"ftp://there/a", b"://there/"])
def test_other_targets_stay(target):
    assert origin_form(target, HEADERS) == (target, HEADERS)


@pytest.mark.parametrize(
    ("headers", "twice"),
    [
        ([], False),
        ([(b"content-length", b"1")], False),
        ([(b"transfer-encoding", b"chunked")], False),
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"1")], True),
    ],
)
def test_a_body_with_two_ends(headers, twice):
    assert is_framed_twice([*HEADERS, *headers]) == twice
