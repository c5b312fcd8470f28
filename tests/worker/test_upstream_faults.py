"""What an upstream, the network and our own side can do in each phase of a request, and what is left afterwards."""

import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio
from fakes.descriptors import no_descriptors_left
from fakes.upstream import FIN, HANG, LAST_CHUNK, RESET, chunk, head, serve_upstream, whole

from shared.config import Provider
from shared.errors import UpstreamBroken, UpstreamConnectError, UpstreamTimeout
from worker.upstream.client import UpstreamClient

BODY = b'{"model": "m"}'
LIMIT = 1 << 20
HUGE = b"x" * (32 << 20)


@pytest.fixture
async def client_for():
    """Makes clients, and closes them at the end."""
    clients = []

    def make(base_url, **provider):
        client = UpstreamClient(Provider(name="fake", base_url=base_url, **provider), "sk-secret", read_size=65536)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


def open_sockets():
    def target(fd):
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""

    return sum(target(fd).startswith("socket:") for fd in os.listdir("/proc/self/fd"))


@asynccontextmanager
async def deaf_server(backlog=16):
    """Connections to it succeed, by the kernel's doing; nobody ever accepts or reads them."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@asynccontextmanager
async def full_server():
    """A connection to it neither succeeds nor fails: the queue of those to be accepted is full."""
    async with deaf_server(backlog=0) as base_url:
        port = int(base_url.split(":")[2].split("/")[0])
        fillers = []
        try:
            for _ in range(4):
                filler = socket.socket()
                fillers.append(filler)
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            yield base_url
        finally:
            for filler in fillers:
                filler.close()


class Resolver(trio.abc.HostnameResolver):
    """Fails, or never answers."""

    def __init__(self, *, hang):
        self.hang = hang

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):
        if self.hang:
            await trio.sleep_forever()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


CHUNKED = head(chunked=True)
LENGTH = head(200, {"content-length": "10"})


@pytest.mark.parametrize(
    ("sent", "end", "error_type"),
    [
        ([], FIN, "RemoteProtocolError"),
        ([], RESET, "ReadError"),
        ([b"HTTP/1.1 200 OK\r\ncontent-"], FIN, "RemoteProtocolError"),
        ([b"HTTP/1.1 200 OK\r\ncontent-"], RESET, "ReadError"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], FIN, "RemoteProtocolError"),
        ([b"220 smtp.test ESMTP\r\n"], HANG, "RemoteProtocolError"),
        ([b"HTTP/1.1 200 OK\r\n" + b"x-filler: 0123456789\r\n" * 4000], HANG, "RemoteProtocolError"),
    ],
)
async def test_broken_before_the_head_is_complete(upstream, client_for, sent, end, error_type):
    client = client_for(upstream.base_url)
    upstream.script(*sent, end)
    with pytest.raises(UpstreamBroken, match=r"^upstream 127\.0\.0\.1: ") as caught:
        await client.open(BODY)
    assert caught.value.error_type == error_type
    assert client.open_connections == 0
    await upstream.wait_open(0)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("sent", "end", "body", "error_type"),
    [
        (CHUNKED, FIN, b"", "RemoteProtocolError"),
        (CHUNKED, RESET, b"", "ReadError"),
        (CHUNKED + chunk(b"abc"), FIN, b"abc", "RemoteProtocolError"),
        (CHUNKED + chunk(b"abc") + b"5\r\nde", FIN, b"abcde", "RemoteProtocolError"),
        (CHUNKED + chunk(b"abc") + b"0\r\n", FIN, b"abc", "RemoteProtocolError"),
        (CHUNKED + chunk(b"abc") + b"zz\r\n", HANG, b"abc", "RemoteProtocolError"),
        (LENGTH + b"abc", FIN, b"abc", "RemoteProtocolError"),
        (LENGTH + b"abc", RESET, b"abc", "ReadError"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", RESET, b"abc", "ReadError"),
    ],
)
async def test_broken_inside_the_body(upstream, client_for, sent, end, body, error_type):
    client = client_for(upstream.base_url)
    go = trio.Event()
    upstream.script(sent, go, end)
    response = await client.open(BODY)
    received = b""
    while len(received) < len(body):
        received += await response.receive()
    go.set()
    with pytest.raises(UpstreamBroken) as caught:
        await response.receive()
    assert received == body
    assert caught.value.error_type == error_type
    assert client.open_connections == 0
    await upstream.wait_open(0)
    with pytest.raises(UpstreamBroken):  # and it stays so: a cut body never turns into a clean end
        await response.receive()


async def test_a_refused_connection(upstream, client_for):
    async with serve_upstream() as gone:
        base_url = gone.base_url
    client = client_for(base_url)
    with pytest.raises(UpstreamConnectError, match="Connection refused") as caught:
        await client.open(BODY)
    assert caught.value.error_type == "ConnectError"
    assert "secret" not in str(caught.value)
    assert client.open_connections == 0


async def test_a_host_that_does_not_exist(client_for):
    trio.socket.set_custom_hostname_resolver(Resolver(hang=False))
    client = client_for("https://no-such-host.test/v1")
    with pytest.raises(UpstreamConnectError, match=r"no-such-host\.test.*Name or service not known"):
        await client.open(BODY)


@pytest.mark.parametrize("base_url", ["ftp://a.test", "a.test/v1", "http://", "http://" + "a" * 64 + ".test"])
async def test_a_base_url_that_leads_nowhere(client_for, base_url):
    with pytest.raises(UpstreamConnectError):
        await client_for(base_url).open(BODY)


async def test_a_key_with_a_line_break_is_not_sent(upstream):
    client = UpstreamClient(Provider(name="f", base_url=upstream.base_url), "sk-secret\nx: y", read_size=4096)
    with pytest.raises(UpstreamConnectError, match="line break") as caught:
        await client.open(BODY)
    assert "secret" not in str(caught.value)


# The resolver has its own words for it, which differ from one moment to the next.
NO_DESCRIPTOR = "Too many open files|Name or service not known|Device or resource busy|Invalid argument"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_descriptors_left(upstream, client_for, host):
    client = client_for(upstream.base_url.replace("127.0.0.1", host))
    with (
        no_descriptors_left(),
        pytest.raises(UpstreamConnectError, match=NO_DESCRIPTOR),
    ):
        await client.open(BODY)


async def test_the_connect_timeout_covers_name_resolution(client_for, autojump_clock):
    trio.socket.set_custom_hostname_resolver(Resolver(hang=True))
    with pytest.raises(UpstreamTimeout, match="longer than 7 s") as caught:
        await client_for("http://slow.test", connect_timeout=7.0).open(BODY)
    assert caught.value.error_type == "ConnectTimeout"
    assert trio.current_time() == pytest.approx(7.0, abs=0.1)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_connect_timeout_covers_tcp_and_tls(client_for, autojump_clock, scheme):
    before = open_sockets()
    async with full_server() if scheme == "http" else deaf_server() as base_url:
        listening = open_sockets()
        client = client_for(base_url.replace("http", scheme), connect_timeout=7.0)
        with pytest.raises(UpstreamTimeout):
            await client.open(BODY)
        assert open_sockets() == listening
    assert open_sockets() == before


async def cancel_when_blocked(function, *args):
    """Run `function` until it waits, cancel it, and return when it has left."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function, *args)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


