"""What a client of either dialect got for a question, and how it was recorded: to be judged in a word or two.

gots = await ask_all(service, port, "stalls", {"openai": "rogue", "anthropic": "rogue-claude"})
for got in gots:
    got.must_break("ReadTimeout", said="one two ")
"""

import itertools
import json
import socket
from dataclasses import dataclass, field
from typing import Any, Literal

import trio
from fakes.gateway import Client
from fakes.grammar import anthropic_faults, ends_in_error, openai_faults, parse_events
from fakes.service import Service

from shared.tokenizer import load_encoding

Dialect = Literal["openai", "anthropic"]
DIALECTS: tuple[Dialect, ...] = ("openai", "anthropic")
FAULTS = {"openai": openai_faults, "anthropic": anthropic_faults}
STREAM = "text/event-stream"
PATIENCE = 10.0
"""Seconds in which every question has its answer: nothing may hang."""
_numbers = itertools.count(1)


async def connect(port: int, *, receive_buffer_bytes: int | None = None) -> Client:
    """A connection to the service on which nothing has been said."""
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    _clients.append(Client(trio.SocketStream(sock)))
    return _clients[-1]


_clients: list[Client] = []


def close_clients() -> None:
    """Close what `connect` has made so far."""
    for client in _clients:
        client.close()
    _clients.clear()


@dataclass(eq=False, repr=False)
class Got:
    """One answer.  `passed`: the upstream spoke the client's dialect, so what it wrote came as it was."""

    client: Dialect
    upstream: Dialect
    trace: str
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float = 0.0
    """How long it took."""
    cut: bool = False
    """The connection ended inside the response."""
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = ("status", "error_type", "retries", "prompt_tokens", "prompt_source", "completion_tokens")
        record = [self.record.get(name) for name in (*names, "completion_source")]
        body = self.body if len(self.body) < 1500 else self.body[:500] + b" ... " + self.body[-1000:]
        return (
            f"<{self.trace}: {self.client} client, {self.upstream} upstream, {self.status}{' cut' * self.cut}, "
            f"{body!r}, recorded {record}>"
        )

    @property
    def passed(self) -> bool:
        return self.client == self.upstream

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type") == STREAM

    @property
    def error(self) -> dict[str, Any]:
        """The body of an error, which has all that its dialect demands."""
        assert self.headers["content-type"] == "application/json", self
        told = json.loads(self.body)
        error = told["error"]
        assert all(isinstance(error[name], str) and error[name] for name in ("message", "type")), self
        assert (told.get("type") == "error") == (self.client == "anthropic"), self
        return error

    @property
    def said(self) -> str:
        """The text of the answer, streamed or not."""
        if not self.streamed:
            told = json.loads(self.body)
            if self.client == "anthropic":
                return "".join(block.get("text", "") for block in told["content"])
            return told["choices"][0]["message"]["content"]
        text = ""
        for _, data in parse_events(self.body):
            event = None if data == "[DONE]" else _json(data)
            if not isinstance(event, dict):
                continue
            for choice in event.get("choices") or ():
                text += choice["delta"].get("content") or ""
            if event.get("type") == "content_block_delta":
                text += event["delta"].get("text", "")
        return text

    def must_be_legal(self, *, careless: bool = False) -> None:
        """Complete as HTTP, and by the grammar of the dialect; a `careless` upstream's own bytes may break that."""
        assert not self.cut, self
        assert self.headers["x-request-id"] == self.trace
        if self.streamed:
            faults = FAULTS[self.client](self.body, passed=self.passed)
            assert not faults or (careless and self.passed), (faults, self)

    def must_succeed(self, said: str | None = "one two", *, careless: bool = False) -> None:
        """A whole answer, recorded as such."""
        self.must_be_legal(careless=careless)
        assert self.status == 200, self
        assert not (self.streamed and ends_in_error(self.body)), self
        if said is not None:
            assert self.said == said, self
        assert (self.record["status"], self.record["error_type"]) == ("completed", None), self

    def must_break(self, error_type: str, said: str | None = "one two ", *, careless: bool = False) -> None:
        """A stream that began and ended in an error; what came counts as a part."""
        self.must_be_legal(careless=careless)
        assert self.status == 200, self
        assert self.streamed, self
        assert ends_in_error(self.body), self
        assert (self.record["status"], self.record["error_type"]) == ("failed", error_type), self
        if said is not None:
            assert self.said == said, self
            self.must_have_counted(said)

    def must_be_refused(self, status: int, error_type: str, *, retries: int = 0) -> None:
        """An error in the place of an answer."""
        self.must_be_legal()
        assert self.status == status, self
        assert self.error
        record = self.record
        assert (record["status"], record["error_type"]) == ("failed", error_type), self
        assert record["http_status"] == status, self
        assert record["retries"] == retries, self

    def must_have_counted(self, said: str) -> None:
        """The record tells the tokens of a text that was cut short."""
        record = self.record
        assert record["prompt_tokens"] > 0, self
        assert record["prompt_source"] == ("provider" if self.upstream == "anthropic" else "counted"), self
        assert (record["completion_tokens"], record["completion_source"]) == (count(said), "partial"), self


def count(text: str) -> int:
    """The tokens of a text."""
    return len(load_encoding().encode_ordinary(text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def trace_of(name: str) -> str:
    """A request id that nobody else uses."""
    return f"{name}-{next(_numbers)}"


async def send_question(client: Client, model: str, trace: str, dialect: Dialect, *, stream: bool = True) -> None:
    """Ask; the trace is the marker as well."""
    value = {"model": model, "messages": [{"role": "user", "content": trace}]}
    await (client.ask_message if dialect == "anthropic" else client.ask)(value, stream=stream, x_request_id=trace)


async def ask(
    service: Service, port: int, model: str, *, client: Dialect, upstream: Dialect, stream: bool = True
) -> Got:
    """One question over a connection of its own, and its record."""
    trace = trace_of(model.partition("/")[2])
    connection, began = await connect(port), trio.current_time()
    try:
        with trio.fail_after(PATIENCE):
            await send_question(connection, model, trace, client, stream=stream)
            head = await connection.head()
            got = Got(client, upstream, trace, head.status, head.headers, b"")
            try:
                while piece := await connection.piece():
                    got.body += piece
            except (EOFError, trio.BrokenResourceError):
                got.cut = True
            got.seconds = trio.current_time() - began
    finally:
        connection.close()
    got.record = await service.record(trace)
    return got


async def ask_all(
    service: Service,
    port: int,
    model: str,
    providers: dict[Dialect, str],
    *,
    clients: tuple[Dialect, ...] = DIALECTS,
    stream: tuple[bool, ...] = (True,),
) -> list[Got]:
    """The same question of clients of both dialects to each provider (dialect → name), all at once."""
    gots: list[Got] = []

    async def one(client: Dialect, upstream: Dialect, streams: bool) -> None:
        gots.append(
            await ask(service, port, f"{providers[upstream]}/{model}", client=client, upstream=upstream, stream=streams)
        )

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for client, upstream, streams in itertools.product(clients, providers, stream):
                nursery.start_soon(one, client, upstream, streams)
    return gots
