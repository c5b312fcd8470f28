"""HTTP/2 over TLS: each stream keeps what a connection of HTTP/1.1 promises, and harms no other."""

import contextlib
import json
import ssl
import struct
import time

import h2.exceptions
import httpx
import pytest
import trio
from fakes.certificate import client_context, self_signed, tls_of
from fakes.gateway import CHAT, make_config, serve_gateway
from fakes.http2_client import connect_http2, connect_tls
from fakes.upstream import HANG, LAST_CHUNK, chunk, head, openai_chunk, openai_stream, serve_upstream
from structlog.testing import capture_logs

from shared.certificate import TLS, read_certificate
from worker import flood, http2

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
HELLO = openai_chunk({"content": "hello world"})
BIG = openai_chunk({"content": "hello world " * 5000})
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 0, 2, 7, 11
ASKED = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "say hello"}]}).encode()
WHOLE = json.dumps({"model": "m", "messages": [{"role": "user", "content": "say hello"}]}).encode()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("http2"))


def serve(certificate, *upstreams, server=None, **sections):
    tls = tls_of(certificate)
    config = make_config(*upstreams, server={"tls": tls, **(server or {})}, **sections)
    return serve_gateway(config, {TLS: read_certificate(tls)})


@pytest.fixture
def connect(certificate):
    return lambda gateway, *arguments, **options: connect_http2(
        gateway.port, client_context(certificate), *arguments, **options
    )


@pytest.fixture
async def upstream():
    async with serve_upstream() as upstream:
        yield upstream


async def huge(_request, connection):
    """More than any buffer holds; ends when the peer has closed."""
    await connection.send(SSE)
    while not connection.closed.is_set():
        await connection.send(chunk(BIG))


async def test_an_answer(certificate, upstream, connect):
    upstream.script(*openai_stream("hello", " world", usage=(3, 2)))
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, ASKED)
        status, body = await client.answer(id)
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        _, headers = await client.head(id)
        assert headers["content-type"] == "text/event-stream"
        assert headers["x-request-id"]
        assert not {"connection", "keep-alive", "transfer-encoding"} & set(headers)
        assert (await gateway.wait_record()).status == "completed"


async def test_small_things(certificate, connect):
    async with serve(certificate) as gateway, connect(gateway) as client:
        id = await client.request("HEAD", "/health")
        status, body = await client.answer(id)
        assert (status, body) == (200, b"")
        assert int(client.heads[id]["content-length"]) > 0
        assert await client.answer(await client.request("OPTIONS", "/health")) == (204, b"")
        status, body = await client.answer(await client.request("GET", "/nothing"))
        assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_path")
        status, body = await client.answer(await client.request("GET", "/ws"))
        assert status == 426
        id = await client.request("GET", "/health?x=%C3%A4", cookie="a=1")
        assert (await client.answer(id))[0] == 200
        # Each of them was a stream; the connection is one, and idle.
        [connection] = gateway.server.connections
        await gateway.wait(lambda: connection.idle_since is not None)


async def test_many_streams_are_interleaved_and_right(certificate, upstream, connect):
    async def answer(request, connection):
        word = request.json["messages"][0]["content"]
        await connection.send(SSE)
        for number in range(5):
            await connection.send(chunk(openai_chunk({"content": f"{word}-{number} "})))
            await trio.sleep(0.01)
        await connection.send(chunk("data: [DONE]\n\n") + LAST_CHUNK)

    for _ in range(20):
        upstream.script(answer)
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        ids = {}
        for number in range(20):
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"word{number}"}]}
            ids[await client.request("POST", CHAT, json.dumps(body).encode())] = number
        for id, number in ids.items():
            status, body = await client.answer(id)
            assert status == 200
            said = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
            text = "".join(event["choices"][0]["delta"].get("content", "") for event in said if event["choices"])
            assert text == "".join(f"word{number}-{index} " for index in range(5))
        changes = sum(one != other for one, other in zip(client.order, client.order[1:], strict=False))
        assert changes > 40
        assert len(gateway.server.connections) == 1


PHASES = {"before the head": [HANG], "before the first byte": [SSE, HANG], "between chunks": [SSE, chunk(HELLO), HANG]}


