"""A worker in the test's own process: real sockets, real pipes, and everything between them but the process.

    async with serve_gateway(make_config(upstream)) as gateway:
        client = await gateway.connect()
        await client.ask({"model": "m", "messages": [], "stream": True})
        head, body = await client.answer()
        record = await gateway.wait_record()

`Client` speaks HTTP/1.1 by hand, so that a test decides about every byte and sees every one.
"""

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from fakes.upstream import FakeUpstream
from msgspec import Struct

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.config import Config, Model, Provider, Server, Streaming
from shared.messages import (
    Admit,
    Ask,
    Beat,
    Down,
    Leave,
    Listen,
    Question,
    Ready,
    StreamEnded,
    StreamStarted,
    Told,
    Trouble,
    Verdict,
    decode_up,
    encode,
)
from shared.records import StreamRecord, StreamStart
from shared.tokenizer import load_encoding
from worker import serve
from worker.app import App
from worker.clock import run_clock
from worker.gateway import Gateway
from worker.link import Link

TIMEOUT = 10.0
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def make_config(
    *upstreams: FakeUpstream,
    provider: dict[str, Any] | None = None,
    models: tuple[Model, ...] = (),
    server: dict[str, Any] | None = None,
    streaming: dict[str, Any] | None = None,
    **sections: Any,
) -> Config:
    """Providers `one`, `two`, … for `upstreams`, quick to retry.  Model `m` asks them in that order."""
    names = ("one", "two", "three")[: len(upstreams)]
    settings = {"backoff_base": 0.0, "max_backoff": 0.0, **(provider or {})}
    providers = {
        name: Provider(name=name, base_url=upstream.base_url, **settings)
        for name, upstream in zip(names, upstreams, strict=True)
    }
    if names:
        models = (Model(name="m", provider=names[0], fallbacks=tuple(f"{name}/m" for name in names[1:])), *models)
    return Config(
        providers=providers,
        models=models,
        server=Server(**(server or {})),
        streaming=Streaming(**(streaming or {})),
        **sections,
    )


class Head(Struct):
    """A response's head; names of headers in lower case."""

    status: int
    headers: dict[str, str]


