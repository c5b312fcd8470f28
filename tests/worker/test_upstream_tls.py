import ssl

import pytest
import trio
from fakes.certificate import client_context, self_signed, server_context
from fakes.upstream import FIN, HANG, LAST_CHUNK, RESET, chunk, head, serve_upstream, whole

from shared.config import Provider
from shared.errors import UpstreamBroken, UpstreamConnectError
from worker.upstream.client import UpstreamClient
from worker.upstream.wire import default_ssl_context

BODY = b'{"model": "m"}'
LIMIT = 8 << 20
CHUNKED = head(chunked=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
async def upstream(certificate, request):
    context = server_context(certificate)
    context.maximum_version = ssl.TLSVersion[request.param]
    async with serve_upstream(context) as upstream:
        yield upstream


@pytest.fixture
async def client(upstream, certificate):
    provider = Provider(name="fake", base_url=upstream.base_url)
    client = UpstreamClient(provider, None, read_size=65536, ssl_context=client_context(certificate))
    yield client
    await client.aclose()
    assert client.open_connections == 0


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_bodies_go_up_and_come_down(upstream, client, size):
    sent = b"x" * size
    upstream.script(CHUNKED, chunk(sent), LAST_CHUNK)
    assert await (await client.open(sent)).read(LIMIT) == sent
    assert upstream.requests[0].body == sent


async def test_several_records_are_one_piece(upstream, client):
    go = trio.Event()
    upstream.script(CHUNKED + chunk(b"a"), go, chunk(b"b" * 40_000) + LAST_CHUNK)
    response = await client.open(BODY)
    assert await response.receive() == b"a"
    go.set()
    pieces = []
    while data := await response.receive():
        pieces.append(data)
    assert b"".join(pieces) == b"b" * 40_000
    assert max(len(piece) for piece in pieces) > 16384


async def test_connections_are_reused(upstream, client):
    for _ in range(3):
        await (await client.open(BODY)).read(LIMIT)
        assert client.idle_connections == 1
    assert upstream.connections == 1


async def test_a_stale_connection_is_replaced(upstream, client):
    upstream.script(whole(200, b"one"), FIN)
    upstream.script(whole(200, b"two"))
    assert await (await client.open(BODY)).read(LIMIT) == b"one"
    await upstream.wait_open(0)
    assert await (await client.open(BODY)).read(LIMIT) == b"two"
    assert client.open_connections == 1


@pytest.mark.parametrize("sent", [b"", CHUNKED + chunk(b"abc"), b"HTTP/1.1 200 OK\r\n\r\nabc"])
@pytest.mark.parametrize("end", [FIN, RESET])
async def test_a_cut_is_an_error_also_where_only_the_closing_note_could_tell(upstream, client, sent, end):
    upstream.script(*([sent] if sent else []), end)
    with pytest.raises(UpstreamBroken):
        await (await client.open(BODY)).read(LIMIT)
    assert client.open_connections == 0


async def test_a_body_that_ends_with_the_closing_note(upstream, client):
    async def close_politely(request, connection):
        connection.stream._https_compatible = False
        with trio.move_on_after(5):
            await connection.stream.aclose()

    upstream.script(b"HTTP/1.1 200 OK\r\n\r\nabc", close_politely)
    assert await (await client.open(BODY)).read(LIMIT) == b"abc"
    assert client.open_connections == 0


@pytest.mark.parametrize("script", [[HANG], [CHUNKED, chunk(b"abc"), HANG]], ids=["head", "body"])
async def test_cancelled(upstream, client, script):
    upstream.script(*script)

    async def ask():
        await (await client.open(BODY)).read(LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await upstream.wait_request()
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert client.open_connections == 0
    await upstream.wait_open(0)


async def test_closed_by_another_task_while_receiving(upstream, client):
    upstream.script(CHUNKED, HANG)
    response = await client.open(BODY)

    async def receive():
        with pytest.raises(UpstreamBroken, match="on our side"):
            await response.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        response.close_nowait()
    await upstream.wait_open(0)


async def accept_and_fail(listener, context):
    """A server whose handshake fails, as the client's alert or its leaving tells it."""
    stream = await listener.accept()
    async with stream:
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, context, server_side=True).do_handshake()


async def failing_open(certificate, host, ssl_context):
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept_and_fail, listener, server_context(certificate))
        base_url = f"https://{host}:{listener.socket.getsockname()[1]}/v1"
        client = UpstreamClient(Provider(name="f", base_url=base_url), None, read_size=4096, ssl_context=ssl_context)
        try:
            await client.open(BODY)
        finally:
            assert client.open_connections == 0


async def test_an_unknown_issuer(certificate):
    with pytest.RaisesGroup(pytest.RaisesExc(UpstreamConnectError, match="certificate is not trusted: self-signed")):
        await failing_open(certificate, "127.0.0.1", default_ssl_context())


async def test_a_certificate_for_another_host(certificate):
    with pytest.RaisesGroup(pytest.RaisesExc(UpstreamConnectError, match="localhost")):
        await failing_open(certificate, "localhost", client_context(certificate))


async def test_a_server_that_speaks_no_tls():
    async def speak(stream):
        async with stream:
            await stream.receive_some(10_000)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, speak, [listener])
        base_url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        client = UpstreamClient(Provider(name="f", base_url=base_url), None, read_size=4096)
        with pytest.raises(UpstreamConnectError, match="TLS failed") as caught:
            await client.open(BODY)
        assert caught.value.error_type == "ConnectError"
        nursery.cancel_scope.cancel()
