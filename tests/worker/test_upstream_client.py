import httpx
import pytest
import trio
from fakes.upstream import FIN, HANG, LAST_CHUNK, chunk, head, json_response, openai_stream, whole

from shared import VERSION
from shared.config import Provider
from shared.errors import UpstreamBroken
from worker.upstream.client import UpstreamClient
from worker.upstream.transport import Transport

BODY = b'{"model": "m"}'
LIMIT = 1 << 20


@pytest.fixture
async def client_for():
    """Makes clients, and closes them at the end."""
    clients = []

    def make(upstream, key=None, read_size=65536, **provider):
        provider = {"name": "fake", "base_url": upstream.base_url, **provider}
        clients.append(UpstreamClient(Provider(**provider), key, read_size=read_size))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def test_an_openai_request(upstream, client_for):
    client = client_for(upstream, key="sk-1")
    response = await client.open(BODY)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert b"chat.completion" in await response.read(LIMIT)
    request = upstream.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions", BODY)
    assert request.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-1",
        "content-length": str(len(BODY)),
        "content-type": "application/json",
        "user-agent": f"kimi-proxy/{VERSION}",
    }


async def test_an_anthropic_request(upstream, client_for):
    client = client_for(upstream, key="sk-2", dialect="anthropic")
    await (await client.open(BODY)).read(LIMIT)
    request = upstream.requests[0]
    assert request.path == "/v1/messages"
    assert request.headers["x-api-key"] == "sk-2"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers


async def test_headers_of_the_call_and_of_the_configuration(upstream, client_for):
    configured = {"X-Title": "kimi", "Authorization": "Basic abc", "Anthropic-Beta": "ours"}
    client = client_for(upstream, key="sk-2", dialect="anthropic", headers=configured)
    forwarded = {"Anthropic-Version": "2026-10-21", "anthropic-beta": "theirs", "Accept-Encoding": "gzip", "x-n": "ü"}
    await (await client.open(BODY, headers=forwarded)).read(LIMIT)
    await (await client.open(BODY)).read(LIMIT)
    first, second = (request.headers for request in upstream.requests)
    assert first["anthropic-version"] == "2026-10-21"
    assert first["anthropic-beta"] == "ours"
    assert first["accept-encoding"] == "identity"
    assert first["authorization"] == "Basic abc"
    assert first["x-title"] == "kimi"
    assert first["x-n"] == "ü"
    assert second["anthropic-version"] == "2023-06-01"
    assert "x-n" not in second


async def test_no_key_no_header(upstream, client_for):
    await (await client_for(upstream).open(BODY)).read(LIMIT)
    assert "authorization" not in upstream.requests[0].headers


async def test_a_query_in_the_base_url_is_kept(upstream, client_for):
    client = client_for(upstream, base_url=f"{upstream.origin}/openai/?api-version=1")
    await (await client.open(BODY)).read(LIMIT)
    assert upstream.requests[0].path == "/openai/chat/completions?api-version=1"


async def test_one_read_of_the_socket_is_one_piece(upstream, client_for):
    steps = [trio.Event() for _ in range(3)]
    upstream.script(
        head(chunked=True), steps[0], chunk(b"one") + chunk(b"two"), steps[1], chunk(b"three")[:4], steps[2],
        chunk(b"three")[4:] + LAST_CHUNK,
    )  # fmt: skip
    response = await client_for(upstream).open(BODY)
    pieces = []
    for step in steps:
        step.set()
        pieces.append(await response.receive())
    assert pieces == [b"onetwo", b"t", b"hree"]
    assert await response.receive() == b""
    assert await response.receive() == b""


