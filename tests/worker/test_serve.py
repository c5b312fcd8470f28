"""Idle connections are closed, and no others: a request that has just been read is not lost."""

import json
import socket

import pytest
import trio
from fakes.gateway import listen, make_config, serve_gateway
from fakes.upstream import serve_upstream

from worker.serve import Server


class ClosesIdle(trio.abc.Instrument):
    """Closes what is idle behind every step of the scheduler, as a drain may do behind any."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.server.close_idle()


BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()


@pytest.mark.parametrize("count", [1, 2])
async def test_requests_that_have_arrived_are_answered_whenever_idle_connections_are_closed(count):
    """A second one has been read, with the first, before that is answered."""
    listener = listen()
    async with serve_upstream() as upstream:
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(count * (HEAD + BODY))  # they are there before the connection is accepted
            client.setblocking(False)
            async with serve_gateway(make_config(upstream), listener=listener) as gateway:
                closes = ClosesIdle(gateway.server)
                trio.lowlevel.add_instrument(closes)
                told = b""
                while True:
                    await trio.lowlevel.wait_readable(client)
                    part = client.recv(65536)
                    told += part
                    if not part:
                        break
                trio.lowlevel.remove_instrument(closes)
    assert told.count(b"HTTP/1.1 200 ") == count
    assert [record.status for record in gateway.records] == ["completed"] * count
