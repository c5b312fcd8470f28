"""Every phase of a stream, cancelled: what the client is told, what the record says, and that nothing is left."""

import json

import pytest
import trio
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import COMPLETION, HANG, LAST_CHUNK, chunk, head, json_response, openai_chunk, openai_stream, whole

from shared.records import Tokens
from worker.streaming import asking
from worker.streaming.downstream import Downstream
from worker.streaming.session import CANCEL_GRACE

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
HELLO = openai_chunk({"content": "hello world"})
BIG = openai_chunk({"content": "hello world " * 5000})
USAGE = 'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":99}}\n\n'
REASONS = ["admin", "registry_new_stream", "shutdown"]
TOLD = {"admin": 503, "registry_new_stream": 409, "shutdown": 503}


async def flood(_request, connection):
    """More than any buffer holds; ends when the peer has closed."""
    await connection.send(SSE)
    while not connection.closed.is_set():
        await connection.send(chunk(BIG))


async def ask(gateway, *, stream=True, receive_buffer_bytes=None):
    client = await gateway.connect(receive_buffer_bytes)
    await client.ask(stream=stream)
    return client


def cancel(gateway, reason, number=1):
    gateway.gateway.sessions.cancel(gateway.started[number - 1].id, reason)


# (the upstream's script, whether the client has a first event before the cancel, non-streaming)
PHASES = {
    "waiting for the head": ([HANG], False, True),
    "waiting for the first byte": ([SSE, HANG], False, True),
    "a first half event": ([SSE, chunk(HELLO[:20]), HANG], False, True),
    "between chunks": ([SSE, chunk(HELLO), HANG], True, True),
    "without streaming, waiting": ([HANG], False, False),
    "without streaming, in the body": ([head(200, {"content-length": "99"}) + b"{", HANG], False, False),
    "in an error's body": ([head(500, {"content-length": "99"}) + b"{", HANG], False, True),
}


async def test_what_comes_after_the_end_of_a_shutdown_is_told_so(upstream):
    """On a connection that is still there: it would be reset in a moment."""
    async with serve_gateway(make_config(upstream)) as gateway:
        client = await gateway.connect()
        gateway.gateway.sessions.cancel_all("shutdown")
        await client.ask(stream=True)
        response, body = await client.answer()
        assert response.status == 503
        assert b"shutting down" in bytes(body)
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.http_status) == ("cancelled", "shutdown", 503)
    assert upstream.requests == []


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("fails", [True, False])
async def test_a_cancel_at_the_last_moment_is_one_for_the_client_too(upstream, monkeypatch, streaming, fails):
    """The upstream's last byte has been read, and nothing is waited for any more."""
    name = "refuse" if fails else "finish"
    original = getattr(Downstream, name)

    async def late(downstream, *arguments):
        monkeypatch.undo()
        cancel(gateway, "admin")
        await original(downstream, *arguments)

    monkeypatch.setattr(Downstream, name, late)
    async with serve_gateway(make_config(upstream, provider={"max_retries": 0})) as gateway:
        answer = openai_stream("hello") if streaming else [json_response(COMPLETION)]
        upstream.script(*([whole(500, b"{}")] if fails else answer))
        client = await ask(gateway, stream=streaming)
        told = b"".join(map(bytes, (await client.answer())[1:]))
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "admin")
        assert b"cancelled by an administrator" in told
        assert b"[DONE]" not in told


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("phase", PHASES)
async def test_the_client_leaves(upstream, phase, how):
    steps, has_first, streaming = PHASES[phase]
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(*steps)
        client = await ask(gateway, stream=streaming)
        request = await upstream.wait_request()
        if has_first:
            await client.head()
            await client.piece()
        client.close() if how == "fin" else client.reset()
        await request.closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert record.completion == Tokens(2 if has_first else 0, "partial")
        assert record.prompt.source == "counted"
        assert record.http_status == (200 if has_first else None)
        assert 0 <= record.cancel_latency < CANCEL_GRACE
        assert len(upstream.requests) == 1
        await gateway.wait_settled()
        await upstream.wait_open(0)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancel_from_our_side(upstream, phase, reason):
    steps, has_first, streaming = PHASES[phase]
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(*steps)
        client = await ask(gateway, stream=streaming)
        request = await upstream.wait_request()
        if has_first:
            assert (await client.head()).status == 200
            await client.piece()
        cancel(gateway, reason)
        cancel(gateway, "admin")
        if has_first:
            told = await client.body()
            assert told.startswith(b'data: {"error":')
            assert told.count(b"\n\n") == 1
        else:
            answer, told = await client.answer()
            assert answer.status == TOLD[reason]
            assert "message" in json.loads(told)["error"]
        await request.closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", reason)
        assert record.http_status == (200 if has_first else TOLD[reason])
        assert record.completion == Tokens(2 if has_first else 0, "partial")
        assert 0 <= record.cancel_latency < CANCEL_GRACE
        await gateway.wait_settled()
        assert (await client.get("/health"))[0].status == 200


