"""`WS /ws/stream`: runs one after another, their cancellation, bad messages, and clients that leave or don't read."""

import json
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
import trio
from fakes import ws
from fakes.gateway import make_config, serve_gateway
from fakes.run import SOCKET, Memory, agent_config, tool_call
from fakes.upstream import HANG, chunk, head, openai_chunk, openai_stream
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from shared.config import Auth, Cors, Sessions
from worker.endpoints.agent_socket import MAX_MESSAGE_CHARS
from worker.listeners import SERVICE_RESTART

CANCEL = {"type": "cancel"}
CANCELLED = {"type": "done", "error": "stream_cancelled"}
THINKING = {"type": "status", "status": "thinking"}


@pytest.fixture
async def gateway(upstream, tmp_path):
    async with serve_gateway(agent_config(tmp_path, upstream)) as gateway:
        gateway.answer = Memory()
        yield gateway


@asynccontextmanager
async def talking(gateway, target=SOCKET, **how):
    async with ws.listen(gateway.port, target, **how) as client:
        yield client


async def say(client, value):
    text = value if isinstance(value, str) else json.dumps(value)
    await client.send(TextMessage(text))


async def run(client, text="hi", **fields):
    """All events of one run."""
    await say(client, {"message": text, **fields})
    return await rest(client)


async def rest(client):
    events = [await client.event()]
    while events[-1]["type"] not in ("done", "error"):
        events.append(await client.event())
    return events


def hanging(upstream, *words):
    """A turn that stops in the middle of its answer."""
    chunks = [chunk(openai_chunk({"content": word})) for word in words]
    upstream.script(head(200, {"content-type": "text/event-stream"}, chunked=True), *chunks, HANG)


async def test_runs_one_after_another(gateway, upstream):
    async with talking(gateway) as client:
        for text in ("one", "two"):
            upstream.script(*openai_stream("Hello ", f"{text}."))
            assert await run(client, text) == [
                THINKING,
                {"type": "delta", "content": "Hello "},
                {"type": "delta", "content": f"{text}."},
                {"type": "done"},
            ]
        assert [(await upstream.wait_request(n)).json["messages"][-1]["content"] for n in (1, 2)] == ["one", "two"]
        await gateway.wait_record(2)
        assert [record.status for record in gateway.records] == ["completed"] * 2
        traces = [record.start.trace for record in gateway.records]
        assert traces == [f"{client.headers['x-request-id']}.{number}" for number in (1, 2)]


async def test_a_run_with_a_tool_says_what_it_says_over_sse(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("Nothing."))
    async with talking(gateway) as client:
        events = await run(client)
        assert [event["type"] for event in events] == ["status", "status", "tool", "tool", "status", "delta", "done"]


@pytest.mark.parametrize("format", ["openai", "token", "t"])
async def test_formats(gateway, upstream, format):
    upstream.script(*openai_stream("Hello."))
    async with talking(gateway, f"{SOCKET}?format={format}") as client:
        await say(client, {"message": "hi"})
        if format != "openai":
            assert [await client.event() for _ in range(2)] == [{format: "Hello."}, {format: "", "type": "done"}]
            return
        assert [(await client.event())["choices"][0]["finish_reason"] for _ in range(3)] == [None, None, "stop"]
        last = await client.next()
        assert isinstance(last, TextMessage)
        assert last.data == "[DONE]"


async def test_cancel_stops_the_run_and_the_next_one_goes_on(gateway, upstream):
    hanging(upstream, "Well")
    async with talking(gateway) as client:
        await say(client, CANCEL)  # there is nothing yet: nothing happens
        await say(client, {"type": "message", "message": "hi"})
        await client.wait("delta")
        await say(client, CANCEL)
        assert await client.event() == CANCELLED
        request = await upstream.wait_request()
        await request.closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_cancel")
        assert record.cancel_latency < 0.5
        await say(client, CANCEL)  # late
        upstream.script(*openai_stream("Hello."))
        assert (await run(client))[-1] == {"type": "done"}


async def test_cancel_before_the_upstream_has_answered(gateway, upstream):
    upstream.script(HANG)
    async with talking(gateway) as client:
        await say(client, {"message": "hi"})
        assert await client.event() == THINKING
        await say(client, CANCEL)
        assert await client.event() == CANCELLED


