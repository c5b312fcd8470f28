"""An OpenAI-compatible upstream whose behaviour the model's name chooses; it answers any number of requests at once.

    async with serve_openai() as upstream:
        ... have the gateway ask for "fake/slow-20+text-40" ...
        [row] = upstream.rows("my marker")

The parts of a name are joined with `+`: `SAYS` in `fakes.script` and `HOW` in `fakes.scripted_upstream` list them.
Only here: `demands-thought` answers 400, as Kimi does, to tool calls of earlier turns that come without their thought.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fakes import upstream as raw
from fakes.script import CACHED_TOKENS, PROMPT_TOKENS, Piece, text_of
from fakes.scripted_upstream import Row, ScriptedAnswer, ScriptedUpstream, marker

__all__ = ["PROMPT_TOKENS", "OpenAIUpstream", "Row", "marker", "serve_openai", "text_of"]

FINISHES = {"stop_sequence": "stop"}
"""Where the dialect has another word for it."""


class _OpenAIAnswer(ScriptedAnswer):
    def events(self) -> Iterator[str]:
        does = self.does
        usage = self._usage()
        if "no-role" not in does:
            yield self._chunk({"role": "assistant", "content": ""})
        for piece in self.script.pieces:
            yield self._chunk(_delta(piece))
        inline: dict[str, Any] = {"usage": usage} if "usage-inline" in does else {}
        yield self._chunk({}, self._finish, **inline)
        asked = (self.row.body.get("stream_options") or {}).get("include_usage")
        if asked and "usage-none" not in does and not inline:
            yield self._event({"choices": [], "usage": usage})
        if "no-done" not in does:
            yield "data: [DONE]\n\n"

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.script.joined("text")}
        if thought := self.script.joined("thinking"):
            message["reasoning_content"] = thought
        if calls := self.script.calls():
            message["content"] = message["content"] or None
            message["tool_calls"] = [
                {"type": "function", "function": {"name": head.name, "arguments": arguments}}
                | ({"id": head.id} if head.id else {})
                for head, arguments in calls
            ]
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.row.model}
        told = {} if "usage-none" in self.does else {"usage": self._usage()}
        return {**answer, "choices": [choice], **told}

    def inline_error(self) -> str:
        return self._event({"error": {"message": "overloaded in mid-stream", "type": "server_error", "code": 503}})

    def error(self, status: int, message: str) -> dict[str, Any]:
        type = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": type, "param": None, "code": None}}

    def fault(self) -> str | None:
        if "demands-thought" in self.does:
            for number, message in enumerate(self.row.body["messages"]):
                if message.get("tool_calls") and not message.get("reasoning_content"):
                    return f"reasoning_content is missing in assistant tool call message at index {number}"
        return None

    def headers(self) -> dict[str, str]:
        return {"x-request-id": f"req_up_{self.number}"}

    @property
    def _finish(self) -> str:
        return FINISHES.get(self.script.finish, self.script.finish)

    def _usage(self) -> dict[str, Any]:
        completion = len(self.script.pieces)
        counts = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": completion}
        cached = {"prompt_tokens_details": {"cached_tokens": CACHED_TOKENS}} if "cached" in self.does else {}
        return {**counts, "total_tokens": PROMPT_TOKENS + completion, **cached}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **in_choice: Any) -> str:
        return self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish, **in_choice}]})

    def _event(self, told: dict[str, Any]) -> str:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        return f"data: {json.dumps(told if 'error' in told else {**head, **told}, ensure_ascii=False)}\n\n"


def _delta(piece: Piece) -> dict[str, Any]:
    match piece.kind:
        case "thinking":
            return {"reasoning_content": piece.text}
        case "text":
            return {"content": piece.text}
        case "call":
            function = {"name": piece.name, "arguments": piece.text}
            id = {"id": piece.id} if piece.id else {}
            return {"tool_calls": [{"index": piece.index, **id, "type": "function", "function": function}]}
        case "arguments":
            return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}


class OpenAIUpstream(ScriptedUpstream):
    """See the module."""

    answers = _OpenAIAnswer


@asynccontextmanager
async def serve_openai() -> AsyncIterator[OpenAIUpstream]:
    """An `OpenAIUpstream` on a free port of 127.0.0.1."""
    async with raw.serve_upstream() as server:
        upstream = OpenAIUpstream(server)
        server.default = [upstream.answer]
        yield upstream
