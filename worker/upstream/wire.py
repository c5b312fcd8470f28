"""Bytes to and from an upstream: TCP, and TLS on top of it.

trio's `SocketStream` and `SSLStream` would do, but for three things: they close asynchronously, `SSLStream` refuses to
read once a write has failed (an early 413 would be lost), and it gives out one TLS record per call where the socket
held four.  What is here awaits nothing but the socket's readiness.

httpx's exceptions are raised throughout: `ConnectError`, `ReadError`, `WriteError`.
"""

import contextlib
import errno
import functools
import ipaddress
import os
import socket
import ssl
from typing import Literal, Protocol

import httpx
import trio

from worker.upstream.pool import Origin

# A quiet connection is probed after this many seconds, so that a NAT between keeps its entry while a model thinks.
KEEPALIVE_IDLE = 30
# What TLS encrypts before the socket gets it: a body of many megabytes must not exist twice.
TLS_WRITE_BYTES = 256 * 1024


class Wire(Protocol):
    """A connected byte stream, used by one task at a time but for `close()`."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for bytes and return what is there; b"" at the peer's end of file.  Always a checkpoint."""
        ...

    def quiet(self) -> bool:
        """Whether nothing waits to be read, neither bytes nor an end of file.  Synchronous."""
        ...

    def close(self) -> None:
        """Close now; a task that waits in `receive()` or `send()` gets an exception.  Idempotent."""
        ...


class TcpWire:
    """A connected TCP socket, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # a courtesy, which a UNIX socket or a sandbox may refuse
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE // 3)
        self._sock = sock

    async def send(self, data: bytes) -> None:
        """Hand all of `data` to the kernel.  No checkpoint when it takes it at once."""
        try:
            sent = self._send_nowait(data)
            if sent == len(data):
                return
            with memoryview(data) as view:
                while sent < len(data):
                    await trio.lowlevel.wait_writable(self._fileno())
                    with view[sent:] as rest:
                        sent += self._send_nowait(rest)
        except (OSError, trio.ClosedResourceError) as error:
            raise httpx.WriteError(f"sending failed: {_reason(error)}") from error

    def _send_nowait(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def receive(self, max_bytes: int) -> bytes:
        try:
            while True:
                # Wait first, read then: between two tokens there is nothing to read, and the try that fails costs a
                # system call and an exception (22 against 25 µs a paced chunk; no difference in a burst).
                await trio.lowlevel.wait_readable(self._fileno())
                try:
                    return self._sock.recv(max_bytes)
                except BlockingIOError:  # woken for nothing
                    continue
        except (OSError, trio.ClosedResourceError) as error:
            raise httpx.ReadError(f"reading failed: {_reason(error)}") from error

    def _fileno(self) -> int:
        if (fd := self._sock.fileno()) == -1:
            raise trio.ClosedResourceError
        return fd

    def quiet(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock.fileno())
            self._sock.close()


class TlsWire:
    """TLS over a `TcpWire`: OpenSSL does the records in memory."""

    def __init__(self, tcp: TcpWire, context: ssl.SSLContext, host: str) -> None:
        self._tcp = tcp
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._end: httpx.ReadError | Literal["closed"] | None = None

    async def handshake(self) -> None:
        """Agree on keys and check the certificate against the host's name; `httpx.ConnectError` when either fails."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    await self._flush()
                    return
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill(16384)
        except ssl.SSLError as error:
            with contextlib.suppress(httpx.WriteError):
                await self._flush()  # the alert tells the peer why
            raise httpx.ConnectError(f"TLS failed: {_reason(error)}") from error
        except (httpx.ReadError, httpx.WriteError) as error:
            raise httpx.ConnectError(f"TLS failed: {error}") from error

    async def send(self, data: bytes) -> None:
        with memoryview(data) as view:
            at = 0
            while at < len(data):
                try:
                    at += self._tls.write(view[at : at + TLS_WRITE_BYTES])
                except ssl.SSLError as error:
                    raise httpx.WriteError(f"sending failed: {_reason(error)}") from error
                if self._outgoing.pending >= TLS_WRITE_BYTES or at == len(data):
                    await self._flush()

    async def receive(self, max_bytes: int) -> bytes:
        while True:
            if self._end is None:
                await self._fill(max_bytes)
            if data := self._decrypted(max_bytes):
                return data
            if isinstance(self._end, httpx.ReadError):
                raise self._end
            if self._end is not None:
                return b""
            if self._outgoing.pending:  # answers of TLS itself, such as a key update
                with contextlib.suppress(httpx.WriteError):
                    await self._flush()

    def _decrypted(self, max_bytes: int) -> bytes:
        """All that can be decrypted now; sets `_end` when nothing can follow."""
        parts: list[bytes] = []
        try:
            while part := self._tls.read(max_bytes):
                parts.append(part)
            self._end = "closed"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end = "closed"
        except ssl.SSLError as error:
            # Also an end of file without the closing note: for a body that ends with the connection this is a cut
            # (RFC 9112, 9.8), and for any other its own framing tells.
            self._end = httpx.ReadError(f"reading failed: {_reason(error)}")
        return b"".join(parts)

    async def _fill(self, max_bytes: int) -> None:
        data = await self._tcp.receive(max_bytes)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._tcp.send(self._outgoing.read())

    def quiet(self) -> bool:
        # Bytes that wait may be a mere session ticket; then a good connection is given up, which is harmless.
        return self._tcp.quiet()

    def close(self) -> None:
        # No closing note: it could block, and every response here carries its own framing.
        self._tcp.close()


@functools.cache
def default_ssl_context() -> ssl.SSLContext:
    """The one with httpx's trust store (certifi, or SSL_CERT_FILE), loaded once: that takes about 20 ms."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    heed_cuts(context)
    return context


def heed_cuts(context: ssl.SSLContext) -> None:
    """Have an end of file without the closing note reported: with OpenSSL 3 Python passes it off as a clean end."""
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


async def connect(origin: Origin, ssl_context: ssl.SSLContext | None) -> Wire:
    """Resolve, connect (happy eyeballs, RFC 8305) and, for https, shake hands.  `httpx.ConnectError` on failure.

    Cancelled, it leaves no socket behind.
    """
    try:
        sock = await (connect_address if _is_address(origin.host) else _connect_name)(origin.host, origin.port)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"cannot connect to port {origin.port}: {_reason(error)}") from error
    tcp = TcpWire(sock)
    if origin.scheme != "https":
        return tcp
    try:
        tls = TlsWire(tcp, ssl_context or default_ssl_context(), origin.host)
        await tls.handshake()
    except BaseException:
        tcp.close()
        raise
    return tls


async def _connect_name(host: str, port: int) -> socket.socket:
    stream = await trio.open_tcp_stream(host, port)
    # Detached from trio's stream, whose close is asynchronous.
    return socket.socket(fileno=stream.socket.detach())


async def connect_address(host: str, port: int) -> socket.socket:
    """A connected socket.  For an address there is nothing to resolve and nothing to race: a third of the cost.

    `OSError` on failure.  Cancelled, it leaves no socket behind.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex((host, port))
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return sock
    except BaseException:
        sock.close()
        raise


@functools.lru_cache(64)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a scope has to be resolved


def _reason(error: BaseException) -> str:
    """What went wrong, in the system's words; of several attempts to connect, the first one's."""
    while isinstance(error.__cause__, OSError | BaseExceptionGroup):
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    if isinstance(error, trio.ClosedResourceError):
        return "the connection was closed on our side"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error)
