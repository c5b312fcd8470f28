"""Faults of clients that leave, wait, dawdle and come in masses."""

import contextlib
import itertools
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from fakes.answers import DIALECTS, Dialect, Got, connect, send_question, trace_of
from fakes.client_rows import client_row
from fakes.gateway import Client, chat_bytes, request_bytes
from fakes.grammar import parse_events
from fakes.scene import PROVIDERS, Scene
from fakes.service import wait_until
from fakes.upstream import chunk

pytestmark = pytest.mark.integration

CONNECTIONS = int(os.environ.get("KIMI_PROXY_FAULT_CONNECTIONS", "2000"))
"""10,000 are not more of a fault, but take longer to make."""
GONE = "`cancelled`/`client_disconnect`, the tokens of what came; the upstream was closed within 0.5 s"
PHASES = {
    "before the headers": ("hang-before-headers", True),
    "in mid-stream": ("text+hang-after-6", True),
    "not streaming": ("hang-before-headers", False),
}
"""Phase → what the upstream does, and whether a stream is asked for."""
Leaving = Callable[[Client], Awaitable[None]]


async def leave_in_every_phase(scene: Scene, leave: Leaving) -> None:
    """Clients of both dialects do so in each phase, and each is recorded as gone."""

    async def one(dialect: Dialect, phase: str) -> None:
        model, stream = PHASES[phase]
        upstream = {"openai": scene.openai, "anthropic": scene.anthropic}[dialect]
        trace = trace_of("leaves")
        client = await connect(scene.port)
        try:
            await send_question(client, f"{PROVIDERS[dialect]}/{model}", trace, dialect, stream=stream)
            if phase == "in mid-stream":
                assert (await client.head()).status == 200
                await client.until(b"quick")
            else:
                await wait_until(lambda: upstream.rows(trace), "the request at the upstream", poll=0.005)
            await leave(client)
            await wait_until(lambda: upstream.rows(trace)[0].outcome == "client_closed", "its end", poll=0.005)
            record = await scene.service.record(trace)
            assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect"), phase
            assert record["cancel_latency"] < 0.5
            assert record["prompt_tokens"] > 0
            assert record["completion_source"] == "partial"
            assert (record["completion_tokens"] > 0) == (phase == "in mid-stream")
        finally:
            client.close()

    async with trio.open_nursery() as nursery:
        for dialect in DIALECTS:
            for phase in PHASES:
                nursery.start_soon(one, dialect, phase)


# --- leaving


@client_row("leaves with FIN: before the headers, in mid-stream, not streaming", saw="–", kept=GONE)
async def test_it_leaves(scene: Scene) -> None:
    async def leave(client: Client) -> None:
        client.close()

    await leave_in_every_phase(scene, leave)


@client_row("leaves with RST: before the headers, in mid-stream, not streaming", saw="–", kept=GONE)
async def test_it_resets(scene: Scene) -> None:
    async def leave(client: Client) -> None:
        client.reset()

    await leave_in_every_phase(scene, leave)


@client_row(
    "closes its sending side only, in the same phases",
    saw="the end of the connection, without a clean end of the stream: as in nginx, who closes has left",
    kept=GONE,
)
async def test_it_half_closes(scene: Scene) -> None:
    """A FIN looks the same whether its sender still reads; who waits for an answer keeps his side open."""

    async def leave(client: Client) -> None:
        await client.stream.send_eof()
        data = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while more := await client.stream.receive_some(65536):
                data += more
        assert b"0\r\n\r\n" not in data
        assert b"[DONE]" not in data
        assert b"message_stop" not in data

    await leave_in_every_phase(scene, leave)


@client_row(
    "closes its sending side behind a request that needs no provider",
    saw="the answer",
    kept="–",
)
async def test_it_half_closes_behind_a_small_request(scene: Scene) -> None:
    for path in ("/health", "/v1/models", "/metrics", "/nothing"):
        client = await connect(scene.port)
        await client.request("GET", path)
        await client.stream.send_eof()
        answer, body = await client.answer()
        assert answer.status == (404 if path == "/nothing" else 200)
        assert body
        await client.wait_eof()
        client.close()


