"""Faults of what clients send: bytes that are no HTTP, HTTP that means two things, WebSockets that keep no rule."""

import contextlib
import json

import pytest
import trio
from fakes.answers import DIALECTS, connect, trace_of
from fakes.client_rows import client_row
from fakes.gateway import Client, chat_bytes
from fakes.scene import Scene
from fakes.ws import RefusedError, WebSocketClient
from fakes.ws import connect as connect_ws

pytestmark = pytest.mark.integration

BAD = "400 with an error in JSON, and the end of the connection"
BODY = b'{"model": "fake/text-3", "messages": []}'
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
GET = b"GET /health HTTP/1.1\r\n"


async def see_refused(scene: Scene, *requests: bytes, statuses: tuple[int, ...] = (400,)) -> None:
    """Each is refused in JSON, is the last on its connection, and leaves no record."""
    before = len(scene.service.records())
    for request in requests:
        client = await connect(scene.port)
        await client.send(request)
        with trio.fail_after(5):
            answer, body = await client.answer()
            assert answer.status in statuses, (request[:200], answer, body)
            assert answer.headers["connection"] == "close", (request[:200], answer)
            assert answer.headers["x-request-id"]
            assert json.loads(body)["error"]["message"]
            await client.wait_eof()
        client.close()
    assert len(scene.service.records()) == before


async def see_answered(scene: Scene, request: bytes, *, status: int = 200) -> bytes:
    """The answer to these bytes, whose connection lives on."""
    client = await connect(scene.port)
    await client.send(request)
    with trio.fail_after(5):
        answer, body = await client.answer()
        assert answer.status == status, (request[:200], answer, body)
        if status >= 400:
            assert json.loads(body)["error"]["message"]
        assert (await client.get("/health"))[0].status == 200
    client.close()
    return body


# --- no HTTP


@client_row("garbage bytes", saw=BAD, kept="–")
async def test_garbage(scene: Scene) -> None:
    await see_refused(scene, b"garbage\r\n\r\n", bytes(range(256)) + b"\r\n\r\n", b"\xff" * 300 + b"\r\n\r\n")


@client_row("TLS to a port without TLS", saw=BAD, kept="–")
async def test_tls_to_a_plain_port(scene: Scene) -> None:
    hello = bytes.fromhex("16030102000100 01fc0303".replace(" ", "")) + b"\0" * 505
    await see_refused(scene, hello)


@client_row("HTTP/0.9, and versions that don't exist", saw=BAD, kept="–")
async def test_versions(scene: Scene) -> None:
    wrong = [b"GET / HTTP/%s\r\nhost: localhost\r\n\r\n" % version for version in (b"1", b"1.1.1", b"x.y")]
    await see_refused(scene, b"GET /\r\n\r\n", *wrong, b"GET / HTPP/1.1\r\nhost: localhost\r\n\r\n")


@client_row("no `Host`, or two", saw=BAD, kept="–")
async def test_hosts(scene: Scene) -> None:
    await see_refused(scene, GET + b"\r\n", GET + b"host: localhost\r\nhost: localhost\r\n\r\n")


# --- HTTP that means two things


@client_row("both `Content-Length` and `Transfer-Encoding`: a request smuggled inside another", saw=BAD, kept="–")
async def test_smuggling(scene: Scene) -> None:
    inner = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    length = b"content-length: %d\r\n" % len(inner)
    both = length + b"transfer-encoding: chunked\r\n"
    await see_refused(
        scene,
        POST + both + b"\r\n" + inner,
        POST + b"transfer-encoding: chunked\r\n" + length + b"\r\n" + inner,
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        POST + b"content-length: +5\r\n\r\nhello",
        POST + b"content-length: -5\r\n\r\n",
        POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        statuses=(400, 501),
    )


@client_row("chunks whose size is no number or has 30 digits, or with an extension of 300 KB", saw=BAD, kept="–")
async def test_chunks(scene: Scene) -> None:
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n"
    await see_refused(
        scene,
        chunked + b"zz\r\nhello\r\n",
        chunked + b"-5\r\nhello\r\n",
        chunked + b"f" * 30 + b"\r\nhello\r\n",
        chunked + b"5;" + b"x" * 300_000 + b"\r\nhello\r\n",
        chunked + b"5\r\nhelloXX0\r\n\r\n",
        statuses=(400, 413, 431),
    )


@client_row("NUL or a bare CR in a header, a header without a name, a space before the colon", saw=BAD, kept="–")
async def test_headers(scene: Scene) -> None:
    fields = (b"x: a\0b", b"x: a\rb", b": y", b"x : y", b"x\0: y", b"bad header")
    await see_refused(scene, *(GET + b"host: localhost\r\n" + field + b"\r\n\r\n" for field in fields))


@client_row("a folded header, or lines that end with LF alone", saw="the answer, as to a header of one line", kept="–")
async def test_folded_headers(scene: Scene) -> None:
    await see_answered(scene, GET + b"host: localhost\r\nx: a\r\n b\r\n\r\n")
    await see_answered(scene, b"GET /health HTTP/1.1\nhost: localhost\n\n")


