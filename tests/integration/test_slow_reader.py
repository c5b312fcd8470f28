"""A client that stops reading in the middle of a huge stream holds up nobody, and costs no memory."""

import signal

import pytest
from fakes.load import Client, chat, events, said, steady_load
from fakes.openai_upstream import OpenAIUpstream, Row, marker
from fakes.service import config_text, run_service, wait_until

pytestmark = pytest.mark.integration

HUGE = "fake/text-20000+big-16"  # 320 MB
MEMORY = 24 * 1024 * 1024


async def wait_stalled(upstream: OpenAIUpstream, mark: str) -> Row:
    """Wait until the upstream's writes have come to a halt."""
    seen: list[int] = []

    def halted() -> bool:
        rows = upstream.rows(mark)
        seen.append(rows[0].chunks if rows else 0)
        return len(seen) > 20 and seen[-1] > 0 and len(set(seen[-20:])) == 1

    await wait_until(halted, "a stalled stream")
    [row] = upstream.rows(mark)
    return row


async def test_memory_stays_bounded_and_the_stream_ends_when_the_client_leaves(service, port, upstream):
    async def rss() -> int:
        return max(worker.rss_bytes for worker in (await service.status()).workers)

    await wait_until(rss, "a first beat")
    before = await rss()
    marks = [marker("slow") for _ in range(4)]
    clients = [Client(port, receive_buffer=4096) for _ in marks]
    for client, mark in zip(clients, marks, strict=True):
        await client.__aenter__()
        await client.post(chat(HUGE, mark), headers={"x-request-id": mark})
    rows = [await wait_stalled(upstream, mark) for mark in marks]
    assert await rss() < before + MEMORY
    async with steady_load(port, streams=2, rate=10) as load:
        await wait_until(lambda: load.streams_done > 2, "other streams")
    assert load.mishaps == []
    for index, client in enumerate(clients):
        client.reset() if index % 2 else client.close()
    await wait_until(lambda: all(row.outcome == "client_closed" for row in rows), "the upstream's connections closed")
    for mark in marks:
        record = await service.record(mark)
        assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
        assert record["completion_tokens"] > 0


async def test_shutdown_does_not_wait_for_it(tmp_path, port, upstream):
    mark = marker("slow")
    config = config_text(port, upstream.base_url, server={"graceful_timeout": 0.5})
    async with run_service(tmp_path, config) as service, Client(port, receive_buffer=4096) as client:
        await client.post(chat(HUGE, mark), headers={"x-request-id": mark})
        row = await wait_stalled(upstream, mark)
        service.send_signal(signal.SIGTERM)
        assert await service.wait_exit(timeout=5) == 0
        await wait_until(lambda: row.outcome == "client_closed", "the upstream's connection closed")
        record = await service.record(mark)
        assert (record["status"], record["error_type"]) == ("cancelled", "shutdown")


async def test_a_pause_shorter_than_the_timeout_harms_nothing(service, port, upstream):
    mark = marker("pause")
    async with Client(port, receive_buffer=4096) as client:
        response = await client.post(chat("fake/text-300+big-64", mark), headers={"x-request-id": mark})
        await wait_stalled(upstream, mark)
        body = await response.read()
    assert list(events(body))[-1] == "[DONE]"
    assert len(said(body)) == 300 * 64 * 1024
    assert (await service.record(mark))["status"] == "completed"
