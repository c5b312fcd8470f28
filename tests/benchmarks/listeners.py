"""Listeners for live events: many WebSockets on one service, some of which read nothing.

    python tests/benchmarks/listeners.py --port=PORT --count=200 --deaf=10

It writes a line when all of them listen, and runs until its standard input ends.
"""

import argparse
import contextlib
import os
import selectors
import socket
import sys
import time

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PONG = b"\x8a\x80\0\0\0\0"
PONG_INTERVAL = 10.0
"""Instead of looking for pings among the events they say in time that they are there."""


def connect(port: int) -> socket.socket:
    """One listener.  Raises `ConnectionError` if it is refused."""
    listener = socket.create_connection(("127.0.0.1", port), timeout=10.0)
    listener.sendall(HANDSHAKE.format(port=port).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = listener.recv(4096)
        if not data:
            break
        answer += data
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise ConnectionError(answer[:100].decode("latin-1"))
    listener.setblocking(False)
    return listener


def listen(listeners: list[socket.socket], deaf: int) -> None:
    """Read all but the first `deaf` until standard input ends.  Raises `ConnectionError` if one is cut off."""
    buffer = bytearray(1 << 20)
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for listener in listeners[deaf:]:
        selector.register(listener, selectors.EVENT_READ)
    next_pong = time.monotonic()
    while True:
        for key, _ in selector.select(PONG_INTERVAL):
            if key.fileobj is sys.stdin:
                if not os.read(key.fd, 4096):
                    return
            elif not key.fileobj.recv_into(buffer):
                raise ConnectionError("a listener was cut off")
        if time.monotonic() >= next_pong:
            next_pong += PONG_INTERVAL
            for listener in listeners:
                with contextlib.suppress(OSError):  # those who read nothing may be cut off
                    listener.send(PONG)


def main() -> None:
    """Connect all, then listen."""
    parser = argparse.ArgumentParser(description="Listeners for live events.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--deaf", type=int, default=0, help="how many of them read nothing")
    parsed = parser.parse_args()
    listeners = [connect(parsed.port) for _ in range(parsed.count)]
    print("listening", flush=True)
    listen(listeners, parsed.deaf)


if __name__ == "__main__":
    main()
