"""An upstream that speaks Anthropic's dialect; its behaviour is chosen as `fakes.openai_upstream`'s is.

    async with serve_anthropic() as upstream:
        ... have the gateway ask for "claude/reasoning-tools" ...
        [row] = upstream.rows("my marker")

It knows the same names, as far as the dialect can say them: `usage-inline` tells all counts at the end, `no-done`
leaves out message_stop, `no-role` does nothing; calls are never interleaved and always have ids.  As the original
does, it answers 400 to a request without `max_tokens`, with a temperature above 1, or whose tool calls and results
don't belong together.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fakes import upstream as raw
from fakes.anthropic_events import block_delta, block_start, block_stop, event
from fakes.script import CACHED_TOKENS, PROMPT_TOKENS, WRITTEN_TOKENS, Piece
from fakes.scripted_upstream import ScriptedAnswer, ScriptedUpstream

SIGNATURE = "c2lnbmF0dXJl"
STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "stop_sequence": "stop_sequence",
}
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _AnthropicAnswer(ScriptedAnswer):
    def events(self) -> Iterator[str]:
        usage = self._usage()
        at_start = dict.fromkeys(usage, 0) if "usage-inline" in self.does else {**usage, "output_tokens": 1}
        at_end = usage if "usage-inline" in self.does else {"output_tokens": usage["output_tokens"]}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.row.model}
        message = {**head, "content": [], "stop_reason": None, "stop_sequence": None, **self._told(at_start)}
        yield _event({"type": "message_start", "message": message})
        for number, (kind, pieces) in enumerate(self._blocks()):
            yield from self._block(number, kind, pieces)
        delta = {"stop_reason": STOPS[self.script.finish], "stop_sequence": self._sequence}
        yield _event({"type": "message_delta", "delta": delta, **self._told(at_end)})
        if "no-done" not in self.does:
            yield _event({"type": "message_stop"})

    def _block(self, number: int, kind: str, pieces: list[Piece]) -> Iterator[str]:
        call = {"id": self._id(pieces[0]), "name": pieces[0].name} if kind == "tool_use" else {}
        yield block_start(number, kind, **call).decode()
        if number == 0:
            yield _event({"type": "ping"})
        for piece in pieces:
            match kind:
                case "tool_use":
                    yield block_delta(number, "input_json_delta", partial_json=piece.text).decode()
                case _:
                    yield block_delta(number, f"{kind}_delta", **{kind: piece.text}).decode()
        if kind == "thinking":
            yield block_delta(number, "signature_delta", signature=SIGNATURE).decode()
        yield block_stop(number).decode()

    def _blocks(self) -> list[tuple[str, list[Piece]]]:
        blocks: list[tuple[str, list[Piece]]] = []
        for piece in sorted(self.script.pieces, key=lambda piece: piece.index):  # one call after the other
            kind = "tool_use" if piece.kind in ("call", "arguments") else piece.kind
            if not blocks or blocks[-1][0] != kind or piece.kind == "call":
                blocks.append((kind, []))
            blocks[-1][1].append(piece)
        return blocks

    def whole(self) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for kind, pieces in self._blocks():
            text = "".join(piece.text for piece in pieces)
            match kind:
                case "tool_use":
                    call = {"type": kind, "id": self._id(pieces[0]), "name": pieces[0].name, "input": json.loads(text)}
                    content.append(call)
                case "thinking":
                    content.append({"type": kind, "thinking": text, "signature": SIGNATURE})
                case _:
                    content.append({"type": kind, "text": text})
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.row.model,
            "content": content,
            "stop_reason": STOPS[self.script.finish],
            "stop_sequence": self._sequence,
            **self._told(self._usage()),
        }

    def inline_error(self) -> str:
        return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})

    def error(self, status: int, message: str) -> dict[str, Any]:
        type = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}

    def fault(self) -> str | None:
        body = self.row.body
        if type(body.get("max_tokens")) is not int:
            return "max_tokens: Field required"
        if body.get("temperature", 0) > 1:
            return "temperature: Input should be less than or equal to 1"
        open_calls: set[str] = set()
        for number, message in enumerate(body.get("messages") or ()):
            parts = message["content"] if isinstance(message["content"], list) else []
            results = {part["tool_use_id"] for part in parts if part["type"] == "tool_result"}
            if results != open_calls:
                return f"messages.{number}: tool_result blocks {sorted(results)} for the calls {sorted(open_calls)}"
            open_calls = {part["id"] for part in parts if part["type"] == "tool_use"}
            if not all(re.fullmatch(r"[A-Za-z0-9_-]+", id) for id in open_calls):
                return f"messages.{number}: tool_use.id: should match '^[a-zA-Z0-9_-]+$'"
        return None

    def headers(self) -> dict[str, str]:
        return {"request-id": f"req_{self.number}"}

    @property
    def _sequence(self) -> str | None:
        asked = self.row.body.get("stop_sequences") or ["END"]
        return asked[0] if self.script.finish == "stop_sequence" else None

    def _id(self, call: Piece) -> str:
        return f"toolu_{call.index + 1}"

    def _told(self, usage: dict[str, int]) -> dict[str, Any]:
        return {} if "usage-none" in self.does else {"usage": usage}

    def _usage(self) -> dict[str, int]:
        read, written = (CACHED_TOKENS, WRITTEN_TOKENS) if "cached" in self.does else (0, 0)
        return {
            "input_tokens": PROMPT_TOKENS - read - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": len(self.script.pieces),
        }


def _event(told: dict[str, Any]) -> str:
    return event(told).decode()


class AnthropicUpstream(ScriptedUpstream):
    """See the module."""

    answers = _AnthropicAnswer


@asynccontextmanager
async def serve_anthropic() -> AsyncIterator[AnthropicUpstream]:
    """An `AnthropicUpstream` on a free port of 127.0.0.1."""
    async with raw.serve_upstream() as server:
        upstream = AnthropicUpstream(server)
        server.default = [upstream.answer]
        yield upstream
