"""HTTP/1.1 over TLS keeps every promise that it keeps in the clear; handshakes are bounded, and hold up nobody."""

import ssl
import time

import pytest
import trio
from fakes.certificate import client_context, self_signed, tls_of
from fakes.gateway import Client, chat_bytes, make_config, request_bytes, serve_gateway
from fakes.http2_client import connect_tls
from fakes.upstream import HANG, chunk, head, json_response, openai_chunk, openai_stream, serve_upstream

from shared.certificate import TLS, read_certificate
from worker.tls import PIECE_BYTES

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
HELLO = openai_chunk({"content": "hello world"})
BIG = openai_chunk({"content": "hello world " * 5000})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def upstream():
    async with serve_upstream() as upstream:
        yield upstream


def serve(certificate, *upstreams, server=None, http2=True, **sections):
    tls = tls_of(certificate, http2=http2)
    config = make_config(*upstreams, server={"tls": tls, **(server or {})}, **sections)
    return serve_gateway(config, {TLS: read_certificate(tls)})


class TlsClient(Client):
    """`Client` over TLS."""

    def close(self):
        self.stream.transport_stream.socket.close()

    def reset(self):
        Client(self.stream.transport_stream).reset()


async def connect(gateway, certificate, *arguments):
    client = TlsClient(await connect_tls(gateway.port, client_context(certificate), *arguments))
    gateway.clients.append(client)
    return client


async def huge(_request, connection):
    await connection.send(SSE)
    while not connection.closed.is_set():
        await connection.send(chunk(BIG))


