"""Silence is filled with comments, so that nobody between client and gateway takes the connection for dead."""

import pytest
from fakes.load import Client, Response, chat, events
from fakes.service import config_text, run_service

pytestmark = pytest.mark.integration
PING = b": ping\n\n"


def configured(port: int, base_url: str, **streaming: object) -> str:
    keys = "\n".join(f"{name} = {str(value).lower()}" for name, value in streaming.items())
    return config_text(
        port, base_url, server={"graceful_timeout": 0.0}, more=f"[proxy.streaming]\nping_interval = 0.2\n{keys}"
    )


async def read_pings(response: Response, count: int) -> bytes:
    """The body up to so many pings."""
    body = b""
    while body.count(PING) < count:
        data = await response.receive()
        assert data, body
        body += data
    return body


async def test_pings_fill_the_pause_between_chunks(tmp_path, port, upstream):
    async with run_service(tmp_path, configured(port, upstream.base_url)) as service, Client(port) as client:
        response = await client.post(chat("fake/hang-after-3"), headers={"x-request-id": "p"})
        body = await read_pings(response, 3)
        assert len(list(events(body))) == 3
        client.close()
        assert (await service.record("p"))["error_type"] == "client_disconnect"


async def test_pings_bridge_the_wait_for_the_first_token(tmp_path, port, upstream):
    async with run_service(tmp_path, configured(port, upstream.base_url)), Client(port) as client:
        response = await client.post(chat("fake/hang-before-first"))
        assert response.status == 200
        assert await read_pings(response, 2) == 2 * PING


async def test_nothing_is_committed_before_the_upstream_has_answered(tmp_path, port, upstream):
    async with run_service(tmp_path, configured(port, upstream.base_url)), Client(port) as client:
        response = await client.post(chat("fake/ttfb-1000+status-400"))
        assert response.status == 400


async def test_early_pings_come_before_the_upstream_has_answered(tmp_path, port, upstream):
    config = configured(port, upstream.base_url, early_ping=True)
    async with run_service(tmp_path, config), Client(port) as client:
        response = await client.post(chat("fake/ttfb-1000+text-2"))
        assert response.status == 200
        body = await response.read()
        assert body.startswith(2 * PING)
        assert body.endswith(b"data: [DONE]\n\n")


async def test_a_chunk_timeout_ends_the_silence_in_spite_of_the_pings(tmp_path, port, upstream):
    config = configured(port, upstream.base_url, chunk_timeout=1.0)
    async with run_service(tmp_path, config) as service, Client(port) as client:
        response = await client.post(chat("fake/hang-after-3"), headers={"x-request-id": "t"})
        body = await response.read()
        assert PING in body
        assert "error" in list(events(body))[-1]
        record = await service.record("t")
        assert (record["status"], record["error_type"]) == ("failed", "ReadTimeout")
