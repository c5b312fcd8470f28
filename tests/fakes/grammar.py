"""Whether a stream, as a client got it, obeys its dialect's grammar to the last byte.

    assert anthropic_faults(stream) == []       # each fault is a sentence
    assert openai_faults(stream) == []

A stream that ends in the dialect's error is well formed too, as long as nothing follows the error and nothing before
it says that the answer was whole; `ends_in_error` tells the two apart.  Written without the gateway's own codecs, so
that one mistake can't hide in both.

`passed=True`: the events are an upstream's own, passed on: what only a careless upstream would do (empty deltas and
blocks, counts left out, blocks of kinds that are new) is let by, and it may break off between its last two events.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_TEXT, _THINKING, _TOOL = "text_delta", "thinking_delta", "input_json_delta"
DELTAS = {
    "text": {_TEXT: "text", "citations_delta": "citation"},
    "thinking": {_THINKING: "thinking", "signature_delta": "signature"},
    "redacted_thinking": {},
    "tool_use": {_TOOL: "partial_json"},
    "server_tool_use": {_TOOL: "partial_json"},
}
"""Block type → the deltas that it is fed, and where each holds its text."""
START = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
"""What a block begins with, beside ids and names."""
STOPS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
}
CUT_SHORT = {"max_tokens", "model_context_window_exceeded"}
"""Stops that leave a tool's input unfinished."""
COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
FINISHES = {"stop", "length", "tool_calls", "content_filter"}


def anthropic_faults(stream: bytes, *, passed: bool = False) -> list[str]:
    """What is wrong with a stream of Anthropic's dialect."""
    try:
        events = [(name, json.loads(data)) for name, data in parse_events(stream)]
    except ValueError as error:
        return [f"not a stream of JSON events: {error}"]
    return _Message(passed).read(events)


def openai_faults(stream: bytes, *, passed: bool = False) -> list[str]:
    """What is wrong with a stream of chat completion chunks."""
    try:
        events = list(parse_events(stream))
        chunks = [data if data == "[DONE]" else json.loads(data) for _, data in events]
    except ValueError as error:
        return [f"not a stream of JSON events: {error}"]
    named = [f"an event has the name {name!r}" for name, _ in events if name is not None]
    return named + _Completion(passed).read(chunks)


def ends_in_error(stream: bytes) -> bool:
    """Whether the last event is an error, in either dialect."""
    data = [data for _, data in parse_events(stream)]
    return bool(data) and data[-1] != "[DONE]" and bool(json.loads(data[-1]).get("error"))


def parse_events(stream: bytes) -> Iterator[tuple[str | None, str]]:
    """The name and the data of each event; `ValueError` for bytes that a client would silently lose."""
    text = stream.decode()
    if text and not re.search(r"(?:\r\n|\n|\r(?!\n)){2}\Z", text):
        raise ValueError(f"the last event has no end: {text[-60:]!r}")
    name: str | None = None
    data: list[str] = []
    fields = 0
    for line in re.split(r"\r\n|\n|\r", text):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield name, "\n".join(data)
            elif fields:
                raise ValueError(f"an event without data: {name!r}")
            name, data, fields = None, [], 0
        elif field == "event":
            name, fields = value, fields + 1
        elif field == "data":
            data.append(value)
        elif field not in ("", "id", "retry"):
            raise ValueError(f"a line that no client understands: {line[:60]!r}")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except (ValueError, RecursionError):
        return False


AFTER = {
    "new": {"message_start": "blocks", "error": "over"},
    "blocks": {"content_block_start": "inside", "message_delta": "told", "error": "over"},
    "inside": {"content_block_delta": "inside", "content_block_stop": "blocks", "error": "over"},
    "told": {"message_stop": "over"},
    "over": {},
}
"""State of a message → the events that may come, and the state behind each."""


