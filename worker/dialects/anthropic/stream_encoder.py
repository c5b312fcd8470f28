"""Neutral events as a stream of Anthropic's Messages API.

Theory of operation: `_block` names the block that is open; `_PLACES` says which block an event feeds.

    event                            the block is open    another one is, or none
    TextDelta, ThinkingDelta         a delta              close; open; a delta
    SignatureDelta                   a delta; close       close; open; a delta; close
    Redacted                                              close; open; close
    ToolStart, ToolDelta             see below
    Apart                            close                 close
    Failed                           the `error` event, and nothing after it
    Stop, UsageTold                  remembered; `finish` closes, and tells them

The first of them all is preceded by `message_start`.

Anthropic's blocks stand one behind the other, while an upstream may mix the fragments of several calls.  So the call
whose block is open streams as it comes, the others wait in the order of their starts, and the next one has its turn
when another than the open one gets something and the open one's arguments are a whole JSON object.  What a model says
beside its calls waits too while the open call isn't whole.  Arguments that don't begin with `{` are sent at the end,
put right, or not at all.

White space alone makes no block of text beside others: some hosts pad thoughts and calls with it, and Anthropic's own
API refuses such a block in the next request.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import structs

from shared.errors import DialectError
from worker.dialects.anthropic.errors import error_event
from worker.dialects.anthropic.stops import stop_word
from worker.dialects.anthropic.usage import wire_usage
from worker.dialects.arguments import object_text
from worker.dialects.codec import Reply
from worker.dialects.fragments import Fragments
from worker.dialects.neutral import (
    CUT_SHORT,
    Apart,
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
    Usage,
    UsageTold,
    fitting_stop,
)
from worker.dialects.sse import encode_event
from worker.dialects.tokens import CHARS_PER_TOKEN

_encode = msgspec.json.Encoder().encode

# Deltas are nearly all that is ever sent, so only their text is encoded anew.
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":'
_DELTA_END = b"}}\n\n"
_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_MESSAGE_STOP = encode_event("message_stop", b'{"type":"message_stop"}')

_PLACES: Mapping[type, tuple[str, bytes, bytes]] = {
    TextDelta: ("text", b"text_delta", b"text"),
    ThinkingDelta: ("thinking", b"thinking_delta", b"thinking"),
    SignatureDelta: ("thinking", b"signature_delta", b"signature"),
    ToolDelta: ("tool_use", b"input_json_delta", b"partial_json"),
}
"""Event → the block that it feeds, the type of its delta, and where that holds the text."""
_STARTS: Mapping[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
_THOUGHTS = (ThinkingDelta, SignatureDelta, Redacted)
_Said = TextDelta | ThinkingDelta | SignatureDelta | Redacted
"""What isn't a call."""


class _Call:
    """A tool call.  `live`: its arguments are sent as they come; None while nothing tells whether they can be."""

    __slots__ = ("arguments", "id", "live", "name")

    def __init__(self, id: str, name: str) -> None:
        self.id = id
        self.name = name
        self.arguments = Fragments()
        self.live: bool | None = None


