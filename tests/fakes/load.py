"""Clients that watch closely: a plain HTTP/1.1 client on trio, and a steady load that remembers every mishap.

async with Client(port) as client:
    response = await client.post(chat("fake/text-5"))
    body = await response.read()

async with steady_load(port, streams=50, rate=100) as load:
    ... do something to the service ...
assert load.mishaps == []
"""

import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import h11
import trio
from fakes.openai_upstream import text_of

PATH = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSE_TIMEOUT = 20.0
_RESET = struct.pack("ii", 1, 0)
_traces = itertools.count(1)


def chat(model: str, marker: str = "hi", *, stream: bool = True, **more: Any) -> dict[str, Any]:
    """A request body."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": marker}], **more}


def message(model: str, marker: str = "hi", *, stream: bool = True, **more: Any) -> dict[str, Any]:
    """The same in Anthropic's dialect; it goes to `MESSAGES`."""
    return {**chat(model, marker, stream=stream), "max_tokens": 4096, **more}


class BrokenOff(Exception):
    """The connection ended before the response did."""


class Response:
    """A response whose head has arrived."""

    def __init__(self, client: "Client", status: int, headers: dict[str, str]) -> None:
        self._client = client
        self.status = status
        self.headers = headers

    async def receive(self) -> bytes:
        """The next bytes of the body; b"" at its proper end.  `BrokenOff` if it has none."""
        return await self._client._receive_body()

    async def read(self) -> bytes:
        """The rest of the body."""
        parts = []
        while data := await self.receive():
            parts.append(data)
        return b"".join(parts)


class Client:
    """One connection to the gateway, kept alive from request to request for as long as both sides want it."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._address = ("127.0.0.1", port)
        self._receive_buffer = receive_buffer
        self._h11 = h11.Connection(h11.CLIENT)
        self.connected = False

    async def __aenter__(self) -> Self:
        """Connects; `OSError` when refused."""
        sock = trio.socket.socket()
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await sock.connect(self._address)
        except BaseException:
            sock.close()
            raise
        self.socket = sock
        self.port: int = sock.getsockname()[1]
        self.connected = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """FIN."""
        self.socket.close()

    def reset(self) -> None:
        """RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.socket.close()

    async def send_request(
        self, body: Mapping[str, Any] | None, path: str = PATH, headers: Mapping[str, str] | None = None
    ) -> None:
        """POST `body`, or GET without one; the response is `response`'s."""
        data = b"" if body is None else json.dumps(body).encode()
        head = {"host": f"127.0.0.1:{self._address[1]}", "content-length": str(len(data)), **(headers or {})}
        if body is not None:
            head["content-type"] = "application/json"
        request = h11.Request(method="GET" if body is None else "POST", target=path, headers=list(head.items()))
        out = [self._h11.send(request), self._h11.send(h11.Data(data)), self._h11.send(h11.EndOfMessage())]
        await self._send(b"".join(part for part in out if part))

    async def response(self) -> Response:
        """The head of the response, once it is there."""
        event = await self._next_event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next_event()
        assert isinstance(event, h11.Response), event
        headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        return Response(self, event.status_code, headers)

    async def post(
        self, body: Mapping[str, Any] | None, path: str = PATH, headers: Mapping[str, str] | None = None
    ) -> Response:
        """`send_request` and `response`."""
        await self.send_request(body, path, headers)
        return await self.response()

    def reuse(self) -> bool:
        """Whether the connection takes another request; call it after the end of a response."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return True
        return False

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[await self.socket.send(view) :]
        except OSError as error:
            raise BrokenOff(f"sending: {error}") from error

    async def _receive_body(self) -> bytes:
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        return b""

    async def _next_event(self) -> Any:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise BrokenOff(str(error)) from error
            if event is not h11.NEED_DATA:
                if isinstance(event, h11.ConnectionClosed):
                    raise BrokenOff("closed without a response")
                return event
            try:
                data = await self.socket.recv(65536)
            except OSError as error:
                raise BrokenOff(f"receiving: {error}") from error
            self._h11.receive_data(data)


def events(body: bytes) -> Iterator[Any]:
    """The JSON of each event of a stream, `[DONE]` as that string; comments are left out."""
    for event in body.split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data: "):
                yield "[DONE]" if line == b"data: [DONE]" else json.loads(line[6:])


def said(body: bytes) -> str:
    """The text of an OpenAI stream."""
    choices = [event["choices"] for event in events(body) if event != "[DONE]" and "choices" in event]
    return "".join(choice["delta"].get("content") or "" for some in choices for choice in some)


@dataclass(frozen=True)
class Mishap:
    """A request that did not go as it should.  `port` is the client's; 0 if it never was connected."""

    kind: str
    what: str
    trace: str
    port: int


