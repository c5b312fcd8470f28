"""HTTP/2 by hand, so that a test decides which stream is read, and sees every frame.

async with connect_http2(port, context) as client:
    id = await client.request("POST", "/v1/chat/completions", b"{}")
    status, headers = await client.head(id)
    await client.until(id, b"[DONE]")
"""

import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio


class Http2Client:
    """One connection.  What comes is acknowledged as it comes, but on streams in `unread`."""

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.unread: set[int] = set()
        self.heads: dict[int, dict[str, str]] = {}
        self.interim: list[str] = []
        self.bodies: dict[int, bytes] = defaultdict(bytes)
        self.order: list[int] = []
        """The streams of the pieces of bodies, as they came."""
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        """Stream → error code."""
        self.goaways: list[tuple[int, int]] = []
        """(last stream, error code)"""
        self.is_over = False
        self._changed = trio.Condition()
        self._sending = trio.Lock()

    async def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        """Send a request; its stream."""
        id = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.h2.send_headers(id, fields, end_stream=body is None)
        if body is not None:
            await self.send_body(id, body)
        await self.flush()
        return id

    async def send_body(self, id: int, body: bytes, *, end: bool = True) -> None:
        """As much of it as the window takes at a time."""
        while True:
            room = min(self.h2.local_flow_control_window(id), 16384)
            if room or not body:
                self.h2.send_data(id, body[:room], end_stream=end and len(body) <= room)
                body = body[room:]
                await self.flush()
                if not body:
                    return
            else:
                await self._wait_change()

    async def flush(self) -> None:
        await self.send(b"")

    async def send(self, data: bytes) -> None:
        """What h2 has written, and then `data` as it is."""
        async with self._sending:
            await self.stream.send_all(self.h2.data_to_send() + data)

    async def reset(self, id: int) -> None:
        self.h2.reset_stream(id, 8)
        await self.flush()

    async def read_again(self, id: int) -> None:
        """Acknowledge what has come on a stream that was not read."""
        self.unread.discard(id)
        self.h2.increment_flow_control_window(len(self.bodies[id]), id)
        await self.flush()

    async def head(self, id: int) -> tuple[int, dict[str, str]]:
        await self.wait(lambda: id in self.heads)
        return int(self.heads[id][":status"]), self.heads[id]

    async def until(self, id: int, mark: bytes) -> bytes:
        await self.wait(lambda: mark in self.bodies[id])
        return self.bodies[id]

    async def answer(self, id: int) -> tuple[int, bytes]:
        await self.wait(lambda: id in self.ended)
        return (await self.head(id))[0], self.bodies[id]

    async def wait(self, condition) -> None:
        while not condition():
            assert not self.is_over, f"the connection has ended: {self.goaways} {self.resets}"
            await self._wait_change()

    async def wait_over(self) -> None:
        """Wait for the end of the connection."""
        while not self.is_over:
            await self._wait_change()

    async def _wait_change(self) -> None:
        async with self._changed:
            await self._changed.wait()

    async def read(self) -> None:
        """Read to the connection's end."""
        try:
            while data := await self.stream.receive_some(65536):
                data = self._without_goaway(data)
                for event in self.h2.receive_data(data):
                    self._take(event)
                await self.flush()
                await self._tell()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h2.exceptions.ProtocolError):
            pass
        self.is_over = True
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _without_goaway(self, data: bytes) -> bytes:
        """h2 takes it for the end of everything."""
        at = data.find(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
        if at < 0:
            return data
        self.goaways.append(struct.unpack_from("!LL", data, at + 9))
        return data[:at] + data[at + 17 :]

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.InformationalResponseReceived():
                self.interim.append(dict(event.headers)[":status"])
            case h2.events.ResponseReceived():
                self.heads[event.stream_id] = dict(event.headers)
            case h2.events.DataReceived():
                self.bodies[event.stream_id] += event.data
                self.order.append(event.stream_id)
                if event.stream_id in self.unread:
                    self.h2.increment_flow_control_window(max(1, event.flow_controlled_length))
                elif event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = event.error_code

    def drop(self) -> None:
        """Leave with FIN."""
        self.stream.transport_stream.socket.close()

    def cut(self) -> None:
        """Leave with RST."""
        self.stream.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.drop()


async def connect_tls(
    port: int, context: ssl.SSLContext, receive_buffer_bytes: int | None = None
) -> "trio.SSLStream[trio.SocketStream]":
    """A connection over TLS, its handshake done."""
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await sock.connect(("127.0.0.1", port))
        stream = trio.SSLStream(trio.SocketStream(sock), context, server_hostname="127.0.0.1", https_compatible=True)
        await stream.do_handshake()
    except BaseException:
        sock.close()
        raise
    return stream


@asynccontextmanager
async def connect_http2(
    port: int, context: ssl.SSLContext, receive_buffer_bytes: int | None = None, *, reads: bool = True
) -> AsyncIterator[Http2Client]:
    """A client whose connection is read in the background, unless `reads` is False."""
    context.set_alpn_protocols(["h2"])
    stream = await connect_tls(port, context, receive_buffer_bytes)
    assert stream.selected_alpn_protocol() == "h2"
    client = Http2Client(stream)
    client.h2.initiate_connection()
    async with trio.open_nursery() as nursery:
        if reads:
            nursery.start_soon(client.read)
        await client.flush()
        try:
            yield client
        finally:
            nursery.cancel_scope.cancel()
            client.drop()
