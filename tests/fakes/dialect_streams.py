"""Streams of both dialects for tests of codecs: OpenAI's to be written, Anthropic's to be read."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

from fakes.grammar import parse_events

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32}


def event(value: Any) -> bytes:
    """One event of JSON."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def chunk(delta: Any = None, finish: Any = None, *, choice: dict[str, Any] | None = None, **more: Any) -> bytes:
    """One chunk; without a delta it has no choices.  `choice` and `more` add fields."""
    choices = []
    if delta is not None:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **(choice or {})}]
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "upstream-model"}
    return event({**head, "choices": choices, **more})


def call(index: int | None = None, id: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    """A delta with a fragment of a tool call, which holds what was given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fragment = {"index": index, "id": id, "function": function or None}
    return {"tool_calls": [{key: value for key, value in fragment.items() if value is not None}]}


def split(text: str, size: int = 5) -> list[str]:
    """`text` in pieces of `size` characters."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def by_byte(data: bytes) -> list[bytes]:
    """`data` as the slowest of networks brings it."""
    return [bytes([byte]) for byte in data]


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data`, cut at these places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def read_message(stream: bytes) -> dict[str, Any]:
    """An Anthropic stream as the message that it tells of; `input` of a tool is its JSON text."""
    message: dict[str, Any] = {}
    for _, data in parse_events(stream):
        told = json.loads(data)
        match told["type"]:
            case "message_start":
                message = told["message"]
            case "content_block_start":
                message["content"].append(told["content_block"])
                if "input" in told["content_block"]:
                    told["content_block"]["input"] = ""
            case "content_block_delta":
                block, delta = message["content"][told["index"]], told["delta"]
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        block[name] += delta[name]
                if "partial_json" in delta:
                    block["input"] += delta["partial_json"]
            case "message_delta":
                message |= told["delta"]
                message["usage"] = told["usage"]
            case "error":
                message["error"] = told["error"]
    return message


def blocks_of(stream: bytes) -> list[tuple[str, ...]]:
    """The content of an Anthropic stream in short: ("text", …), ("thinking", …), ("tool_use", id, name, input)."""
    short: list[tuple[str, ...]] = []
    for block in read_message(stream)["content"]:
        match block["type"]:
            case "tool_use":
                short.append(("tool_use", block["id"], block["name"], block["input"]))
            case "redacted_thinking":
                short.append(("redacted_thinking", block["data"]))
            case kind:
                short.append((kind, block[kind]))
    return short
