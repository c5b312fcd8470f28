"""HTTP/2 on a client's connection (RFC 9113): h2 knows the protocol, what is here carries bytes and runs the requests.

    TlsStream ── Gate ── h2 ──┬── Stream 1 ── application        worker.http2_stream
                              └── Stream 3 ── application

One task reads, and never waits for anything else, so that a client's reset, or its leaving, is known at once.  Any task
writes, without waiting; what the socket does not take is left to `_write`, and streams wait until it is gone.  A stream
waits for its own window alone: one whose client does not read it holds up no other.
"""

import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import h2.events as h2
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from shared.logs import get_logger
from worker.asgi import Header
from worker.flood import MAX_FRAME_BYTES, Flood, Gate
from worker.http2_stream import STREAM_WINDOW, Stream
from worker.tls import TlsStream

if TYPE_CHECKING:
    from worker.serve import Server, TlsConnection

RECEIVE_BYTES = 16384
MAX_STREAMS = 100
MAX_TASKS = 2 * MAX_STREAMS
"""With those that the client has cancelled, and that have not ended yet."""
CONNECTION_WINDOW = 1024 * 1024
"""Acknowledged at once: what a stream does not read is bounded by its own window."""
MAX_UNSENT_BYTES = 1024 * 1024
"""A client that asks and asks for what has no body, and reads nothing, is cut off; bodies wait for room."""
RETIRE_PATIENCE = 5.0
"""How long a client may open streams at a worker that leaves, before it is told not to.  Some take that for the end of
those that are open, h2 among them, so it is told only if its connection would never become idle."""
_ALL_STREAMS = 2**31 - 1
_GOAWAY = 7


