"""One connection to an upstream: a wire, and the reader of what comes back on it."""

import httpx

from worker.upstream.http1 import ResponseReader
from worker.upstream.pool import Origin
from worker.upstream.wire import Wire


class Connection:
    """Carries one request at a time.  Any exception out of `ask` or `receive` leaves it closed."""

    __slots__ = ("_read_size", "_wire", "origin", "reader", "used")

    def __init__(self, wire: Wire, origin: Origin, *, read_size: int) -> None:
        self._wire = wire
        self._read_size = read_size
        self.origin = origin
        self.reader = ResponseReader()
        self.used = False
        """Whether it has carried a request before the one at hand."""

    async def ask(self, request: bytes) -> bytes:
        """Send a whole request and wait for the head of the final response; returns the body bytes that came with it.

        An upstream may answer and hang up before it has read all of the request (413): when sending fails, the answer
        is looked for all the same.  Raises `httpx.ReadError`, `WriteError` or `RemoteProtocolError`.
        """
        reader = self.reader
        unsent = None
        try:
            try:
                await self._wire.send(request)
            except httpx.WriteError as error:
                unsent = error
                reader.reusable = False
            ahead = b""
            while not (reader.head_complete or reader.complete):
                ahead = await self._read()
            return ahead
        except httpx.ReadError as error:
            self.close()
            raise unsent or error from None
        except BaseException:
            self.close()
            raise

    async def receive(self) -> bytes:
        """The next body bytes; b"" when the response is complete."""
        reader = self.reader
        try:
            while not reader.complete:
                if data := await self._read():
                    return data
        except BaseException:
            self.close()
            raise
        return b""

    async def _read(self) -> bytes:
        """One read of the wire; the body bytes in it, if any."""
        reader = self.reader
        if reader.error is not None:
            raise reader.error
        data = await self._wire.receive(self._read_size)
        if data:
            return reader.feed(data)
        reader.eof()
        return b""

    def next(self) -> bool:
        """Get ready for another request; False when the connection is not fit for one: then close it.

        An idle connection is quiet.  An end of file means that the upstream has closed it, and stray bytes would be
        taken for the next response.
        """
        if not self._wire.quiet():
            return False
        self.used = True
        self.reader.begin()
        return True

    def close(self) -> None:
        """Close the socket now; idempotent."""
        self._wire.close()
