"""What the scripted upstreams of both dialects have in common: how they are asked, and how they break off.

The model's name chooses, its parts joined with `+`; `fakes.script` has those that choose what is said, `HOW` the rest.
"""

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import trio
from fakes import upstream as raw
from fakes.script import Script, behaviour, script_of, text_in

HOW = """
    slow-R              R chunks a second                              ttfb-MS            a pause before the head
    usage-none          no usage, though asked                         usage-inline       where Kimi tells it
    cached              part of the prompt came from a cache
    hang-before-headers silence at once                                hang-before-first  a head, then silence
    hang-after-K        silence after K chunks                         reset-after-K, cut-after-K   RST, FIN there
    eof-after-K         the body ends well, the answer doesn't         inline-error-K     an error event there (1)
    malformed           a chunk that is no JSON                        status-N           an error with that status
    html-502            an error page of that status                   flaky-N            a marker's first N get 500
    crlf, comments, no-space, no-role, no-done                         other ways to write a stream
    split-utf8          writes that end inside characters              pack               all in one write
"""
PACE_OF_PARTS = 0.002
"""Seconds between two writes that should not be read as one."""


@dataclass(eq=False)
class Row:
    """One request.  Times are trio's.  Its marker is the text of its last message that is not the system's."""

    model: str
    marker: str
    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    """With the query."""
    arrived: float
    chunks: int = 0
    outcome: Literal["open", "completed", "client_closed", "broken_off"] = "open"
    ended: float = math.inf


class _Left(Exception):
    """The peer closed its connection."""


