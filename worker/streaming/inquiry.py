"""What upstreams are asked, as the attempts see it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from shared.config import Provider
from worker.dialects.relay import Relay


class Inquiry(Protocol):
    """A client's request (`worker.dialects.exchange.Exchange`), or a turn of the agent (`worker.agent.turn.Turn`)."""

    stream: bool
    body_bytes: int

    def translates(self, provider: Provider) -> bool:
        """Whether making the body takes longer for a longer one."""
        ...

    def upstream_body(self, provider: Provider, model: str) -> bytes:
        """The request as this provider wants it; `DialectError` for what it can't be asked."""
        ...

    def upstream_headers(self, provider: Provider) -> Mapping[str, str]:
        """Headers that go along."""
        ...

    def upstream_query(self, provider: Provider) -> str:
        """A query string that goes along."""
        ...

    def relay(self, provider: Provider) -> Relay:
        """A fresh way back from this provider; one for each attempt."""
        ...

    def error_message(self, provider: Provider, body: bytes) -> str | None:
        """What a provider's error body says; None if it isn't one."""
        ...

    def prompt_texts(self) -> Sequence[str]:
        """The text that the model reads.  Called in a thread where the body is large."""
        ...