async def test_several_answers_on_one_connection(certificate, upstream):
    async with serve(certificate, upstream) as gateway:
        client = await connect(gateway, certificate)
        assert client.stream.selected_alpn_protocol() is None
        for _ in range(2):
            upstream.script(*openai_stream("hello", " world"))
            await client.ask()
            response = await client.head()
            assert response.headers["connection"] == "keep-alive"
            assert (await client.body()).endswith(b"data: [DONE]\n\n")
        assert (await client.get("/health"))[0].status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_request_may_come_with_the_end_of_the_handshake(certificate, version):
    async with serve(certificate) as gateway:
        context = client_context(certificate)
        context.minimum_version = context.maximum_version = version
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        client = await gateway.connect()
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await client.send(outgoing.read())
                incoming.write(await client.stream.receive_some(65536))
        tls.write(request_bytes("GET", "/health"))
        await client.send(outgoing.read())
        incoming.write(await client.stream.receive_some(65536))
        assert tls.read(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("offered", [["h2"], ["h2", "http/1.1"], ["spdy/1"]])
async def test_http2_can_be_switched_off(certificate, offered):
    async with serve(certificate, http2=False) as gateway:
        context = client_context(certificate)
        context.set_alpn_protocols(offered)
        client = TlsClient(await connect_tls(gateway.port, context))
        gateway.clients.append(client)
        assert client.stream.selected_alpn_protocol() in (None, "http/1.1")
        assert (await client.get("/health"))[0].status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_versions(certificate, version):
    async with serve(certificate) as gateway:
        context = client_context(certificate)
        context.minimum_version = context.maximum_version = version
        stream = await connect_tls(gateway.port, context)
        client = TlsClient(stream)
        gateway.clients.append(client)
        assert (await client.get("/health"))[0].status == 200
        name, _, bits = stream.cipher()
        assert "GCM" in name or "CHACHA20" in name
        assert bits >= 128


PHASES = {"before the head": [HANG], "before the first byte": [SSE, HANG], "between chunks": [SSE, chunk(HELLO), HANG]}


@pytest.mark.parametrize("how", ["close", "reset", "close_notify"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_client_leaves(certificate, upstream, phase, how, stream):
    async with serve(certificate, upstream) as gateway:
        upstream.script(*PHASES[phase])
        client = await connect(gateway, certificate)
        await client.ask(stream=stream)
        request = await upstream.wait_request()
        if phase == "between chunks" and stream:
            await client.head()
            await client.until(b"hello world")
        left = time.monotonic()
        if how == "close_notify":
            with pytest.raises(ssl.SSLWantReadError):
                client.stream._ssl_object.unwrap()
            await client.stream.transport_stream.send_all(client.stream._outgoing.read())
        else:
            getattr(client, how)()
        await request.closed.wait()
        assert time.monotonic() - left < 0.5
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")


async def test_a_pipelined_request_does_not_hide_that_the_client_left(certificate, upstream):
    async with serve(certificate, upstream) as gateway:
        upstream.script(SSE, chunk(HELLO), HANG)
        client = await connect(gateway, certificate)
        await client.send(chat_bytes() + request_bytes("GET", "/health"))
        request = await upstream.wait_request()
        client.close()
        await request.closed.wait()


async def test_a_client_that_does_not_read_is_cut_off(certificate, upstream):
    async with serve(certificate, upstream, server={"send_timeout": 0.3}) as gateway:
        upstream.script(huge)
        client = await connect(gateway, certificate, 4096)
        await client.ask()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "timeout")
        await gateway.wait(lambda: not gateway.server.connections)


async def test_one_that_pauses_gets_all_of_it(certificate, upstream):
    text = "hello world " * 200_000
    assert len(text) > 4 * PIECE_BYTES
    async with serve(certificate, upstream) as gateway:
        upstream.script(json_response({"choices": [{"index": 0, "message": {"content": text}}]}))
        client = await connect(gateway, certificate, 4096)
        await client.ask(stream=False)
        connection = next(iter(gateway.server.connections))
        await gateway.wait(lambda: connection.sending_since is not None)
        assert not connection.has_room()
        _, body = await client.answer()
        assert text.encode() in body
        assert connection.has_room()


async def test_a_large_question(certificate, upstream):
    text = "hello world " * 100_000
    async with serve(certificate, upstream) as gateway:
        client = await connect(gateway, certificate)
        await client.ask({"messages": [{"role": "user", "content": text}]}, stream=False)
        assert (await client.head()).status == 200
        assert (await upstream.wait_request()).json["messages"][0]["content"] == text


async def test_a_websocket(certificate):
    async with serve(certificate) as gateway:
        client = await connect(gateway, certificate)
        key = {"sec_websocket_version": "13", "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ=="}
        await client.request("GET", "/ws", upgrade="websocket", connection="upgrade", **key)
        assert (await client.stream.receive_some(4096)).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE", "PRI"])
async def test_who_speaks_http_in_the_clear_is_told(certificate, method):
    async with serve(certificate) as gateway:
        client = await gateway.connect()
        await client.send(f"{method} / HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        response, body = await client.answer()
        assert response.status == 400
        assert b"this port speaks https: ask for https://, not http://" in body
        await client.wait_eof()


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100, b"hello\r\n\r\n", b""])
async def test_garbage_in_place_of_a_handshake(certificate, garbage, capsys):
    async with serve(certificate) as gateway:
        client = await gateway.connect()
        await client.send(garbage)
        await client.stream.send_eof()
        with trio.fail_after(2):
            while await client.stream.receive_some(4096):
                pass
        await gateway.wait(lambda: not gateway.server.connections)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err


async def test_garbage_after_the_handshake(certificate, upstream):
    async with serve(certificate, upstream) as gateway:
        upstream.script(SSE, chunk(HELLO), HANG)
        client = await connect(gateway, certificate)
        await client.ask()
        await client.head()
        await client.stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert (await gateway.wait_record()).error_type == "client_disconnect"


async def test_slow_handshakes_are_cut_off_and_hold_up_nobody(certificate):
    async with serve(certificate, server={"keep_alive_timeout": 0.5}) as gateway:
        silent, slow = await gateway.connect(), await gateway.connect()

        async def drip():
            try:
                for byte in b"\x16\x03\x01\x02\x00\x01\x00" * 100:
                    await slow.send(bytes([byte]))
                    await trio.sleep(0.05)
            except trio.BrokenResourceError:
                ended.set()

        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            await gateway.wait(lambda: len(gateway.server.connections) == 2)
            client = await connect(gateway, certificate)
            assert (await client.get("/health"))[0].status == 200
            assert await silent.stream.receive_some(1) == b""
            await ended.wait()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_a_worker_that_leaves_closes_idle_connections_with_a_note(certificate, upstream):
    async with serve(certificate, upstream) as gateway:
        client = await connect(gateway, certificate)
        assert (await client.get("/health"))[0].status == 200
        gateway.server.stop_accepting()
        [connection] = gateway.server.connections
        await gateway.wait(lambda: connection.idle_since is not None)
        gateway.server.close_idle()
        await client.wait_eof()


async def test_half_a_record_is_input(certificate):
    async with serve(certificate) as gateway:
        client = await connect(gateway, certificate)
        [connection] = gateway.server.connections
        await gateway.wait(lambda: not connection.has_input())  # the end of the handshake was
        record = client.stream._ssl_object
        record.write(request_bytes("GET", "/health"))
        data = client.stream._outgoing.read()
        await client.stream.transport_stream.send_all(data[:10])
        await gateway.wait(lambda: connection._tls.has_partial)
        gateway.server.close_idle()
        await client.stream.transport_stream.send_all(data[10:])
        assert (await client.answer())[0].status == 200


async def test_a_new_certificate_is_for_new_connections(certificate, upstream, tmp_path):
    other = self_signed(tmp_path)
    go = trio.Event()
    async with serve(certificate, upstream) as gateway:
        upstream.script(SSE, chunk(HELLO), go, *openai_stream("goodbye")[1:])
        client = await connect(gateway, certificate)
        await client.ask()
        await client.head()
        await client.until(b"hello world")
        tls = tls_of(other)
        gateway.server.offer.configure(make_config(server={"tls": tls}).server, {TLS: read_certificate(tls)})
        new = await connect(gateway, other)
        assert (await new.get("/health"))[0].status == 200
        with pytest.raises(trio.BrokenResourceError):
            await connect(gateway, certificate)
        go.set()
        await client.until(b"goodbye")
        gateway.server.offer.configure(make_config().server, {})
        assert (await (await gateway.connect()).get("/health"))[0].status == 200