async def test_message_and_cancel_in_one_breath(gateway, upstream):
    upstream.script(HANG)
    async with talking(gateway) as client:
        both = (TextMessage('{"message": "hi"}'), TextMessage('{"type": "cancel"}'))
        await client.send_raw(b"".join(map(client.ws.send, both)))
        assert (await rest(client))[-1] == CANCELLED


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ("hello", None),
        ("[]", None),
        ("{}", "message"),
        ({"message": ""}, "message"),
        ({"message": ["hi"]}, "message"),
        ({"message": "hi", "session_id": 1}, "session_id"),
        ({"message": "hi", "model": "nobody/nothing"}, "model"),
        ({"type": "stop"}, "type"),
        ({"type": 1, "message": "hi"}, "type"),
    ],
)
async def test_bad_messages_get_an_error(gateway, upstream, said, param):
    async with talking(gateway) as client:
        await say(client, said)
        event = await client.event()
        assert (event["type"], event["param"]) == ("error", param)
        assert event["error"]
        upstream.script(*openai_stream("Hello."))
        assert (await run(client))[-1] == {"type": "done"}


async def test_binary_is_a_bad_message(gateway):
    async with talking(gateway) as client:
        await client.send(BytesMessage(b'{"message": "hi"}'))
        assert (await client.event())["type"] == "error"


