"""The load generator: one process, one scenario, one target.

It reports in JSON lines on standard output: `begin` and `end` of the measured window, at which the runner reads the
target's CPU clocks, and the result when the last response is over.  CPU time is thus that of a steady state: opened
connections, warm pools, and in the paced scenario every stream under way.

A response counts only if it is complete: status 200, every delta, and at a stream's end `[DONE]`, or of an Anthropic
one `message_stop`.  Times are monotonic nanoseconds.
"""

import argparse
import asyncio
import gc
import json
import re
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from wire import DIALECTS, ENDS, MARK, STAMP_DIGITS, is_paced, request_bytes

HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
CONNECTION_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"
TAIL_BYTES = 64
"""Enough to hold a stream's last event and the last chunk however they were cut."""
PAUSE_AFTER_ERROR = 0.1


def percentile(samples: "array[int]", share: float) -> float | None:
    """The nearest-rank percentile of nanosecond samples, in milliseconds."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] / 1e6 if ordered else None


@dataclass
class Load:
    """What is asked for, and everything that is learnt from the answers."""

    port: int
    request: bytes
    expected_marks: int
    end: bytes
    """What a complete response ends with; b"" where the deltas say it all."""
    paced: bool
    measuring: bool = False
    stopping: bool = False
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0
    chunks: int = 0
    reconnects: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_chunk: "array[int]" = field(default_factory=lambda: array("q"))
    transit: "array[int]" = field(default_factory=lambda: array("q"))
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self) -> None:
        """Open one more connection, which asks as soon as it is open."""
        self.active += 1
        self.idle.clear()
        self.connect(0.0)

    def connect(self, delay: float) -> None:
        """(Re)open an active connection after `delay` seconds."""
        task = asyncio.create_task(self._connect(delay))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, delay: float) -> None:
        await asyncio.sleep(delay)
        if self.stopping:
            self.finish()
            return
        try:
            await asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        except OSError as error:
            self.fail(type(error).__name__)

    def finish(self) -> None:
        """One connection has nothing more to ask."""
        self.active -= 1
        if not self.active:
            self.idle.set()

    def fail(self, what: str) -> None:
        """Count an error; a load that asks again and again does so on a new connection, a paced stream is lost."""
        self.errors[what] += 1
        if self.paced:
            self.finish()
        else:
            self.connect(PAUSE_AFTER_ERROR)


class Connection(asyncio.Protocol):
    """One client connection: asks, reads the answer, asks again until the load is stopping."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport
        self.answered = 0
        self.over = False
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the request, and expect its response from the first byte."""
        self.head = b""
        self.in_body = False
        self.left: int | None = None
        self.marks = 0
        self.tail = b""
        self.waiting = True
        self.started = time.monotonic_ns()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self.waiting:
            self.end("bytes after the response")
            return
        if not self.in_body:
            self.head += data
            end = self.head.find(HEAD_END)
            if end < 0:
                return
            data = self.head[end + len(HEAD_END) :]
            self.head = self.head[: end + 2]
            self.in_body = True
            if self.head[9:12] != b"200":
                self.end(
                    f"status {self.head[9:12].decode('ascii', 'replace')}: {data[:200].decode('utf-8', 'replace')}"
                )
                return
            length = CONTENT_LENGTH.search(self.head)
            self.left = int(length[1]) if length else None
        self.body_received(data, now)

    def body_received(self, data: bytes, now: int) -> None:
        """Count and time the deltas in `data`, and see whether the response is over."""
        load = self.load
        marks = data.count(MARK)
        if marks:
            if not self.marks and (load.measuring or load.paced):
                load.first_chunk.append(now - self.started)
            self.marks += marks
            load.chunks += marks
            if load.paced and load.measuring:
                self.time_stamps(data, now)
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        if self.left is not None:
            self.left -= len(data)
            complete = self.left <= 0
        else:
            complete = self.tail.endswith(LAST_CHUNK)
        if complete:
            self.response_complete()

    def time_stamps(self, data: bytes, now: int) -> None:
        """Record the transit of every delta in `data`; a stamp that a read boundary split is left out."""
        at = data.find(MARK)
        while at >= 0:
            stamp = data[at + 1 : at + 1 + STAMP_DIGITS]
            if len(stamp) == STAMP_DIGITS and stamp.isdigit():
                self.load.transit.append(now - int(stamp))
            at = data.find(MARK, at + 1)

    def response_complete(self) -> None:
        """Judge the response, then ask again, or leave."""
        load = self.load
        self.waiting = False
        if self.marks != load.expected_marks:
            self.end(f"{self.marks} deltas of {load.expected_marks}: …{self.tail.decode('utf-8', 'replace')}")
        elif load.end not in self.tail:
            self.end(f"no {load.end.decode()}")
        else:
            load.requests += 1
            self.answered += 1
            if load.stopping or load.paced:
                self.end(None)
            elif CONNECTION_CLOSE.search(self.head):
                self.reconnect()
            else:
                self.ask()

    def end(self, error: str | None) -> None:
        """Close for good, or after an error open anew."""
        self.over = True
        self.waiting = False
        self.transport.abort()
        if error is None:
            self.load.finish()
        else:
            self.load.fail(error)

    def reconnect(self) -> None:
        """Go on with a new connection: the server wants no more on this one."""
        self.over = True
        self.transport.abort()
        self.load.reconnects += 1
        self.load.connect(0.0)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.over:
            return
        if self.answered and not self.head and not self.in_body:
            self.reconnect()  # closed while idle, as the request was on its way: any client would ask again
        else:
            self.end(f"connection lost ({type(exc).__name__})" if exc else "connection closed early")


def emit(what: str, **fields: Any) -> None:
    """One report line."""
    print(json.dumps({"what": what, **fields}), flush=True)


async def run(load: Load, concurrency: int, warmup: float, seconds: float, grace: float) -> None:
    """Warm up, measure, let the responses in flight end within `grace` seconds, report."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(concurrency):
        if load.paced:  # spread the streams' phases evenly
            await asyncio.sleep(max(0.0, began + 0.9 * warmup * number / concurrency - loop.time()))
        load.start()
    await asyncio.sleep(max(0.0, began + warmup - loop.time()))
    before = (load.requests, load.chunks, time.monotonic())
    load.measuring = True
    emit("begin")
    await asyncio.sleep(seconds)
    load.measuring = False
    emit("end")
    requests, chunks, window = load.requests - before[0], load.chunks - before[1], time.monotonic() - before[2]
    load.stopping = True
    try:
        async with asyncio.timeout(grace):
            await load.idle.wait()
    except TimeoutError:
        load.errors["unfinished"] += load.active
    emit(
        "result",
        requests=load.requests,
        chunks=load.chunks,
        reconnects=load.reconnects,
        errors=dict(load.errors.most_common(5)),
        window={"requests": requests, "chunks": chunks, "seconds": window},
        first_chunk_ms={"p50": percentile(load.first_chunk, 0.5), "p99": percentile(load.first_chunk, 0.99)},
        transit_ms={"p50": percentile(load.transit, 0.5), "p99": percentile(load.transit, 0.99)},
        samples={"first_chunk": len(load.first_chunk), "transit": len(load.transit)},
    )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Put one load on one target and report in JSON lines.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True, help="json, burst-N, paced-N-HZ or ticked-N-HZ")
    parser.add_argument("--dialect", choices=DIALECTS, default="openai")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--expected-marks", type=int, required=True, help="deltas in a complete response")
    parser.add_argument("--warmup", type=float, default=0.5, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=2.0, help="the measured window")
    parser.add_argument("--grace", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    options = parser.parse_args()
    headers = dict(header.split(":", 1) for header in options.header)
    stream = options.model != "json"
    load = Load(
        port=options.port,
        request=request_bytes(f"127.0.0.1:{options.port}", options.model, stream, headers, options.dialect),
        expected_marks=options.expected_marks,
        end=ENDS[options.dialect] if stream else b"",
        paced=is_paced(options.model),
    )
    gc.disable()  # a collection would show as latency
    asyncio.run(run(load, options.concurrency, options.warmup, options.seconds, options.grace))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
