"""Bytes that no client should send, on raw sockets to a running service: garbage, mutated requests, too much of it."""

import json
import socket
import struct
import time
import zlib
from random import Random

import pytest
import trio
from fakes.fuzz import BOUND, Answer, ask, cases, mutated, pieces, request

pytestmark = pytest.mark.integration

CHAT = json.dumps({"model": "fake/m", "messages": [{"role": "user", "content": "hé 🎉"}], "stream": True}).encode()
MESSAGE = json.dumps(
    {"model": "fake/m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}
).encode()
HANDSHAKE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def masked(payload: bytes, opcode: int = 1, *, first: int | None = None) -> bytes:
    """A client's frame (RFC 6455, 5.2)."""
    head = bytes([0x80 | opcode if first is None else first])
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack("!H", length)
    mask = b"\x12\x34\x56\x78"
    return head + size + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


RUN = masked(json.dumps({"message": "say hello"}).encode())
CANCEL = masked(b'{"type":"cancel"}')
CLOSE = masked(struct.pack("!H", 1000), 8)
CORPUS = (
    request("POST", "/v1/chat/completions", CHAT),
    request("POST", "/v1/chat/completions", CHAT, connection=""),
    request("POST", "/v1/messages?beta=true", MESSAGE, **{"anthropic-version": "2023-06-01"}),
    request("POST", "/v1/messages/count_tokens", MESSAGE),
    request("POST", "/api/stream/message", b'{"message":"hi"}'),
    b"POST /v1/messages HTTP/1.1\r\nhost: a.localhost\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(MESSAGE), MESSAGE),
    request("GET", "/v1/models", connection="") * 3 + request("GET", "/health"),
    request("GET", "/api/streams?limit=5&since=1h"),
    request("DELETE", "/api/sessions/nobody"),
    request("GET", "/ws?types=progress", **HANDSHAKE) + masked(b"ping", 9) + CLOSE,
    request("GET", "/ws/stream", **HANDSHAKE) + RUN + CANCEL + RUN + CLOSE,
)


def check(answer: Answer) -> None:
    """Whatever came, nothing crashed."""
    assert 500 not in answer.statuses, answer.data[:2000]
    assert b"Traceback" not in answer.data


async def test_mutated_requests(running):
    before = await running.belongings()

    def run() -> None:
        for name, random in cases(150):
            data = random.choice(CORPUS)
            data = mutated(random, data) if random.random() < 0.9 else random.randbytes(random.randint(1, 300))
            parts = pieces(random, data)
            try:
                check(ask(running.port, *parts, leave_after=random.choice((0.0005, 0.005, 0.03))))
            except AssertionError as error:
                raise AssertionError(f"{name}: {parts!r}: {error}") from error

    await trio.to_thread.run_sync(run)
    await running.check(before)


async def test_mutated_frames_of_websockets(running):
    before = await running.belongings()
    frames = (
        RUN,
        CANCEL,
        masked(b"x" * 200),
        masked(b"p", 9),
        masked(b"", 10),
        masked(b"\xff\xfe"),
        masked(b"\0\1", 2),
        CLOSE,
    )

    def run() -> None:
        for name, random in cases(60):
            path = random.choice(("/ws", "/ws/stream", "/ws/stream?format=openai"))
            said = b"".join(random.choices(frames, k=random.randint(1, 6)))
            parts = pieces(random, mutated(random, said))
            try:
                opened = request("GET", path, **HANDSHAKE)
                check(ask(running.port, *parts, opened=opened, leave_after=random.choice((0.002, 0.02, 0.05))))
            except AssertionError as error:
                raise AssertionError(f"{name}: {parts!r}: {error}") from error

    await trio.to_thread.run_sync(run)
    await running.check(before)


FRAMES = {
    "unmasked": b"\x81\x02hi",
    "reserved bits": masked(b"hi", first=0xF1),
    "a reserved opcode": masked(b"hi", 3),
    "a ping in parts": masked(b"hi", first=0x09),
    "a ping of 200 bytes": masked(b"x" * 200, 9),
    "a continuation of nothing": masked(b"hi", 0),
    "a text inside another": masked(b"a", first=0x01) + masked(b"b", first=0x01),
    "8 EiB": b"\x81\xff" + struct.pack("!Q", 2**63 - 1) + b"\0\0\0\0" + b"x" * 1000,
    "a length with the top bit": b"\x81\xff" + struct.pack("!Q", 2**64 - 1) + b"\0\0\0\0",
    "a close of one byte": masked(b"\x03", 8),
    "a close with a code that is none": masked(struct.pack("!H", 1005), 8),
    "text that is no UTF-8": masked(b"\xff\xfe\xfd"),
    "10,000 pings": masked(b"", 9) * 10_000,
    "10,000 parts": masked(b"x", first=0x01) + masked(b"x", first=0x00) * 10_000,
    "4 MiB": b"\x81\xff" + struct.pack("!Q", 4 << 20) + b"\0\0\0\0" + b"x" * (4 << 20),
}


async def test_frames_that_break_the_protocol(running):
    before = await running.belongings()

    def run() -> None:
        for path in ("/ws", "/ws/stream"):
            for frames in FRAMES.values():
                check(ask(running.port, frames, opened=request("GET", path, **HANDSHAKE), leave_after=0.05))

    await trio.to_thread.run_sync(run)
    await running.check(before)


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
HEADS = {
    "two lengths": (
        b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        400,
    ),
    "a length and chunks": (
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        400,
    ),
    "a negative length": (b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n", 400),
    "a length that is no number": (b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\nabcde", 400),
    "a chunk's size that is none": (
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n" + SMUGGLED,
        400,
    ),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "a NUL in a header": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n", 400),
    "a folded header": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\r\nconnection: close\r\n\r\n", 200),
    "a version that is none": (b"GET /health HTTP/x.1\r\nhost: localhost\r\n\r\n", 400),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\n", 404),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 400),
    "a method of 10,000 letters": (b"A" * 10_000 + b" / HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
    "10,000 headers": (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
        + b"".join(b"x-%d: yyyyyy\r\n" % n for n in range(10_000))
        + b"\r\n",
        431,
    ),
    "a header of 1 MB": (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n", 431),
    "a path of 1 MB": (b"GET /" + b"y" * 1_000_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 431),
}


@pytest.mark.parametrize("what", HEADS)
async def test_heads_that_break_the_protocol(running, what):
    data, status = HEADS[what]
    answer = await trio.to_thread.run_sync(lambda: ask(running.port, data, leave_after=0.3))
    assert answer.status == status, answer.data[:500]
    assert len(answer.statuses) <= 1, "one request, one answer"
    if status >= 400:
        error = json.loads(answer.body)
        assert error["error"]["message"]


BODIES = {
    "lists 100,000 deep": (b'{"model":"fake/m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {400}),
    "objects 100,000 deep": (b'{"model":"fake/m","messages":[' + b'{"a":' * 100_000, {400}),
    "lists 100,000 deep in a field that is not read": (
        b'{"model":"fake/m","messages":[{"role":"user","content":"a"}],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        {400},
    ),
    "a list that never ends": (b"[" * 100_000, {400}),
    "a number of 1 MB": (
        b'{"model":"fake/m","messages":[{"role":"user","content":"a"}],"max_tokens":' + b"9" * 1_000_000 + b"}",
        {200, 400},
    ),
    "a string of 1 MB for a model": (b'{"model":"' + b"m" * 1_000_000 + b'","messages":[]}', {400, 200}),
    "100,000 messages": (
        b'{"model":"fake/m","max_tokens":5,"messages":[' + b'{"role":"user","content":"a"},' * 100_000
        + b'{"role":"user","content":"a"}]}',
        {200},
    ),
    "100,000 fields": (
        b'{"model":"fake/m","max_tokens":5,"messages":[{"role":"user","content":"a"}]'
        + b"".join(b',"f%d":1' % n for n in range(100_000)) + b"}",
        {200},
    ),
    "a bomb, not asked to be opened": (zlib.compress(bytes(10_000_000), 9, 31), {400}),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
async def test_bodies_that_go_too_far(running, what):
    body, statuses = BODIES[what]

    def run() -> None:
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
            answer = ask(running.port, request("POST", path, body))
            assert answer.status in statuses, (path, answer.data[:1000])
            assert len(answer.data) < 3000

    await trio.to_thread.run_sync(run)


async def test_a_bomb_in_a_content_encoding(running):
    body = zlib.compress(bytes(10_000_000), 9, 31)
    for encoding in ("gzip", "br", "deflate, gzip", "GZIP", "x" * 1000):
        for path in ("/v1/chat/completions", "/v1/messages"):
            sent = request("POST", path, body, **{"content-encoding": encoding})
            answer = await trio.to_thread.run_sync(ask, running.port, sent)
            assert (answer.status, answer.head["accept-encoding"]) == (415, "identity")
            assert encoding[:40] in json.loads(answer.body)["error"]["message"]
    sent = request("POST", "/v1/chat/completions", CHAT, **{"content-encoding": "identity"})
    assert (await trio.to_thread.run_sync(ask, running.port, sent)).status == 200


async def test_100_mb(running):
    """Told before by its length, or not: 413, and the answer arrives though nobody reads what is sent."""
    before = await running.belongings()

    def run() -> None:
        part = b"x" * (1 << 20)
        told = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 104857600\r\n\r\n"
        untold = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        for head, parts in ((told, [part] * 100), (untold, [b"100000\r\n" + part + b"\r\n"] * 100)):
            answer = _send_anyhow(running.port, head, parts)
            assert answer.status == 413, answer.data[:300]
            assert json.loads(answer.body)["error"]["type"] == "request_too_large"

    await trio.to_thread.run_sync(run)
    await running.check(before)


def _send_anyhow(port: int, head: bytes, parts: list[bytes]) -> Answer:
    """As a client that looks for an answer while it sends."""
    found, began = b"", time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as sock:
        sock.sendall(head)
        for part in parts:
            try:
                sock.sendall(part)
            except OSError:
                break
            sock.setblocking(False)
            try:
                found += sock.recv(1 << 16)
            except BlockingIOError:
                pass
            finally:
                sock.settimeout(BOUND)
            if found:
                break
        try:
            while more := sock.recv(1 << 16):
                found += more
        except ConnectionResetError:
            pass
    return Answer(found, time.monotonic() - began)


async def test_many_requests_at_once_on_one_connection(running):
    before = await running.belongings()

    def run() -> None:
        asked = request("GET", "/health", connection="") * 200 + request("GET", "/health")
        assert ask(running.port, asked).statuses == [200] * 201
        chats = request("POST", "/v1/chat/completions", CHAT, connection="") * 20
        answer = ask(running.port, chats + request("POST", "/v1/messages", b"{", connection="close"))
        assert answer.statuses == [200] * 20 + [400]

    await trio.to_thread.run_sync(run)
    await running.check(before)


async def test_a_service_that_was_hurt_still_serves(running):
    def run() -> None:
        random = Random("hurt")
        for _ in range(20):
            ask(running.port, random.randbytes(1000), leave_after=0.001)
        assert ask(running.port, request("POST", "/v1/chat/completions", CHAT)).body.endswith(b"data: [DONE]\n\n")

    await trio.to_thread.run_sync(run)
