"""A streamed message of an upstream, as neutral events.

Theory of operation: a message is

    message_start (content_block_start content_block_delta… content_block_stop)… message_delta… message_stop

and may end in `error` at any point.  Each delta belongs to the open block of its index, and DELTAS says to which type.
Where the two don't fit, what was meant can't be known, and the stream is broken; blocks of types that can't be said
(tools that the provider runs, and what they found) swallow their deltas.  `message_delta` ends the answer as soon as it
tells a `stop_reason`; the `message_stop` behind it only ends the stream, and some hosts forget it.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec import Struct

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic import stops
from worker.dialects.anthropic.usage import StreamedUsage
from worker.dialects.anthropic.wire import BAD_JSON, Delta, StreamEvent, read_event
from worker.dialects.event_decoder import EventDecoder
from worker.dialects.foreign_error import foreign_message
from worker.dialects.neutral import (
    Begin,
    Event,
    Failed,
    Redacted,
    SignatureDelta,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    UsageTold,
    fitting_stop,
)


class _Meaning(NamedTuple):
    block: str
    """The type of the block that it stands in."""
    text: Callable[[Delta], Any]
    event: Callable[[int, str], Event]
    """From the number of the tool call, and the text."""


DELTAS = {
    "text_delta": _Meaning("text", attrgetter("text"), lambda _, text: TextDelta(text)),
    "input_json_delta": _Meaning("tool_use", attrgetter("partial_json"), ToolDelta),
    "thinking_delta": _Meaning("thinking", attrgetter("thinking"), lambda _, text: ThinkingDelta(text)),
    "signature_delta": _Meaning("thinking", attrgetter("signature"), lambda _, text: SignatureDelta(text)),
}
SAYABLE = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})


class _Block(Struct):
    type: str | None
    call: int = -1
    held: Event | None = None
    """What its start told that deltas tell as a rule: said at its stop, if they haven't."""


class AnthropicStreamDecoder(EventDecoder):
    """See `worker.dialects.codec.StreamDecoder`."""

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(max_event_bytes)
        self._blocks: dict[int | None, _Block] = {}
        self._calls = 0
        self._usage = StreamedUsage()
        self._begun = False
        self._stopped = False
        self._complaint: str | None = None
        """What may be why no message comes: an error in words of the host's own."""

    def _is_whole(self, payload: bytes) -> bool:
        try:
            read_event(payload)
        except BAD_JSON:
            return False
        return True

    def _end(self, events: list[Event]) -> None:
        if not self._stopped:
            reason = self._complaint or "the upstream ended its stream before the message was finished"
            raise UpstreamBroken(reason, "IncompleteStream")
        self.done = True

    def _decode(self, found: Iterable[bytes], events: list[Event]) -> None:
        for payload in found:
            if self.done:
                break
            try:
                event = read_event(payload)
            except BAD_JSON as error:
                if payload.strip() == b"[DONE]":  # from hosts that serve both dialects
                    continue
                raise DialectError(f"the upstream sent an event that is no JSON object: {error}") from None
            match event.type:
                case "content_block_delta":
                    self._read_delta(event, events)
                case "content_block_start":
                    self._open_block(event, events)
                case "content_block_stop":
                    self._close_block(event.index, events)
                case "message_start":
                    self._begin(event, events)
                case "message_delta":
                    self._read_message_delta(event, events)
                case "message_stop":
                    if not self._stopped:
                        raise DialectError("the upstream ended its message without a stop_reason")
                    self.done = True
                case _ if event.is_error:
                    events.append(Failed(event.error_message, event.error_type, payload))
                    self.done = True
                case None:
                    self._complaint = foreign_message(payload) or self._complaint
                case _:
                    pass  # a ping, or a kind that is new

    def _begin(self, event: StreamEvent, out: list[Event]) -> None:
        """Say `Begin`, unless it has been said; a host may leave `message_start` out."""
        wire = event.message.usage if event.message is not None else None
        usage = None if wire is None else self._usage.at_start(wire)
        if not self._begun:
            self._begun = True
            out.append(Begin(usage))
        if usage is not None:
            out.append(UsageTold(usage))

    def _open_block(self, event: StreamEvent, out: list[Event]) -> None:
        self._go_on(event, out)
        self._close_block(event.index, out)
        start = event.content_block
        if start is None:
            raise DialectError("the upstream began a content block without telling which")
        block = self._blocks[event.index] = _Block(start.type)
        match start.type:
            case "text":
                if text := _text(start.text, "text"):
                    out.append(TextDelta(text))
            case "thinking":
                if text := _text(start.thinking, "thinking"):
                    out.append(ThinkingDelta(text))
                if signature := _text(start.signature, "signature"):
                    block.held = SignatureDelta(signature)
            case "redacted_thinking":
                if data := _text(start.data, "data"):
                    out.append(Redacted(data))
            case "tool_use":
                name = _text(start.name, "name")
                if not name:
                    raise DialectError("the upstream called a tool without naming it")
                block.call, self._calls = self._calls, self._calls + 1
                out.append(ToolStart(block.call, start.id if isinstance(start.id, str) else "", name))
                block.held = ToolDelta(block.call, start.input_text or "{}")
            case _:
                pass

    def _read_delta(self, event: StreamEvent, out: list[Event]) -> None:
        self._go_on(event, out)
        delta, block = event.delta, self._blocks.get(event.index)
        if delta is None:
            raise DialectError("the upstream sent a content_block_delta without its delta")
        meaning = DELTAS.get(delta.type or "")
        if meaning is None:
            return  # a citation, or a type that is new
        if block is None:
            if meaning.block == "tool_use":
                raise DialectError("the upstream sent a tool's input outside of a tool call")
            block = _Block(meaning.block)  # text is text, also where its block was not announced
        elif block.type != meaning.block:
            if block.type in SAYABLE:
                raise DialectError(f"the upstream sent a {delta.type} in a block of type {block.type}")
            return
        if text := _text(meaning.text(delta), str(delta.type)):
            said = meaning.event(block.call, text)
            out.append(said)
            if block.held is not None and type(block.held) is type(said):
                block.held = None

    def _close_block(self, index: int | None, out: list[Event]) -> None:
        block = self._blocks.pop(index, None)
        if block is not None and block.held is not None:
            out.append(block.held)

    def _read_message_delta(self, event: StreamEvent, out: list[Event]) -> None:
        if not self._begun:
            self._begin(event, out)
        delta = event.delta
        if delta is not None and delta.stop_reason and not self._stopped:
            for index in list(self._blocks):
                self._close_block(index, out)
            reason = fitting_stop(stops.stop_reason(delta.stop_reason), called_tools=self._calls > 0)
            out.append(Stop(reason, delta.stop_sequence if isinstance(delta.stop_sequence, str) else None))
            self._stopped = True
        if event.usage is not None:
            out.append(UsageTold(self._usage.told(event.usage)))

    def _go_on(self, event: StreamEvent, out: list[Event]) -> None:
        if self._stopped:
            raise DialectError("the upstream goes on after it has told why it stopped")
        if not self._begun:
            self._begin(event, out)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise DialectError(f"the upstream sent a {name} that is no text")
