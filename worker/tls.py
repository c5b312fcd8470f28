"""TLS on a client's connection: OpenSSL does the records in memory, and nothing is awaited but the socket's readiness.

trio's `SSLStream` would do, but for this: it sends in an `await`, while what is here can be written to, aborted and
closed from anywhere; it gives out one record a call where the socket held four; and it closes asynchronously.
"""

import contextlib
import os
import re
import ssl
from collections.abc import Mapping

import trio

from shared import config
from shared.certificate import TLS, server_context
from worker.dialects.openai.errors import error_body

RECEIVE_BYTES = 65536
# Encrypted before the socket gets it: an answer of many megabytes must not exist twice.
PIECE_BYTES = 256 * 1024
# What TLS itself answers, to key updates, and the client does not read.
MAX_ANSWERS_BYTES = 64 * 1024
LINGER = 1.0
_CLEAR_HEAD = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
)
_REQUEST = re.compile(rb"[A-Z]{3,10} ")


class NotTls(Exception):
    """The client speaks HTTP in the clear."""


class Offer:
    """What new connections are served with; None for `context`: in the clear."""

    def __init__(self, settings: config.Server, keys: Mapping[str, str]) -> None:
        self.context: ssl.SSLContext | None = None
        self._made_of: tuple[str, bool] | None = None
        self.configure(settings, keys)

    def configure(self, settings: config.Server, keys: Mapping[str, str]) -> None:
        """Follow the configuration; `OSError` if that is not possible, and then nothing has changed."""
        if settings.tls is None:
            self.context = self._made_of = None
            return
        made_of = keys[TLS], settings.tls.http2
        if made_of != self._made_of:
            self.context = server_context(made_of[0], http2=made_of[1])
            self._made_of = made_of


class TlsStream:
    """TLS over an accepted socket, which it does not own.  One task receives; any may `put`."""

    def __init__(self, socket: trio.socket.SocketType, context: ssl.SSLContext) -> None:
        self._socket = socket
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""
        self._ended = False
        self.has_partial = False
        """Something has arrived that could not be decrypted yet."""

    async def handshake(self) -> str | None:
        """Agree on keys; the protocol that was agreed on with them (ALPN).

        `NotTls` for a client that does not try, `ssl.SSLError` or `trio.BrokenResourceError` where it fails.
        """
        is_first = True
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.drain()
                data = await self._receive()
                if is_first and _REQUEST.match(data):
                    raise NotTls from None
                is_first = False
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert tells the client why
                raise
            else:
                await self.drain()
                return self._tls.selected_alpn_protocol()

    @property
    def unsent_bytes(self) -> int:
        """How much waits for the client to read."""
        return len(self._unsent) + self._outgoing.pending

    def put(self, data: bytes) -> bool:
        """Encrypt `data` and hand the kernel what it takes now; False if something is left, for `drain`.

        Nothing is raised: a connection that is broken has it left.
        """
        try:
            self._tls.write(data)
            self._flush()
        except OSError:  # of ssl, too: the handshake isn't over, or the connection is
            return False
        return not self._unsent

    async def send_all(self, data: bytes) -> None:
        """`put` and `drain`, of any size.  `trio.BrokenResourceError`, `trio.ClosedResourceError`."""
        await self.drain()
        with memoryview(data) as view:
            for at in range(0, len(data), PIECE_BYTES):
                try:
                    self._tls.write(view[at : at + PIECE_BYTES])
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError from error
                await self.drain()

    async def drain(self) -> None:
        """Wait until nothing is left; no checkpoint where nothing is.  Errors as of `send_all`."""
        while True:
            try:
                self._flush()
            except OSError as error:
                raise trio.BrokenResourceError from error
            if not self._unsent:
                return
            await trio.lowlevel.wait_writable(self._fileno())

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            try:
                sent = os.write(self._fileno(), self._unsent)
            except BlockingIOError:
                return
            except trio.ClosedResourceError:
                raise OSError("closed") from None
            self._unsent = self._unsent[sent:]

    async def receive_some(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Wait for bytes and return all there are; b"" once the client has ended, with or without a closing note.

        `trio.BrokenResourceError` for a reset and for what is no TLS, `trio.ClosedResourceError`.
        """
        while not self._ended:
            if not self._incoming.pending:  # as it is when a request came with the end of the handshake
                data = await self._receive(max_bytes)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            decrypted = self._decrypted()
            self.has_partial = not decrypted
            if self._outgoing.pending:
                with contextlib.suppress(OSError):
                    self._flush()
                if self.unsent_bytes > MAX_ANSWERS_BYTES + PIECE_BYTES:
                    raise trio.BrokenResourceError
            if decrypted:
                return decrypted
        return b""

    def _decrypted(self) -> bytes:
        parts: list[bytes] = []
        try:
            while part := self._tls.read(RECEIVE_BYTES):
                parts.append(part)
            self._ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._ended = True
        except ssl.SSLError as error:
            self._ended = True
            if not parts:
                raise trio.BrokenResourceError from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        try:
            while True:
                # Waited for first: between two requests there is nothing to read.
                await trio.lowlevel.wait_readable(self._fileno())
                try:
                    return os.read(self._fileno(), max_bytes)
                except BlockingIOError:
                    continue
        except OSError as error:
            raise trio.BrokenResourceError from error

    def _fileno(self) -> int:
        if (fd := self._socket.fileno()) < 0:
            raise trio.ClosedResourceError
        return fd

    def end(self) -> None:
        """Tell the client that nothing follows, if the kernel takes that now."""
        if self.unsent_bytes or self._socket.fileno() < 0:
            return
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()  # which also wants the client's note, and says so
        with contextlib.suppress(OSError):
            self._flush()


def why_failed(error: Exception) -> str:
    """Why a handshake failed, in OpenSSL's words where it has any."""
    match error:
        case ssl.SSLError(reason=str(reason)):
            return reason
        case trio.ClosedResourceError():
            return "timeout"
        case _:
            return "the connection broke"


async def refuse_clear(socket: trio.socket.SocketType) -> None:
    """Tell a client that speaks HTTP in the clear what it should do, and give it a moment to read that."""
    body = error_body(400, "this port speaks https: ask for https://, not http://")
    with trio.move_on_after(LINGER), contextlib.suppress(OSError, trio.ClosedResourceError):
        await socket.send(_CLEAR_HEAD % len(body) + body)
        socket.shutdown(trio.socket.SHUT_WR)
        while await socket.recv(RECEIVE_BYTES):
            pass  # closing on what is unread would reset the connection, and with it our answer
