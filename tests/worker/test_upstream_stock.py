import contextlib
import gc

import httpx
import pytest
import trio
from fakes.certificate import client_context, self_signed, server_context
from fakes.upstream import FIN, HANG, LAST_CHUNK, chunk, head, serve_upstream, whole

from shared.config import Provider
from shared.errors import UpstreamBroken, UpstreamConnectError
from shared.proxies import proxy_for
from worker.upstream.client import UpstreamClient

BODY = b'{"model": "m"}'
LIMIT = 1 << 20
CHUNKED = head(chunked=True)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.fixture
async def proxy(environment):
    """A fake that is asked as a proxy: `http://` URLs go through it with their whole address in the request line."""
    async with serve_upstream() as proxy:
        environment.setenv("HTTP_PROXY", proxy.origin)
        yield proxy


@pytest.fixture
async def client(proxy):
    client = make_client()
    yield client
    await client.aclose()
    assert client.open_connections == 0
    await proxy.wait_open(0)
    gc.collect()  # a generator left half-way would warn now


def make_client():
    return UpstreamClient(Provider(name="far", base_url="http://api.test/v1"), "sk-1", read_size=4096)


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        ("http://api.test/", {}, None),
        ("http://api.test/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://api.test/", {"http_proxy": "p:1"}, "http://p:1"),
        ("https://api.test/", {"HTTP_PROXY": "http://p:1"}, None),
        ("https://api.test/", {"ALL_PROXY": "socks5://p:1"}, "socks5://p:1"),
        ("https://api.test/", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "api.test"}, None),
        ("https://x.api.test:8443/", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".api.test"}, None),
        ("http://127.0.0.1:9/", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost,127.0.0.1"}, None),
        ("http://api.test/", {"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
    ],
)
def test_which_proxy(environment, url, variables, proxy):
    for name, value in variables.items():
        environment.setenv(name, value)
    assert proxy_for(httpx.URL(url)) == proxy


async def test_a_request_through_a_proxy(proxy, client):
    proxy.script(CHUNKED, chunk("one"), chunk("two"), LAST_CHUNK)
    response = await client.open(BODY)
    assert await response.read(LIMIT) == b"onetwo"
    assert await response.receive() == b""
    response.close_nowait()
    request = proxy.requests[0]
    assert request.path == "http://api.test/v1/chat/completions"
    assert (request.headers["host"], request.headers["authorization"]) == ("api.test", "Bearer sk-1")
    assert request.body == BODY
    assert (client.open_connections, client.idle_connections) == (1, 1)
    await (await client.open(BODY)).read(LIMIT)
    assert proxy.connections == 1


@pytest.mark.parametrize("sent", [[], [CHUNKED], [CHUNKED, chunk("abc")]], ids=["head", "body", "chunk"])
async def test_cuts(proxy, client, sent):
    proxy.script(*sent, FIN)
    with pytest.raises(UpstreamBroken) as caught:
        await (await client.open(BODY)).read(LIMIT)
    assert caught.value.error_type == "RemoteProtocolError"
    assert client.open_connections == 0


@pytest.mark.parametrize("read", [0, 1])
async def test_closing_is_synchronous_and_the_pool_recovers(proxy, client, read):
    for _ in range(3):
        proxy.script(CHUNKED, chunk("abc"), HANG)
        response = await client.open(BODY)
        for _ in range(read):
            assert await response.receive() == b"abc"
        response.close_nowait()
        response.close_nowait()
        assert client.open_connections == 0
        await proxy.requests[-1].closed.wait()
        with pytest.raises(UpstreamBroken):
            await response.receive()
    await (await client.open(BODY)).read(LIMIT)
    assert client.open_connections == 1


async def test_closed_by_another_task_while_receiving(proxy, client):
    proxy.script(CHUNKED, HANG)
    response = await client.open(BODY)

    async def receive():
        with pytest.raises(UpstreamBroken):
            await response.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        response.close_nowait()
        await client.open(BODY)  # while the other task is still inside httpcore
    await proxy.wait_open(1)


@pytest.mark.parametrize("script", [[HANG], [CHUNKED, chunk("abc"), HANG]], ids=["head", "body"])
async def test_cancelled(proxy, client, script):
    proxy.script(*script)

    async def ask():
        await (await client.open(BODY)).read(LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await proxy.wait_request()
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    await proxy.wait_open(0)
    assert client.open_connections == 0


async def test_retiring(proxy, client):
    go = trio.Event()
    proxy.script(CHUNKED, chunk("one"), go, chunk("two"), LAST_CHUNK)
    streaming = await client.open(BODY)
    await (await client.open(BODY)).read(LIMIT)
    assert (client.open_connections, client.idle_connections) == (2, 1)
    client.retire()
    assert client.idle_connections == 0
    await proxy.wait_open(1)
    go.set()
    assert await streaming.read(LIMIT) == b"onetwo"
    assert client.open_connections == 0
    await (await client.open(BODY)).read(LIMIT)  # a stream that retries with the client it began with
    assert client.open_connections == 0


@pytest.mark.parametrize("address", ["gopher://127.0.0.1:1", "http://[::1"])
async def test_a_proxy_that_is_no_use(environment, address):
    environment.setenv("HTTP_PROXY", address)
    with pytest.raises(UpstreamConnectError) as caught:
        await make_client().open(BODY)
    assert caught.value.error_type == "ProxyError"


async def test_a_proxy_that_refuses_the_tunnel(environment):
    async with serve_upstream() as proxy:
        environment.setenv("HTTPS_PROXY", proxy.origin)
        proxy.script(whole(403, b"", {"connection": "close"}), FIN)
        client = UpstreamClient(Provider(name="far", base_url="https://api.test/v1"), None, read_size=4096)
        with pytest.raises(UpstreamConnectError) as caught:
            await client.open(BODY)
        assert caught.value.error_type == "ProxyError"
        assert proxy.requests[0].method == "CONNECT"
        await proxy.wait_open(0)
        await client.aclose()


async def serve_tunnel(stream):
    """One CONNECT, then bytes in both directions until either side closes."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    assert head.startswith(b"CONNECT 127.0.0.1:")
    there = await trio.open_tcp_stream("127.0.0.1", int(head.split()[1].rpartition(b":")[2]))
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

    async def carry(source, sink, scope):
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                await sink.send_all(data)
        scope.cancel()

    async with stream, there, trio.open_nursery() as nursery:
        nursery.start_soon(carry, stream, there, nursery.cancel_scope)
        nursery.start_soon(carry, there, stream, nursery.cancel_scope)


async def test_tls_through_a_tunnel(environment, tmp_path):
    certificate = self_signed(tmp_path)
    async with serve_upstream(server_context(certificate)) as upstream, trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve_tunnel, [listener])
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        provider = Provider(name="far", base_url=upstream.base_url)
        client = UpstreamClient(provider, None, read_size=4096, ssl_context=client_context(certificate))
        for _ in range(2):
            upstream.script(CHUNKED, chunk("one"), LAST_CHUNK)
            assert await (await client.open(BODY)).read(LIMIT) == b"one"
        assert upstream.connections == 1
        upstream.script(CHUNKED, HANG)
        response = await client.open(BODY)
        response.close_nowait()
        assert client.open_connections == 0
        await upstream.wait_open(0)
        await client.aclose()
        nursery.cancel_scope.cancel()
