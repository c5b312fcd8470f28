"""A chat completion's stream as neutral events.

Theory of operation, the same as of `worker.dialects.openai.relay`: an answer is whole when it has a `finish_reason`
and then `[DONE]` or the end of the body has come.  Anything else is a lost upstream, and never an end.

    what comes              state: unfinished              finished
    text, thought, calls    events                         events: some hosts send their last words late
    finish_reason           ─▶ finished                    the later one counts
    usage                   UsageTold                      UsageTold
    an error                Failed ─▶ done                 Failed ─▶ done
    [DONE], end of body     UpstreamBroken                 Stop ─▶ done
    what is no JSON         DialectError                   DialectError
"""

from collections.abc import Iterable
from typing import Any

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.event_decoder import EventDecoder
from worker.dialects.foreign_error import foreign_message
from worker.dialects.neutral import Begin, Event, Failed, Stop, TextDelta, ThinkingDelta, UsageTold
from worker.dialects.openai.failure import failed, flat_failure
from worker.dialects.openai.stops import stop_reason
from worker.dialects.openai.tool_fragments import ToolFragments
from worker.dialects.openai.usage import usage_in
from worker.dialects.openai.wire import BAD_JSON, Choice, Chunk, Delta, read_chunk


class OpenAIStreamDecoder(EventDecoder):
    """See `worker.dialects.codec.StreamDecoder`."""

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(max_event_bytes)
        self._begun = False
        self._said = False
        """By deltas."""
        self._refused = False
        self._tools = ToolFragments()
        self._complaint: str | None = None
        """What may be why no answer comes."""
        self._finish: Any = None
        self._sequence: str | None = None

    def _decode(self, found: Iterable[bytes], events: list[Event]) -> None:
        for payload in found:
            if self._read(payload, events):
                break

    def _is_whole(self, payload: bytes) -> bool:
        return payload == b"[DONE]" or _is_chunk(payload)

    def _read(self, payload: bytes, events: list[Event]) -> bool:
        """Appends what an event tells; whether it is the last."""
        if payload == b"[DONE]":
            self._end(events)
            return True
        try:
            chunk = read_chunk(payload)
        except BAD_JSON as error:
            return self._read_what_is_no_object(payload, error, events)
        failure = failed(payload) if chunk.is_error else None
        if failure is None and chunk.choices is None and chunk.usage is None and chunk.x_groq is None:
            failure = self._read_stray(payload)
            if failure is None:
                return False
        if not self._begun and failure is None:
            self._begun = True
            events.append(Begin())
        usage_told = chunk.usage is not None or chunk.x_groq is not None
        for choice in chunk.choices or ():
            if not choice.index:  # the gateway asks for one answer only
                self._read_choice(choice, events)
                usage_told = usage_told or choice.usage is not None
        if usage_told:
            self._tell_usage(chunk, events)
        if failure is not None:
            self.done = True
            events.append(failure)
        elif self._finish is not None:
            stop_reason(self._finish, called_tools=True)  # raises if it tells that the answer is lost
        return self.done

    def _read_what_is_no_object(self, payload: bytes, error: Exception, events: list[Event]) -> bool:
        data = payload.strip()
        if data == b"[DONE]":
            self._end(events)
            return True
        if data:
            said = foreign_message(data)
            raise DialectError(said or f"the upstream sent an event that is no JSON object: {error}") from None
        return False

    def _read_stray(self, payload: bytes) -> Failed | None:
        """What is no part of an answer: an error in words of the host's own, or a sign of life."""
        failure = flat_failure(payload)
        if failure is None:
            self._complaint = foreign_message(payload) or self._complaint
        return failure

    def _read_choice(self, choice: Choice, events: list[Event]) -> None:
        delta = choice.delta
        if delta is not None:
            before = len(events)
            self._read_delta(delta, events)
            self._said = self._said or len(events) > before
        elif choice.message is not None and not self._said:
            # A whole answer in one chunk; behind deltas it is what some hosts sum up with.
            self._read_delta(choice.message, events)
        if choice.finish_reason:  # some send "" until then
            self._finish = choice.finish_reason
        met = choice.stop_reason or choice.matched_stop
        if type(met) is str:
            self._sequence = met

    def _read_delta(self, delta: Delta, events: list[Event]) -> None:
        content = delta.content
        # OpenRouter sends the same thought under both names.
        thought = delta.reasoning_content or delta.reasoning
        if thought and type(thought) is str:
            events.append(ThinkingDelta(thought))
        if content:
            if type(content) is str:
                events.append(TextDelta(content))
            elif type(content) is list:
                _read_parts(content, events)
        if delta.refusal and type(delta.refusal) is str:
            self._refused = True
            events.append(TextDelta(delta.refusal))
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                self._tools.receive(fragment, events)

    def _tell_usage(self, chunk: Chunk, events: list[Event]) -> None:
        usage = usage_in(chunk)
        if usage is not None:
            events.append(UsageTold(usage))

    def _end(self, events: list[Event]) -> None:
        if self._finish is None:
            reason = self._complaint or "the upstream ended its stream before the answer was finished"
            raise UpstreamBroken(reason, "IncompleteStream")
        all_named = self._tools.receive_end(events)
        reason = stop_reason(self._finish, called_tools=self._tools.any_begun)
        if not all_named and reason != "length":
            raise DialectError("the upstream sent a tool call without a name")
        if reason == "end" and self._refused:
            events.append(Stop("refusal"))
        elif reason == "end" and self._sequence is not None:
            events.append(Stop("sequence", self._sequence))
        else:
            events.append(Stop(reason))
        self.done = True


def _read_parts(parts: list[Any], events: list[Event]) -> None:
    """Content as a list: text parts, and Mistral's `thinking` parts, which hold text parts themselves."""
    for part in parts:
        if not isinstance(part, dict):
            part = {"text": part}
        thought = part.get("thinking")
        for inner in thought if isinstance(thought, list) else [{"text": thought}]:
            text = inner.get("text") if isinstance(inner, dict) else None
            if text and isinstance(text, str):
                events.append(ThinkingDelta(text))
        text = part.get("text")
        if text and isinstance(text, str):
            events.append(TextDelta(text))


def _is_chunk(payload: bytes) -> bool:
    try:
        read_chunk(payload)
    except BAD_JSON:
        return False
    return True