class Client:
    """One connection of a client, and the HTTP on it, written and read by hand.

    `EOFError` where the connection ends inside a response.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()
        self._left: int | None = 0
        """Bytes of the body that are still to come; None: it is chunked."""
        self._to_eof = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        """Send a request; `headers` are named with `_` for `-`."""
        await self.send(request_bytes(method, path, body, **headers))

    async def ask(self, value: Any = None, *, stream: bool = True, **headers: str) -> None:
        """Send a chat completion request: `value`, or a small one for model `m`."""
        await self.send(chat_bytes(value, stream=stream, **headers))

    async def ask_message(self, value: Any = None, *, stream: bool = True, **headers: str) -> None:
        """Send a request in Anthropic's dialect: `value`, or a small one for model `m`."""
        await self.send(message_bytes(value, stream=stream, **headers))

    async def head(self) -> Head:
        """The next response's head, interim ones left out."""
        while True:
            first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            version, status = first.split(" ")[:2]
            assert version == "HTTP/1.1"
            if int(status) >= 200:
                break
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} comes twice"
            headers[name.lower()] = value.strip()
        self._to_eof = False
        if headers.get("transfer-encoding") == "chunked":
            self._left = None
        elif "content-length" in headers:
            self._left = int(headers["content-length"])
        else:
            self._left, self._to_eof = 0, int(status) not in (204, 304)
        return Head(int(status), headers)

    async def piece(self) -> bytes:
        """The next piece of the body: one chunk of a chunked one; b"" at its end."""
        if self._left is None:
            size = int(await self._until(b"\r\n"), 16)
            data = await self._take(size)
            assert await self._take(2) == b"\r\n"
            if size == 0:
                self._left = 0
            return data
        if self._to_eof:
            data = bytes(self._buffer) or bytes(await self.stream.receive_some(65536))
            self._buffer.clear()
            return data
        data = await self._take(self._left)
        self._left = 0
        return data

    async def body(self) -> bytes:
        """The rest of the body."""
        parts = []
        while data := await self.piece():
            parts.append(data)
        return b"".join(parts)

    async def until(self, mark: bytes) -> bytes:
        """Pieces of the body until `mark` has come."""
        data = b""
        while mark not in data:
            more = await self.piece()
            assert more, f"{mark!r} never came: {data!r}"
            data += more
        return data

    async def answer(self) -> tuple[Head, bytes]:
        """The next response, whole."""
        head = await self.head()
        return head, await self.body()

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[Head, bytes]:
        """A request without a body, and its answer."""
        await self.request(method, path, **headers)
        return await self.answer()

    async def wait_eof(self) -> None:
        """Wait until the gateway has closed the connection, cleanly and without another byte."""
        assert not self._buffer
        assert await self.stream.receive_some(1) == b""

    async def wait_reset(self) -> bytes:
        """What comes before the gateway resets the connection."""
        data = bytes(self._buffer)
        try:
            while more := await self.stream.receive_some(1 << 20):
                data += more
        except trio.BrokenResourceError:
            return data
        raise AssertionError("a clean end, no reset")

    def reset(self) -> None:
        """Leave with RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    def close(self) -> None:
        """Leave with FIN."""
        self.stream.socket.close()

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._receive()
        return await self._take(at + len(mark))

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._receive()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _receive(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError(bytes(self._buffer))
        self._buffer += data


def request_bytes(method: str, path: str, body: bytes | None = None, version: str = "1.1", **headers: str) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/{version}"]
    fields = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None and "transfer-encoding" not in fields:
        fields.setdefault("content-length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chat_bytes(value: Any = None, *, stream: bool = True, **headers: str) -> bytes:
    """A chat completion request as it goes over the wire."""
    small = {"model": "m", "messages": [{"role": "user", "content": "say hello"}], "stream": stream}
    return request_bytes("POST", CHAT, json.dumps({**small, **(value or {})}).encode(), **headers)


def message_bytes(value: Any = None, *, stream: bool = True, path: str = MESSAGES, **headers: str) -> bytes:
    """A request in Anthropic's dialect as it goes over the wire."""
    small = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "say hello"}], "stream": stream}
    return request_bytes("POST", path, json.dumps({**small, **(value or {})}).encode(), **headers)


