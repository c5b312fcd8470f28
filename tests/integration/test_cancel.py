"""Clients that leave, in every phase of a stream: the upstream is closed, the record written, nothing is left."""

import json
import random
import re
from typing import Any

import psutil
import pytest
import trio
from fakes.load import MESSAGES, PATH, Client, chat, message
from fakes.openai_upstream import marker
from fakes.service import Service, config_text, run_service, wait_until

pytestmark = pytest.mark.integration

# name → (behaviour, streaming, whether the client waits for bytes of the body before it leaves)
PHASES = {
    "before the headers": ("hang-before-headers", True, False),
    "before the first byte": ("hang-before-first", True, False),
    "between chunks": ("hang-after-5", True, True),
    "mid-stream": ("slow-50+text-2000", True, True),
    "not streaming": ("hang-before-headers", False, False),
    "not streaming, after the head": ("hang-before-first", False, False),
}


DIALECTS = {"openai": (chat, PATH), "anthropic": (message, MESSAGES)}
SILENT_CHUNKS = {"fake": 1, "claude": 3}
"""What stands before the first word of an upstream's stream."""
WORD = re.compile(rb'"(?:content|text)": ?"[^"]')
"""A delta with text, in either dialect."""


async def leave(shared: Any, dialect: str, provider: str, phase: str, mark: str, wait: float, *, reset: bool) -> bytes:
    """One client: asks, sees its request reach the upstream, waits a moment, leaves; what it has read of the body."""
    behaviour, stream, reads = PHASES[phase]
    upstream = shared.upstream(provider)
    body, path = DIALECTS[dialect]
    read = b""
    async with Client(shared.port) as client:
        asked = body(f"{provider}/{behaviour}", mark, stream=stream)
        await client.send_request(asked, path, headers={"x-request-id": mark})
        if reads:
            response = await client.response()
            read = await response.receive()
            assert read
        else:
            await wait_until(lambda: upstream.rows(mark), "the request at the upstream")
        with trio.move_on_after(wait):  # any moment will do: this is not what the test waits for
            while reads:
                read += await response.receive()
            await trio.sleep_forever()
        if reset:
            client.reset()
    return read


def open_files(pid: int) -> int:
    return psutil.Process(pid).num_fds()


async def quiet_fds(service: Service) -> dict[int, int]:
    """Open descriptors by worker, when all of them serve and no client is connected."""

    async def quiet() -> bool:
        return all(
            worker.state == "serving" and worker.connections == worker.streams == 0
            for worker in (await service.status()).workers
        )

    await wait_until(quiet, "no connections in any worker")
    return {pid: open_files(pid) for pid in await service.worker_pids()}


@pytest.mark.parametrize("provider", SILENT_CHUNKS)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_sixty_clients_leave_at_random_moments(shared, dialect, provider):
    service, upstream = shared.service, shared.upstream(provider)
    rnd = random.Random(2026)
    before = await quiet_fds(service)
    plans = {
        marker("leave"): (phase, rnd.random() / 2, rnd.random() < 0.5)
        for phase in PHASES
        for _ in range(60 // len(PHASES))
    }
    words: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        for mark, (phase, wait, reset) in plans.items():

            async def one(mark: str = mark, phase: str = phase, wait: float = wait, reset: bool = reset) -> None:
                read = await leave(shared, dialect, provider, phase, mark, wait, reset=reset)
                words[mark] = len(WORD.findall(read))

            nursery.start_soon(one)

    await wait_until(lambda: upstream.server.open == 0, "the end of all upstream connections")
    for mark, (phase, _, _) in plans.items():
        [row] = upstream.rows(mark)
        record = await service.record(mark)
        assert row.outcome == "client_closed", phase
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect"), phase
        assert record["dialect"] == dialect
        assert record["cancel_latency"] < 0.5
        # Anthropic's dialect tells it at the beginning.
        assert record["prompt_source"] == ("provider" if provider == "claude" and row.chunks else "counted"), phase
        assert record["prompt_tokens"] > 0
        assert record["completion_source"] == "partial"
        # A word has one to three tokens.  What the client has read is counted, and no more than the upstream has sent.
        sent = max(0, row.chunks - SILENT_CHUNKS[provider])
        assert words[mark] <= record["completion_tokens"] <= 3 * sent, phase
    assert max(words.values()) > 1
    assert await quiet_fds(service) == before
    assert not [event for event in service.events("STREAM_ERROR") if event["trace"] in plans]


async def test_the_sdk_s_close_cancels(service, port, upstream):
    import openai

    mark = marker("sdk")

    def use() -> None:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": mark}]
            with client.chat.completions.create(
                model="fake/slow-20+text-500", messages=messages, stream=True
            ) as stream:
                next(stream)

    await trio.to_thread.run_sync(use)
    await wait_until(lambda: [row.outcome for row in upstream.rows(mark)] == ["client_closed"])
    [record] = await service.wait_records(1)
    assert record["status"] == "cancelled"


async def test_a_client_that_leaves_while_the_gateway_backs_off(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, provider={"backoff_base": 30.0, "max_backoff": 60.0})
    mark = marker("backoff")
    async with run_service(tmp_path, config) as service:
        async with Client(port) as client:
            await client.send_request(chat("fake/status-500", mark), headers={"x-request-id": mark})
            await wait_until(lambda: service.events("STREAM_ERROR"), "the first attempt's failure")
        record = await service.record(mark)
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
        assert len(upstream.rows(mark)) == 1


async def test_a_client_that_leaves_while_the_gateway_connects(tmp_path, port):
    # A listening socket with a full backlog: connects to it wait.
    full = trio.socket.socket()
    await full.bind(("127.0.0.1", 0))
    full.listen(0)
    address = full.getsockname()
    fillers = [trio.socket.socket() for _ in range(3)]
    mark = marker("connecting")
    try:
        with trio.move_on_after(0.2):
            async with trio.open_nursery() as nursery:
                for filler in fillers:
                    nursery.start_soon(filler.connect, address)
        async with run_service(tmp_path, config_text(port, f"http://127.0.0.1:{address[1]}/v1")) as service:
            async with Client(port) as client:
                await client.send_request(chat("fake/text", mark), headers={"x-request-id": mark})
                await wait_until(lambda: service.events("stream_start"), "the stream's beginning")
            record = await service.record(mark)
            assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
            assert record["completion_tokens"] in (0, None)
    finally:
        for sock in (full, *fillers):
            sock.close()


async def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_no_trace(service, port):
    before = await quiet_fds(service)
    async with Client(port) as client:
        body = json.dumps(chat("fake/text")).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        await client.socket.send(head + body[:-5])

        async def connected() -> bool:
            return any(worker.connections for worker in (await service.status()).workers)

        await wait_until(connected, "the connection in a worker's beat")
    assert await quiet_fds(service) == before
    assert service.records() == []


async def test_drain_reads_on_to_the_usage(tmp_path, port, upstream):
    config = config_text(port, upstream.base_url, provider={"on_disconnect": "drain"})
    mark = marker("drain")
    async with run_service(tmp_path, config) as service:
        async with Client(port) as client:
            response = await client.post(chat("fake/slow-40+text-40", mark), headers={"x-request-id": mark})
            await response.receive()
        record = await service.record(mark)
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
        assert (record["completion_tokens"], record["completion_source"]) == (40, "provider")
        [row] = upstream.rows(mark)
        assert row.outcome == "completed"