@client_row(
    "`GET http://…` (absolute form)",
    saw="the answer, as without scheme and host; 403 for a host that is not this machine's loopback",
    kept="–",
)
async def test_absolute_form(scene: Scene) -> None:
    for target in (b"http://localhost/health", b"HTTP://localhost:8000/health?x=1", b"https://localhost/health"):
        body = await see_answered(scene, b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b'"ok"' in body
    elsewhere = b"GET http://elsewhere.example/health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    await see_answered(scene, elsewhere, status=403)


@client_row("targets `*`, `host:port`, percent garbage, and one of 40 KB", saw="404 or 405 in JSON", kept="–")
async def test_targets(scene: Scene) -> None:
    for target in (b"*", b"localhost:80", b"/%zz%", b"/%ff%00%0d%0a", b"/../../etc/passwd", b"/" + b"a" * 40_000, b"?"):
        await see_answered(scene, b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", status=404)
    body = await see_answered(scene, b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", status=404)
    assert b"error" in body
    client = await connect(scene.port)
    await client.send(b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert (await client.head()).status == 204
    client.close()


@client_row(
    "`Expect: 100-continue`, and the body only behind the 100",
    saw="100, then the answer",
    kept="`completed`",
)
async def test_expectation(scene: Scene) -> None:
    trace = trace_of("expects")
    asked = chat_bytes({"model": "fake/text-3"}, stream=False, expect="100-continue", x_request_id=trace)
    head, _, body = asked.partition(b"\r\n\r\n")
    client = await connect(scene.port)
    await client.send(head + b"\r\n\r\n")
    assert (await client._until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await client.send(body)
    answer, _ = await client.answer()
    assert answer.status == 200
    client.close()
    assert (await scene.service.record(trace))["status"] == "completed"


# --- WebSockets

KEY = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"


@client_row("a WebSocket handshake without a key, or of another version", saw="an error in JSON", kept="–")
async def test_handshakes(scene: Scene) -> None:
    for rest in (b"", b"sec-websocket-version: 13\r\n", KEY + b"sec-websocket-version: 7\r\n"):
        client = await connect(scene.port)
        await client.send(UPGRADE + rest + b"\r\n")
        with trio.fail_after(5):
            answer, body = await client.answer()
        assert 400 <= answer.status < 500, answer
        assert json.loads(body)["error"]["message"]
        client.close()
    refused = await connect_ws(scene.port)
    with pytest.raises(RefusedError):
        await refused.open("/v1/models")
    refused.close()


async def open_ws(scene: Scene) -> WebSocketClient:
    client = await connect_ws(scene.port)
    await client.open("/ws")
    await client.event()
    return client


@client_row("garbage in the place of WebSocket frames", saw="a close with code 1002", kept="–")
async def test_frames(scene: Scene) -> None:
    for garbage in (b"\xff" * 20, b"GET / HTTP/1.1\r\n\r\n"):
        client = await open_ws(scene)
        await client.send_raw(garbage)
        assert (await client.wait_close()).code == 1002
        await client.wait_eof()
        client.close()


@client_row("a WebSocket message in fragments without an end", saw="a close with code 1009", kept="–")
async def test_fragments(scene: Scene) -> None:
    def frame(opcode: int) -> bytes:
        return bytes([opcode, 0xFE]) + (1000).to_bytes(2, "big") + b"\0" * 4 + b"x" * 1000

    client = await open_ws(scene)
    await client.send_raw(frame(1) + frame(0) * 70)
    assert (await client.wait_close()).code == 1009
    await client.wait_eof()
    client.close()
    client = await open_ws(scene)
    await client.send_raw(frame(1))
    with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
        while True:
            await client.send_raw(frame(0) * 10)
            await trio.sleep(0.001)
    client.close()


@client_row("WebSocket pings without a pause", saw="a pong for each; others were served meanwhile", kept="–")
async def test_pings(scene: Scene) -> None:
    client = await open_ws(scene)
    pings = (b"\x89\x81" + b"\0" * 4 + b"!") * 500
    sent = pongs = 0
    served = False

    async def flood() -> None:
        nonlocal sent
        while not served:
            await client.send_raw(pings)
            sent += 500

    async def count() -> None:
        nonlocal pongs
        while not served or pongs < sent:
            pongs += (await client.stream.receive_some(65536)).count(b"!")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        nursery.start_soon(count)
        for _ in range(4):  # each worker gets some
            for dialect in DIALECTS:
                assert await scene.fresh(dialect)
        served = True
    assert pongs == sent > 0
    client.close()


@client_row("a WebSocket that ends without a close, with FIN or RST", saw="–", kept="nothing is held for it")
async def test_vanishing(scene: Scene) -> None:
    for how in (Client.close, Client.reset):
        for _ in range(10):
            client = await open_ws(scene)
            how(Client(client.stream))