class AnthropicStreamEncoder:
    """See `worker.dialects.codec.StreamEncoder`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._begun = False
        self._over = False
        self._index = -1
        """Of the last block."""
        self._block: str | None = None
        self._calls: dict[int, _Call] = {}
        self._open: _Call | None = None
        """The call whose block is open…"""
        self._waiting: deque[_Call] = deque()
        """…and those that are to come."""
        self._held: list[_Said] = []
        """What was said while a call was not whole."""
        self._ids = set(reply.taken_ids)
        self._blank = ""
        """White space that a text may begin with."""
        self._chars = 0
        self._stop: Stop | None = None
        self._usage = Usage()
        self._fast: type | None = None
        """The event that is a mere delta of the open block…"""
        self._fast_head = b""
        """…and what stands before its text."""

    def send(self, event: Event) -> bytes:
        if type(event) is self._fast:
            text: str = event.text  # type: ignore[union-attr]
            self._chars += len(text)
            return self._fast_head + _encode(text) + _DELTA_END if text else b""
        if self._over:
            return b""
        if isinstance(event, Failed):
            return self._fail(event)
        start = b"" if self._begun else self._begin(event)
        return start + self._send(event)

    def finish(self) -> bytes:
        if self._over:
            return b""
        if self._stop is None:
            raise DialectError("the answer has ended, and nothing told why")
        out = [b"" if self._begun else self._begin(self._stop)]
        stop = fitting_stop(self._stop.reason, called_tools=bool(self._calls))
        cut_short = stop in CUT_SHORT
        while self._is_calling():
            if self._open is None:
                out.append(self._open_next())
            out.append(self._settle(cut_short))
        out.append(self._say_held())
        if self._blank and self._index < 0:
            out.append(self._delta(TextDelta, self._blank))
        out.append(self._close())
        told = {
            "type": "message_delta",
            "delta": {
                "stop_reason": stop_word(stop),
                "stop_sequence": self._stop.sequence if stop == "sequence" else None,
            },
            "usage": wire_usage(self._estimated().updated(self._usage)),
        }
        out += (encode_event("message_delta", _encode(told)), _MESSAGE_STOP)
        self._end()
        return b"".join(out)

    # --- the message

    def _begin(self, event: Event) -> bytes:
        self._begun = True
        if isinstance(event, Begin) and event.usage is not None:
            self._usage = structs.replace(event.usage, completion_tokens=None)
        usage = Usage(prompt_tokens=self._reply.prompt_tokens).updated(self._usage)
        message: dict[str, Any] = {
            "id": f"msg_{self._reply.id}",
            "type": "message",
            "role": "assistant",
            "model": self._reply.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": wire_usage(usage),
        }
        return encode_event("message_start", _encode({"type": "message_start", "message": message}))

    def _estimated(self) -> Usage:
        """What the upstream may not tell."""
        completion = -(-self._chars // CHARS_PER_TOKEN)
        return Usage(prompt_tokens=self._reply.prompt_tokens, completion_tokens=completion)

    def _fail(self, event: Failed) -> bytes:
        self._end()
        request_id = self._reply.request_id or self._reply.id
        return error_event(event.message, type=event.type or "api_error", request_id=request_id)

    def _end(self) -> None:
        self._over = True
        self._fast = None

    def _send(self, event: Event) -> bytes:
        match event:
            case TextDelta() | ThinkingDelta() | SignatureDelta() | Redacted():
                return self._say_or_hold(event)
            case ToolStart():
                return self._start_call(event)
            case ToolDelta():
                return self._add_arguments(event)
            case Apart() if not self._is_calling():
                return self._close()
            case UsageTold(usage):
                self._usage = self._usage.updated(usage)
            case Stop():
                self._stop = event
            case _:
                pass
        return b""

    # --- what is said beside calls

    def _say_or_hold(self, event: _Said) -> bytes:
        if isinstance(event, TextDelta | ThinkingDelta):
            self._chars += len(event.text)
        if isinstance(event, _THOUGHTS) and not self._reply.shows_thinking:
            return b""
        if self._open is None:
            return self._say(event)
        self._held.append(event)
        if _is_blank(self._held[-1:]):
            return b""
        out = self._give_turn(None)
        return out if self._is_calling() else out + self._say_held()

    def _say_held(self) -> bytes:
        held, self._held = self._held, []
        return b"" if _is_blank(held) else b"".join(map(self._say, held))

    def _say(self, event: _Said) -> bytes:
        match event:
            case Redacted(data):
                if not data:
                    return b""
                block = {"type": "redacted_thinking", "data": data}
                return self._close() + self._start("redacted_thinking", block) + self._close()
            case SignatureDelta(text):
                if not text:
                    return self._close() if self._block == "thinking" else b""
                return self._delta(SignatureDelta, text) + self._close()
            case TextDelta(text):
                if self._block != "text":
                    text, self._blank = self._blank + text, ""
                    if not text.strip():
                        self._blank = text
                        return b""
                return self._delta(TextDelta, text) if text else b""
            case ThinkingDelta(text):
                return self._delta(ThinkingDelta, text) if text else b""

    def _delta(self, event: type[Event], text: str) -> bytes:
        """`text` in the block that such events feed."""
        block, kind, place = _PLACES[event]
        start = b"" if self._block == block else self._close() + self._start(block, _STARTS[block])
        head = _DELTA % (self._index, kind, place)
        self._fast, self._fast_head = event, head
        return start + head + _encode(text) + _DELTA_END

    # --- blocks

    def _start(self, block: str, content: dict[str, Any]) -> bytes:
        self._index += 1
        self._block = block
        self._blank = ""
        started = {"type": "content_block_start", "index": self._index, "content_block": content}
        return encode_event("content_block_start", _encode(started))

    def _close(self) -> bytes:
        """The open block ends, if there is one."""
        self._fast = None
        if self._block is None:
            return b""
        self._block = self._open = None
        return _STOP % self._index

    # --- calls

    def _start_call(self, event: ToolStart) -> bytes:
        if event.index in self._calls:
            raise DialectError(f"tool call {event.index} begins twice")
        id = event.id
        if not id or id in self._ids:
            id = f"toolu_{self._reply.id}_{event.index}"
        self._ids.add(id)
        self._chars += len(event.name)
        name = self._reply.tool_names.get(event.name, event.name)
        call = self._calls[event.index] = _Call(id, name)
        self._waiting.append(call)
        return self._give_turn(call)

    def _add_arguments(self, event: ToolDelta) -> bytes:
        call = self._calls.get(event.index)
        if call is None:
            raise DialectError(f"arguments of tool call {event.index}, which has not begun")
        text = event.text
        if not text:
            return b""
        self._chars += len(text)
        if call is self._open:
            call.arguments.add(text)
            return self._input(text) if call.live else self._try_live(call, text)
        if call not in self._waiting:
            if text.isspace():
                return b""
            raise DialectError(f"more arguments of tool call {event.index}, which were whole: {text[:40]!r}")
        call.arguments.add(text)
        return self._give_turn(call)

    def _is_calling(self) -> bool:
        """Whether a call is open, or waits."""
        return self._open is not None or bool(self._waiting)

    def _give_turn(self, wanted: _Call | None) -> bytes:
        """Closes calls that are whole and opens those that wait, as far as `wanted`; None: all of them."""
        out = []
        while self._open is not wanted or wanted is None:
            if self._open is not None:
                if not self._open.arguments.is_whole():
                    break
                out.append(self._close())
            if not self._waiting:
                break
            out.append(self._open_next())
        return b"".join(out)

    def _open_next(self) -> bytes:
        call = self._waiting.popleft()
        content = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        started = self._close() + self._start("tool_use", content)
        self._open = call
        return started + self._try_live(call, call.arguments.text)

    def _try_live(self, call: _Call, text: str) -> bytes:
        """What the open call holds back, if `text`, the last of it, shows that it begins like an object."""
        written = text.lstrip()
        if call.live is False or not written:
            return b""
        call.live = written.startswith("{")
        return self._input(call.arguments.text) if call.live else b""

    def _input(self, text: str) -> bytes:
        _, kind, place = _PLACES[ToolDelta]
        return _DELTA % (self._index, kind, place) + _encode(text) + _DELTA_END

    def _settle(self, cut_short: bool) -> bytes:
        """The open call ends, put right if need be."""
        call = self._open
        assert call is not None
        right = object_text(call.arguments.text)
        if right is None and not cut_short:
            raise DialectError(f"the arguments of the tool call {call.name!r} are not a JSON object")
        if call.live or right is None:
            return self._close()
        return self._input(right) + self._close()


def _is_blank(said: list[_Said]) -> bool:
    """Whether nothing was said but white space."""
    return all(isinstance(event, TextDelta | ThinkingDelta) and not event.text.strip() for event in said)
