import json
from contextlib import suppress

import msgspec
import pytest
import trio
import trio.testing
from fakes import ws
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import openai_stream
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from shared import VERSION, events
from shared.config import Auth, Cors
from shared.messages import ActiveSessions, Happened, Listen
from worker import listeners
from worker import websocket as server_side
from worker.endpoints import events as endpoint
from worker.listeners import MAX_BYTES

SESSIONS = b'{"sessions": [{"id": "a"}]}'


def answer(question):
    """What the supervisor says."""
    return (200, SESSIONS) if question == ActiveSessions() else None


def recovered(name, at=1.0):
    return events.encode(events.ProviderRecovered(timestamp=at, provider=name))


def degraded(name):
    return events.encode(events.ProviderDegraded(timestamp=1.0, provider=name, errors=6, types={"ReadError": 6}))


@pytest.fixture(autouse=True)
def no_turns(monkeypatch):
    """Nobody waits long for his turn."""
    monkeypatch.setattr(listeners, "TURN", 0.001)


@pytest.fixture
async def gateway(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        gateway.answer = answer
        yield gateway


def happened(gateway, *payloads, lost=0):
    gateway.gateway.listeners.take(Happened(payloads, lost))


async def test_hello_comes_first_with_the_live_streams(gateway):
    async with ws.listen(gateway.port) as listener:
        hello = await listener.event()
        assert hello.pop("timestamp") > 1e9
        assert hello == {"type": "hello", "version": VERSION, "worker": 1, "sessions": json.loads(SESSIONS)}
        assert listener.headers["x-request-id"].startswith("req_")
        happened(gateway, recovered("one"), recovered("two"))
        assert [(await listener.event())["provider"] for _ in range(2)] == ["one", "two"]
        assert len(gateway.gateway.listeners) == 1
    await gateway.wait(lambda: not gateway.gateway.listeners)
    await gateway.wait(lambda: len(gateway.server.connections) == 0)


async def test_who_is_accepted_misses_nothing(gateway):
    """The supervisor knows of him by then; what happened before stands behind the snapshot."""
    async with trio.open_nursery() as nursery:
        gateway.answer = lambda question: None
        answered = trio.Event()

        async def listen():
            async with ws.listen(gateway.port) as listener:
                assert answered.is_set()
                assert (await listener.event())["type"] == "hello"
                assert (await listener.event())["provider"] == "early"

        nursery.start_soon(listen)
        await gateway.wait(lambda: gateway.asked == [ActiveSessions()])
        assert gateway.heard == [Listen(True)]
        happened(gateway, recovered("early"))
        answered.set()
        gateway.gateway.questions.supervisor_gone()


async def test_who_leaves_before_he_is_accepted(gateway):
    gateway.answer = lambda question: None
    client = await ws.connect(gateway.port)
    await client.send(Request(host="localhost", target="/ws"))
    await gateway.wait(lambda: gateway.asked == [ActiveSessions()])
    client.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    gateway.gateway.questions.supervisor_gone()
    await gateway.wait(lambda: not gateway.gateway.listeners)
    await gateway.wait(lambda: len(gateway.server.connections) == 0)
    assert gateway.heard == [Listen(True), Listen(False)]


async def test_without_a_supervisor_the_live_streams_are_not_known(gateway):
    gateway.gateway.questions.supervisor_gone()
    async with ws.listen(gateway.port) as listener:
        assert (await listener.event())["sessions"] is None


async def test_types(gateway):
    target = "/ws?types=provider_degraded,%20stream_end"
    async with ws.listen(gateway.port, target) as some, ws.listen(gateway.port) as all_:
        assert (await some.event())["type"] == "hello"
        await all_.event()
        happened(gateway, recovered("one"), degraded("two"), lost=3)
        happened(gateway, recovered("one"))
        happened(gateway, degraded("three"))
        told = [await some.event() for _ in range(3)]
        assert [(event["type"], event.get("provider"), event.get("count")) for event in told] == [
            ("dropped", None, 3),
            ("provider_degraded", "two", None),
            ("provider_degraded", "three", None),
        ]
        assert [(await all_.event())["type"] for _ in range(5)] == [
            "dropped",
            "provider_recovered",
            "provider_degraded",
            "provider_recovered",
            "provider_degraded",
        ]


async def refusal(gateway, target="/ws", host="localhost", **headers):
    client = await ws.connect(gateway.port, host=host)
    try:
        with pytest.raises(ws.RefusedError) as refused:
            await client.open(target, **headers)
        assert refused.value.headers["connection"] == "close"
        assert refused.value.headers["content-type"] == "application/json"
        assert refused.value.headers["x-request-id"]
        await client.wait_eof()
        return refused.value.status, refused.value.json()["error"]["message"]
    finally:
        client.close()


async def test_refusals_are_http(gateway):
    status, message = await refusal(gateway, "/ws?types=stream_end,stream_and")
    assert status == 400
    assert "'stream_and'" in message
    assert "stream_start" in message
    status, message = await refusal(gateway, "/nope")
    assert (status, "/nope" in message) == (404, True)
    status, message = await refusal(gateway, "/v1/models")
    assert (status, "/ws is one" in message) == (404, True)
    status, message = await refusal(gateway, host="evil.example")
    assert (status, "evil.example" in message) == (403, True)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:80", True),
        ("https://localhost", True),
        ("https://good.example", True),
        ("http://localhost:81", False),
        ("http://localhost.evil.example", False),
        ("https://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
async def test_only_pages_of_our_own_or_allowed_origins(upstream, origin, allowed):
    async with serve_gateway(make_config(upstream, cors=Cors(origins=("https://good.example",)))) as gateway:
        gateway.answer = answer
        if allowed:
            async with ws.listen(gateway.port, origin=origin) as listener:
                assert (await listener.event())["type"] == "hello"
        else:
            status, message = await refusal(gateway, origin=origin)
            assert status == 403
            assert "[cors] origins" in message


async def test_any_origin_if_configured(upstream):
    async with serve_gateway(make_config(upstream, cors=Cors(origins=("*",)))) as gateway:
        gateway.answer = answer
        async with ws.listen(gateway.port, origin="null") as listener:
            assert (await listener.event())["type"] == "hello"


async def test_keys(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("a secret",)))) as gateway:
        gateway.answer = answer
        for target, headers in (
            ("/ws", {"authorization": "Bearer a secret"}),
            ("/ws", {"x_api_key": "a secret"}),
            ("/ws?key=a%20secret", {}),
            ("/ws?types=progress&key=a+secret", {}),
        ):
            async with ws.listen(gateway.port, target, **headers) as listener:
                assert (await listener.event())["type"] == "hello"
        for target in ("/ws", "/ws?key=", "/ws?key=another"):
            status, message = await refusal(gateway, target, host="any.example")
            assert (status, "?key=KEY" in message) == (401, True)
        # What stands in an address is logged by many; for HTTP there are headers.
        client = await gateway.connect()
        head, _ = await client.get("/v1/models?key=a%20secret")
        assert head.status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"upgrade": "h2c", "connection": "upgrade"},
        {"upgrade": "websocket", "connection": "upgrade"},
        {"upgrade": "websocket", "connection": "upgrade", "sec_websocket_key": "x" * 22 + "=="},
        {
            "upgrade": "websocket",
            "connection": "upgrade",
            "sec_websocket_key": "x" * 22 + "==",
            "sec_websocket_version": "8",
        },
        {"upgrade": "websocket", "sec_websocket_key": "x" * 22 + "==", "sec_websocket_version": "13"},
    ],
)
async def test_what_is_no_handshake_is_http(gateway, headers):
    client = await gateway.connect()
    head, body = await client.get("/ws", **headers)
    assert (head.status, head.headers["upgrade"], head.headers["sec-websocket-version"]) == (426, "websocket", "13")
    assert "WebSocket" in json.loads(body)["error"]["message"]
    head, _ = await client.get("/health", **headers)
    assert head.status == 200


