"""A whole answer: a `chat.completion` as an upstream sends it, and as a client gets it."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.arguments import object_text
from worker.dialects.codec import Reply
from worker.dialects.foreign_error import foreign_message
from worker.dialects.neutral import CUT_SHORT, Answer, Part, StopReason, Text, Thinking, ToolCall, Usage
from worker.dialects.openai.encode_messages import joined_text
from worker.dialects.openai.stops import finish_reason, stop_reason
from worker.dialects.openai.usage import usage_in, usage_object
from worker.dialects.openai.wire import BAD_JSON, Choice, Delta, error_message, read_chunk
from worker.dialects.openai.wire import ToolCall as WireCall


def decode_answer(body: bytes) -> Answer:
    """The answer in an upstream's `body`: its first choice.  `UpstreamBroken` if it holds none, or a broken one."""
    try:
        completion = read_chunk(body)
    except BAD_JSON:
        raise UpstreamBroken("the upstream's answer is not a chat completion", "DecodingError") from None
    choice = next(iter(completion.choices or ()), None)
    message = None if choice is None else choice.message or choice.delta
    if choice is None or message is None or completion.is_error:
        reason = error_message(body) or foreign_message(body) or "the upstream's answer holds no choices"
        raise UpstreamBroken(reason, "UpstreamError")
    stop, met = _stop(choice, message)
    calls = _calls(message.tool_calls or (), cut_short=stop in CUT_SHORT)
    parts = [*_thought(message), *_content(message), *calls]
    return Answer(parts=tuple(parts), stop=stop, stop_sequence=met, usage=usage_in(completion) or Usage())


def _stop(choice: Choice, message: Delta) -> tuple[StopReason, str | None]:
    stop = stop_reason(choice.finish_reason, called_tools=bool(message.tool_calls))
    if stop != "end" and stop != "sequence":
        return stop, None
    if _text(message.refusal):
        return "refusal", None
    met = _text(choice.stop_reason) or _text(choice.matched_stop) or None
    return stop if met is None else "sequence", met


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _thought(message: Delta) -> Iterator[Part]:
    # OpenRouter sends the same thought under both names.
    if thought := _text(message.reasoning_content) or _text(message.reasoning):
        yield Thinking(thought)


def _content(message: Delta) -> Iterator[Part]:
    """The text, which some hosts send in parts; Mistral's thinking models put their thought among them."""
    content = message.content
    for part in content if isinstance(content, list) else [content]:
        match part:
            case {"thinking": thought}:
                if text := "".join(_texts(thought)):
                    yield Thinking(text)
            case _:
                yield from map(Text, _texts(part))
    yield from map(Text, _texts(message.refusal))


def _texts(part: Any) -> Iterator[str]:
    """The texts of a string, of a part, or of a list of such; not deeper, as upstreams choose the depth."""
    for inner in part if isinstance(part, list) else [part]:
        match inner:
            case str(text) | {"text": str(text)} | {"refusal": str(text)} if text:
                yield text
            case _:
                pass


def _calls(wires: Iterable[WireCall], *, cut_short: bool) -> Iterator[ToolCall]:
    ids: set[str] = set()
    for wire in wires:
        name = "" if wire.function is None else _text(wire.function.name)
        if wire.function is None or not name:
            if cut_short:
                continue
            raise UpstreamBroken("the upstream's answer calls a tool without a name", "UpstreamError")
        id = _text(wire.id)
        if id in ids:
            id = ""
        ids.add(id)
        arguments = _arguments(wire.function.arguments)
        if arguments is None and not cut_short:
            reason = f"the arguments of the upstream's call of the tool {name!r} are no JSON object"
            raise UpstreamBroken(reason, "UpstreamError")
        yield ToolCall(id, name, arguments or "{}")


def _arguments(value: Any) -> str | None:
    match value:
        case None:
            return "{}"
        case str():
            return object_text(value)
        case dict():  # some hosts forget that it has to be text
            return msgspec.json.encode(value).decode()
        case _:
            return None


def encode_answer(answer: Answer, reply: Reply) -> bytes:
    """The answer as a client gets it.  `DialectError` if a tool call's arguments are no JSON object."""
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    text = joined_text(answer.parts)
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    thought = "\n\n".join(part.text for part in answer.parts if isinstance(part, Thinking) and part.text)
    if thought and reply.shows_thinking:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = _wire_calls(calls, reply, cut_short=answer.stop in CUT_SHORT)
    word = finish_reason(answer.stop, called_tools=bool(calls))
    completion = {
        "id": f"chatcmpl-{reply.id}",
        "object": "chat.completion",
        "created": reply.created,
        "model": reply.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": word}],
        "usage": usage_object(answer.usage),
    }
    return msgspec.json.encode(completion)


def _wire_calls(calls: list[ToolCall], reply: Reply, *, cut_short: bool) -> list[dict[str, Any]]:
    wire = []
    ids: set[str] = set()
    for index, call in enumerate(calls):
        arguments = object_text(call.arguments)
        if arguments is None and not cut_short:
            raise DialectError(f"the arguments of a call of the tool {call.name!r} are no JSON object")
        id = call.id if call.id and call.id not in ids else f"call_{reply.id}_{index}"
        ids.add(id)
        function = {"name": call.name, "arguments": call.arguments if arguments is None else arguments}
        wire.append({"id": id, "type": "function", "function": function})
    return wire
