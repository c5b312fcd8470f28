"""A streamed chat completion for a client, from neutral events.

Theory of operation: each event becomes a chunk at once, the first one behind the chunk that tells the role.  Only what
ends the answer waits: why it stopped, and what it cost, are told by `finish`, and only of an answer that is whole.

    new ─any event─▶ begun ─finish─▶ over        chunk with the role; chunks; finish_reason, usage, [DONE]
    any ─Failed─▶ over                           the error, and nothing more

Fragments of several tool calls may stand mixed in this dialect, so arguments pass as they come.  The few that don't
begin like an object wait for the end, where they turn out to be nothing (`null`), an object in a string, or no
arguments at all.
"""

from typing import assert_never

import msgspec
from msgspec import Struct, structs

from shared.errors import DialectError
from worker.dialects.arguments import object_text
from worker.dialects.codec import Reply
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
)
from worker.dialects.openai.errors import error_event
from worker.dialects.openai.relay import DONE
from worker.dialects.openai.stops import finish_reason
from worker.dialects.openai.usage import usage_object
from worker.dialects.tokens import CHARS_PER_TOKEN

_encode = msgspec.json.Encoder().encode


class _Call(Struct):
    name: str
    head: bytes
    """Of a chunk with more arguments, up to their text."""
    parts: list[str] = []
    state: str = "blank"
    """`blank` until there is more than white space; then `live`, or `held` to the end."""

    @property
    def arguments(self) -> str:
        return "".join(self.parts)


class OpenAIStreamEncoder:
    """See `worker.dialects.codec.StreamEncoder`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        constant = {
            "id": f"chatcmpl-{reply.id}",
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.model,
        }
        self._chunk = b"data: " + _encode(constant)[:-1] + b',"choices":['
        # As OpenAI has it: a client that gets usage at the end gets null before it.
        self._chunk_end = b'],"usage":null}\n\n' if reply.wants_usage else b"]}\n\n"
        self._delta = self._chunk + b'{"index":0,"delta":{'
        self._delta_end = b'},"logprobs":null,"finish_reason":null}' + self._chunk_end
        self._content = self._delta + b'"content":'
        self._thought = self._delta + b'"reasoning_content":'
        self._begun = False
        self._ended = False
        self._stop: Stop | None = None
        self._calls: dict[int, _Call] = {}
        self._ids: set[str] = set()
        self._usage = Usage()
        self._chars = 0

    def send(self, event: Event) -> bytes:
        """The event as chunks, b"" where it says nothing; `DialectError` for tool calls that make no sense."""
        if self._ended:
            return b""
        match event:
            case TextDelta(text):
                return self._say(self._content, text)
            case ThinkingDelta(text):
                return self._say(self._thought, text, shown=self._reply.shows_thinking)
            case ToolDelta(index, text):
                return self._say_arguments(index, text)
            case ToolStart():
                return self._role() + self._start_call(event)
            case Begin(usage):
                self._usage = usage or self._usage
                return self._role()
            case UsageTold(usage):
                self._usage = self._usage.updated(usage)
            case Stop():
                self._stop = event
            case Failed(message, type):
                self._ended = True
                return error_event(message or "the upstream reported an error", type=type or "upstream_error")
            case SignatureDelta() | Redacted() | Apart():
                pass  # the dialect has no place for them
            case _:
                assert_never(event)
        return b""

    def finish(self) -> bytes:
        """Why the answer stopped, its usage if the client wants it, and `[DONE]`.

        `DialectError` if it hasn't told why, or if the arguments of a tool call are no JSON object.
        """
        if self._ended:
            return b""
        if self._stop is None:
            raise DialectError("the answer ended without telling why")
        reason = self._stop.reason
        out = [self._role()]
        out += [self._end_arguments(call, cut_short=reason in CUT_SHORT) for call in self._calls.values()]
        choice = {
            "index": 0,
            "delta": {},
            "logprobs": None,
            "finish_reason": finish_reason(reason, called_tools=bool(self._calls)),
        }
        out += [self._chunk, _encode(choice), self._chunk_end]
        if self._reply.wants_usage:
            out += [self._chunk, b'],"usage":', _encode(usage_object(self._full_usage())), b"}\n\n"]
        self._ended = True
        return b"".join([*out, DONE])

    def _role(self) -> bytes:
        """The first chunk, once."""
        if self._begun:
            return b""
        self._begun = True
        return self._delta + b'"role":"assistant","content":""' + self._delta_end

    def _say(self, head: bytes, text: str, *, shown: bool = True) -> bytes:
        self._chars += len(text)
        if not text or not shown:
            return b""
        chunk = head + _encode(text) + self._delta_end
        return chunk if self._begun else self._role() + chunk

    def _start_call(self, start: ToolStart) -> bytes:
        if start.index in self._calls:
            raise DialectError(f"tool call {start.index} began twice")
        if not start.name:
            raise DialectError(f"tool call {start.index} has no name")
        number = len(self._calls)  # clients take it for a place in a list
        id = start.id
        if not id or id in self._ids:
            id = f"call_{self._reply.id}_{number}"
        self._ids.add(id)
        head = b'%b"tool_calls":[{"index":%d,"function":{"arguments":' % (self._delta, number)
        self._calls[start.index] = _Call(start.name, head)
        self._chars += len(start.name)
        function = {"name": start.name, "arguments": ""}
        call = {"index": number, "id": id, "type": "function", "function": function}
        return self._delta + b'"tool_calls":[' + _encode(call) + b"]" + self._delta_end

    def _say_arguments(self, index: int, text: str) -> bytes:
        call = self._calls.get(index)
        if call is None:
            raise DialectError(f"arguments of tool call {index}, which has not begun")
        self._chars += len(text)
        call.parts.append(text)
        if call.state == "blank" and (begin := text.lstrip()):
            call.state = "live" if begin.startswith("{") else "held"
            text = call.arguments
        if call.state != "live" or not text:
            return b""
        return self._arguments(call, text)

    def _end_arguments(self, call: _Call, *, cut_short: bool) -> bytes:
        """What of a call's arguments has waited."""
        written = call.arguments
        whole = object_text(written)
        if cut_short and (whole is None or call.state == "blank"):
            return self._arguments(call, written) if call.state == "held" else b""
        if whole is None:
            raise DialectError(f"the arguments of a call of the tool {call.name!r} are no JSON object")
        return b"" if call.state == "live" else self._arguments(call, whole)

    def _arguments(self, call: _Call, text: str) -> bytes:
        return call.head + _encode(text) + b"}}]" + self._delta_end

    def _full_usage(self) -> Usage:
        """What was told, and estimates for what was not."""
        usage = self._usage
        if usage.prompt_tokens is None:
            usage = structs.replace(usage, prompt_tokens=self._reply.prompt_tokens)
        if usage.completion_tokens is None:
            usage = structs.replace(usage, completion_tokens=-(-self._chars // CHARS_PER_TOKEN))
        return usage
