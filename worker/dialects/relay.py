"""The way back: upstream bytes in, client bytes out.  One for each attempt.

Where both sides speak the same, the dialect's own relay lets the bytes pass and reads along; these here translate.
"""

from collections.abc import Callable
from typing import Protocol

from worker.dialects.codec import StreamDecoder, StreamEncoder
from worker.dialects.gathered import GatheredBody
from worker.dialects.neutral import (
    Answer,
    Begin,
    Event,
    Failed,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
)
from worker.dialects.tokens import TokenMeter


class Relay(Protocol):
    """The way back: upstream bytes in, client bytes out."""

    meter: TokenMeter
    usage: Usage | None
    """What the upstream counted, as far as it has told."""
    error: str | None
    """The upstream's own error inside the stream; it has been relayed."""
    refusal: bytes | None
    """The data of that error, if the upstream began with it: it could be the body of an error response."""
    done: bool
    """The answer is complete, though the upstream's body may not have ended yet."""

    def receive(self, data: bytes) -> bytes:
        """Bytes for the client, maybe none yet.  Raises `DialectError` for what can't be relayed."""
        ...

    def receive_eof(self) -> bytes:
        """The last bytes for the client; `UpstreamBroken` if the answer isn't whole."""
        ...


class TranslatedStream:
    """A stream from one dialect to another."""

    def __init__(self, decoder: StreamDecoder, encoder: StreamEncoder) -> None:
        self._decoder = decoder
        self._encoder = encoder
        self.meter = TokenMeter()
        self.usage: Usage | None = None
        self.error: str | None = None
        self.refusal: bytes | None = None
        self.done = False
        self._begun = False

    def receive(self, data: bytes) -> bytes:
        """See `Relay`."""
        return self._translate(self._decoder.receive(data))

    def receive_eof(self) -> bytes:
        """See `Relay`."""
        return self._translate(self._decoder.receive_eof())

    def _translate(self, events: list[Event]) -> bytes:
        out = []
        for event in events:
            self._read(event)
            if sent := self._encoder.send(event):
                out.append(sent)
        if self._decoder.done and not self.done:
            if self.error is None:
                out.append(self._encoder.finish())
            self.done = True
        return out[0] if len(out) == 1 else b"".join(out)

    def _read(self, event: Event) -> None:
        match event:
            case TextDelta(text) | ThinkingDelta(text) | ToolDelta(_, text):
                self.meter.add(text)
            case ToolStart(_, _, name):
                self.meter.add(name)
            case UsageTold(usage):
                self.usage = usage if self.usage is None else self.usage.updated(usage)
            case Begin():
                self._begun = True
            case Failed(message, _, data):
                self.error = message
                self.refusal = None if self._begun else data
            case _:
                pass


class TranslatedBody(GatheredBody):
    """A whole answer from one dialect to another."""

    def __init__(
        self, decode: Callable[[bytes], Answer], encode: Callable[[Answer], bytes], max_response_bytes: int
    ) -> None:
        super().__init__(max_response_bytes=max_response_bytes)
        self._decode = decode
        self._encode = encode

    def _read(self, body: bytes) -> bytes:
        answer = self._decode(body)
        self.usage = answer.usage
        for part in answer.parts:
            match part:
                case Text(text) | Thinking(text):
                    self.meter.add(text)
                case ToolCall(_, name, arguments):
                    self.meter.add(name)
                    self.meter.add(arguments)
                case _:
                    pass
        return self._encode(answer)
