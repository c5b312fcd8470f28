"""A streamed message of Anthropic's dialect, event by event, as an upstream writes it."""

import json
from typing import Any

USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 1}


def event(data: dict[str, Any]) -> bytes:
    """One event, named after its type."""
    return f"event: {data.get('type')}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def message_start(**changes: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    ends = {"stop_reason": None, "stop_sequence": None, "usage": USAGE}
    return event({"type": "message_start", "message": {**message, **ends, **changes}})


def block_start(index: int, type: str, **more: Any) -> bytes:
    empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
    block = {"type": type, **empty.get(type, {}), **more}
    return event({"type": "content_block_start", "index": index, "content_block": block})


def block_delta(index: int, type: str, **more: Any) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": {"type": type, **more}})


def block_stop(index: int) -> bytes:
    return event({"type": "content_block_stop", "index": index})


def text(index: int, *parts: str) -> bytes:
    """A whole text block."""
    deltas = [block_delta(index, "text_delta", text=part) for part in parts]
    return block_start(index, "text") + b"".join(deltas) + block_stop(index)


def thinking(index: int, *parts: str, signature: str = "") -> bytes:
    """A whole thinking block."""
    deltas = [block_delta(index, "thinking_delta", thinking=part) for part in parts]
    signed = block_delta(index, "signature_delta", signature=signature) if signature else b""
    return block_start(index, "thinking") + b"".join(deltas) + signed + block_stop(index)


def tool_use(index: int, id: str, name: str, *parts: str) -> bytes:
    """A whole tool call."""
    deltas = [block_delta(index, "input_json_delta", partial_json=part) for part in parts]
    return block_start(index, "tool_use", id=id, name=name) + b"".join(deltas) + block_stop(index)


def message_delta(stop_reason: str | None = "end_turn", stop_sequence: str | None = None, **usage: int) -> bytes:
    delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
    return event({"type": "message_delta", "delta": delta, "usage": usage or {"output_tokens": 7}})


MESSAGE_STOP = event({"type": "message_stop"})
PING = event({"type": "ping"})


def error(message: str = "Overloaded", type: str = "overloaded_error") -> bytes:
    return event({"type": "error", "error": {"type": type, "message": message}})
