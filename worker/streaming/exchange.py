"""What the pump must know of the dialects on both sides of a stream: bytes and counts, no grammar."""

from collections.abc import Sequence
from typing import Protocol

from shared.config import Provider
from shared.records import Dialect
from worker.dialects.openai.wire import Usage
from worker.dialects.tokens import TokenMeter


class Relay(Protocol):
    """The way back: upstream bytes in, client bytes out.  One for each attempt."""

    meter: TokenMeter
    usage: Usage | None
    error: str | None
    """The upstream's own error inside the stream; it has been relayed."""
    done: bool
    """The answer is complete, though the upstream's body may not have ended yet."""

    def receive(self, data: bytes) -> bytes:
        """Bytes for the client, maybe none yet.  Raises `DialectError` for what can't be relayed."""
        ...

    def receive_eof(self) -> bytes:
        """The last bytes for the client; `UpstreamBroken` if the answer isn't whole."""
        ...


class Exchange(Protocol):
    """A client's request, and how to answer it."""

    dialect: Dialect
    model: str
    """As asked."""
    stream: bool
    session: str | None
    """The session key in the body, if the dialect has one."""
    body_bytes: int
    """The size of the request's body."""

    def upstream_body(self, provider: Provider, model: str) -> bytes:
        """The request as this provider wants it."""
        ...

    def relay(self, provider: Provider) -> Relay:
        """A fresh way back from this provider."""
        ...

    def passes_errors_of(self, provider: Provider) -> bool:
        """Whether this provider's error bodies are in the client's dialect."""
        ...

    def error_message(self, body: bytes) -> str | None:
        """What an upstream's error body says; None if it isn't one."""
        ...

    def error_body(self, status: int, message: str, code: str | None = None) -> bytes:
        """An error as the client's dialect has it."""
        ...

    def error_event(self, message: str, type: str) -> bytes:
        """The event that ends a broken stream."""
        ...

    def prompt_texts(self) -> Sequence[str]:
        """The text that the model reads.  Called in a thread where the body is large."""
        ...