@pytest.mark.parametrize("reason", ["client_disconnect", "admin"])
async def test_while_backing_off(upstream, reason):
    config = make_config(upstream, provider={"backoff_base": 60.0, "max_backoff": 60.0})
    async with serve_gateway(config) as gateway:
        upstream.script(whole(500, b""))
        client = await ask(gateway)
        await upstream.wait_request()
        [session] = gateway.gateway.sessions._live.values()
        await gateway.wait(lambda: session.retries == 1)
        if reason == "admin":
            cancel(gateway, reason)
            assert (await client.answer())[0].status == 503
        else:
            client.close()
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.retries) == ("cancelled", reason, 1)
        assert record.cancel_latency is not None


async def test_while_connecting(upstream):
    with trio.socket.socket() as full, trio.socket.socket() as first, trio.socket.socket() as queued:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        upstream_port, upstream.port = upstream.port, full.getsockname()[1]
        await first.connect(("127.0.0.1", upstream.port))
        with trio.move_on_after(0.05):
            await queued.connect(("127.0.0.1", upstream.port))
        async with serve_gateway(make_config(upstream)) as gateway:
            client = await ask(gateway)
            await gateway.wait_started()
            client.close()
            record = await gateway.wait_record()
            assert (record.status, record.completion) == ("cancelled", Tokens(0, "partial"))
            await gateway.wait_settled()
        upstream.port = upstream_port


async def wait_stuck(gateway):
    """Until the gateway waits for a client to read."""
    await gateway.wait(lambda: any(c.sending_since is not None for c in gateway.server.connections))


@pytest.mark.parametrize("reason", REASONS)
async def test_mid_write_to_a_client_that_does_not_read(upstream, reason):
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(flood)
        client = await ask(gateway, receive_buffer_bytes=4096)
        await wait_stuck(gateway)
        cancel(gateway, reason)
        await upstream.requests[0].closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", reason)
        assert record.completion.source == "partial"
        assert record.completion.count > 10_000
        assert record.cancel_latency < CANCEL_GRACE
        await client.wait_reset()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_a_client_leaves_while_it_is_written_to(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(flood)
        client = await ask(gateway, receive_buffer_bytes=4096)
        await wait_stuck(gateway)
        client.reset()
        await upstream.requests[0].closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert record.completion.count > 10_000


async def test_a_client_that_takes_nothing_for_too_long(upstream):
    async with serve_gateway(make_config(upstream, server={"send_timeout": 0.3})) as gateway:
        upstream.script(flood)
        client = await ask(gateway, receive_buffer_bytes=4096)
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.http_status) == ("cancelled", "timeout", 200)
        await upstream.requests[0].closed.wait()
        await client.wait_reset()


async def test_a_client_that_never_reads_a_whole_answer(upstream):
    config = make_config(upstream, server={"send_timeout": 0.2}, streaming={"max_response_bytes": 1 << 26})
    async with serve_gateway(config) as gateway:
        text = "x" * 8_000_000
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        upstream.script(whole(200, body, {"content-type": "application/json"}))
        client = await ask(gateway, stream=False, receive_buffer_bytes=4096)
        await client.wait_reset()
        await gateway.wait_record()
        await gateway.wait(lambda: not gateway.server.connections)


