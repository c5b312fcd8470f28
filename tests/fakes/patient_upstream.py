"""An upstream that answers to anything, in either dialect: for clients that send what nobody would.

Bodies that pass as they came are its to judge: it says 400 to those that aren't a request at all.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fakes.upstream import (
    COMPLETION,
    Connection,
    FakeUpstream,
    Request,
    json_response,
    openai_stream,
    serve_upstream,
    sse_response,
)

USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 2}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "fake",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
CALL = {"name": "get_weather", "id": "toolu_1", "input": {}}


def anthropic_events(*words: str, calls: bool = False) -> list[dict[str, Any]]:
    """The events of a message that says `words`, and calls a tool."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "content_block_stop", "index": 0},
    ]
    if calls:
        delta = {"type": "input_json_delta", "partial_json": '{"city": "Oslo 🎉"}'}
        events += [
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", **CALL}},
            {"type": "content_block_delta", "index": 1, "delta": delta},
            {"type": "content_block_stop", "index": 1},
        ]
    stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    return [*events, {"type": "message_delta", "delta": stop, "usage": USAGE}, {"type": "message_stop"}]


def anthropic_stream(*words: str, calls: bool = False) -> list[bytes]:
    """The steps of that stream, for `fakes.upstream`."""
    events = anthropic_events(*words, calls=calls)
    return sse_response(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events
    )


@asynccontextmanager
async def serve_patient(dialect: Literal["openai", "anthropic"]) -> AsyncIterator[FakeUpstream]:
    """A `FakeUpstream` whose default is as the module says."""
    streamed = openai_stream("hello ", "naïve 🎉", usage=(5, 2)) if dialect == "openai" else anthropic_stream("hello")
    whole = json_response(COMPLETION if dialect == "openai" else MESSAGE)
    refusal = {"message": "upstream says no", "type": "invalid_request_error"}
    refusals = {
        "anthropic": {"type": "error", "error": refusal, "request_id": "req_up"},
        "openai": {"error": {**refusal, "param": None, "code": None}},
    }
    refused = json_response(refusals[dialect], 400)

    async def answer(request: Request, connection: Connection) -> None:
        try:
            asked = json.loads(request.body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict) or not asked.get("messages"):
            await connection.send(refused)
        elif asked.get("stream") is True:
            await connection.send(b"".join(streamed))
        else:
            await connection.send(whole)

    async with serve_upstream() as upstream:
        upstream.default = [answer]
        yield upstream