class ScriptedAnswer(ABC):
    """One request, and how it is answered."""

    def __init__(
        self, row: Row, request: raw.Request, connection: raw.Connection, *, number: int, asked_before: int
    ) -> None:
        self.row, self.request, self.connection = row, request, connection
        self.number, self.asked_before = number, asked_before
        self.does = behaviour(row.model)
        self.script: Script = script_of(self.does, row.body)

    # --- what a dialect says

    @abstractmethod
    def events(self) -> Iterator[str]:
        """The stream, whole, an event a chunk."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""

    @abstractmethod
    def inline_error(self) -> str:
        """The event of an error in mid-stream."""

    @abstractmethod
    def error(self, status: int, message: str) -> dict[str, Any]:
        """An error's body."""

    @abstractmethod
    def fault(self) -> str | None:
        """What is wrong with the request, as far as this upstream looks."""

    @abstractmethod
    def headers(self) -> dict[str, str]:
        """Of every response."""

    # --- how it is said

    async def give(self) -> None:
        try:
            await self._give()
        except _Left:
            self.row.outcome = "client_closed"
        else:
            if self.row.outcome == "open":
                self.row.outcome = "completed"

    async def _give(self) -> None:
        does = self.does
        await self._pause(math.inf if "hang-before-headers" in does else does.get("ttfb", 0) / 1000)
        if "html" in does:
            page = f"<html><body><h1>{does['html']} Bad Gateway</h1></body></html>".encode()
            await self.connection.send(raw.whole(does["html"], page, {"content-type": "text/html"}))
            return
        status = 500 if self.asked_before < does.get("flaky", 0) else does.get("status")
        fault = self.fault()
        if status is not None or fault is not None:
            status = status or 400
            body = self.error(status, fault or f"upstream says {status}")
            waits = {"retry-after": "7"} if status == 429 else {}
            await self.connection.send(raw.json_response(body, status, {**self.headers(), **waits}))
        elif self.row.body.get("stream"):
            await self._stream()
        else:
            await self._whole()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with trio.move_on_after(seconds):
                await self.request.closed.wait()
                raise _Left
        await trio.lowlevel.checkpoint()

    async def _stream(self) -> None:
        does = self.does
        head = {"content-type": "text/event-stream", **self.headers()}
        await self.connection.send(raw.head(200, head, chunked=True))
        if "hang-before-first" in does:
            await self._pause(math.inf)
        names = ("hang-after", "reset-after", "cut-after", "eof-after", "inline-error")
        breaks = {name: does[name] for name in names if name in does}
        interval = 1 / does["slow"] if "slow" in does else 0.0
        due = trio.current_time()
        packed = b""
        for number, event in enumerate(self._all_events()):
            for name, at in breaks.items():
                if number == at:
                    await self._break_off(name)
                    return
            data = self._framed(event)
            if "pack" in does:
                packed += data
                continue
            await self._pause(due - trio.current_time())
            due += interval
            await self._send_event(data)
            self.row.chunks += 1
        await self.connection.send((raw.chunk(packed) if packed else b"") + raw.LAST_CHUNK)

    def _all_events(self) -> Iterator[str]:
        for number, event in enumerate(self.events()):
            if "malformed" in self.does and number == 3:
                yield event[: len(event) // 2] + "\n\n"
            yield event

    def _framed(self, event: str) -> bytes:
        does = self.does
        if "no-space" in does:
            event = event.replace("data: ", "data:", 1).replace("event: ", "event:", 1)
        if "comments" in does:
            event = ": keep-alive\n\n" + event
        if "crlf" in does:
            event = event.replace("\n", "\r\n")
        return event.encode()

    async def _send_event(self, data: bytes) -> None:
        if "split-utf8" in self.does:
            inside = next((at for at in range(1, len(data)) if data[at] & 0xC0 == 0x80), len(data) // 2)
            await self.connection.send(raw.chunk(data[:inside]))
            await self._pause(PACE_OF_PARTS)
            data = data[inside:]
        await self.connection.send(raw.chunk(data))

    async def _break_off(self, how: str) -> None:
        self.row.outcome = "broken_off"
        match how:
            case "hang-after":
                self.row.outcome = "open"
                await self._pause(math.inf)
            case "eof-after":
                await self.connection.send(raw.LAST_CHUNK)
            case "inline-error":
                self.row.outcome = "completed"
                await self.connection.send(raw.chunk(self._framed(self.inline_error())) + raw.LAST_CHUNK)
            case "reset-after":
                await self._pause(0.05)  # a reset overtakes what the peer hasn't read yet
                self.connection.reset()
            case "cut-after":
                self.connection.socket.close()

    async def _whole(self) -> None:
        if not {"hang-before-first", "hang-after"}.isdisjoint(self.does):
            await self._pause(math.inf)
        if not {"reset-after", "cut-after"}.isdisjoint(self.does):
            self.row.outcome = "broken_off"
            self.connection.reset()
            return
        body = json.dumps(self.whole(), ensure_ascii=False).encode()
        if "malformed" in self.does:
            body = body[: len(body) // 2]
        head = {"content-type": "application/json", **self.headers()}
        await self.connection.send(raw.whole(200, body, head))


@dataclass(eq=False)
class ScriptedUpstream:
    """An upstream that answers any number of requests at once."""

    server: raw.FakeUpstream
    log: list[Row] = field(default_factory=list)
    answers: ClassVar[type[ScriptedAnswer]]

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

    def rows_with(self, text: str) -> list[Row]:
        """The requests that have this text in any of their messages."""
        return [row for row in self.log if any(text in text_in(message) for message in row.body.get("messages", ()))]

    async def answer(self, request: raw.Request, connection: raw.Connection) -> None:
        body = request.json if request.body else {}
        messages = [message for message in body.get("messages") or [{}] if message.get("role") != "system"] or [{}]
        marker = text_in(messages[-1])
        row = Row(body.get("model", ""), marker, body, request.headers, request.path, trio.current_time())
        asked_before = len(self.rows(marker))
        self.log.append(row)
        try:
            await self.answers(row, request, connection, number=len(self.log), asked_before=asked_before).give()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            row.outcome = "client_closed"
            raise
        finally:
            row.ended = trio.current_time()


_numbers = itertools.count(1)


def marker(name: str) -> str:
    """A text that no other request carries."""
    return f"{name}-{next(_numbers)}"