@pytest.mark.parametrize("how", ["reset", "drop", "cut", "close_notify"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("asked", [ASKED, WHOLE], ids=["streamed", "whole"])
async def test_the_client_leaves(certificate, upstream, connect, phase, how, asked):
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        upstream.script(*PHASES[phase])
        id = await client.request("POST", CHAT, asked)
        request = await upstream.wait_request()
        if phase == "between chunks" and asked is ASKED:
            await client.until(id, b"hello world")
        left = time.monotonic()
        match how:
            case "reset":
                await client.reset(id)
            case "drop":
                client.drop()
            case "cut":
                client.cut()
            case "close_notify":
                await _say_goodbye(client)
        await request.closed.wait()
        assert time.monotonic() - left < 0.5
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        if how == "reset":
            assert (await client.answer(await client.request("GET", "/health")))[0] == 200


async def _say_goodbye(client):
    """TLS's closing note, and nothing else."""
    tls = client.stream._ssl_object
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()
    await client.stream.transport_stream.send_all(client.stream._outgoing.read())


async def test_a_reset_ends_one_stream_alone(certificate, upstream, connect):
    go = trio.Event()
    upstream.script(SSE, chunk(HELLO), HANG)
    upstream.script(SSE, chunk(HELLO), go, *openai_stream("goodbye")[1:])
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        first, second = [await client.request("POST", CHAT, ASKED) for _ in range(2)]
        await client.until(first, b"hello world")
        await client.until(second, b"hello world")
        await client.reset(first)
        assert (await gateway.wait_record()).error_type == "client_disconnect"
        go.set()
        _, body = await client.answer(second)
        assert b"goodbye" in body
        assert (await gateway.wait_record(2)).status == "completed"


async def test_a_stream_that_is_not_read_holds_up_no_other(certificate, upstream, connect):
    upstream.script(huge)
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        client.unread.add(1)
        slow = await client.request("POST", CHAT, ASKED)
        assert slow == 1
        await client.wait(lambda: len(client.bodies[slow]) == 65535)
        for _ in range(3):
            upstream.script(*openai_stream("hello"))
            assert b"[DONE]" in (await client.answer(await client.request("POST", CHAT, ASKED)))[1]
        assert len(client.bodies[slow]) == 65535
        await client.read_again(slow)
        await client.wait(lambda: len(client.bodies[slow]) > 200_000)


async def test_it_is_cut_off_after_send_timeout(certificate, upstream, connect):
    upstream.script(huge)
    async with serve(certificate, upstream, server={"send_timeout": 0.3}) as gateway, connect(gateway) as client:
        client.unread.add(1)
        slow = await client.request("POST", CHAT, ASKED)
        await client.wait(lambda: slow in client.resets)
        assert client.resets[slow] == INTERNAL_ERROR
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "timeout")
        assert (await client.answer(await client.request("GET", "/health")))[0] == 200


async def test_small_answers_that_are_not_taken_are_cut_off(certificate, connect):
    """They have no stream of a provider behind them, whose own deadline would end them."""
    async with (
        serve(certificate, server={"send_timeout": 0.3, "keep_alive_timeout": 0.5}) as gateway,
        connect(gateway) as client,
    ):
        client.h2.update_settings({4: 0})
        ids = [await client.request("GET", "/openapi.json") for _ in range(3)]
        await client.wait(lambda: client.resets == dict.fromkeys(ids, INTERNAL_ERROR))
        await client.wait_over()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_a_cancel_from_our_side_reaches_one_that_does_not_read(certificate, upstream, connect):
    upstream.script(huge)
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        client.unread.add(1)
        slow = await client.request("POST", CHAT, ASKED)
        await client.wait(lambda: len(client.bodies[slow]) == 65535)
        gateway.gateway.sessions.cancel(gateway.started[0].id, "admin")
        await (await upstream.wait_request()).closed.wait()
        await client.wait(lambda: slow in client.resets)
        assert (await gateway.wait_record()).error_type == "admin"


async def test_a_cancel_from_our_side_is_told(certificate, upstream, connect):
    upstream.script(SSE, chunk(HELLO), HANG)
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, ASKED)
        await client.until(id, b"hello world")
        gateway.gateway.sessions.cancel(gateway.started[0].id, "admin")
        _, body = await client.answer(id)
        assert b'"error"' in body
        assert b"[DONE]" not in body


async def test_a_client_that_stops_reading_its_socket_is_cut_off_with_all_its_streams(certificate, upstream, connect):
    for _ in range(3):
        upstream.script(huge)
    async with (
        serve(certificate, upstream, server={"send_timeout": 0.3}) as gateway,
        connect(gateway, 4096, reads=False) as client,
    ):
        client.h2.increment_flow_control_window(1 << 28)
        client.h2.update_settings({4: 1 << 28})
        for _ in range(3):
            await client.request("POST", CHAT, ASKED)
        for number in (1, 2, 3):
            record = await gateway.wait_record(number)
            assert (record.status, record.error_type) == ("cancelled", "timeout")
        await gateway.wait(lambda: not gateway.server.connections)


async def test_a_large_answer_and_a_large_question(certificate, upstream, connect):
    text = "hello world " * 100_000
    answer = json.dumps(
        {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": text}}]}
    )
    upstream.script(head(200, {"content-length": str(len(answer))}) + answer.encode())
    asked = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, asked)
        status, body = await client.answer(id)
        assert status == 200
        assert json.loads(body)["choices"][0]["message"]["content"] == text
        assert (await upstream.wait_request()).json["messages"][0]["content"] == text


