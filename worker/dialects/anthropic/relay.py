"""The way back of a message whose both sides speak Anthropic: bytes pass as they came, a tee reads along.

    relay = StreamRelay(max_event_bytes=...)
    out = relay.receive(data)        # whole events, for the client
    out = relay.receive_eof()        # what ends the stream; raises UpstreamBroken where the answer is not whole

Theory of operation: an answer is whole when the upstream says `message_stop`, or when its body ends after a
`message_delta` with a `stop_reason`; the `message_stop` is then added.

With a `model`, the answer names it so: the one thing in it that then doesn't pass as it came.
"""

from shared.errors import UpstreamBroken
from worker.dialects.anthropic.usage import StreamedUsage, usage_of
from worker.dialects.anthropic.wire import BAD_JSON, Block, StreamEvent, read_event, read_message
from worker.dialects.foreign_error import foreign_message
from worker.dialects.gathered import GatheredBody
from worker.dialects.neutral import Usage
from worker.dialects.rename import Renaming
from worker.dialects.sse import EventCutter, encode_event, payloads, through_payload
from worker.dialects.tokens import TokenMeter

MESSAGE_STOP = encode_event("message_stop", b'{"type":"message_stop"}')


class StreamRelay:
    """A streamed answer, event by event.  See `worker.dialects.relay.Relay`."""

    def __init__(self, *, max_event_bytes: int, model: str | None = None) -> None:
        self._cutter = EventCutter(max_event_bytes)
        self._renaming = None if model is None else Renaming(model, "message", "model")
        self._counts = StreamedUsage()
        self._begun = False
        self._stopped = False
        self.meter = TokenMeter()
        self.usage: Usage | None = None
        self.error: str | None = None
        """What the upstream's own error event said; the client has it already."""
        self.refusal: bytes | None = None
        self.done = False
        """`message_stop` or an error went by: nothing of interest follows."""

    def receive(self, data: bytes) -> bytes:
        """Upstream bytes in, the client's bytes out, b"" while an event is incomplete."""
        block = self._cutter.receive(data)
        return self._read(block) if block else block

    def receive_eof(self) -> bytes:
        """The upstream's body has ended: what is left to send.  `UpstreamBroken` if the answer isn't whole."""
        # A last event may lack its blank line: legal JSON counts, half of one doesn't.
        out = self._cutter.receive_eof() + b"\n\n"
        out = self._read(out) if _is_whole(out) else b""
        if self.done:
            return out
        if not self._stopped:
            raise UpstreamBroken("the upstream ended its stream before the message was finished", "IncompleteStream")
        self.done = True
        return out + MESSAGE_STOP

    def _read(self, block: bytes) -> bytes:
        for number, payload in enumerate(payloads(block)):
            if self.done:  # what an upstream says behind its end is nobody's
                block = through_payload(block, number)
                break
            try:
                event = read_event(payload)
            except BAD_JSON:
                continue  # not ours to judge: the client gets it as it came
            if event.type == "content_block_delta":
                delta = event.delta
                if delta is not None:
                    text = delta.text or delta.partial_json or delta.thinking
                    if type(text) is str:
                        self.meter.add(text)
            else:
                self._read_frame(event, payload)
        if self._renaming is not None and b"message_start" in block:
            return self._renaming.block(block)
        return block

    def _read_frame(self, event: StreamEvent, payload: bytes) -> None:
        """What stands around the deltas."""
        match event.type:
            case "content_block_start":
                self._begun = True
                if event.content_block is not None:
                    meter_block(self.meter, event.content_block)
            case "message_start":
                self._begun = True
                if event.message is not None and event.message.usage is not None:
                    self.usage = self._counts.at_start(event.message.usage)
            case "message_delta":
                if event.delta is not None and event.delta.stop_reason:
                    self._stopped = True
                if event.usage is not None:
                    self.usage = self._counts.told(event.usage)
            case "message_stop":
                self.done = True
            case _ if event.is_error:
                self.error = event.error_message
                self.refusal = None if self._begun else payload
                self.done = True
            case _:
                pass


class BodyRelay(GatheredBody):
    """A message that comes as one body, and passes."""

    def _read(self, body: bytes) -> bytes:
        try:
            message = read_message(body)
            told = read_event(body)
        except BAD_JSON:
            raise UpstreamBroken("the upstream's answer is not a message", "DecodingError") from None
        if told.is_error:
            raise UpstreamBroken(told.error_message, "UpstreamError")
        if message.content is None:
            reason = foreign_message(body) or "the upstream's answer holds no content"
            raise UpstreamBroken(reason, "UpstreamError")
        if message.usage is not None:
            self.usage = usage_of(message.usage)
        for block in message.content:
            meter_block(self.meter, block)
        return body


def meter_block(meter: TokenMeter, block: Block) -> None:
    """What a model wrote in a block, or in the start of one: text, thought, the name and the input of a call."""
    for text in (block.text, block.thinking, block.name, block.input_text):
        if text and type(text) is str:
            meter.add(text)


def _is_whole(event: bytes) -> bool:
    found = payloads(event)
    for payload in found:
        try:
            read_event(payload)
        except BAD_JSON:
            return False
    return bool(found)
