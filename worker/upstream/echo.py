"""The built-in upstream: an OpenAI chat completion that says the last user message back, without a network.

It is what answers on a first run, with nothing configured.  It gives no usage: it has no tokenizer, and a made-up count
would be taken for the provider's own.
"""

import re
import time
import uuid
from typing import Any

import httpx
import msgspec
import trio

from worker.dialects.lenient import BAD_JSON
from worker.upstream.base import UpstreamTransport, response

# A word's pause, so that one sees it stream; a long text is said within LONGEST all the same.
PAUSE = 0.02
LONGEST = 2.0

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


class EchoTransport(UpstreamTransport):
    """Answers every request by itself."""

    @property
    def open(self) -> int:
        return 0

    @property
    def idle(self) -> int:
        return 0

    def retire(self) -> None:
        pass

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """200 with SSE or one JSON completion; 400 with OpenAI's error body for a request without messages."""
        try:
            asked = _decode(await request.aread())
            text = _last_user_text(asked)
        except BAD_JSON:
            return _answer(400, "application/json", [_error("the request body is not valid JSON")])
        except _BadRequest as error:
            return _answer(400, "application/json", [_error(str(error))])
        said: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": asked.get("model") or "echo",
        }
        if asked.get("stream"):
            return _answer(200, "text/event-stream", _events(said, text))
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return _answer(200, "application/json", [_encode({**said, "object": "chat.completion", "choices": [choice]})])


class _BadRequest(Exception):
    """The message tells the client what is wrong."""


class _EchoBody:
    """Parts of a body, with a pause before each but the first."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = iter(parts)
        self._pause = 0.0
        self._next_pause = min(PAUSE, LONGEST / len(parts))
        self._closed = False

    async def receive(self) -> bytes:
        await trio.sleep(self._pause)
        self._pause = self._next_pause
        if self._closed:
            raise httpx.ReadError("the connection was closed on our side")
        return next(self._parts, b"")

    def close_nowait(self) -> None:
        self._closed = True


def _answer(status: int, content_type: str, parts: list[bytes]) -> httpx.Response:
    return response(status, [(b"content-type", content_type.encode())], _EchoBody(parts))


def _events(said: dict[str, Any], text: str) -> list[bytes]:
    words = re.findall(r"\s*\S+\s*", text) or ([text] if text else [])
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    chunks = [_chunk(said, delta, None) for delta in deltas]
    return [*chunks, _chunk(said, {}, "stop"), b"data: [DONE]\n\n"]


def _chunk(said: dict[str, Any], delta: dict[str, str], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: %s\n\n" % _encode({**said, "object": "chat.completion.chunk", "choices": [choice]})


def _last_user_text(asked: Any) -> str:
    messages = asked.get("messages") if isinstance(asked, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _BadRequest("messages must be a list of at least one message")
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text(message.get("content"))
    return ""


def _text(content: Any) -> str:
    """A message's content is a string, or a list of parts of which the texts count."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _error(message: str) -> bytes:
    return _encode({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
