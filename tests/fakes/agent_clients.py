"""One run of the agent and its client, over SSE, as /v1/messages or over a WebSocket: how it begins and who ends it."""

import json
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import trio
from fakes import ws
from fakes.agent_kinds import ALL_KINDS, TOOLS
from fakes.load import MESSAGES, BrokenOff, Client, message
from fakes.openai_upstream import Row
from fakes.programs import new_mark
from fakes.run import PATH, SOCKET
from fakes.service import wait_until
from fakes.sessions_api import active, call
from wsproto.events import CloseConnection, TextMessage

if TYPE_CHECKING:
    from fakes.agent_runs import Agent

POLL = 0.005
GRACE = 0.5
"""`[agent] cancel_grace`: by then nothing of a cancelled run is alive."""
HARD = GRACE + 2.0
"""…and so much later at the latest on a machine that has other things to do."""

CANCELS = {
    "fin": "client_disconnect",
    "reset": "client_disconnect",
    "close": "client_disconnect",
    "cancel": "client_cancel",
    "delete": "admin",
    "newer": "registry_new_stream",
}
"""How a run is cancelled, and what its record then says."""
WAYS = {
    "sse": ("fin", "reset", "delete", "newer"),
    "messages": ("fin", "reset", "delete", "newer"),
    "websocket": ("fin", "close", "cancel", "delete", "newer"),
}
"""Which ways there are for which client."""