async def test_bodies_have_a_bound(certificate, upstream, connect):
    async with serve(certificate, upstream, server={"max_body_bytes": 100_000}) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, b"x" * 100_001)
        status, body = await client.answer(id)
        assert status == 413
        assert "max_body_bytes" in json.loads(body)["error"]["message"]
        id = await client.request("POST", CHAT, b"", content_length="999999999")
        with pytest.raises(AssertionError):  # h2 ends the connection over the length that is a lie
            await client.answer(id)


async def test_an_answer_before_the_request_s_end(certificate, upstream, connect):
    async with serve(certificate, upstream, server={"max_body_bytes": 1000}) as gateway, connect(gateway) as client:
        id = client.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CHAT)]
        client.h2.send_headers(id, fields)
        await client.send_body(id, b"x" * 2000, end=False)
        status, _ = await client.answer(id)
        assert status == 413
        await client.wait(lambda: client.resets.get(id) == NO_ERROR)
        assert (await client.answer(await client.request("GET", "/health")))[0] == 200


async def test_a_body_that_does_not_come_is_waited_for_a_while(certificate, upstream, connect):
    async with serve(certificate, upstream, server={"body_timeout": 0.2}) as gateway, connect(gateway) as client:
        id = client.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CHAT)]
        client.h2.send_headers(id, [*fields, ("expect", "100-continue")])
        await client.flush()
        assert (await client.answer(id))[0] == 408
        assert client.interim == ["100"]


async def test_trailers_are_passed_over(certificate, upstream, connect):
    upstream.script(*openai_stream("hello"))
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = client.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", CHAT)]
        client.h2.send_headers(id, fields)
        await client.send_body(id, ASKED, end=False)
        client.h2.send_headers(id, [("x-sum", "1")], end_stream=True)
        await client.flush()
        assert (await client.answer(id))[0] == 200


async def test_heads_have_a_bound(certificate, connect):
    async with serve(certificate, server={"max_header_bytes": 2048}) as gateway, connect(gateway) as client:
        status, body = await client.answer(await client.request("GET", "/health", x_large="x" * 3000))
        assert (status, json.loads(body)["error"]["message"]) == (
            431,
            "the request was refused: its head is too large",
        )
        assert (await client.answer(await client.request("GET", "/health")))[0] == 200
        await client.request("GET", "/health", x_larger="x" * 5000)
        await client.wait_over()


async def test_a_stream_too_many_is_refused(certificate, upstream, connect, monkeypatch):
    monkeypatch.setattr(http2, "MAX_STREAMS", 3)
    for _ in range(4):
        upstream.script(SSE, chunk(HELLO), HANG)
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        ids = [await client.request("POST", CHAT, ASKED) for _ in range(3)]
        client.h2.remote_settings[3] = 100
        client.h2.remote_settings.acknowledge()
        for id in ids:
            await client.until(id, b"hello world")
        refused = await client.request("POST", CHAT, ASKED)
        await client.wait(lambda: client.resets.get(refused) == REFUSED_STREAM)
        await client.reset(ids[0])
        await gateway.wait_record()
        another = await client.request("POST", CHAT, ASKED)
        await client.until(another, b"hello world")