@dataclass(eq=False)
class Load:
    """What a steady load has seen."""

    port: int
    streams_done: int = 0
    requests_done: int = 0
    mishaps: list[Mishap] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    """Of every request that was sent."""
    _stopping: bool = False

    @property
    def refused(self) -> list[Mishap]:
        """Connections that could not be made."""
        return [mishap for mishap in self.mishaps if mishap.kind == "connect"]

    async def _keep_asking(self, body: dict[str, Any], pause: float, expected: str) -> None:
        """One request after the other until the end, over one connection while it lasts."""
        client: Client | None = None
        try:
            while not self._stopping:
                trace = f"load-{next(_traces)}"
                if client is None:
                    client = Client(self.port)
                    try:
                        await client.__aenter__()
                    except OSError as error:
                        self.mishaps.append(Mishap("connect", str(error), trace, 0))
                        client = None
                        await trio.sleep(0.1)
                        continue
                self.traces.append(trace)
                if not await self._ask(client, trace, body, expected):
                    client.close()
                    client = None
                await trio.sleep(pause)
        finally:
            if client is not None:
                client.close()

    async def _ask(self, client: Client, trace: str, body: dict[str, Any], expected: str) -> bool:
        """Whether the connection can be used again."""
        kind = "stream" if body["stream"] else "request"
        try:
            with trio.fail_after(RESPONSE_TIMEOUT):
                response = await client.post(body, headers={"x-request-id": trace})
                answer = await response.read()
        except (BrokenOff, trio.TooSlowError) as error:
            self.mishaps.append(Mishap(kind, f"{type(error).__name__} {error}", trace, client.port))
            return False
        if kind == "stream":
            whole = answer.endswith(b"data: [DONE]\n\n") and said(answer) == expected
            self.streams_done += 1
        else:
            whole = response.status == 200 and json.loads(answer)["choices"][0]["message"]["content"] == expected
            self.requests_done += 1
        if not whole:
            what = f"{response.status} {answer[-300:]!r}"
            self.mishaps.append(Mishap(kind, what, trace, client.port))
        return client.reuse()


@asynccontextmanager
async def steady_load(
    port: int, *, streams: int, rate: float, words: int = 30, pace: int = 20, connections: int = 10
) -> AsyncIterator[Load]:
    """`streams` streams of `words` words at `pace` words a second, all the time, and `rate` short requests a second.

    On leaving, whatever is under way is waited for, so that every request has had its end.
    """
    load = Load(port)
    long = chat(f"fake/text-{words}+slow-{pace}")
    short = chat("fake/text-3", stream=False)
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(load._keep_asking, long, 0.0, "".join(text_of(words)))
        for _ in range(connections if rate else 0):
            nursery.start_soon(load._keep_asking, short, connections / rate, "".join(text_of(3)))
        yield load
        load._stopping = True


async def is_refused(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with suppress(OSError):
        async with Client(port):
            return False
    return True


async def complete(port: int, count: int) -> None:
    """Ask for `count` short answers, one after the other; all are complete when this returns."""
    async with Client(port) as client:
        for _ in range(count):
            response = await client.post(chat("fake/text-2", stream=False))
            assert response.status == 200
            await response.read()
            assert client.reuse()
