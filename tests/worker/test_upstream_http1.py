import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.upstream.http1 import MAX_HEAD_BYTES, ResponseReader, request_head

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def feed(*pieces):
    reader = ResponseReader()
    return reader, b"".join(reader.feed(piece) for piece in pieces)


def single_bytes(data):
    return [data[i : i + 1] for i in range(len(data))]


RESPONSES = {
    "content-length": (WHOLE, 200, b"hello", True),
    "chunked": (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, b"abcde", True),
    "trailers": (CHUNKED + b"1\r\na\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"a", True),
    "100-continue": (b"HTTP/1.1 100 Continue\r\nx-early: 1\r\n\r\n" + WHOLE, 200, b"hello", True),
    "early hints, twice": (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 2 + WHOLE, 200, b"hello", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "204 with framing": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, b"", True),
    "no reason": (b"HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n", 503, b"", True),
    "connection: close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
    "HTTP/1.0 keep-alive": (
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
    "an offer to upgrade": (
        b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 1\r\n\r\nx",
        200,
        b"x",
        True,
    ),
}


@pytest.mark.parametrize("cut", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(("data", "status", "body", "reusable"), RESPONSES.values(), ids=RESPONSES.keys())
def test_responses(data, status, body, reusable, cut):
    reader, received = feed(*cut(data))
    assert reader.error is None
    assert reader.complete
    assert (reader.status, received, reader.reusable) == (status, body, reusable)
    assert b"x-early" not in dict(reader.headers)
    assert b"x-sum" not in dict(reader.headers)


@pytest.mark.parametrize("trailing", [b"garbage", WHOLE, b"\0"])
@pytest.mark.parametrize(("data", "status", "body", "reusable"), RESPONSES.values(), ids=RESPONSES.keys())
def test_trailing_bytes_spoil_the_connection_but_not_the_response(data, status, body, reusable, trailing):
    reader, received = feed(data + trailing)
    assert reader.error is None
    assert reader.complete
    assert (reader.status, received, reader.reusable) == (status, body, False)


def test_one_reader_reads_many_responses():
    reader = ResponseReader()
    for data, status, body, reusable in RESPONSES.values():
        if reusable:
            reader.begin()
            assert not reader.heard
            assert reader.feed(data) == body
            assert reader.complete
            assert reader.status == status


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"])
def test_a_body_that_ends_with_the_connection(head):
    reader, body = feed(head, b"abc", b"def")
    assert not reader.complete
    reader.eof()
    assert body == b"abcdef"
    assert reader.complete
    assert not reader.reusable


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 20", CHUNKED, CHUNKED + b"5\r\nab", CHUNKED + b"2\r\nab\r\n", CHUNKED + b"0\r\n", WHOLE[:-1]],
)
def test_an_end_of_file_inside_a_response_is_an_error(data):
    reader, _ = feed(*([data] if data else []))
    with pytest.raises(httpx.RemoteProtocolError, match="closed"):
        reader.eof()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"fffffffffffffffffff\r\n",
    ],
)
def test_what_is_not_http_is_an_error(data):
    reader, body = feed(data)
    assert isinstance(reader.error, httpx.RemoteProtocolError)
    assert body == b""


def test_body_bytes_in_front_of_broken_framing_are_delivered():
    reader, body = feed(CHUNKED + b"3\r\nabc\r\nnonsense\r\n")
    assert body == b"abc"
    assert reader.error is not None


@pytest.mark.parametrize(
    "flood",
    [b"x-filler: 1\r\n" * 100, b"x" * 1300, b"HTTP/1.1 103 X\r\n\r\n" * 80],
    ids=["headers", "one header", "hints"],
)
def test_headers_are_bounded(flood):
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 103 X\r\n\r\n" if flood.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(MAX_HEAD_BYTES // len(flood) + 1):
        reader.feed(flood)
    assert reader.error is not None
    assert "over the bound" in str(reader.error)


def test_trailers_are_bounded():
    reader, _ = feed(CHUNKED, b"0\r\n")
    for _ in range(MAX_HEAD_BYTES // 1000 + 1):
        reader.feed(b"x" * 1000)
    assert "trailers" in str(reader.error)


def test_a_long_stream_of_small_chunks_is_not_taken_for_a_flood():
    reader = ResponseReader()
    reader.feed(CHUNKED)
    for _ in range(MAX_HEAD_BYTES):
        for byte in (b"1\r\n", b"x", b"\r\n"):
            reader.feed(byte)
    assert reader.error is None


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.sampled_from([b"", CHUNKED, WHOLE[:40]]))
def test_whatever_comes_is_a_response_or_our_own_error(pieces, start):
    reader, _ = feed(*([start] if start else []), *pieces)
    try:
        reader.eof()
    except httpx.RemoteProtocolError:
        return
    assert reader.complete or reader.error is not None


def test_a_request_head():
    request = httpx.Request(
        "POST", "http://a.test/v1/x?y=%20z", headers=[("host", "a.test"), ("a", b"\xfc")], stream=httpx.ByteStream(b"")
    )
    head = request_head(request)
    assert head.startswith(b"POST /v1/x?y=%20z HTTP/1.1\r\nhost: a.test\r\na: \xfc\r\n")
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("value", ["a\r\nx-injected: 1", "a\nb", "a\rb"])
def test_a_header_cannot_carry_another(value):
    with pytest.raises(httpx.LocalProtocolError, match="line break"):
        request_head(httpx.Request("GET", "http://a.test/", headers={"x": value}))
