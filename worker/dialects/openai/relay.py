"""The way back of a chat completion whose both sides speak OpenAI: bytes pass as they came, a tee reads along.

    relay = StreamRelay(hide_usage=True, max_event_bytes=...)
    out = relay.receive(data)        # whole events, for the client
    out = relay.receive_eof()        # what ends the stream; raises UpstreamBroken where the answer is not whole

Theory of operation: an answer is whole when the upstream says `[DONE]`, or when its body ends after each choice that
was seen has had its `finish_reason`; the `[DONE]` is then added, as several SDKs need it and several providers forget
it.

With a `model`, the answer names it so: beside hidden usage, the one thing in it that then doesn't pass as it came.
"""

from shared.errors import UpstreamBroken
from worker.dialects.foreign_error import foreign_message
from worker.dialects.gathered import GatheredBody
from worker.dialects.neutral import Usage
from worker.dialects.openai.failure import flat_failure
from worker.dialects.openai.usage import usage_in
from worker.dialects.openai.wire import BAD_JSON, Choice, Chunk, error_message, read_chunk
from worker.dialects.rename import Renaming
from worker.dialects.sse import EventCutter, payloads, split_events, through_payload
from worker.dialects.tokens import TokenMeter

DONE = b"data: [DONE]\n\n"


class StreamRelay:
    """A streamed answer, event by event.  See `worker.dialects.relay.Relay`."""

    def __init__(self, *, hide_usage: bool, max_event_bytes: int, model: str | None = None) -> None:
        self._cutter = EventCutter(max_event_bytes)
        self._renaming = None if model is None else Renaming(model, "model")
        self._hide_usage = hide_usage
        self._open_choices: set[object] = set()
        self._finished_choices: set[object] = set()
        self.meter = TokenMeter()
        self.usage: Usage | None = None
        self.error: str | None = None
        """What the upstream's own error event said; the client has it already."""
        self.refusal: bytes | None = None
        self.done = False
        """`[DONE]` or an error went by: nothing of interest follows."""

    def receive(self, data: bytes) -> bytes:
        """Upstream bytes in, the client's bytes out, b"" while an event is incomplete."""
        block = self._cutter.receive(data)
        return self._read(block) if block else block

    def receive_eof(self) -> bytes:
        """The upstream's body has ended: what is left to send.  `UpstreamBroken` if the answer isn't whole."""
        # A last event may lack its blank line: legal JSON counts, half of one doesn't.
        event = self._cutter.receive_eof() + b"\n\n"
        out = self._read(event) if _is_whole(event) else b""
        if self.done:
            return out
        if not self._finished_choices or self._open_choices - self._finished_choices:
            raise UpstreamBroken("the upstream ended its stream before the answer was finished", "IncompleteStream")
        self.done = True
        return out + DONE

    def _read(self, block: bytes) -> bytes:
        hidden = False
        for number, payload in enumerate(payloads(block)):
            if self.done:  # what an upstream says behind its end is nobody's
                block = through_payload(block, number)
                break
            if payload == b"[DONE]":
                self.done = True
                continue
            try:
                chunk = read_chunk(payload)
            except BAD_JSON:
                self.done = self.done or payload.strip() == b"[DONE]"
                continue  # not ours to judge: the client gets it as it came
            if chunk.error and chunk.is_error:
                self._read_error(error_message(payload), payload)
            elif chunk.choices is None and (failure := flat_failure(payload)) is not None:
                self._read_error(failure.message, payload)
            tells_usage = chunk.usage is not None or chunk.x_groq is not None
            if chunk.choices:
                for choice in chunk.choices:
                    self._read_choice(choice)
                    if choice.usage is not None:
                        tells_usage = True
            if tells_usage:
                self.usage = usage_in(chunk) or self.usage
                hidden = hidden or is_usage_only(chunk)
        if hidden and self._hide_usage:
            block = b"".join(event for event in split_events(block) if not _is_usage_event(event))
        return block if self._renaming is None else self._renaming.block(block)

    def _read_error(self, message: str | None, payload: bytes) -> None:
        self.error = message or "the upstream reported an error"
        self.refusal = None if self._open_choices else payload
        self.done = True

    def _read_choice(self, choice: Choice) -> None:
        self._open_choices.add(choice.index)
        if choice.finish_reason:  # some send "" until then
            self._finished_choices.add(choice.index)
        delta = choice.delta or choice.message
        if delta is None:
            return
        if type(delta.content) is str:
            self.meter.add(delta.content)
        if delta.tool_calls or delta.reasoning_content or delta.reasoning or delta.refusal:
            meter_extras(self.meter, choice)


class BodyRelay(GatheredBody):
    """A chat completion that comes as one body, and passes."""

    def _read(self, body: bytes) -> bytes:
        try:
            completion = read_chunk(body)
        except BAD_JSON:
            raise UpstreamBroken("the upstream's answer is not a chat completion", "DecodingError") from None
        if not completion.choices:
            reason = error_message(body) or foreign_message(body) or "the upstream's answer holds no choices"
            raise UpstreamBroken(reason, "UpstreamError")
        self.usage = usage_in(completion)
        for choice in completion.choices:
            if choice.message is not None and type(choice.message.content) is str:
                self.meter.add(choice.message.content)
            meter_extras(self.meter, choice)
        return body


def meter_extras(meter: TokenMeter, choice: Choice) -> None:
    """Everything beside `content` that a model wrote: reasoning, refusals, tool calls."""
    delta = choice.delta or choice.message
    if delta is None:
        return
    # OpenRouter sends the same thought under both names
    thought = delta.reasoning_content or delta.reasoning
    for text in (thought, delta.refusal):
        if type(text) is str:
            meter.add(text)
    for call in delta.tool_calls or ():
        if call.function is not None:
            for text in (call.function.name, call.function.arguments):
                if type(text) is str:
                    meter.add(text)


def is_usage_only(chunk: Chunk) -> bool:
    """The extra chunk that `include_usage` brings: usage, and nothing said."""
    return chunk.usage is not None and not chunk.choices and not chunk.is_error


def _is_usage_event(event: bytes) -> bool:
    for payload in payloads(event):
        try:
            return is_usage_only(read_chunk(payload))
        except BAD_JSON:
            return False
    return False


def _is_whole(event: bytes) -> bool:
    found = payloads(event)
    for payload in found:
        if payload != b"[DONE]":
            try:
                read_chunk(payload)
            except BAD_JSON:
                return False
    return bool(found)
