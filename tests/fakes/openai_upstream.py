"""An OpenAI-compatible upstream whose behaviour the model's name chooses; it answers any number of requests at once.

    async with serve_openai() as upstream:
        ... have the gateway ask for "fake/slow-20+text-40" ...
        [row] = upstream.rows("my marker")

The parts of a name are joined with `+`:

    text-N                  N words (16 by default), one a chunk        big-N               each word N KiB long
    slow-R                  R chunks a second                           ttfb-MS             a pause before the head
    tools                   a tool call, its arguments in fragments     usage-none          no usage, though asked
    hang-before-headers     silence at once                             hang-before-first   a head, then silence
    hang-after-K            silence after K chunks                      reset-after-K, cut-after-K   RST, FIN there
    eof-after-K             the body ends well, the answer doesn't      inline-error        an error event in the stream
    status-N                an error with that status

A request's marker is the text of its last message.
"""

import itertools
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import trio
from fakes import upstream as raw

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "naïve", "日本", "🎉", "and", "more"]
PROMPT_TOKENS = 11


def text_of(words: int, kib: int = 0) -> list[str]:
    """The deltas of `text-N`."""
    return ["x" * (kib * 1024) if kib else WORDS[i % len(WORDS)] + " " for i in range(words)]


@dataclass(eq=False)
class Row:
    """One request.  Times are trio's."""

    model: str
    marker: str
    body: dict[str, Any]
    headers: dict[str, str]
    arrived: float
    chunks: int = 0
    outcome: Literal["open", "completed", "client_closed", "broken_off"] = "open"
    ended: float = math.inf


@dataclass(eq=False)
class OpenAIUpstream:
    """See the module."""

    server: raw.FakeUpstream
    log: list[Row] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def open_requests(self) -> int:
        """Requests that have neither been answered whole nor been given up."""
        return sum(row.outcome == "open" for row in self.log)

    def rows(self, marker: str) -> list[Row]:
        """The requests that carried this marker."""
        return [row for row in self.log if row.marker == marker]

    async def answer(self, request: raw.Request, connection: raw.Connection) -> None:
        body = request.json if request.body else {}
        messages = body.get("messages") or [{}]
        row = Row(body.get("model", ""), str(messages[-1].get("content")), body, request.headers, trio.current_time())
        self.log.append(row)
        try:
            await _Answer(row, request, connection).give()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            row.outcome = "client_closed"
            raise
        finally:
            row.ended = trio.current_time()


class _Left(Exception):
    """The peer closed its connection."""


