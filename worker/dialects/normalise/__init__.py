"""What some hosts leave inside the text of an answer, put where it belongs: by the provider's `normalise` setting.

    text ─▶ think ─▶ tool_calls ─▶ what the client's dialect says

Each rule is a filter of events, which a stream passes as it comes and a whole answer part by part.
"""

from collections.abc import Sequence

from msgspec import structs

from shared.config.types import Rule
from worker.dialects.codec import StreamDecoder
from worker.dialects.neutral import (
    Answer,
    Event,
    Part,
    Redacted,
    RedactedThinking,
    SignatureDelta,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from worker.dialects.normalise.filter import Filter
from worker.dialects.normalise.think import ThinkFilter
from worker.dialects.normalise.tool_calls import ToolCallFilter

_FILTERS: dict[Rule, type[Filter]] = {"think": ThinkFilter, "tool_calls": ToolCallFilter}
"""In the order in which they are passed."""


class NormalisedStream:
    """A decoder, and behind it the rules.  See `worker.dialects.codec.StreamDecoder`."""

    def __init__(self, decoder: StreamDecoder, rules: Sequence[Rule]) -> None:
        self._decoder = decoder
        self._filters = _filters(rules)
        self.done = False

    def receive(self, data: bytes) -> list[Event]:
        return self._pass(self._decoder.receive(data))

    def receive_eof(self) -> list[Event]:
        return self._pass(self._decoder.receive_eof())

    def _pass(self, events: list[Event]) -> list[Event]:
        self.done = self._decoder.done
        return _pass(events, self._filters)


def normalised(answer: Answer, rules: Sequence[Rule]) -> Answer:
    """The same for a whole answer."""
    filters = _filters(rules)
    if not filters:
        return answer
    gathered = _Parts()
    for number, part in enumerate(answer.parts):
        gathered.apart()
        gathered.add(_pass(_events_of(part, number), filters))
    gathered.apart()
    last = _pass([Stop(answer.stop, answer.stop_sequence)], filters)
    gathered.add(last)
    stop = next(event for event in last if isinstance(event, Stop))
    return structs.replace(answer, parts=gathered.parts, stop=stop.reason, stop_sequence=stop.sequence)


def _filters(rules: Sequence[Rule]) -> list[Filter]:
    return [make() for rule, make in _FILTERS.items() if rule in rules]


def _pass(events: list[Event], filters: list[Filter]) -> list[Event]:
    for rule in filters:
        passed: list[Event] = []
        for event in events:
            rule.send(event, passed)
        events = passed
    return events


def _events_of(part: Part, number: int) -> list[Event]:
    match part:
        case Text(text):
            return [TextDelta(text)]
        case Thinking(text, signature):
            return [ThinkingDelta(text), SignatureDelta(signature)]
        case RedactedThinking(data):
            return [Redacted(data)]
        case ToolCall(id, name, arguments):
            return [ToolStart(number, id, name), ToolDelta(number, arguments)]
        case _:
            raise AssertionError(f"an answer holds no {type(part).__name__}")


class _Parts:
    """Events as parts of an answer again."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._calls: dict[int, int] = {}
        """Index of a call → its place among the parts."""
        self._fresh = True

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self._parts)

    def apart(self) -> None:
        """What follows begins a part of its own."""
        self._fresh = True

    def add(self, events: list[Event]) -> None:
        for event in events:
            last = None if self._fresh or not self._parts else self._parts[-1]
            match event, last:
                case TextDelta(text), Text(before):
                    self._parts[-1] = Text(before + text)
                case TextDelta(text), _:
                    self._parts.append(Text(text))
                case ThinkingDelta(text), Thinking(before):
                    self._parts[-1] = Thinking(before + text)
                case ThinkingDelta(text), _:
                    self._parts.append(Thinking(text))
                case SignatureDelta(signature), Thinking(text):
                    self._parts[-1] = Thinking(text, signature)
                case SignatureDelta(signature), _ if signature:
                    self._parts.append(Thinking("", signature))
                case Redacted(data), _:
                    self._parts.append(RedactedThinking(data))
                case ToolStart(index, id, name), _:
                    self._calls[index] = len(self._parts)
                    self._parts.append(ToolCall(id, name, ""))
                case ToolDelta(index, text), _:
                    place = self._calls[index]
                    call = self._parts[place]
                    assert isinstance(call, ToolCall)
                    self._parts[place] = ToolCall(call.id, call.name, call.arguments + text)
                case _:
                    continue
            self._fresh = False