async def test_leaving_after_the_end_is_no_cancellation(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(*openai_stream("hello")[:-1], HANG)
        client = await ask(gateway)
        await client.answer()
        client.close()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("completed", None)


@pytest.mark.parametrize("reason", REASONS)
async def test_after_the_end_only_the_wait_for_the_upstream_s_end_is_cut_short(upstream, reason, monkeypatch):
    monkeypatch.setattr(asking, "EOF_WAIT", 60.0)
    async with serve_gateway(make_config(upstream)) as gateway:
        upstream.script(*openai_stream("hello")[:-1], HANG)
        client = await ask(gateway)
        await client.answer()
        request = await upstream.wait_request()
        cancel(gateway, reason)
        await request.closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.cancel_latency) == ("completed", None, None)


async def test_other_streams_go_on(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        go = trio.Event()
        clients = []
        for _ in range(8):
            upstream.script(SSE, chunk(HELLO), go, *openai_stream("end")[1:])
            clients.append(await ask(gateway))
            await clients[-1].head()
        for client in clients[::2]:
            client.reset()
        await gateway.wait(lambda: len(gateway.records) == 4)
        go.set()
        for client in clients[1::2]:
            assert (await client.body()).endswith(b"[DONE]\n\n")
        await gateway.wait_record(8)
        assert sorted(record.status for record in gateway.records) == ["cancelled"] * 4 + ["completed"] * 4


# --- on_disconnect = "drain"


def draining(upstream, **settings):
    return make_config(upstream, provider={"on_disconnect": "drain", **settings})


@pytest.mark.parametrize(
    "end", [[chunk(USAGE), LAST_CHUNK], [chunk(openai_chunk({}, "stop") + USAGE + "data: [DONE]\n\n"), HANG]]
)
async def test_a_drain_learns_the_usage(upstream, end):
    async with serve_gateway(draining(upstream, chunk_timeout=0.2)) as gateway:
        go = trio.Event()
        upstream.script(SSE, chunk(HELLO), go, chunk(HELLO), *end)
        client = await ask(gateway)
        await client.head()
        await client.piece()
        client.close()
        await gateway.wait(
            lambda: (
                not gateway.server.connections or any(s.client_gone for s in gateway.gateway.sessions._live.values())
            )
        )
        assert upstream.open == 1
        go.set()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert (record.prompt, record.completion) == (Tokens(7, "provider"), Tokens(99, "provider"))
        assert record.counted_completion == 4
        await gateway.wait_settled()


async def gone(gateway):
    await gateway.wait(lambda: all(session.client_gone for session in gateway.gateway.sessions._live.values()))


@pytest.mark.parametrize("steps", [[HANG], [SSE, chunk(HELLO), HANG]])
async def test_a_drain_is_bounded(upstream, steps):
    async with serve_gateway(draining(upstream, drain_timeout=0.3)) as gateway:
        upstream.script(*steps)
        client = await ask(gateway)
        request = await upstream.wait_request()
        client.close()
        await request.closed.wait()
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.completion.source) == (
            "cancelled",
            "client_disconnect",
            "partial",
        )
        await gateway.wait_settled()


async def test_a_shutdown_ends_a_drain(upstream):
    async with serve_gateway(draining(upstream)) as gateway:
        upstream.script(SSE, chunk(HELLO), HANG)
        client = await ask(gateway)
        await client.head()
        await client.piece()
        client.close()
        await gone(gateway)
        gateway.gateway.sessions.cancel_all("shutdown")
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert record.cancel_latency is not None
        await upstream.wait_open(0)


async def test_a_drain_makes_no_further_attempt(upstream):
    config = draining(upstream, backoff_base=0.3, max_backoff=0.3)
    async with serve_gateway(config) as gateway:
        upstream.script(whole(500, b""))
        client = await ask(gateway)
        await upstream.wait_request()
        [session] = gateway.gateway.sessions._live.values()
        await gateway.wait(lambda: session.retries == 1)
        client.close()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert len(upstream.requests) == 1