async def test_a_method_that_never_is_one(gateway):
    client = await gateway.connect()
    head, _ = await client.get("/ws", "POST", upgrade="websocket", connection="upgrade", content_length="0")
    assert (head.status, head.headers["allow"]) == (405, "GET")


# RFC 6455


async def test_ping_is_answered(gateway):
    async with ws.listen(gateway.port) as listener:
        await listener.event()
        await listener.send(Ping(b"abc"))
        assert await listener.next() == Pong(b"abc")


async def test_close_is_answered_with_its_code(gateway):
    for code in (1000, 1001, 4321):
        async with ws.listen(gateway.port) as listener:
            await listener.event()
            await listener.send(CloseConnection(code, "bye"))
            assert await listener.wait_close() == CloseConnection(code, "bye")
            await listener.wait_eof()
    async with ws.listen(gateway.port) as listener:
        await listener.event()
        await listener.send_raw(b"\x88\x80\0\0\0\0")  # without a code
        assert (await listener.wait_close()).code == 1005
        await listener.wait_eof()
    await gateway.wait(lambda: not gateway.gateway.listeners)


async def test_clients_may_say_something_nobody_asked_for(gateway):
    async with ws.listen(gateway.port) as listener:
        await listener.event()
        for _ in range(100):
            await listener.send(TextMessage("hello", message_finished=False))
            await listener.send(Ping())
            await listener.send(TextMessage("there"))
            await listener.send(BytesMessage(b"\0"))
        for _ in range(100):
            assert await listener.next() == Pong()
        happened(gateway, recovered("one"))
        assert (await listener.event())["provider"] == "one"


