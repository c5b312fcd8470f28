"""Live streams over HTTP, as an operator asks for them."""

import json
from typing import Any

import trio


async def call(port: int, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """One request without a body, on a connection of its own, so that any worker may answer it."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{method} {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
        data = b""
        while more := await stream.receive_some():
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def active(port: int) -> dict[str, dict[str, Any]]:
    """The live streams by their request ids."""
    status, body = await call(port, "GET", "/api/sessions/active")
    assert status == 200
    assert body["active"] == len(body["sessions"])
    return {session["trace"]: session for session in body["sessions"]}
