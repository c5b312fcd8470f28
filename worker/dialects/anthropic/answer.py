"""A whole answer as Anthropic has it, a message: read from an upstream, written for a client."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.errors import error_message
from worker.dialects.anthropic.stops import stop_reason, stop_word
from worker.dialects.anthropic.usage import usage_of, wire_usage
from worker.dialects.anthropic.wire import Block, Message
from worker.dialects.arguments import object_text
from worker.dialects.codec import Reply
from worker.dialects.foreign_error import foreign_message
from worker.dialects.lenient import BAD_JSON, leniently
from worker.dialects.neutral import (
    CUT_SHORT,
    Answer,
    Part,
    RedactedThinking,
    StopReason,
    Text,
    Thinking,
    ToolCall,
    Usage,
    fitting_stop,
)


class _Whole(Message):
    stop_sequence: Any = None


def decode_answer(body: bytes) -> Answer:
    """The answer in an upstream's body; `UpstreamBroken` if it holds none.  Blocks that are new to us are left out."""
    message = _read(body)
    if message.content is None:
        told = error_message(body) or foreign_message(body)
        reason = told or "the upstream's answer is not a message: it has no content"
        raise UpstreamBroken(reason, "UpstreamError")
    parts = tuple(part for block in message.content for part in _decoded(block))
    called_tools = any(isinstance(part, ToolCall) for part in parts)
    return Answer(
        parts=parts,
        stop=fitting_stop(stop_reason(message.stop_reason), called_tools=called_tools),
        stop_sequence=message.stop_sequence if isinstance(message.stop_sequence, str) else None,
        usage=Usage() if message.usage is None else usage_of(message.usage),
    )


def _read(body: bytes) -> _Whole:
    try:
        return leniently(body, _Whole)
    except BAD_JSON:
        raise UpstreamBroken("the upstream's answer is not a message: it is no JSON object", "DecodingError") from None


def _decoded(block: Block) -> Iterator[Part]:
    match block:
        case Block(type="text", text=str(text)):
            yield Text(text)
        case Block(type="thinking"):
            signature = block.signature if isinstance(block.signature, str) else ""
            yield Thinking(block.thinking if isinstance(block.thinking, str) else "", signature)
        case Block(type="redacted_thinking", data=str(data)):
            yield RedactedThinking(data)
        case Block(type="tool_use"):
            if not isinstance(block.name, str) or not block.name:
                raise UpstreamBroken("the upstream called a tool without naming it", "DecodingError")
            yield ToolCall(block.id if isinstance(block.id, str) else "", block.name, block.input_text or "{}")
        case _:
            pass


def encode_answer(answer: Answer, reply: Reply) -> bytes:
    """The message's body; `DialectError` if a tool call's arguments are no object."""
    message = {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": list(_blocks(answer.parts, answer.stop, reply)),
        "stop_reason": stop_word(answer.stop),
        "stop_sequence": answer.stop_sequence,
        "usage": wire_usage(answer.usage),
    }
    return msgspec.json.encode(message)


def _blocks(parts: Iterable[Part], stop: StopReason, reply: Reply) -> Iterator[dict[str, Any]]:
    ids = set(reply.taken_ids)
    calls = 0
    for part in parts:
        match part:
            case Text(text) if text:
                yield {"type": "text", "text": text}
            case Thinking(text, signature) if reply.shows_thinking:
                yield {"type": "thinking", "thinking": text, "signature": signature}
            case RedactedThinking(data) if reply.shows_thinking:
                yield {"type": "redacted_thinking", "data": data}
            case ToolCall(id, name, arguments):
                if not id or id in ids:
                    id = f"toolu_{reply.id}_{calls}"
                ids.add(id)
                calls += 1
                name = reply.tool_names.get(name, name)
                yield {"type": "tool_use", "id": id, "name": name, "input": _input(name, arguments, stop)}
            case _:
                pass


def _input(name: str, arguments: str, stop: StopReason) -> Raw:
    text = object_text(arguments)
    if text is None:
        if stop not in CUT_SHORT:
            raise DialectError(f"the upstream called the tool {name!r} with arguments that are no JSON object")
        text = "{}"
    return Raw(text.encode())
