import msgspec
import pytest
import trio
from fakes.upstream import LAST_CHUNK, chunk, head

from shared.config import Config, Provider, Streaming
from shared.errors import UpstreamBroken
from worker.upstream.clients import Clients

BODY = b'{"model": "m"}'
LIMIT = 1 << 20


@pytest.fixture
async def clients(upstream):
    clients = Clients()
    clients.reconfigure(config_for(upstream), {"a": "key-a"})
    yield clients
    await clients.aclose()
    assert clients.open_connections == 0


def config_for(upstream, **changed):
    a = Provider(name="a", base_url=upstream.base_url)
    b = Provider(name="b", base_url=upstream.base_url)
    return Config(providers={"a": msgspec.structs.replace(a, **changed), "b": b})


async def warm(clients):
    for name in "ab":
        await (await clients.get(name).open(BODY)).read(LIMIT)
    assert clients.open_connections == 2


async def test_unknown_names(clients):
    with pytest.raises(KeyError):
        clients.get("c")


async def test_the_unchanged_keep_their_connections(upstream, clients):
    await warm(clients)
    before = [clients.get(name) for name in "ab"]
    clients.reconfigure(config_for(upstream), {"a": "key-a"})
    assert [clients.get(name) for name in "ab"] == before
    assert clients.open_connections == 2


@pytest.mark.parametrize("change", ["provider", "key", "removal", "read size"])
async def test_the_changed_are_replaced_and_their_idle_connections_closed(upstream, clients, change):
    await warm(clients)
    old_a, old_b = clients.get("a"), clients.get("b")
    config, keys = config_for(upstream), {"a": "key-a"}
    if change == "provider":
        config = config_for(upstream, headers={"x-new": "1"})
    elif change == "key":
        keys = {"a": "key-new"}
    elif change == "read size":
        config = msgspec.structs.replace(config, streaming=Streaming(buffer_size=1024))
    else:
        config = msgspec.structs.replace(config, providers={"b": config.providers["b"]})
    clients.reconfigure(config, keys)
    assert old_a.open_connections == 0
    if change == "read size":
        assert old_b.open_connections == 0
    else:
        assert clients.get("b") is old_b
        await upstream.wait_open(1)
    if change == "removal":
        with pytest.raises(KeyError):
            clients.get("a")
    else:
        await (await clients.get("a").open(BODY)).read(LIMIT)
        sent = upstream.requests[-1].headers
        assert sent["authorization"] == f"Bearer {keys['a']}"
        assert ("x-new" in sent) == (change == "provider")


async def test_streams_in_flight_go_on_and_their_connections_close_at_the_end(upstream, clients):
    go = trio.Event()
    upstream.script(head(chunked=True), chunk("one"), go, chunk("two"), LAST_CHUNK)
    response = await clients.get("a").open(BODY)
    assert await response.receive() == b"one"
    clients.reconfigure(config_for(upstream, max_retries=0), {"a": "key-a"})
    assert clients.open_connections == 1
    go.set()
    assert await response.read(LIMIT) == b"two"
    assert clients.open_connections == 0
    await upstream.wait_open(0)


async def test_aclose_ends_also_the_streams_of_retired_clients(upstream, clients):
    upstream.script(head(chunked=True), chunk("one"), trio.Event())
    response = await clients.get("a").open(BODY)
    await response.receive()
    clients.reconfigure(Config(), {})
    await clients.aclose()
    with pytest.raises(UpstreamBroken):
        await response.receive()
    await upstream.wait_open(0)
