"""The parts of a message, whole or as the events of a stream, that the gateway reads.

One struct stands for all kinds of events, so that each costs one decode and a kind that is new to us still flows.  The
leaves are `Any` on purpose: what merely surprises us must not break a stream that only passes through.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from worker.dialects.anthropic.usage import WireUsage
from worker.dialects.lenient import BAD_JSON as BAD_JSON
from worker.dialects.lenient import leniently


class Block(Struct):
    """A block of a message's content, or the beginning of one."""

    type: str | None = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: Raw = Raw()

    @property
    def input_text(self) -> str:
        """The input of a tool call as JSON text; "" where none is told, as in nearly every start of a block."""
        text = bytes(self.input).decode("utf-8", "replace").strip()
        return "" if text in ("{}", "null", '""') else text


class Message(Struct):
    """A whole message, or the one that `message_start` begins."""

    type: str | None = None
    content: list[Block] | None = None
    stop_reason: Any = None
    usage: WireUsage | None = None


class Delta(Struct):
    """Of a block, or in `message_delta` of the message."""

    type: str | None = None
    text: Any = None
    partial_json: Any = None
    thinking: Any = None
    signature: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None


class StreamEvent(Struct):
    """Any event."""

    type: str | None = None
    index: int | None = None
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: WireUsage | None = None
    error: Any = None

    @property
    def is_error(self) -> bool:
        """Whether it tells of an error; some hosts leave its type to the line before the data."""
        return self.type == "error" or (self.type is None and bool(self.error))

    @property
    def error_message(self) -> str:
        """What an error says."""
        error = self.error
        if isinstance(error, dict):
            error = error.get("message") or error.get("type")
        return str(error or "the upstream reported an error")

    @property
    def error_type(self) -> str | None:
        """The upstream's word for an error."""
        word = self.error.get("type") if isinstance(self.error, dict) else None
        return word if isinstance(word, str) else None


_event_decoder: msgspec.json.Decoder[StreamEvent] = msgspec.json.Decoder(StreamEvent)
_message_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def read_event(payload: bytes) -> StreamEvent:
    """The event in `payload`; a part of it with an unexpected type counts as absent.  `BAD_JSON` if it is no object."""
    try:
        return _event_decoder.decode(payload)
    except msgspec.DecodeError:
        return leniently(payload, StreamEvent)


def read_message(body: bytes) -> Message:
    """The message in `body`, as leniently."""
    try:
        return _message_decoder.decode(body)
    except msgspec.DecodeError:
        return leniently(body, Message)