async def test_a_large_message_is_fine_and_a_huge_one_is_not(gateway, upstream):
    upstream.script(*openai_stream("Hello."))
    async with talking(gateway) as client:
        assert (await run(client, "x" * 200_000))[-1] == {"type": "done"}
        with suppress(trio.BrokenResourceError):  # it may be sent away before it has said all of it
            for _ in range(MAX_MESSAGE_CHARS // 8192 + 20):
                await client.send(TextMessage("x" * 8192, message_finished=False))
        assert (await client.wait_close()).code == 1009


async def test_another_message_is_refused_while_a_run_is_under_way(gateway, upstream):
    hanging(upstream, "Well")
    async with talking(gateway) as client:
        await say(client, {"message": "hi", "session_id": "a"})
        await client.wait("delta")
        for fields in ({}, {"session_id": "b"}):
            await say(client, {"message": "more", **fields})
            event = await client.event()
            assert (event["type"], event["code"]) == ("error", "run_in_progress")
        await say(client, "nonsense")
        assert (await client.event())["type"] == "error"
        await say(client, CANCEL)
        assert await client.event() == CANCELLED


async def test_a_message_of_the_same_session_takes_the_run_s_place(gateway, upstream):
    hanging(upstream, "Well")
    upstream.script(*openai_stream("Hello."))
    async with talking(gateway) as client:
        await say(client, {"message": "hi", "session_id": "a"})
        await client.wait("delta")
        await say(client, {"message": "no, this", "session_id": "a"})
        assert await client.event() == CANCELLED
        assert [event["type"] for event in await rest(client)] == ["status", "delta", "done"]


async def test_it_takes_no_place_where_sessions_run_side_by_side(upstream, tmp_path):
    config = agent_config(tmp_path, upstream, sessions=Sessions(on_new_stream="allow"))
    async with serve_gateway(config) as gateway:
        gateway.answer = Memory()
        hanging(upstream, "Well")
        async with talking(gateway) as client:
            await say(client, {"message": "hi", "session_id": "a"})
            await client.wait("delta")
            await say(client, {"message": "no, this", "session_id": "a"})
            assert (await client.event())["code"] == "run_in_progress"


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_leaves_cancels(gateway, upstream, politely):
    hanging(upstream, "Well")
    async with talking(gateway) as client:
        await say(client, {"message": "hi"})
        await client.wait("delta")
        if politely:
            await client.send(CloseConnection(1000))
            await client.wait_eof()
    request = await upstream.wait_request()
    await request.closed.wait()
    record = await gateway.wait_record()
    assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
    assert record.cancel_latency < 0.5
    await gateway.wait(lambda: not gateway.server.connections)


async def test_an_admin_cancels(gateway, upstream):
    hanging(upstream, "Well")
    async with talking(gateway) as client:
        await say(client, {"message": "hi"})
        await client.wait("delta")
        gateway.gateway.sessions.cancel(gateway.started[0].id, "admin")
        assert await client.event() == CANCELLED
        assert (await gateway.wait_record()).error_type == "admin"


async def test_a_client_that_reads_nothing_is_cut_off(upstream, tmp_path):
    config = agent_config(tmp_path, upstream, server={"send_timeout": 0.3})
    async with serve_gateway(config) as gateway:
        words = chunk(openai_chunk({"content": "x" * 60_000}))
        upstream.script(head(200, {"content-type": "text/event-stream"}, chunked=True), *[words] * 200, HANG)
        async with talking(gateway, receive_buffer_bytes=4096) as client:
            await say(client, {"message": "hi"})
            record = await gateway.wait_record()
            assert (record.status, record.error_type) == ("cancelled", "timeout")
            await gateway.wait(lambda: not gateway.server.connections)


async def test_pings_find_a_client_that_is_dead(upstream, tmp_path):
    config = agent_config(tmp_path, upstream, streaming={"ping_interval": 0.05}, server={"send_timeout": 0.2})
    async with (
        serve_gateway(config) as gateway,
        talking(gateway) as alive,
        talking(gateway),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(alive.event)  # answers the pings
        await gateway.wait(lambda: len(gateway.server.connections) == 1)
        assert alive.pings
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("busy", [False, True])
async def test_it_is_sent_away_between_its_runs(gateway, upstream, busy):
    async with talking(gateway) as client:
        if busy:
            more = trio.Event()
            steps = openai_stream("Well, ", "yes.")
            upstream.script(*steps[:3], more, *steps[3:])
            await say(client, {"message": "hi"})
            await client.wait("delta")
        else:
            upstream.script(*openai_stream("Hello."))
            await run(client)
        gateway.gateway.send_away(SERVICE_RESTART)
        if busy:
            await say(client, {"message": "more"})
            assert (await client.event())["code"] == "connect_again"
            more.set()
            assert (await rest(client))[-1] == {"type": "done"}
        assert (await client.wait_close()).code == SERVICE_RESTART
    await gateway.wait(lambda: not gateway.server.connections)


async def test_who_comes_when_the_worker_leaves_is_sent_away(gateway):
    gateway.gateway.draining = True
    async with talking(gateway) as client:
        assert (await client.wait_close()).code == SERVICE_RESTART


async def refusal(gateway, target=SOCKET, **headers):
    client = await ws.connect(gateway.port)
    try:
        with pytest.raises(ws.RefusedError) as refused:
            await client.open(target, **headers)
        return refused.value.status, refused.value.json()["error"]
    finally:
        client.close()


async def test_refusals_are_http(gateway):
    status, error = await refusal(gateway, f"{SOCKET}?format=xml")
    assert (status, error["param"]) == (400, "format")
    status, error = await refusal(gateway, origin="http://evil.example")
    assert (status, error["code"]) == (403, "bad_origin")
    client = await gateway.connect()
    head_, body = await client.get(SOCKET)
    assert (head_.status, "WebSocket" in msgspec.json.decode(body)["error"]["message"]) == (426, True)


async def test_it_is_off_unless_it_is_configured(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        assert (await refusal(gateway))[1]["code"] == "agent_disabled"


async def test_keys_and_origins(upstream, tmp_path):
    auth, cors = Auth(keys=("secret-key",)), Cors(origins=("http://page.example",))
    async with serve_gateway(agent_config(tmp_path, upstream, auth=auth, cors=cors)) as gateway:
        assert (await refusal(gateway))[0] == 401
        assert (await refusal(gateway, origin="http://evil.example"))[0] == 403
        upstream.script(*openai_stream("Hello."))
        async with talking(gateway, f"{SOCKET}?key=secret-key", origin="http://page.example") as client:
            assert (await run(client))[-1] == {"type": "done"}


async def test_a_reload_that_turns_it_off_is_told(gateway, upstream):
    async with talking(gateway) as client:
        gateway.gateway.configure(make_config(upstream), {})
        await say(client, {"message": "hi"})
        assert (await client.event())["code"] == "agent_disabled"