class RunningGateway:
    """See the module."""

    def __init__(self, gateway: Gateway, server: serve.Server, port: int, up: FrameReader, down: FrameWriter) -> None:
        self.gateway = gateway
        self.server = server
        self.port = port
        self.down = down
        self.started: list[StreamStart] = []
        self.records: list[StreamRecord] = []
        self.beats: list[Beat] = []
        self.asked: list[Question] = []
        self.answer: Callable[[Question], tuple[int, bytes] | None] = lambda question: None
        """What the supervisor answers: a status and a body, or nothing at all."""
        self.heard: list[Admit | Leave | Listen | Trouble] = []
        """What streams said of limits and failures, and listeners of themselves, in order."""
        self.verdict: Callable[[Admit], Verdict | None] = let_in
        """What the supervisor says to a stream that asks to be let in, or nothing at all."""
        self.clients: list[Client] = []
        self._up = up

    async def connect(self, receive_buffer_bytes: int | None = None) -> Client:
        """A new connection; a small buffer makes a client that doesn't read felt early."""
        sock = trio.socket.socket()
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await sock.connect(("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        self.clients.append(Client(trio.SocketStream(sock)))
        return self.clients[-1]

    async def chat(self, value: Any = None, *, stream: bool = True, **headers: str) -> tuple[Head, bytes]:
        """One chat completion on a connection of its own."""
        client = await self.connect()
        await client.ask(value, stream=stream, **headers)
        return await client.answer()

    async def message(self, value: Any = None, *, stream: bool = True, **headers: str) -> tuple[Head, bytes]:
        """The same in Anthropic's dialect."""
        client = await self.connect()
        await client.ask_message(value, stream=stream, **headers)
        return await client.answer()

    def command(self, message: Down) -> None:
        """Say something on the down pipe."""
        self.down.send_nowait(encode(message))

    async def wait_record(self, number: int = 1) -> StreamRecord:
        """The `number`-th terminal record, once it has come."""
        await self.wait(lambda: len(self.records) >= number)
        return self.records[number - 1]

    async def wait_started(self, number: int = 1) -> StreamStart:
        """The `number`-th stream's start."""
        await self.wait(lambda: len(self.started) >= number)
        return self.started[number - 1]

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for what no event tells."""
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)

    async def wait_settled(self) -> None:
        """Wait until no stream lives, and see that nothing is left of those that did."""
        await self.wait(lambda: not self.gateway.sessions)
        clients = self.gateway.clients
        idle = sum(clients.get(name).idle_connections for name in self.gateway.config.providers)
        assert clients.open_connections == idle, "an upstream connection was left open"
        assert len(self.records) <= len(self.started)

    def close_clients(self) -> None:
        """All clients leave."""
        for client in self.clients:
            client.close()

    async def read_up(self) -> None:
        """Collect what comes on the up pipe."""
        while payloads := await self._up.receive():
            for payload in payloads:
                match decode_up(payload):
                    case StreamStarted(start):
                        self.started.append(start)
                    case StreamEnded(record):
                        self.records.append(record)
                    case Beat() as beat:
                        self.beats.append(beat)
                    case Ask(number, question):
                        self.asked.append(question)
                        if (told := self.answer(question)) is not None:
                            self.gateway.questions.take(Told(number, *told))
                    case Admit() as admit:
                        self.heard.append(admit)
                        if verdict := self.verdict(admit):
                            self.gateway.admissions.take(verdict)
                    case Leave() | Listen() | Trouble() as said:
                        self.heard.append(said)
                    case Ready():
                        pass


def let_in(admit: Admit) -> Verdict:
    """Nobody is in the way."""
    return Verdict(admit.id, admit.provider, admitted=True)


def listen() -> socket.socket:
    """A listening socket on a free port of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serve_gateway(
    config: Config,
    keys: dict[str, str] | None = None,
    listener: socket.socket | None = None,
    timeout: float = TIMEOUT,
) -> AsyncIterator[RunningGateway]:
    """A `RunningGateway`; everything in the body must be done within `timeout` seconds.

    On leaving it is checked that each stream that was started has exactly one record, and that nothing is left of it.
    """
    listener = listener or listen()
    port = listener.getsockname()[1] if listener.family == socket.AF_INET else 0
    up_read, up_write = open_pipe()
    down_read, down_write = open_pipe()
    link = Link(up_write, down_read)
    gateway = Gateway(1, config, keys or {}, link, load_encoding())
    server = serve.Server(App(gateway), config.server, [listener], keys or {})
    running = RunningGateway(gateway, server, port, FrameReader(up_read), FrameWriter(down_write))
    try:
        with trio.fail_after(timeout):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.up.run)
                nursery.start_soon(running.read_up)
                await nursery.start(server.serve)
                nursery.start_soon(run_clock, gateway, server)
                yield running
                running.close_clients()
                await running.wait_settled()
                await running.wait(lambda: len(running.records) >= len(running.started))
                await gateway.clients.aclose()
                await gateway.keeper.aclose()
                nursery.cancel_scope.cancel()
        ended = [record.start.id for record in running.records]
        assert sorted(ended) == sorted(start.id for start in running.started), "one record a stream"
    finally:
        running.close_clients()
        link.close()
        running.down.close()
        running._up.close()