async def attack(client, data):
    """Send it over and over until the gateway has had enough."""
    try:
        while not client.is_over:
            await client.send(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await client.wait_over()


async def test_rapid_resets_end_the_connection(certificate, upstream, connect):
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        await client.answer(await client.request("GET", "/health"))
        try:
            for _ in range(flood.CREDIT):
                id = client.h2.get_next_available_stream_id()
                fields = [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/metrics")]
                client.h2.send_headers(id, fields, end_stream=True)
                client.h2.reset_stream(id, 8)
            await client.flush()
        except (trio.BrokenResourceError, h2.exceptions.ProtocolError):
            pass
        await client.wait_over()
        assert [code for _, code in client.goaways] in ([ENHANCE_YOUR_CALM], [])  # a reset may overtake it
        await gateway.wait(lambda: not gateway.server.connections)
        assert len(gateway.asked) < 500


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("!BHBBL8s", 0, 8, 6, 0, 0, b"12345678"),
        struct.pack("!BHBBL", 0, 0, 4, 0, 0),
        struct.pack("!BHBBLL", 0, 4, 8, 0, 0, 1),
    ],
    ids=["ping", "settings", "window_update"],
)
async def test_floods_end_the_connection(certificate, connect, frame):
    async with serve(certificate) as gateway, connect(gateway) as client:
        await attack(client, frame * 500)
        await gateway.wait(lambda: not gateway.server.connections)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 10, b"\xff" * 100], ids=["http", "all bytes", "ff"]
)
async def test_garbage_ends_the_connection(certificate, garbage):
    async with serve(certificate) as gateway:
        context = client_context(certificate)
        context.set_alpn_protocols(["h2"])
        stream = await connect_tls(gateway.port, context)
        await stream.send_all(garbage)
        with trio.fail_after(5):
            try:
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass
        stream.transport_stream.socket.close()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_questions_whose_answers_nobody_reads_end_the_connection(certificate, connect, monkeypatch):
    monkeypatch.setattr(http2, "MAX_UNSENT_BYTES", 2000)
    async with serve(certificate) as gateway, connect(gateway, 4096, reads=False) as client:
        await gateway.wait(lambda: bool(gateway.server.connections))
        [connection] = gateway.server.connections
        connection.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)

        async def ask_for_ever():
            while True:
                await client.request("HEAD", "/health")
                client.h2.streams.clear()  # as if it had read the answers

        with pytest.raises(trio.BrokenResourceError):
            await ask_for_ever()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_an_idle_connection_is_closed_with_a_word(certificate, connect):
    async with serve(certificate, server={"keep_alive_timeout": 0.2}) as gateway, connect(gateway) as client:
        id = await client.request("GET", "/health")
        await client.answer(id)
        await client.wait_over()
        assert client.goaways == [(id, NO_ERROR)]
        assert not gateway.server.connections


async def test_a_worker_that_leaves_lets_streams_end(certificate, upstream, connect, monkeypatch):
    go = trio.Event()
    upstream.script(SSE, chunk(HELLO), go, *openai_stream("goodbye")[1:])
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, ASKED)
        await client.until(id, b"hello world")
        gateway.server.stop_accepting()
        gateway.server.close_idle()
        # A stream that crosses is served; a client that goes on opening them is told, and those go on.
        assert (await client.answer(await client.request("GET", "/health")))[0] == 200
        assert client.goaways == []
        monkeypatch.setattr(http2, "RETIRE_PATIENCE", 0.0)
        assert (await client.answer(await client.request("GET", "/health")))[0] == 200
        assert client.goaways == [(2**31 - 1, NO_ERROR)]
        go.set()
        _, body = await client.answer(id)
        assert b"goodbye" in body
        await gateway.wait_record()
        [connection] = gateway.server.connections
        await gateway.wait(lambda: connection.idle_since is not None)
        gateway.server.close_idle()
        await client.wait_over()
        assert client.goaways[-1] == (5, NO_ERROR)


async def test_a_client_s_goaway_lets_its_streams_end(certificate, upstream, connect):
    go = trio.Event()
    upstream.script(SSE, chunk(HELLO), go, *openai_stream("goodbye")[1:])
    async with serve(certificate, upstream) as gateway, connect(gateway) as client:
        id = await client.request("POST", CHAT, ASKED)
        await client.until(id, b"hello world")
        await client.send(struct.pack("!BHBBLLL", 0, 8, 7, 0, 0, 0, 0))
        go.set()
        assert b"goodbye" in (await client.answer(id))[1]


async def test_a_mistake_of_ours_costs_one_stream(certificate, connect):
    async def broken(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("boom")

    with capture_logs() as lines:
        async with serve(certificate) as gateway, connect(gateway) as client:
            works, gateway.server.asgi = gateway.server.asgi, broken
            id = await client.request("GET", "/health")
            await client.wait(lambda: client.resets.get(id) == INTERNAL_ERROR)
            gateway.server.asgi = works
            assert (await client.answer(await client.request("GET", "/health")))[0] == 200
    assert "connection_crashed" in [line["event"] for line in lines]


async def test_pings_keep_a_silent_stream_alive(certificate, upstream, connect):
    upstream.script(SSE, chunk(HELLO), HANG)
    async with (
        serve(certificate, upstream, streaming={"ping_interval": 0.1}) as gateway,
        connect(gateway) as client,
    ):
        id = await client.request("POST", CHAT, ASKED)
        await client.until(id, b": ping\n\n: ping\n\n")


async def test_httpx_with_many_requests_on_one_connection(certificate, upstream):
    async with (
        serve(certificate, upstream) as gateway,
        httpx.AsyncClient(http2=True, http1=False, verify=client_context(certificate)) as client,
    ):
        url = f"https://127.0.0.1:{gateway.port}"
        assert (await client.get(f"{url}/health")).http_version == "HTTP/2"
        for _ in range(20):
            upstream.script(*openai_stream("hello"))

        async def ask():
            async with client.stream("POST", url + CHAT, content=ASKED) as response:
                assert "[DONE]" in (await response.aread()).decode()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert len(gateway.server.connections) == 1
