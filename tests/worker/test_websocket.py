"""The server's side of a WebSocket, without a connection below it."""

import h11
import pytest
import trio
import trio.testing
from hypercorn.protocol.events import Data, Event, Request, StreamClosed

from worker.websocket import FRAMES_AT_ONCE, STREAM_ID, WebSocketStream, handshake_of

HEADERS = [
    (b"host", b"localhost"),
    (b"upgrade", b"websocket"),
    (b"connection", b"upgrade"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
MASKED = b"\x80"


def frame(first: int, payload: bytes = b"") -> bytes:
    """One of a client's, masked with zeros."""
    return bytes([first, MASKED[0] | len(payload)]) + b"\0" * 4 + payload


PING, EMPTY_TEXT, EMPTY_PART, LAST_PART = frame(0x89, b"!"), frame(0x01), frame(0x00), frame(0x80, b"end")


class Nursery:
    """Hypercorn's TaskGroup, as far as a stream asks for it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def spawn(self, job, *args) -> None:
        self._nursery.start_soon(job, *args)


async def listen_for_ever(told, scope, receive, send, *_threads) -> None:
    await send({"type": "websocket.accept", "headers": []})
    while (message := await receive())["type"] != "websocket.disconnect":
        told.append(message)


async def opened(nursery: trio.Nursery, told: list, sent: list[Event]) -> WebSocketStream:
    """A stream whose application has accepted, and appends what it hears to `told`."""
    request = h11.Request(method="GET", target="/ws", headers=HEADERS)
    handshake = handshake_of(request, list(request.headers))
    assert handshake is not None

    async def app(*asgi) -> None:
        await listen_for_ever(told, *asgi)

    async def send(event: Event) -> None:
        sent.append(event)

    stream = WebSocketStream(handshake, app, Nursery(nursery), None, None, send)  # type: ignore[arg-type]
    await stream.handle(Request(STREAM_ID, HEADERS, "1.1", "GET", b"/ws", {}))  # type: ignore[arg-type]
    await trio.testing.wait_all_tasks_blocked()
    sent.clear()
    return stream


@pytest.mark.parametrize("flood", [PING, EMPTY_PART], ids=["pings", "empty fragments"])
async def test_others_have_their_turn_while_frames_come_without_a_pause(flood):
    count, turns = 20 * FRAMES_AT_ONCE, 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    told: list = []
    sent: list[Event] = []
    async with trio.open_nursery() as nursery:
        stream = await opened(nursery, told, sent)
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        await stream.handle(Data(STREAM_ID, EMPTY_TEXT + flood * count))
        assert turns - before >= 10
        assert len(sent) == (count if flood is PING else 0)
        nursery.cancel_scope.cancel()


async def test_empty_fragments_are_not_kept():
    told: list = []
    sent: list[Event] = []
    async with trio.open_nursery() as nursery:
        stream = await opened(nursery, told, sent)
        await stream.handle(Data(STREAM_ID, EMPTY_TEXT + EMPTY_PART * 1000))
        assert stream._parts == []
        await stream.handle(Data(STREAM_ID, LAST_PART))
        await trio.testing.wait_all_tasks_blocked()
        assert told == [{"type": "websocket.receive", "text": "end"}]
        await stream.handle(StreamClosed(STREAM_ID))