async def test_cancelled_while_resolving(client_for):
    trio.socket.set_custom_hostname_resolver(Resolver(hang=True))
    client = client_for("http://slow.test")
    before = open_sockets()
    await cancel_when_blocked(client.open, BODY)
    assert (open_sockets(), client.open_connections) == (before, 0)


@pytest.mark.parametrize("phase", ["connecting", "tls", "sending"])
async def test_cancelled_before_the_request_is_out(client_for, phase):
    async with full_server() if phase == "connecting" else deaf_server() as base_url:
        client = client_for(base_url.replace("http", "https") if phase == "tls" else base_url)
        before = open_sockets()
        await cancel_when_blocked(client.open, HUGE)
        assert (open_sockets(), client.open_connections) == (before, 0)


@pytest.mark.parametrize("reused", [False, True])
async def test_cancelled_while_waiting_for_the_head(upstream, client_for, reused):
    client = client_for(upstream.base_url)
    if reused:
        await (await client.open(BODY)).read(LIMIT)
    upstream.script(HANG)
    await cancel_when_blocked(client.open, BODY)
    assert (client.open_connections, client.idle_connections) == (0, 0)
    await upstream.wait_open(0)


async def test_cancelled_inside_the_body(upstream, client_for):
    client = client_for(upstream.base_url)
    upstream.script(CHUNKED, chunk(b"abc"), HANG)
    response = await client.open(BODY)
    await cancel_when_blocked(response.read, LIMIT)
    assert (client.open_connections, client.idle_connections) == (0, 0)
    await upstream.wait_open(0)
    with pytest.raises(UpstreamBroken):
        await response.receive()