@client_row(
    "leaves in the very packet of its request, with FIN or RST",
    saw="–",
    kept="a record `cancelled`, or none if nothing of the request was read; no upstream stays open",
)
async def test_it_leaves_at_once(scene: Scene) -> None:
    traces = [trace_of("atonce") for _ in range(40)]
    for number, trace in enumerate(traces):
        client = await connect(scene.port)
        model = ("fake/hang-before-headers", "fake/text+slow-5")[number // 2 % 2]
        await send_question(client, model, trace, "openai", stream=number % 4 < 3)
        client.reset() if number % 2 else client.close()
    await wait_until(lambda: not scene.openai.open_requests, "no request at the upstream")
    asked = {trace for trace in traces if scene.openai.rows(trace)}
    records = {trace: await scene.service.record(trace) for trace in asked}
    assert {record["status"] for record in records.values()} <= {"cancelled"}
    assert {record["error_type"] for record in records.values()} <= {"client_disconnect"}


# --- dawdling


@client_row(
    "never reads",
    saw="RST after `send_timeout`",
    kept="`cancelled`/`timeout`, the tokens of what came; the upstream was closed",
)
async def test_it_never_reads(scene: Scene) -> None:
    trace = trace_of("deaf")
    client = await connect(scene.port, receive_buffer_bytes=4096)
    await send_question(client, "fake/text-20000+big-16", trace, "openai")
    record = await scene.service.record(trace)
    assert (record["status"], record["error_type"]) == ("cancelled", "timeout")
    assert record["completion_tokens"] > 0
    [row] = scene.openai.rows(trace)
    await wait_until(lambda: row.outcome == "client_closed", "the upstream's connection closed")
    await client.wait_reset()
    client.close()


@client_row("reads one byte at a time, with pauses", saw="the whole answer, by its own pace", kept="`completed`")
async def test_it_reads_single_bytes(scene: Scene) -> None:
    async def one(dialect: Dialect) -> None:
        trace = trace_of("bytewise")
        client = await connect(scene.port, receive_buffer_bytes=2048)
        await send_question(client, f"{PROVIDERS[dialect]}/text-3", trace, dialect)
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += await client.stream.receive_some(1)
            await trio.lowlevel.checkpoint()
        assert b"quick" in data
        client.close()
        assert (await scene.service.record(trace))["status"] == "completed"

    async with trio.open_nursery() as nursery:
        for dialect in DIALECTS:
            nursery.start_soon(one, dialect)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@client_row(
    "sends its headers one byte at a time, or stops inside them",
    saw="the end of the connection after `keep_alive_timeout`, however busy it looks",
    kept="no record: there was no request",
)
async def test_its_headers_dawdle(scene: Scene) -> None:
    before = len(scene.service.records())

    async def drip() -> None:
        client = await connect(scene.port)
        with contextlib.suppress(trio.BrokenResourceError):
            for byte in itertools.cycle(HEAD):
                await client.send(bytes([byte]))
                await trio.sleep(0.05)
        client.close()

    async def stop() -> None:
        client = await connect(scene.port)
        await client.send(HEAD)
        await client.wait_eof()
        client.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            nursery.start_soon(stop)
    assert len(scene.service.records()) == before


@client_row(
    "sends its body one byte at a time, or stops inside it",
    saw="408 after `body_timeout`, in its dialect, and the end of the connection",
    kept="no record: there was no request",
)
async def test_its_body_dawdles(scene: Scene) -> None:
    before = len(scene.service.records())

    async def one(path: str, *, drips: bool) -> None:
        client = await connect(scene.port)
        await client.send(request_bytes("POST", path, None, content_length="999", expect="100-continue") + b"{")
        async with trio.open_nursery() as nursery:
            if drips:
                nursery.start_soon(drip, client)
            answer, body = await client.answer()
            nursery.cancel_scope.cancel()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        Got("anthropic" if "messages" in path else "openai", "openai", "", 408, answer.headers, body).error  # noqa: B018
        client.close()

    async def drip(client: Client) -> None:
        while True:
            await client.send(b" ")
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for path in ("/v1/chat/completions", "/v1/messages"):
            for drips in (True, False):
                nursery.start_soon(lambda path=path, drips=drips: one(path, drips=drips))
    assert len(scene.service.records()) == before


@client_row(
    "announces a longer body than it sends, and leaves",
    saw="–",
    kept="no record: there was no request",
)
async def test_its_body_is_too_short(scene: Scene) -> None:
    before = len(scene.service.records())
    for end in (Client.close, Client.reset):
        client = await connect(scene.port)
        await client.send(chat_bytes({"model": "fake/text"})[:-3])
        end(client)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len(scene.service.records()) == before


@client_row(
    "announces a shorter body than it sends",
    saw="400 for the body that was cut so, then 400 for the rest, and the end of the connection",
    kept="no record: neither was a request",
)
async def test_its_body_is_too_long(scene: Scene) -> None:
    before = len(scene.service.records())
    client = await connect(scene.port)
    await client.send(
        request_bytes("POST", "/v1/chat/completions", b'{"model": "fake/text"}\r\n\r\n', content_length="10")
    )
    for _ in range(2):
        answer, body = await client.answer()
        assert (answer.status, b"invalid_request_error" in body) == (400, True)
    await client.wait_eof()
    client.close()
    assert len(scene.service.records()) == before


# --- too much


@client_row(
    "a body of 100 MB, announced or in chunks",
    saw="413 before it was read, or at `max_body_bytes`, in its dialect",
    kept="no record; memory stays as it was",
)
async def test_its_body_is_huge(scene: Scene) -> None:
    async def rss() -> int:
        return max(worker.rss_bytes for worker in (await scene.service.status()).workers)

    before = await rss()
    block = b"x" * (1 << 20)
    for path in ("/v1/chat/completions", "/v1/messages"):
        for chunked in (True, False):
            client = await connect(scene.port)
            framing = {"transfer_encoding": "chunked"} if chunked else {"content_length": str(100 << 20)}

            async def send(client: Client = client, chunked: bool = chunked) -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    for _ in range(100):
                        await client.send(chunk(block) if chunked else block)

            await client.send(request_bytes("POST", path, None, **framing))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                answer, body = await client.answer()
                assert (answer.status, answer.headers["connection"]) == (413, "close")
                assert b"max_body_bytes" in body
                assert (b'"type":"error"' in body) == ("messages" in path)
            client.close()
    assert await rss() < before + 24 * 1024 * 1024


@client_row("10,000 headers, or one of 1 MB", saw="431, and the end of the connection", kept="–")
async def test_its_headers_are_too_many(scene: Scene) -> None:
    for headers in (b"".join(b"x-%d: y\r\n" % number for number in range(10_000)), b"x: " + b"y" * 2**20 + b"\r\n"):
        client = await connect(scene.port)
        with contextlib.suppress(trio.BrokenResourceError):
            await client.send(HEAD + headers + b"\r\n")
        answer, body = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        assert b"invalid_request_error" in body
        client.close()


# --- masses


@client_row(
    f"{2000:,} idle connections that stay open",
    saw="all were accepted; the idle ones were closed after `keep_alive_timeout`, others were served meanwhile",
    kept="nothing is held for them afterwards",
)
async def test_it_is_many(scene: Scene) -> None:
    def connect_all() -> list[socket.socket]:
        return [socket.create_connection(("127.0.0.1", scene.port)) for _ in range(CONNECTIONS)]

    def ends(crowd: list[socket.socket]) -> set[bytes]:
        for sock in crowd:
            sock.settimeout(10)
        return {sock.recv(1) for sock in crowd}

    crowd = await trio.to_thread.run_sync(connect_all)
    try:
        for dialect in DIALECTS:
            assert await scene.fresh(dialect)
        assert await trio.to_thread.run_sync(ends, crowd) == {b""}
    finally:
        for sock in crowd:
            sock.close()

    async def none_left() -> bool:
        return not any(worker.connections for worker in (await scene.service.status()).workers)

    await wait_until(none_left, "no connections in any worker")


@client_row(
    "2,000 connections that are closed or reset as soon as they are made",
    saw="others were served meanwhile",
    kept="nothing is held for them afterwards",
)
async def test_it_comes_and_goes(scene: Scene) -> None:
    def churn() -> None:
        for number in range(2000):
            sock = socket.create_connection(("127.0.0.1", scene.port))
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, churn)
        for dialect in DIALECTS:
            assert await scene.fresh(dialect)


