"""A very cheap OpenAI-compatible upstream; the model's name chooses what it sends.

    json          one small JSON body
    burst-N       N deltas as fast as the socket takes them, many to a write
    paced-N-HZ    N deltas, HZ a second, one to a write, each with its time of sending (see `wire`)
    ticked-N-HZ   the same, sent on whole milliseconds: of many streams several at once

Streams begin with a role chunk and end with a finish reason, usage if `stream_options.include_usage` asked for it, and
`[DONE]`.  Connections are kept alive.  Everything that doesn't change is made into bytes once; nothing is parsed but
what has to be.  The port is printed as the first line; the process ends when its standard input does, so that it can't
outlive the benchmark.
"""

import asyncio
import gc
import json
import math
import re
import select
import selectors
import sys
import time
from functools import cache
from typing import Any

from wire import MARK, STAMP_DIGITS

HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"
WORDS = [
    b" the",
    b" signal",
    b" of",
    b" each",
    b" block",
    b" stays",
    b" red",
    b" until",
    b" it",
    b" is",
    b" clear",
    b".",
]
EVENTS_PER_WRITE = 64
USAGE = {"prompt_tokens": 34, "completion_tokens": 128, "total_tokens": 162}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
ENVELOPE = {"id": "chatcmpl-9f2b6c1e8d4a4f0b", "created": 1760000000, "system_fingerprint": "fp_44709d6fcb"}


def event(model: str, **fields: Any) -> bytes:
    """One chat completion chunk as a server-sent event."""
    chunk = {**ENVELOPE, "object": "chat.completion.chunk", "model": model, **fields}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def delta(model: str, text: str) -> bytes:
    """The event that carries `text`."""
    return event(model, choices=[{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}])


def chunked(payload: bytes) -> bytes:
    """`payload` as one chunk of HTTP/1.1's chunked coding."""
    return b"%x\r\n%s\r\n" % (len(payload), payload)


@cache
def opening(model: str) -> bytes:
    """The response's head and the role chunk, sent together with the first delta."""
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    return STREAM_HEAD + chunked(event(model, choices=[role]))


@cache
def closing(model: str, usage: bool) -> bytes:
    """All that follows the last delta."""
    events = [event(model, choices=[{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}])]
    if usage:
        events.append(event(model, choices=[], usage=USAGE))
    events.append(b"data: [DONE]\n\n")
    return chunked(b"".join(events)) + LAST_CHUNK


@cache
def json_response(model: str) -> bytes:
    """A complete non-streaming response."""
    message = {"role": "assistant", "content": f"{MARK.decode()} A train can't stop within one block."}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    completion = {**ENVELOPE, "object": "chat.completion", "model": model, "choices": [choice], "usage": USAGE}
    body = json.dumps(completion, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@cache
def burst(model: str, count: int) -> list[bytes]:
    """The deltas of a burst stream, `EVENTS_PER_WRITE` to a chunk."""
    events = [delta(model, (MARK + WORDS[number % len(WORDS)]).decode()) for number in range(count)]
    return [chunked(b"".join(events[at : at + EVENTS_PER_WRITE])) for at in range(0, count, EVENTS_PER_WRITE)]


@cache
def stamped(model: str) -> tuple[bytes, bytes]:
    """The bytes before and after the stamp of a paced delta, the chunked coding's included."""
    whole = chunked(delta(model, " " + MARK.decode() + "0" * STAMP_DIGITS))
    before, after = whole.split(b"0" * STAMP_DIGITS)
    return before, after


class Upstream(asyncio.Protocol):
    """One connection: takes one request at a time and answers it by its model."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.received = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.received += data
        head_end = self.received.find(HEAD_END)
        if head_end < 0:
            return
        length = CONTENT_LENGTH.search(self.received, 0, head_end)
        body_start = head_end + len(HEAD_END)
        body_end = body_start + (int(length[1]) if length else 0)
        if len(self.received) < body_end:
            return
        body = self.received[body_start:body_end]
        self.received = self.received[body_end:]
        if body:
            self.answer(json.loads(body))
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def answer(self, request: dict[str, Any]) -> None:
        """Send what the request's model stands for."""
        model: str = request["model"]
        usage = bool((request.get("stream_options") or {}).get("include_usage"))
        mode, *numbers = model.split("-")
        if mode == "json":
            self.transport.write(json_response(model))
        elif mode == "burst":
            first, *rest = burst(model, int(numbers[0]))
            self.transport.write(opening(model) + first)
            for block in rest:
                self.transport.write(block)
            self.transport.write(closing(model, usage))
        elif mode in ("paced", "ticked"):
            count, rate = map(int, numbers)
            tick = 0.001 if mode == "ticked" else 0.0
            self.pace(model, usage, count, 1 / rate, tick, self.loop.time(), opening(model))
        else:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def pace(
        self, model: str, usage: bool, left: int, interval: float, tick: float, due: float, prefix: bytes = b""
    ) -> None:
        """Send one stamped delta and come back an interval later, on a tick; after the last one, the closing."""
        if not left:
            self.timer = None
            self.transport.write(closing(model, usage))
            return
        before, after = stamped(model)
        self.transport.write(b"%s%s%0*d%s" % (prefix, before, STAMP_DIGITS, time.monotonic_ns(), after))
        due += interval
        when = math.ceil(due / tick) * tick if tick else due
        self.timer = self.loop.call_at(when, self.pace, model, usage, left - 1, interval, tick, due)


class PreciseSelector(selectors.EpollSelector):
    """Sleeps to the microsecond.

    epoll_wait(2) rounds up to milliseconds: 400 independent streams would wake together in bursts of eight, which no
    upstream does, and each chunk would wait for the others of its burst.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


async def serve() -> None:
    """Listen on a free loopback port, print it, and serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    orphaned = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), orphaned.set)
    gc.freeze()
    gc.disable()  # a collection would show as latency of whatever row is being measured
    await orphaned.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())) as runner:
        runner.run(serve())