class Http2:
    """The streams of one connection."""

    def __init__(self, server: "Server", owner: "TlsConnection", tls: TlsStream, client: Any, local: Any) -> None:
        self._server = server
        self._owner = owner
        self._tls = tls
        self._addresses = {"client": client, "server": local}
        self._max_header_bytes = server.hypercorn.h11_max_incomplete_size
        self._h2 = H2Connection(
            H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # Twice what is announced: a request that is a little too large gets an answer, not the end of its connection.
        self._h2.decoder.max_header_list_size = 2 * self._max_header_bytes
        self._gate = Gate(trio.current_time())
        self._streams: dict[int, Stream] = {}
        self._tasks = 0
        self._last_id = 0
        self._unacknowledged = 0
        self._has_left = trio.Event()
        self._is_over = False
        self._told_to_leave = False

    async def run(self) -> None:
        """Serve the connection until the client leaves, breaks the protocol, or the socket is closed under it."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._write)
            self._h2.local_settings = self._settings(MAX_STREAMS)
            self._h2.initiate_connection()
            # One stream too many is refused; h2 would end the connection.
            self._h2.local_settings = self._settings(_ALL_STREAMS)
            self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65535)
            self.flush()
            try:
                await self._read()
            finally:
                self._is_over = True
                self._owner.finish()
                self._has_left.set()
                for stream in list(self._streams.values()):
                    stream.lose()

    def _settings(self, max_streams: int) -> Settings:
        values = {
            SettingCodes.MAX_CONCURRENT_STREAMS: max_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: self._max_header_bytes,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
        }
        return Settings(client=False, initial_values=values)

    async def _read(self) -> None:
        while True:
            try:
                data = await self._tls.receive_some(RECEIVE_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            if not data:
                return
            try:
                events = self._h2.receive_data(self._gate.receive(data, trio.current_time()))
            except Flood:
                self.go_away(ErrorCodes.ENHANCE_YOUR_CALM)
                return
            except ProtocolError:
                self.flush()  # h2 has said why
                return
            for event in events:
                self._handle(event)
            self.flush()
            if self._tls.unsent_bytes > MAX_UNSENT_BYTES:
                self._owner.abort()

    def _handle(self, event: h2.Event) -> None:
        match event:
            case h2.RequestReceived():
                self._open(event)
            case h2.DataReceived():
                self._unacknowledged += event.flow_controlled_length
                if self._unacknowledged >= CONNECTION_WINDOW // 2:
                    self._h2.increment_flow_control_window(self._unacknowledged)
                    self._unacknowledged = 0
                if stream := self._streams.get(event.stream_id):
                    stream.receive_data(event.data, event.flow_controlled_length)
            case h2.StreamEnded():
                if stream := self._streams.get(event.stream_id):
                    stream.receive_end()
            case h2.StreamReset():
                if stream := self._streams.pop(event.stream_id, None):
                    stream.lose()
            case h2.WindowUpdated(stream_id=stream_id) if stream_id:
                if stream := self._streams.get(stream_id):
                    stream.wake()
            case h2.WindowUpdated() | h2.RemoteSettingsChanged():
                self._wake_all()

    def _open(self, event: h2.RequestReceived) -> None:
        id = event.stream_id
        self._last_id = id
        if len(self._streams) >= MAX_STREAMS or self._tasks >= MAX_TASKS:
            with contextlib.suppress(ProtocolError):  # the client has reset it already
                self._h2.reset_stream(id, ErrorCodes.REFUSED_STREAM)
            return
        since = self._server.leaving_since
        if since is not None and trio.current_time() - since > RETIRE_PATIENCE:
            self.tell_to_leave()
        scope = self._scope(event.headers)
        stream = self._streams[id] = Stream(self, id, scope["method"])
        scope["state"] = {"connection": stream}
        if event.stream_ended is None and (b"expect", b"100-continue") in event.headers:
            with contextlib.suppress(ProtocolError):
                self._h2.send_headers(id, [(b":status", b"100")])
        self._tasks += 1
        self._owner.idle_since = None
        self._nursery.start_soon(self._serve, stream, scope, _size(event.headers) <= self._max_header_bytes)

    async def _serve(self, stream: Stream, scope: dict[str, Any], head_is_small: bool) -> None:
        try:
            if not head_is_small:
                await stream.refuse(431, "its head is too large")
            elif not scope["path"].startswith(("/", "*")):
                await stream.refuse(400, "it is not valid HTTP/2")
            elif not stream.is_closed:
                await self._server.asgi(scope, stream.receive, stream.send)
        except Exception:
            get_logger().exception("connection_crashed")
        finally:
            stream.leave()
            self._tasks -= 1
            if not self._tasks:
                self._owner.idle_since = trio.current_time()

    def _scope(self, headers: list[Header]) -> dict[str, Any]:
        pseudo = dict(header for header in headers if header[0].startswith(b":"))
        plain = [(name, value) for name, value in headers if not name.startswith(b":")]
        if authority := pseudo.get(b":authority"):
            plain = [(b"host", authority), *(header for header in plain if header[0] != b"host")]
        path, _, query = pseudo.get(b":path", b"").partition(b"?")
        return {
            "type": "http",
            "http_version": "2",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": pseudo.get(b":method", b"").decode("latin-1").upper(),
            "scheme": "https",
            "path": unquote(path.decode("ascii")) if path.isascii() else "",
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": plain,
            "extensions": {},
            **self._addresses,
        }

    # For the streams

    @property
    def is_congested(self) -> bool:
        """Whether the socket has not taken all that was written; nobody should write more."""
        return self._owner.sending_since is not None

    def room(self, id: int) -> int:
        """How many bytes of a body the client takes now, in one frame."""
        if self.is_congested:
            return 0
        return max(0, min(self._h2.local_flow_control_window(id), self._h2.max_outbound_frame_size, MAX_FRAME_BYTES))

    def send_head(self, id: int, status: int, headers: list[Header], *, end: bool = False) -> None:
        """Write a response's head, to be sent with what follows."""
        fields = [(b":status", b"%d" % status), *headers]
        fields += self._server.hypercorn.response_headers("h2")
        self._h2.send_headers(id, fields, end_stream=end)
        self._gate.earn()

    def send_data(self, id: int, data: bytes, *, end: bool) -> None:
        """Write a piece of a body, no larger than there is room for."""
        self._h2.send_data(id, data, end_stream=end)
        self._gate.earn()

    def consume(self, id: int, count: int) -> None:
        """So many bytes of a request's body have been read: the client may send more."""
        with contextlib.suppress(ProtocolError):
            self._h2.increment_flow_control_window(count, id)
            self.flush()

    def forget(self, id: int) -> None:
        """The stream has ended."""
        self._streams.pop(id, None)

    def reset(self, id: int, code: ErrorCodes) -> None:
        """End a stream before its time."""
        self.forget(id)
        if not self._is_over:
            with contextlib.suppress(ProtocolError):  # it has ended meanwhile
                self._h2.reset_stream(id, code)
                self.flush()

    def start_soon(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a short job beside the streams."""
        self._nursery.start_soon(job)

    def flush(self) -> None:
        """Send what has been written; what the socket does not take is sent by `_write`."""
        if data := self._h2.data_to_send():
            self._put(data)

    def _put(self, data: bytes) -> None:
        if not self._tls.put(data) and self._owner.sending_since is None:
            self._owner.sending_since = trio.current_time()
            self._has_left.set()

    async def _write(self) -> None:
        while True:
            await self._has_left.wait()
            if self._is_over:
                return
            try:
                await self._tls.drain()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._owner.abort()  # the reader sees it, if it has not before
                return
            self._owner.sending_since = None
            self._has_left = trio.Event()
            self._wake_all()

    def _wake_all(self) -> None:
        for stream in self._streams.values():
            stream.wake()

    # The end

    def cut_stuck(self, since: float) -> None:
        """Reset the streams whose windows the client has kept shut since that time or longer."""
        for stream in list(self._streams.values()):
            if stream.sending_since is not None and stream.sending_since < since:
                stream.abort()

    def tell_to_leave(self) -> None:
        """Have the client open its next streams elsewhere; those on their way are served."""
        if not self._told_to_leave:
            self._told_to_leave = True
            self._put(_go_away(_ALL_STREAMS, ErrorCodes.NO_ERROR))

    def go_away(self, code: ErrorCodes = ErrorCodes.NO_ERROR) -> None:
        """Say that this is the end, and which streams were begun."""
        if not (self._is_over or self.is_congested):
            self._put(_go_away(self._last_id, code))


def _go_away(last_id: int, code: ErrorCodes) -> bytes:
    """By hand: once h2 has said it, it lets no stream end in peace."""
    return struct.pack("!BHBBLLL", 0, 8, _GOAWAY, 0, 0, last_id, code)


def _size(headers: list[Header]) -> int:
    """As RFC 9113, 6.5.2 counts it."""
    return sum(len(name) + len(value) + 32 for name, value in headers)