async def test_the_socket_is_closed_before_cancelled_leaves(upstream, client_for):
    client = client_for(upstream.base_url)
    upstream.script(CHUNKED, HANG)
    response = await client.open(BODY)
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await response.receive()
        finally:
            assert client.open_connections == 0


async def test_closed_by_another_task_while_receiving(upstream, client_for):
    client = client_for(upstream.base_url)
    upstream.script(CHUNKED, HANG)
    response = await client.open(BODY)

    async def receive():
        with pytest.raises(UpstreamBroken, match="on our side"):
            await response.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        response.close_nowait()
        assert client.open_connections == 0
    await upstream.wait_open(0)


@pytest.mark.parametrize("script", [[HANG], [CHUNKED, HANG]], ids=["head", "body"])
async def test_the_client_is_closed_while_somebody_waits(upstream, client_for, script):
    client = client_for(upstream.base_url)
    await (await client.open(BODY)).read(LIMIT)
    upstream.script(*script)

    async def ask():
        with pytest.raises(UpstreamBroken):
            await (await client.open(BODY)).read(LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await upstream.wait_request(2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.aclose()
    await upstream.wait_open(0)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
async def test_an_answer_that_comes_before_the_request_was_read(client_for, reset):
    async def refuse(stream):
        await stream.receive_some(1000)
        await stream.send_all(head(413, {"content-length": "9", "connection": "close"}) + b"too large")
        if not reset:
            await stream.send_eof()
            while await stream.receive_some(1 << 20):
                pass
        stream.socket.close()  # with unread bytes, the kernel sends RST

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        client = client_for(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        response = await client.open(HUGE)
        assert response.status == 413
        assert await response.read(LIMIT) == b"too large"
        assert client.open_connections == 0
        nursery.cancel_scope.cancel()


async def test_many_cancelled_streams_leave_nothing(upstream, client_for):
    client = client_for(upstream.base_url)
    upstream.default = [CHUNKED, chunk(b"abc"), HANG]
    before = open_sockets()

    async def one():
        await (await client.open(BODY)).read(LIMIT)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(one)
        await upstream.wait_request(50)
        nursery.cancel_scope.cancel()
    assert (client.open_connections, client.idle_connections) == (0, 0)
    await upstream.wait_open(0)
    assert open_sockets() <= before
    upstream.default = [whole(200, b"still fine")]
    assert await (await client.open(BODY)).read(LIMIT) == b"still fine"


async def test_a_broken_response_does_not_come_back_from_the_pool(upstream, client_for):
    client = client_for(upstream.base_url)
    upstream.script(CHUNKED, chunk(b"abc"), b"nonsense\r\n", HANG)
    with pytest.raises(UpstreamBroken):
        await (await client.open(BODY)).read(LIMIT)
    upstream.script(CHUNKED, chunk(b"good"), LAST_CHUNK)
    assert await (await client.open(BODY)).read(LIMIT) == b"good"
    assert upstream.connections == 2