class _Message:
    """Theory of operation: `state` names what has been; AFTER is the grammar.

    new ─message_start─▶ blocks ─content_block_start─▶ inside ─content_block_stop─▶ blocks
    blocks ─message_delta─▶ told ─message_stop─▶ over;    any but told ─error─▶ over
    """

    def __init__(self, passed: bool) -> None:
        self.passed = passed
        self.faults: list[str] = []
        self.state = "new"
        self.kinds: list[str] = []
        """The types of the blocks so far."""
        self.fed: list[tuple[str, str]] = []
        """The open block's deltas: type and text."""
        self.unfinished: list[str] = []
        """Tool inputs that are no JSON object."""
        self.ids: list[str] = []

    def fault(self, what: str) -> None:
        self.faults.append(what)

    def read(self, events: list[tuple[str | None, Any]]) -> list[str]:
        for name, event in events:
            kind = str(event.get("type")) if isinstance(event, dict) else None
            if name != kind:
                self.fault(f"event {name!r} holds the type {kind!r}")
            if kind == "ping" and self.state != "over":
                continue
            after = AFTER[self.state]
            if self.passed and kind == "error" and self.state == "told":
                after = {"error": "over"}
            if kind not in after:
                self.fault(f"{kind} where only {sorted(after)} may stand (event {event})")
                continue
            getattr(self, f"read_{kind}")(event)
            self.state = after[kind]
        if self.state != "over":
            self.fault(f"the stream ends without message_stop or error, in state {self.state!r}")
        return self.faults

    def read_message_start(self, event: Any) -> None:
        message = event.get("message") or {}
        wanted = {"type": "message", "role": "assistant", "content": [], "stop_reason": None, "stop_sequence": None}
        wrong = {name: message.get(name, "nothing") for name, value in wanted.items() if message.get(name, 0) != value}
        if wrong:
            self.fault(f"message_start has {wrong}")
        if not (isinstance(message.get("id"), str) and message["id"] and isinstance(message.get("model"), str)):
            self.fault(f"message_start needs an id and a model: {message}")
        if not self.passed and not message.get("id", "").startswith("msg_"):
            self.fault(f"a message's id begins with msg_: {message.get('id')!r}")
        self.read_usage("message_start", message.get("usage"), ("input_tokens", "output_tokens"))

    def read_usage(self, where: str, usage: Any, needed: tuple[str, ...]) -> None:
        usage = usage if isinstance(usage, dict) else {}
        wrong = [name for name in (needed if self.passed else COUNTS) if not _is_count(usage.get(name))]
        if wrong:
            self.fault(f"{where}: usage without a count of {wrong}: {usage}")

    def read_content_block_start(self, event: Any) -> None:
        block = event.get("content_block") or {}
        kind = block.get("type")
        if event.get("index") != len(self.kinds):
            self.fault(f"block {event.get('index')} where {len(self.kinds)} is next")
        if kind not in DELTAS and not self.passed:
            self.fault(f"a block of type {kind!r}")
        for name, value in START.get(kind, {}).items():
            if block.get(name, "nothing") != value and not (self.passed and name == "signature"):
                self.fault(f"a {kind} block begins with {name} = {block.get(name, 'nothing')!r}")
        if kind == "tool_use":
            if not all(isinstance(block.get(name), str) and block[name] for name in ("id", "name")):
                self.fault(f"a tool_use block needs id and name: {block}")
            if block.get("id") in self.ids:
                self.fault(f"two tool_use blocks have the id {block['id']!r}")
            self.ids.append(block.get("id"))
        if kind == "redacted_thinking" and not block.get("data"):
            self.fault("a redacted_thinking block without data")
        self.kinds.append(kind)
        self.fed = []

    def read_content_block_delta(self, event: Any) -> None:
        delta, kind = event.get("delta") or {}, self.kinds[-1]
        self.check_index(event)
        place = DELTAS.get(kind, {}).get(delta.get("type"))
        if place is None:
            if kind in DELTAS:
                self.fault(f"a {delta.get('type')} in a {kind} block")
            return
        text = delta.get(place)
        if place != "citation" and not isinstance(text, str):
            self.fault(f"a {delta['type']} without {place}: {delta}")
            text = ""
        if not text and not self.passed:
            self.fault(f"an empty {delta['type']}")
        if self.fed and self.fed[-1][0] == "signature_delta":
            self.fault(f"a {delta['type']} behind the block's signature")
        self.fed.append((delta["type"], text))

    def read_content_block_stop(self, event: Any) -> None:
        self.check_index(event)
        kind = self.kinds[-1]
        if kind == "tool_use":
            text = "".join(text for _, text in self.fed)
            if not _is_object(text):
                self.unfinished.append(text)
        elif kind in ("text", "thinking") and not self.fed and not self.passed:
            self.fault(f"an empty {kind} block")

    def check_index(self, event: Any) -> None:
        if event.get("index") != len(self.kinds) - 1:
            self.fault(f"{event.get('type')} for block {event.get('index')} while {len(self.kinds) - 1} is open")

    def read_message_delta(self, event: Any) -> None:
        delta = event.get("delta") or {}
        stop = delta.get("stop_reason")
        if stop not in STOPS or "stop_sequence" not in delta:
            self.fault(f"message_delta needs a stop_reason and a stop_sequence: {delta}")
        if stop != "stop_sequence" and delta.get("stop_sequence") is not None and not self.passed:
            self.fault(f"a stop_sequence with the stop_reason {stop!r}")
        if stop == "tool_use" and "tool_use" not in self.kinds:
            self.fault("stop_reason tool_use without a tool_use block")
        if stop == "end_turn" and "tool_use" in self.kinds:
            self.fault("stop_reason end_turn, though there are tool_use blocks")
        if stop not in CUT_SHORT:
            self.faults += [f"a tool's input is no JSON object: {text[:80]!r}" for text in self.unfinished]
        self.read_usage("message_delta", event.get("usage"), ("output_tokens",))

    def read_message_stop(self, event: Any) -> None:
        if set(event) != {"type"} and not self.passed:
            self.fault(f"message_stop holds more than its type: {event}")

    def read_error(self, event: Any) -> None:
        error = event.get("error")
        told = error if isinstance(error, dict) else {}
        if not all(isinstance(told.get(name), str) and told[name] for name in ("type", "message")):
            self.fault(f"an error needs a type and a message: {event}")


