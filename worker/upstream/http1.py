"""HTTP/1.1 as a client speaks it (RFC 9112): request heads out, responses in, by the C parser httptools.  No I/O."""

import httptools
import httpx

MAX_HEAD_BYTES = 64 * 1024


def request_head(request: httpx.Request) -> bytes:
    """The request line and the headers of `request`, as they are: `host` and the body's framing are the caller's part.

    Raises `httpx.LocalProtocolError` for a header that would end its line: a key pasted with a line break is the
    usual one.
    """
    lines = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s\r\n" % header for header in request.headers.raw]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise httpx.LocalProtocolError("a request header contains a line break")
    return head + b"\r\n"


class ResponseReader:
    """The responses on one connection, one after the other: `begin()`, then `feed()` until `complete`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self.reusable = True
        """Whether another request may follow once the response is complete."""
        self.begin()

    def begin(self) -> None:
        """Expect the response to the next request."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.heard = False
        """Whether a byte has come since `begin()`."""
        self.head_complete = False
        self.complete = False
        self._informational = False
        self._until_eof = True
        self._overhead_bytes = 0
        self.error: httpx.RemoteProtocolError | None = None

    def feed(self, data: bytes) -> bytes:
        """Take in what was read; returns the body bytes in it, and never raises.

        What is not HTTP sets `error`, to be raised once the body bytes in front of it have been delivered.
        """
        self.heard = True
        problem = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            problem = f"this is no valid HTTP/1.1 response: {error.__context__ or error}"
        if self.complete:
            # Bytes after the end answer no request of ours.  The response stands, the connection can't be trusted.
            self.reusable = self.reusable and problem is None
        elif problem is None and not self._parts:
            self._overhead_bytes += len(data)
            if self._overhead_bytes > MAX_HEAD_BYTES:
                what = "trailers" if self.head_complete else "headers"
                problem = f"the response's {what} are over the bound of {MAX_HEAD_BYTES} bytes"
        if problem is not None and not self.complete:
            self.error = httpx.RemoteProtocolError(problem)
        parts = self._parts
        if not parts:
            return b""
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._overhead_bytes = 0
        return body

    def eof(self) -> None:
        """The peer has closed; raises `httpx.RemoteProtocolError` unless that is how this response ends."""
        self.reusable = False
        if self.head_complete and self._until_eof:
            self.complete = True
        elif not self.complete:
            where = "inside the response" if self.heard else "without a response"
            raise httpx.RemoteProtocolError(f"the connection was closed {where}")

    # What httptools calls.  An exception here comes out of `feed_data` as the context of its own.

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:  # trailers come here too
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200:
            if self.status == 101:
                raise httpx.RemoteProtocolError("the upstream wants to switch protocols")
            self._informational = True
            return
        names = {name.lower(): value for name, value in self.headers}
        if b"transfer-encoding" in names:
            self._until_eof = not names[b"transfer-encoding"].rstrip().lower().endswith(b"chunked")
        else:
            self._until_eof = b"content-length" not in names
        self.reusable = self.reusable and self._parser.should_keep_alive()
        self.head_complete = True

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self.headers = []
        else:
            self.complete = True
