"""What every transport gives the client: httpx's interface, and a body that is read and closed without a generator.

httpx hands a body out as an async generator.  That can't be closed synchronously, nor while another task waits in
it, and costs a frame a chunk.  So a transport here puts a `ResponseBody` under `BODY` into the response's extensions.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Protocol

import httpx

BODY = "kimi_proxy.body"


class ResponseBody(Protocol):
    """The body of one response."""

    async def receive(self) -> bytes:
        """The next bytes, as one read of the socket gave them; b"" at the clean end, and from then on.

        Raises `httpx.HTTPError` when the response is cut.  However it is left by an exception, cancellation
        included, the connection is closed before.
        """
        ...

    def close_nowait(self) -> None:
        """Close the connection now, unless the body was read to its end.  Idempotent; may be called by another
        task than the one in `receive()`, which then raises."""
        ...


class BodyStream(httpx.AsyncByteStream):
    """A `ResponseBody` as httpx's own clients want it."""

    def __init__(self, body: ResponseBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._body.receive():
            yield data

    async def aclose(self) -> None:
        self._body.close_nowait()


def response(status: int, headers: list[tuple[bytes, bytes]], body: ResponseBody) -> httpx.Response:
    """An httpx response whose body is `body`, in both ways."""
    return httpx.Response(status, headers=headers, stream=BodyStream(body), extensions={BODY: body})


class UpstreamTransport(httpx.AsyncBaseTransport, ABC):
    """A transport whose responses carry a `BODY`."""

    @property
    @abstractmethod
    def open(self) -> int:
        """Connections that are open, idle ones included."""

    @property
    @abstractmethod
    def idle(self) -> int:
        """Connections that wait for their next request."""

    @abstractmethod
    def retire(self) -> None:
        """Close what is idle now, and what is in use as soon as its response has ended."""