class _Answer:
    def __init__(self, row: Row, request: raw.Request, connection: raw.Connection) -> None:
        self.row, self.request, self.connection = row, request, connection
        self.streams = bool(row.body.get("stream"))
        self.does = dict(_behaviour(row.model))

    async def give(self) -> None:
        does = self.does
        try:
            await self._pause(math.inf if "hang-before-headers" in does else does.get("ttfb", 0) / 1000)
            if (status := does.get("status")) is not None:
                error = {"message": f"upstream says {status}", "type": "fake_error", "param": None, "code": None}
                headers = {"retry-after": "7"} if status == 429 else {}
                await self.connection.send(raw.json_response({"error": error}, status, headers))
            elif self.streams:
                await self._stream()
            else:
                await self._whole()
        except _Left:
            self.row.outcome = "client_closed"
        else:
            if self.row.outcome == "open":
                self.row.outcome = "completed"

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with trio.move_on_after(seconds):
                await self.request.closed.wait()
                raise _Left
        await trio.lowlevel.checkpoint()

    async def _stream(self) -> None:
        does = self.does
        await self.connection.send(raw.head(200, {"content-type": "text/event-stream"}, chunked=True))
        if "hang-before-first" in does:
            await self._pause(math.inf)
        breaks = {name: does[name] for name in ("hang-after", "reset-after", "cut-after", "eof-after") if name in does}
        interval = 1 / does["slow"] if "slow" in does else 0.0
        due = trio.current_time()
        for number, event in enumerate(self._events()):
            for name, at in breaks.items():
                if number == at:
                    await self._break_off(name)
                    return
            await self._pause(due - trio.current_time())
            due += interval
            await self.connection.send(raw.chunk(event))
            self.row.chunks += 1
        await self.connection.send(raw.LAST_CHUNK)

    async def _break_off(self, how: str) -> None:
        self.row.outcome = "broken_off"
        match how:
            case "hang-after":
                self.row.outcome = "open"
                await self._pause(math.inf)
            case "eof-after":
                await self.connection.send(raw.LAST_CHUNK)
            case "reset-after":
                await self._pause(0.05)  # a reset overtakes what the peer hasn't read yet
                self.connection.reset()
            case "cut-after":
                self.connection.socket.close()

    def _deltas(self) -> tuple[list[dict[str, Any]], str]:
        if "tools" in self.does:
            function = {"name": "get_weather", "arguments": ""}
            head = {"index": 0, "id": "call_1", "type": "function", "function": function}
            fragments = [{"index": 0, "function": {"arguments": part}} for part in ('{"ci', 'ty": "Os', 'lo 🎉"}')]
            return [{"tool_calls": [call]} for call in (head, *fragments)], "tool_calls"
        return [{"content": word} for word in text_of(self.does.get("text", 16), self.does.get("big", 0))], "stop"

    def _events(self) -> Iterator[str]:
        deltas, finish = self._deltas()
        yield raw.openai_chunk({"role": "assistant", "content": ""})
        if "inline-error" in self.does:
            yield f"data: {json.dumps({'error': {'message': 'overloaded in mid-stream', 'type': 'fake_error'}})}\n\n"
            return
        yield from (raw.openai_chunk(delta) for delta in deltas)
        yield raw.openai_chunk({}, finish)
        if (self.row.body.get("stream_options") or {}).get("include_usage") and "usage-none" not in self.does:
            chunk = json.loads(raw.openai_chunk({}).removeprefix("data: "))
            yield f"data: {json.dumps({**chunk, 'choices': [], 'usage': _usage(len(deltas))})}\n\n"
        yield "data: [DONE]\n\n"

    async def _whole(self) -> None:
        if not {"hang-before-first", "hang-after"}.isdisjoint(self.does):
            await self._pause(math.inf)
        if not {"reset-after", "cut-after"}.isdisjoint(self.does):
            self.row.outcome = "broken_off"
            self.connection.reset()
            return
        deltas, finish = self._deltas()
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(delta.get("content", "") for delta in deltas),
        }
        if "tools" in self.does:
            arguments = "".join(call["function"]["arguments"] for delta in deltas for call in delta["tool_calls"])
            function = {"name": "get_weather", "arguments": arguments}
            message = {
                **message,
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            }
        choice = {"index": 0, "message": message, "finish_reason": finish}
        answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.row.model}
        await self.connection.send(raw.json_response({**answer, "choices": [choice], "usage": _usage(len(deltas))}))


def _usage(completion: int) -> dict[str, int]:
    total = PROMPT_TOKENS + completion
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": completion, "total_tokens": total}


def _behaviour(model: str) -> Iterator[tuple[str, int]]:
    for part in model.split("+"):
        name, _, number = part.rpartition("-")
        yield (name, int(number)) if number.isdecimal() else (part, 1)


@asynccontextmanager
async def serve_openai() -> AsyncIterator[OpenAIUpstream]:
    """An `OpenAIUpstream` on a free port of 127.0.0.1."""
    async with raw.serve_upstream() as server:
        upstream = OpenAIUpstream(server)
        server.default = [upstream.answer]
        yield upstream


_numbers = itertools.count(1)


def marker(name: str) -> str:
    """A text that no other request carries."""
    return f"{name}-{next(_numbers)}"