class Run(ABC):
    """One run and its client.  Times are trio's."""

    client: ClassVar[str]

    def __init__(self, agent: "Agent", kind: str, *, reads: bool) -> None:
        self.agent = agent
        self.kind = kind
        self.reads = reads
        self.mark = new_mark()
        """Its session, and in every command line and message of it."""
        self.told = b""
        self.ended = False
        """The client has heard the end."""
        self.cancelled = math.inf
        """When it was."""
        self.way = ""
        self.newer = 0
        """How many newer ones of its session have been asked for."""
        self._hearing = trio.CancelScope()

    @property
    def trace(self) -> str:
        """Its request id."""
        return self.mark

    @property
    def _buffer(self) -> int | None:
        return None if self.reads else 4096

    @property
    def rows(self) -> list[Row]:
        """What the upstream has been asked."""
        return self.agent.upstream.rows_with(self.mark)

    def is_asleep(self) -> bool:
        """A command of it sleeps."""
        return self.mark in self.agent.table.asleep

    def is_marked(self) -> bool:
        """A tool of the user's own has begun."""
        return (self.agent.workspace / self.mark).exists()

    async def is_listed(self) -> bool:
        """The service knows that it is there."""
        return self.trace in await active(self.agent.port)

    async def is_stalled(self) -> bool:
        """Its client takes nothing more, so the upstream can't say more either."""
        before = [row.chunks for row in self.rows]
        await trio.sleep(0.2)
        return [row.chunks for row in self.rows] == before != []

    async def live(self, way: str, *, settles: bool = True, wait: float = 0.0) -> None:
        """Start it, end it `wait` seconds after that, or after it has got to be busy if it `settles`; see it end."""
        async with trio.open_nursery() as nursery:
            await self.start(nursery)
            if settles:
                await self.wait_busy()
            await trio.sleep(wait)  # any moment will do: this is not what a test waits for
            await self.cancel(way)
            await self.wait_over()
            self.close()

    async def start(self, nursery: trio.Nursery) -> None:
        """Ask; the answer is read in `nursery`."""
        await self._ask(ALL_KINDS[self.kind].model, ALL_KINDS[self.kind].says(self.mark))
        self.agent.asked.append(self)
        if self.reads:
            nursery.start_soon(self._hear)

    async def _hear(self) -> None:
        with self._hearing:
            try:
                await self._read()
            except (BrokenOff, EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                return
            except AssertionError:
                if self.way != "close":  # which has an answer
                    raise
            self.ended = True

    async def wait_busy(self) -> None:
        """Until it does what its kind says."""
        await wait_until(lambda: ALL_KINDS[self.kind].is_busy(self), f"{self.kind}: busy", poll=POLL)

    async def cancel(self, way: str) -> None:
        """End it."""
        self.way = way
        match way:
            case "delete":
                await self._delete()
            case "newer":
                await self._supersede()
            case _:
                if CANCELS[way] == "client_disconnect":
                    self._hearing.cancel()
                self.cancelled = trio.current_time()
                await self._leave(way)

    async def _delete(self) -> None:
        while True:
            await wait_until(self.is_listed, f"{self.kind}, {self.client}: listed; told: {self.told!r}", HARD, POLL)
            session = (await active(self.agent.port))[self.trace]
            self.cancelled = trio.current_time()
            status, _ = await call(self.agent.port, "DELETE", f"/api/sessions/{session['id']}")
            if status == 200:
                return

    async def _supersede(self) -> None:
        """A newer stream of the session; one that overtakes the older one, on its way to another worker, is not."""
        for _ in range(10):
            self.cancelled = trio.current_time()
            self.newer += 1
            async with Client(self.agent.port) as client:
                headers = {"x-request-id": f"{self.mark}-newer-{self.newer}", "x-session-id": self.mark}
                response = await client.post({"message": "hi", "model": "fake/text-2"}, PATH, headers)
                if (await response.read()).endswith(b'{"type":"done"}\n\n'):
                    return
        raise AssertionError("it was never newer")

    @property
    def is_over(self) -> bool:
        """Nothing is left of it, as far as that can be seen from outside now."""
        return (
            self.mark not in self.agent.table.alive
            and all(row.outcome != "open" for row in self.rows)
            and self.agent.searches.get(self.mark, 0.0) < math.inf
            and (self.ended or not self.reads or CANCELS[self.way] == "client_disconnect")
        )

    async def wait_over(self) -> None:
        """Until it is over, for `HARD` at the longest."""
        await self.agent.table.next_look()
        await wait_until(lambda: self.is_over, f"{self.kind}, {self.client}, {self.way}: over", HARD, POLL)

    @property
    def was_heard(self) -> bool:
        """It has begun for sure; one whose client leaves at once may never have been read."""
        return bool(self.rows or self.told) or CANCELS[self.way] != "client_disconnect"

    @property
    def last_life(self) -> float:
        """When the last process and the last connection of it was gone."""
        seen = [row.ended for row in self.rows if row.outcome == "client_closed"]
        seen += [found[self.mark] for found in (self.agent.table.gone, self.agent.searches) if self.mark in found]
        return max(seen, default=0.0)

    @abstractmethod
    async def _ask(self, model: str, text: str) -> None: ...

    @abstractmethod
    async def _read(self) -> None: ...

    @abstractmethod
    async def _leave(self, way: str) -> None: ...

    @abstractmethod
    def check_told(self) -> None:
        """The client heard that it was cancelled."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""


class _OverSSE(Run):
    client = "sse"
    path = PATH

    def _body(self, model: str, text: str) -> dict[str, Any]:
        return {"message": text, "model": model}

    async def _ask(self, model: str, text: str) -> None:
        self._http = await Client(self.agent.port, receive_buffer=self._buffer).__aenter__()
        headers = {"x-request-id": self.mark, "x-session-id": self.mark}
        await self._http.send_request(self._body(model, text), self.path, headers)

    async def _read(self) -> None:
        response = await self._http.response()
        while data := await response.receive():
            self.told += data

    async def _leave(self, way: str) -> None:
        if way == "reset":
            self._http.reset()
        else:
            self._http.close()

    def check_told(self) -> None:
        assert self.told.endswith(b'data: {"type":"done","error":"stream_cancelled"}\n\n'), self.told
        assert self.told.count(b'"done"') == 1

    def close(self) -> None:
        self._http.close()


class _AsMessages(_OverSSE):
    """A client of /v1/messages, whose tools are run here."""

    client = "messages"
    path = MESSAGES

    def _body(self, model: str, text: str) -> dict[str, Any]:
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in TOOLS]
        return message(model, text, tools=tools)

    def check_told(self) -> None:
        assert b'"type":"error"' in self.told
        assert b"message_stop" not in self.told


class _OverWebSocket(Run):
    client = "websocket"

    @property
    def trace(self) -> str:
        return f"{self.mark}.1"

    async def _ask(self, model: str, text: str) -> None:
        self._ws = await ws.connect(self.agent.port, receive_buffer_bytes=self._buffer)
        await self._ws.open(SOCKET, x_request_id=self.mark)
        await self._say({"message": text, "model": model, "session_id": self.mark})

    async def _say(self, fields: dict[str, str]) -> None:
        await self._ws.send(TextMessage(json.dumps(fields)))

    async def _read(self) -> None:
        self._last: dict[str, Any] = {"type": ""}
        while self._last["type"] != "done":
            self._last = await self._ws.event()
            self.told += json.dumps(self._last).encode()

    async def _leave(self, way: str) -> None:
        match way:
            case "cancel":
                await self._say({"type": "cancel"})
            case "close":
                await self._ws.send(CloseConnection(1000))
            case _:
                self._ws.close()

    def check_told(self) -> None:
        assert self._last == {"type": "done", "error": "stream_cancelled"}

    def close(self) -> None:
        self._ws.close()


CLIENTS = {client.client: client for client in (_OverSSE, _AsMessages, _OverWebSocket)}