@client_row(
    "reconnects and asks again at once on every error",
    saw="the same error each time",
    kept="a record for each; no connection and no place is left",
)
async def test_it_reconnects_on_every_error(scene: Scene) -> None:
    async def one(dialect: Dialect) -> None:
        for _ in range(8):
            client = await connect(scene.port)
            trace = trace_of("again")
            await send_question(client, f"{PROVIDERS[dialect]}/status-400", trace, dialect)
            answer, _ = await client.answer()
            assert answer.status == 400
            client.reset()
            assert (await scene.service.record(trace))["http_status"] == 400

    async with trio.open_nursery() as nursery:
        for dialect in DIALECTS * 2:
            nursery.start_soon(one, dialect)


# --- pipelining


@client_row("two requests in one packet", saw="both answers, in their order", kept="`completed`, both")
async def test_it_pipelines(scene: Scene) -> None:
    traces = [trace_of("pipelined") for _ in range(2)]
    client = await connect(scene.port)
    await client.send(
        b"".join(chat_bytes({"model": "fake/text-3"}, stream=False, x_request_id=trace) for trace in traces)
    )
    for trace in traces:
        answer, _ = await client.answer()
        assert (answer.status, answer.headers["x-request-id"]) == (200, trace)
        assert (await scene.service.record(trace))["status"] == "completed"
    client.close()


@client_row("a request behind a stream that has not ended", saw="the whole stream, then its answer", kept="`completed`")
async def test_it_asks_behind_a_stream(scene: Scene) -> None:
    trace = trace_of("behind")
    client = await connect(scene.port)
    await client.send(
        chat_bytes({"model": "fake/slow-100+text-20"}, x_request_id=trace) + request_bytes("GET", "/health")
    )
    answer, body = await client.answer()
    assert (answer.status, [data for _, data in parse_events(body)][-1]) == (200, "[DONE]")
    answer, body = await client.answer()
    assert (answer.status, b"ok" in body) == (200, True)
    client.close()
    assert (await scene.service.record(trace))["status"] == "completed"
