"""What a dialect offers to be translated from and to.  All of it is pure: bytes in, values out, and back."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from shared.config import Provider, Streaming
from worker.dialects.neutral import Answer, Event, Request


class Reply(Struct, frozen=True, kw_only=True):
    """What an answer in the client's dialect needs to know beside the answer itself."""

    id: str
    """Unique; ids of messages and of tool calls that have none are made from it."""
    model: str
    """As the client called it."""
    created: int
    """Epoch seconds."""
    request_id: str | None = None
    """The one that the response's head tells; errors in Anthropic's streams repeat it."""
    taken_ids: frozenset[str] = frozenset()
    """Ids of tool calls that are no longer free, as earlier answers have used them."""
    tool_names: Mapping[str, str] = {}
    """What the provider calls a tool → what the client does, where that is another name."""
    prompt_tokens: int = 0
    """An estimate, for dialects that tell it before the upstream has."""
    wants_usage: bool = True
    """Whether a stream tells its usage (OpenAI's `include_usage`)."""
    shows_thinking: bool = True
    """Whether the client wants to see what the model thinks."""


class StreamDecoder(Protocol):
    """An upstream's stream, incrementally."""

    done: bool
    """The answer is whole, or has failed: nothing of interest follows."""

    def receive(self, data: bytes) -> list[Event]:
        """The events that end in `data`.  `DialectError` for an event that is too large or breaks the dialect."""
        ...

    def receive_eof(self) -> list[Event]:
        """The body has ended: the last events.  `UpstreamBroken` if the answer isn't whole."""
        ...


class StreamEncoder(Protocol):
    """A client's stream, incrementally: whatever comes, what goes out obeys the dialect's grammar."""

    def send(self, event: Event) -> bytes:
        """Whole events for the client, b"" while there is nothing to tell.  `DialectError` where it can't be said."""
        ...

    def finish(self) -> bytes:
        """The end of a whole answer.  `DialectError` if what was sent can't be one."""
        ...


class UpstreamCodec(Protocol):
    """A dialect as an upstream speaks it."""

    def encode_request(self, request: Request, provider: Provider, model: str) -> bytes:
        """The body for this provider.  `DialectError` for what it can't be asked, for the client to read."""
        ...

    def stream_decoder(self, settings: Streaming) -> StreamDecoder:
        """A decoder for one stream."""
        ...

    def decode_answer(self, body: bytes) -> Answer:
        """A whole answer.  `UpstreamBroken` if it is none."""
        ...

    def error_message(self, body: bytes) -> str | None:
        """What an error body says; None if it isn't one of this dialect."""
        ...
