"""Where an answer goes, as the parts of a stream see it.  `worker.streaming.downstream` is the one for HTTP."""

from typing import Protocol

from worker.asgi import Header


class Sink(Protocol):
    """What the attempts at an upstream need to know of the way to the client."""

    committed: bool
    """Something of the answer has been sent: no other attempt may follow."""
    may_ping: bool
    extra_headers: list[Header]
    """Sent with an answer, if its head is still to come."""

    async def send(self, data: bytes) -> None:
        """Whole events for the client; the first ones commit the answer."""
        ...

    async def finish(self, data: bytes = b"") -> None:
        """The rest of the answer, and its end."""
        ...


class ClientSink(Sink, Protocol):
    """All of it, as a session needs it.  One task sends; `ping` may run beside it."""

    ended: bool
    """The answer is complete as far as the client is concerned.  True as soon as `finish` or `refuse` is called."""

    async def refuse(self, status: int, body: bytes, headers: list[Header]) -> None:
        """An error response in place of an answer; only while nothing is committed."""
        ...

    def is_ping_due(self, now: float) -> bool:
        """Whether the client has heard nothing for too long and a ping could be sent right now; never waits."""
        ...

    async def ping(self) -> None:
        """Send one ping."""
        ...