async def test_reads_are_bounded(upstream, client_for):
    upstream.script(whole(200, b"x" * 10_000))
    response = await client_for(upstream, read_size=1000).open(BODY)
    sizes = []
    while data := await response.receive():
        sizes.append(len(data))
    assert sum(sizes) == 10_000
    assert max(sizes) <= 1000


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
async def test_bodies_of_any_size_go_up_and_come_down(upstream, client_for, size):
    sent = bytes(range(256)) * (size // 256 + 1)
    upstream.script(head(chunked=True), chunk(sent), LAST_CHUNK)
    response = await client_for(upstream).open(sent)
    assert await response.read(len(sent)) == sent
    assert upstream.requests[0].body == sent


async def test_byte_by_byte(upstream, client_for):
    data = b"".join(openai_stream("hello", "wörld"))
    upstream.script(*(data[i : i + 1] for i in range(len(data))))
    upstream.script(data)
    client = client_for(upstream)
    assert await (await client.open(BODY)).read(LIMIT) == await (await client.open(BODY)).read(LIMIT)
    assert upstream.connections == 1


async def test_connections_are_reused(upstream, client_for):
    client = client_for(upstream)
    for _ in range(3):
        await (await client.open(BODY)).read(LIMIT)
        assert (client.open_connections, client.idle_connections) == (1, 1)
    assert upstream.connections == 1
    await client.aclose()
    assert (client.open_connections, client.idle_connections) == (0, 0)
    await upstream.wait_open(0)


async def test_the_connection_is_free_as_soon_as_the_last_byte_was_seen(upstream, client_for):
    client = client_for(upstream)
    upstream.script(whole(200, b"all at once"))
    response = await client.open(BODY)
    assert client.idle_connections == 1
    await (await client.open(BODY)).read(LIMIT)
    response.close_nowait()  # nothing to close any more: the connection serves others
    assert client.idle_connections == 1
    assert await response.receive() == b"all at once"
    assert await response.receive() == b""
    assert upstream.connections == 1


async def test_parallel_requests_have_a_connection_each(upstream, client_for):
    client = client_for(upstream)
    for _ in range(20):
        upstream.script(head(chunked=True), HANG)
    responses = [await client.open(BODY) for _ in range(20)]
    assert client.open_connections == upstream.open == 20
    for response in responses:
        response.close_nowait()
        response.close_nowait()
    assert client.open_connections == 0
    await upstream.wait_open(0)


@pytest.mark.parametrize(
    "response",
    [
        head(200, {"connection": "close", "content-length": "5"}) + b"hello",
        b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        whole(200, b"hello") + b"stray",
    ],
    ids=["close", "1.0", "stray bytes"],
)
async def test_a_connection_that_is_not_reusable_is_closed(upstream, client_for, response):
    client = client_for(upstream)
    upstream.script(response)
    assert await (await client.open(BODY)).read(LIMIT) == b"hello"
    assert client.open_connections == 0
    await upstream.wait_open(0)


async def test_a_body_that_ends_with_the_connection(upstream, client_for):
    upstream.script(b"HTTP/1.1 200 OK\r\n\r\nhello ", b"world", FIN)
    client = client_for(upstream)
    assert await (await client.open(BODY)).read(LIMIT) == b"hello world"
    assert client.open_connections == 0


async def test_informational_responses_are_skipped(upstream, client_for):
    upstream.script(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", whole(201, b"x"))
    response = await client_for(upstream).open(BODY)
    assert response.status == 201
    assert "link" not in response.headers


@pytest.mark.parametrize("status", [302, 400, 429, 500, 529])
async def test_every_status_is_reported_as_it_is(upstream, client_for, status):
    upstream.script(json_response({"error": {}}, status, {"location": "/elsewhere", "retry-after": "3"}))
    response = await client_for(upstream).open(BODY)
    assert (response.status, response.headers["Retry-After"]) == (status, "3")
    assert await response.read(LIMIT) == b'{"error": {}}'
    assert len(upstream.requests) == 1


async def test_read_is_bounded(upstream, client_for):
    client = client_for(upstream)
    upstream.script(whole(200, b"x" * 100))
    assert len(await (await client.open(BODY)).read(100)) == 100
    upstream.script(head(chunked=True), chunk(b"x" * 101), HANG)
    with pytest.raises(UpstreamBroken, match="larger than 100 bytes"):
        await (await client.open(BODY)).read(100)
    await upstream.requests[-1].closed.wait()
    assert client.open_connections == 0


async def test_a_stale_connection_is_not_used(upstream, client_for):
    client = client_for(upstream)
    upstream.script(whole(200, b"one"), FIN)
    upstream.script(whole(200, b"two"))
    await (await client.open(BODY)).read(LIMIT)
    await upstream.wait_open(0)
    assert client.idle_connections == 1
    assert await (await client.open(BODY)).read(LIMIT) == b"two"
    assert len(upstream.requests) == 2
    assert client.open_connections == 1


async def test_an_idle_connection_that_speaks_is_not_used(upstream, client_for):
    client = client_for(upstream)
    spoken = trio.Event()

    async def speak(request, connection):
        await connection.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        spoken.set()

    go = trio.Event()
    upstream.script(whole(200, b"one"), go, speak)
    upstream.script(whole(200, b"two"))
    await (await client.open(BODY)).read(LIMIT)
    go.set()
    await spoken.wait()
    assert await (await client.open(BODY)).read(LIMIT) == b"two"
    assert upstream.connections == 2


@pytest.mark.parametrize("end", ["fin", "reset"])
async def test_a_reused_connection_that_dies_without_a_byte_is_replaced_once(upstream, client_for, end):
    async def die(request, connection):
        connection.reset() if end == "reset" else connection.socket.close()

    client = client_for(upstream)
    await (await client.open(BODY)).read(LIMIT)
    upstream.script(die)
    upstream.script(whole(200, b"second"))
    assert await (await client.open(BODY)).read(LIMIT) == b"second"
    upstream.script(die)
    upstream.script(die)
    with pytest.raises(UpstreamBroken):
        await client.open(BODY)
    assert len(upstream.requests) == 5
    assert client.open_connections == 0


async def test_a_reused_connection_that_dies_inside_the_head_is_not_replaced(upstream, client_for):
    client = client_for(upstream)
    await (await client.open(BODY)).read(LIMIT)
    upstream.script(b"HTTP/1.1 2", FIN)
    with pytest.raises(UpstreamBroken):
        await client.open(BODY)
    assert len(upstream.requests) == 2


async def test_idle_connections_are_bounded_and_expire(upstream, mock_clock):
    transport = Transport(max_idle=2, idle_expiry=30.0)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        go = trio.Event()
        for _ in range(4):
            upstream.script(head(chunked=True), go, LAST_CHUNK)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client.post, upstream.base_url)
            await upstream.wait_request(4)
            assert transport.open == 4
            go.set()
        assert transport.idle == transport.open == 2
        await upstream.wait_open(2)
        mock_clock.jump(31.0)
        await client.post(upstream.base_url)
        assert transport.idle == transport.open == 1
        await upstream.wait_open(1)
    assert transport.open == 0


async def test_the_transport_serves_a_plain_httpx_client(upstream):
    async with httpx.AsyncClient(transport=Transport(), trust_env=False) as client:
        upstream.script(*openai_stream("a", "b"))
        async with client.stream("POST", upstream.base_url, json={"a": 1}) as response:
            assert b"".join([data async for data in response.aiter_raw()]).endswith(b"data: [DONE]\n\n")
        assert upstream.requests[0].json == {"a": 1}