def masked(first, payload=b"", length=None):
    """A frame of a client's, with a mask of zeros."""
    size = len(payload) if length is None else length
    head = bytes((first, 0x80 | size)) if size < 126 else bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # without a mask
        (masked(0x83, b"x"), 1002),  # an opcode that there is not
        (masked(0xC1, b"x"), 1002),  # compressed, as nobody agreed on
        (masked(0x80, b"x"), 1002),  # a continuation of nothing
        (masked(0x01, b"x") + masked(0x81, b"y"), 1002),
        (masked(0x09, b"x"), 1002),  # a fragment of a ping
        (masked(0x89, b"x" * 126), 1002),
        (masked(0x88, b"x"), 1002),
        (masked(0x88, b"\x03\xed"), 1002),  # 1005 must not be sent
        (masked(0x81, b"\xff"), 1007),
        (masked(0x01, b"\xe2\x82") + masked(0x80, b"x"), 1007),
        (masked(0x88, b"\x03\xe8\xff"), 1007),
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (b"\xff" * 10, 1002),
    ],
)
async def test_garbage_is_told_why(gateway, monkeypatch, data, code):
    monkeypatch.setattr(server_side, "CLOSE_TIMEOUT", 0.02)
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        async with ws.listen(gateway.port) as listener:
            await listener.event()
            with suppress(trio.BrokenResourceError):  # the first bytes may be enough to be sent away
                for piece in pieces:
                    await listener.send_raw(piece)
            assert (await listener.wait_close()).code == code
            await listener.wait_eof()
        await gateway.wait(lambda: not gateway.server.connections)


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
async def test_a_message_without_an_end(gateway, kind):
    data = ("x" if kind is TextMessage else b"x") * 8192
    async with ws.listen(gateway.port) as listener:
        await listener.event()
        for _ in range(server_side.MAX_MESSAGE_CHARS // 8192 + 20):
            await listener.send(kind(data, message_finished=False))
        assert (await listener.wait_close()).code == 1009
        await listener.wait_eof()


async def test_bytes_before_the_answer(gateway):
    client = await ws.connect(gateway.port)
    try:
        key = b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        await client.send_raw(
            b"GET /ws HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n" + key + masked(0x89)
        )
        assert await client.stream.receive_some(1000) == b""
    finally:
        client.close()
    await gateway.wait(lambda: not gateway.server.connections)
    assert not gateway.gateway.listeners


async def test_fragments_of_a_handshake(gateway):
    client = await ws.connect(gateway.port)
    try:
        request = client.ws.send(ws.Request(host="localhost", target="/ws"))
        for at in range(len(request)):
            await client.send_raw(request[at : at + 1])
        assert isinstance(await client.next(), ws.AcceptConnection)
        assert (await client.event())["type"] == "hello"
    finally:
        client.close()


# Those who don't listen


async def test_a_listener_that_stops_reading_is_told_what_it_missed(gateway):
    async with ws.listen(gateway.port, receive_buffer_bytes=4096) as slow, ws.listen(gateway.port) as quick:
        await slow.event()
        await quick.event()
        payload = events.encode(events.ConfigReloaded(timestamp=1.0, source="x" * 4000, ok=True))
        sent = 0
        while sent * len(payload) < 2 * MAX_BYTES:
            happened(gateway, *[payload] * 10)
            sent += 10
            for _ in range(10):
                assert (await quick.event())["type"] == "config_reloaded"
        got = lost = 0
        happened(gateway, recovered("last"))
        while True:
            event = await slow.event()
            if event["type"] == "dropped":
                assert lost == 0
                lost = event["count"]
                break
            assert event["type"] == "config_reloaded"
            got += 1
        assert got + lost == sent + 1
        happened(gateway, recovered("next"))
        assert (await slow.event())["provider"] == "next"


async def test_many_listeners_some_of_whom_do_not_read(gateway, upstream):
    """What waits for those who don't read is bounded, and the same bytes for all of them."""
    payload = events.encode(events.ConfigReloaded(timestamp=1.0, source="x" * 4000, ok=True))
    async with trio.open_nursery() as nursery:
        heard = []

        async def listen(reads):
            async with ws.listen(gateway.port, receive_buffer_bytes=4096) as listener:
                await listener.event()
                heard.append(0)
                number = len(heard) - 1
                while reads:
                    event = await listener.event()
                    heard[number] += event.get("count", 1)
                await trio.sleep_forever()

        for number in range(60):
            nursery.start_soon(listen, number >= 10)
        await gateway.wait(lambda: len(heard) == 60)
        upstream.script(*openai_stream("hi"))
        client = await gateway.connect()
        await client.ask()
        rounds = MAX_BYTES // len(payload) // 10 + 20
        for _ in range(rounds):
            happened(gateway, *[payload] * 10)
            await trio.lowlevel.checkpoint()
        head, body = await client.answer()
        assert (head.status, b"[DONE]" in body) == (200, True)
        await gateway.wait(lambda: sum(count == rounds * 10 for count in heard) == 50)
        stuck = [listener for listener in gateway.gateway.listeners if listener.waiting_bytes]
        assert len(stuck) == 10
        assert all(0 < listener.waiting_bytes <= MAX_BYTES for listener in stuck)
        nursery.cancel_scope.cancel()


async def test_one_who_takes_nothing_is_cut_off(upstream):
    config = make_config(upstream, server={"send_timeout": 0.1})
    async with serve_gateway(config) as gateway:
        gateway.answer = answer
        async with ws.listen(gateway.port, receive_buffer_bytes=4096) as listener:
            await listener.event()
            payload = recovered("x" * 8000)
            for _ in range(60):
                happened(gateway, *[payload] * 2)
            await gateway.wait(lambda: not gateway.gateway.listeners)
            await gateway.wait(lambda: not gateway.server.connections)


async def test_one_who_does_not_answer_pings_is_cut_off(upstream):
    config = make_config(upstream, server={"send_timeout": 0.2}, streaming={"ping_interval": 0.05})
    async with serve_gateway(config) as gateway:
        gateway.answer = answer
        async with ws.listen(gateway.port) as silent, ws.listen(gateway.port) as alive:
            await alive.event()
            with trio.move_on_after(0.7):
                await alive.event()
            assert alive.pings >= 5
            await silent.wait_eof()
            happened(gateway, recovered("one"))
            assert (await alive.event())["provider"] == "one"


async def test_no_pings_if_they_are_off(upstream):
    async with serve_gateway(make_config(upstream, streaming={"ping_interval": 0})) as gateway:
        gateway.answer = answer
        async with ws.listen(gateway.port) as listener:
            await listener.event()
            with trio.move_on_after(0.1):
                await listener.event()
            assert listener.pings == 0


# Leaving


@pytest.mark.parametrize("code", [1001, 1012])
async def test_all_are_sent_away(gateway, code):
    async with ws.listen(gateway.port) as polite, ws.listen(gateway.port) as silent:
        await polite.event()
        await silent.event()
        happened(gateway, recovered("one"))
        await polite.event()
        gateway.gateway.listeners.close(code)
        assert (await polite.wait_close()).code == code
        await polite.wait_eof()
        await gateway.wait(lambda: not gateway.gateway.listeners)
        await gateway.wait(lambda: not gateway.server.connections)  # not even the one who says nothing


async def test_a_worker_that_leaves_sends_away_at_once(gateway):
    gateway.gateway.draining = True
    async with ws.listen(gateway.port) as listener:
        assert (await listener.event())["type"] == "hello"
        assert (await listener.wait_close()).code == 1012
        await listener.wait_eof()


async def test_who_is_sent_away_but_does_not_read_is_cut_off(gateway):
    async with ws.listen(gateway.port, receive_buffer_bytes=4096) as listener:
        await listener.event()
        for _ in range(60):
            happened(gateway, recovered("x" * 8000), recovered("x" * 8000))
        await gateway.wait(lambda: any(c.sending_since is not None for c in gateway.server.connections))
        gateway.gateway.listeners.close(1001)
        await gateway.wait(lambda: not gateway.server.connections)


async def test_a_listener_that_vanishes(gateway):
    for _ in range(20):
        async with ws.listen(gateway.port) as listener:
            happened(gateway, recovered("one"))
            listener.close()
    await gateway.wait(lambda: not gateway.gateway.listeners)
    await gateway.wait(lambda: not gateway.server.connections)


def test_types_are_understood():
    assert endpoint.wanted_types(None) is None
    assert endpoint.wanted_types("") == frozenset()
    assert endpoint.wanted_types("stream_end,progress, ") == {"stream_end", "progress"}


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 1_000_000])
def test_frames(length):
    frame = server_side.text_frame(b"x" * length)
    client = server_side.Connection(server_side.ConnectionType.CLIENT)
    client.receive_data(frame)
    assert "".join(event.data for event in client.events()) == "x" * length
    assert msgspec.json.decode(recovered("a"))["type"] == "provider_recovered"
