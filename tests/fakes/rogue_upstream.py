"""An upstream that does what no honest one would, in the dialect that it is asked in; the model's name chooses what.

    async def stalls(call):
        await call.play(call.begin(), chunk(call.words("one ", "two ")), HANG)

    async with serve_rogue({"stalls": stalls}, listening_socket) as rogue:
        ... have the gateway ask for "some-provider/stalls" ...
        [asked] = rogue.asked("my trace")

A deed is an async function of the `Call`; what it sends is up to the byte its own, `Call` knows the usual ones.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from fakes import anthropic_events as anthropic
from fakes import upstream as raw
from fakes.upstream import LAST_CHUNK, Step, chunk, head, openai_chunk

PROMPT_TOKENS = 11
SSE = {"content-type": "text/event-stream"}
SETTLE = 0.05
"""A reset overtakes what its peer has not read yet."""


@dataclass(eq=False)
class Call:
    """One request, and what is usually said to one like it."""

    request: raw.Request
    connection: raw.Connection
    number: int
    """How many requests came before on the same connection."""

    @property
    def is_anthropic(self) -> bool:
        return self.request.path.partition("?")[0].endswith("/messages")

    @property
    def streams(self) -> bool:
        return bool(self.request.json.get("stream"))

    @property
    def marker(self) -> str:
        """The text of the last message."""
        content = self.request.json["messages"][-1]["content"]
        return content if isinstance(content, str) else content[0]["text"]

    async def play(self, *steps: Step) -> None:
        """Steps as in `fakes.upstream`; nothing of them is left when the peer has gone."""
        await self.connection.play(self.request, list(steps))

    async def settle(self, _request: object = None, _connection: object = None) -> None:
        """A step: let the peer read what was sent."""
        await trio.sleep(SETTLE)

    # What is usually said

    def head(self, **headers: str) -> bytes:
        """Of a stream that comes in chunks; `headers` are named with `_` for `-`."""
        return head(200, {**SSE, **{name.replace("_", "-"): value for name, value in headers.items()}}, chunked=True)

    def opening(self) -> bytes:
        """The events that stand before the first word."""
        if self.is_anthropic:
            usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 1}
            return anthropic.message_start(usage=usage) + anthropic.block_start(0, "text")
        return openai_chunk({"role": "assistant", "content": ""}).encode()

    def words(self, *words: str) -> bytes:
        """An event a word."""
        if self.is_anthropic:
            return b"".join(anthropic.block_delta(0, "text_delta", text=word) for word in words)
        return b"".join(openai_chunk({"content": word}).encode() for word in words)

    def finish(self, tokens: object = 2) -> bytes:
        """The events behind the last word, but for the one that says that this was all."""
        if self.is_anthropic:
            return anthropic.block_stop(0) + anthropic.message_delta(output_tokens=tokens)  # type: ignore[arg-type]
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + 2}
        told = openai_chunk({}, "stop") + openai_chunk({}, usage=usage).replace(_NOTHING, '"choices": []')
        return told.encode()

    def done(self) -> bytes:
        """`message_stop` or `[DONE]`."""
        return anthropic.MESSAGE_STOP if self.is_anthropic else b"data: [DONE]\n\n"

    def stream(self, *words: str) -> bytes:
        """All the events of a good answer."""
        return self.opening() + self.words(*words) + self.finish(len(words)) + self.done()

    def begin(self, *words: str) -> bytes:
        """The beginning of a chunked stream: its head, and a chunk with all up to these words."""
        return self.head() + chunk(self.opening() + self.words(*words))

    def whole(self, text: str = "one two") -> dict[str, Any]:
        """A good answer in one body."""
        if self.is_anthropic:
            usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 2}
            told = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "usage": usage}
            return {
                **told,
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
            }
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 2, "total_tokens": PROMPT_TOKENS + 2}
        told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        return {**told, "choices": choices}

    def whole_json(self, text: str = "one two") -> bytes:
        """The same as bytes."""
        return json.dumps(self.whole(text)).encode()

    def error(self, message: str = "upstream says no", type: str = "overloaded_error") -> bytes:
        """The body of an error."""
        if self.is_anthropic:
            return json.dumps({"type": "error", "error": {"type": type, "message": message}}).encode()
        return json.dumps({"error": {"message": message, "type": type, "param": None, "code": None}}).encode()

    async def answer(self) -> None:
        """A good answer, as it was asked for."""
        if self.streams:
            await self.play(self.head() + chunk(self.stream("one ", "two")) + LAST_CHUNK)
        else:
            await self.play(raw.whole(200, self.whole_json(), {"content-type": "application/json"}))


_NOTHING = '"choices": [{"index": 0, "delta": {}, "finish_reason": null}]'
Deed = Callable[[Call], Awaitable[object]]


@dataclass(eq=False)
class Rogue:
    """See the module."""

    server: raw.FakeUpstream
    deeds: Mapping[str, Deed]
    calls: list[Call] = field(default_factory=list)
    busy: int = 0
    """How many requests are being answered."""

    def asked(self, marker: str) -> list[Call]:
        """The requests that carried this marker."""
        return [call for call in self.calls if call.marker == marker]

    async def answer(self, request: raw.Request, connection: raw.Connection) -> None:
        call = Call(request, connection, sum(one.connection is connection for one in self.calls))
        self.calls.append(call)
        self.busy += 1
        try:
            await self.deeds[request.json["model"]](call)
        finally:
            self.busy -= 1


@asynccontextmanager
async def serve_rogue(deeds: Mapping[str, Deed], listener: socket.socket) -> AsyncIterator[Rogue]:
    """A `Rogue` on a listening socket, which stays open."""
    async with trio.open_nursery() as nursery:
        rogue = Rogue(raw.FakeUpstream(listener.getsockname()[1]), deeds)
        rogue.server.default = [rogue.answer]

        async def serve(stream: trio.SocketStream) -> None:
            await rogue.server._serve(stream, stream.socket)

        copy = trio.socket.from_stdlib_socket(listener.dup())
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(copy)])
        yield rogue
        nursery.cancel_scope.cancel()