class _Completion:
    """Theory of operation: chunks speak until one has a `finish_reason`; then only usage and `[DONE]` may follow."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed
        self.faults: list[str] = []
        self.head: tuple[Any, ...] | None = None
        """id, model and created, which never change."""
        self.choices = 0
        self.finish: str | None = None
        self.usages = 0
        self.ended = ""
        """How: "[DONE]" or "error"."""
        self.calls: dict[Any, str] = {}
        """Arguments by index."""
        self.ids: list[str] = []

    def fault(self, what: str) -> None:
        self.faults.append(what)

    def read(self, chunks: list[Any]) -> list[str]:
        for chunk in chunks:
            if self.ended:
                self.fault(f"{chunk} behind the end, {self.ended}")
            elif chunk == "[DONE]":
                self.ended = "[DONE]"
                if self.finish is None:
                    self.fault("[DONE] without a finish_reason")
            elif not isinstance(chunk, dict):
                self.fault(f"a chunk that is no object: {chunk!r}")
            elif chunk.get("error"):
                self.ended = "an error"
                self.read_error(chunk["error"])
            else:
                self.read_chunk(chunk)
        if not self.ended:
            self.fault("the stream ends without [DONE] or an error")
        return self.faults

    def read_error(self, error: Any) -> None:
        told = error if isinstance(error, dict) else {}
        if not all(isinstance(told.get(name), str) and told[name] for name in ("message", "type")):
            self.fault(f"an error needs a message and a type: {error}")
        if self.finish is not None and not self.passed:
            self.fault("a broken stream was finished like a good one")

    def read_chunk(self, chunk: dict[str, Any]) -> None:
        head = tuple(chunk.get(name) for name in ("id", "model", "created"))
        if None in head or chunk.get("object") != "chat.completion.chunk":
            self.fault(f"a chunk without id, model, created or its object: {chunk}")
        if self.head not in (None, head):
            self.fault(f"id, model or created changes: {self.head} to {head}")
        self.head = head
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            self.fault(f"choices is no list: {chunk}")
            return
        if chunk.get("usage") is not None:
            self.read_usage(chunk["usage"], choices)
        elif not choices:
            self.fault(f"a chunk that says nothing: {chunk}")
        for choice in choices:
            self.read_choice(choice)

    def read_usage(self, usage: Any, choices: list[Any]) -> None:
        self.usages += 1
        if self.passed:
            return
        if choices or self.finish is None or self.usages > 1:
            self.fault("usage comes once, behind the finish_reason, in a chunk of its own with empty choices")
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
        if not all(map(_is_count, counts)) or counts[0] + counts[1] != counts[2]:
            self.fault(f"usage {usage}")

    def read_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if choice.get("index") != 0 or not isinstance(delta, dict) or "finish_reason" not in choice:
            self.fault(f"a choice needs index 0, a delta and a finish_reason: {choice}")
            return
        if (delta.get("role") == "assistant") != (self.choices == 0):
            self.fault(f"the role stands in the first delta, and only there: {delta} is number {self.choices}")
        self.choices += 1
        if self.finish is not None:
            self.fault(f"{choice} behind the finish_reason")
        said = {name: value for name, value in delta.items() if name not in ("role", "refusal") or value}
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if not isinstance(said.get(name, ""), str | None):
                self.fault(f"{name} is no text: {delta}")
            if said.get(name) == "" and "role" not in delta and not self.passed:
                self.fault(f"an empty {name}")
        for call in delta.get("tool_calls") or ():
            self.read_call(call)
        finish = choice["finish_reason"]
        if finish is not None:
            self.read_finish(finish)
        elif not said:
            self.fault(f"a delta that says nothing: {choice}")

    def read_call(self, call: dict[str, Any]) -> None:
        index, function = call.get("index"), call.get("function") or {}
        if index not in self.calls:
            if index != len(self.calls):
                self.fault(f"tool call {index} where {len(self.calls)} is next")
            if call.get("type") != "function" or not call.get("id") or not function.get("name"):
                self.fault(f"a tool call begins with type, id and name: {call}")
            if call.get("id") in self.ids:
                self.fault(f"two tool calls have the id {call['id']!r}")
            self.ids.append(call.get("id"))
            self.calls[index] = ""
        elif not self.passed and (call.get("id") or function.get("name") or not function.get("arguments")):
            self.fault(f"a later fragment holds arguments only: {call}")
        if not isinstance(function.get("arguments"), str):
            self.fault(f"a tool call's arguments are text: {call}")
        self.calls[index] += function.get("arguments") or ""

    def read_finish(self, finish: Any) -> None:
        self.finish = finish
        if finish not in FINISHES:
            self.fault(f"finish_reason {finish!r}")
        if finish == "tool_calls" and not self.calls:
            self.fault("finish_reason tool_calls without one")
        if finish == "stop" and self.calls:
            self.fault("finish_reason stop, though there are tool calls")
        if finish != "length":
            wrong = [text for text in self.calls.values() if not _is_object(text)]
            self.faults += [f"a tool's arguments are no JSON object: {text[:80]!r}" for text in wrong]
