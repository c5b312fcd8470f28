"""`WS /ws/stream`: runs of the agent over a WebSocket, one after another, told in the same frames as over SSE.

    client   {"message": …, "session_id"?, "model"?}     a run, which ends with one `done`
             {"type": "cancel"}                          ends the run that is under way
    server   frames of that run; or one that tells that a message was refused

Theory of operation: one task hears the client, and makes a run of what he asks; one runs them; one asks by pings
whether he is still there.  While a run is under way another message is refused, unless it is for the same session:
then it takes the run's place, as a new stream of a session does everywhere.
"""

import trio

from worker.addressing import check_capacity
from worker.agent.frames import Format, Wire, make_frames
from worker.agent.message import BadMessage, Message, read_message, read_object, read_text
from worker.agent.run import Run
from worker.asgi import Header, HttpError, Request, WebSocket
from worker.dialects.codec import Reply
from worker.dialects.fault import quoted
from worker.endpoints.agent import check_enabled, prepare, wanted_format
from worker.endpoints.pulse import SEND_BUFFER_BYTES, Pulse, check_websocket
from worker.gateway import Gateway
from worker.listeners import SERVICE_RESTART
from worker.websocket import text_frame

MAX_MESSAGE_CHARS = 1024 * 1024
"""Of what a client says at once; up to `worker.websocket.MAX_MESSAGES` of that may wait."""
WIRE = Wire(text_frame, lambda text: b"")


async def converse(gateway: Gateway, request: Request) -> None:
    """`?format=` is one of `worker.agent.frames.FORMATS`, for all runs."""
    told = "runs of the agent are told over a WebSocket here; POST /api/stream/message tells them as SSE"
    websocket = check_websocket(request, told)
    check_enabled(gateway)
    format = wanted_format(request)
    websocket.limit_send_buffer(SEND_BUFFER_BYTES)
    await websocket.accept(max_message_chars=MAX_MESSAGE_CHARS)
    conversation = Conversation(gateway, websocket, format)
    with gateway.visitors.joined(conversation):
        if gateway.draining:  # the others have been sent away already
            conversation.close(SERVICE_RESTART)
        await conversation.run()


class Conversation:
    """One client and his runs; see the module."""

    def __init__(self, gateway: Gateway, websocket: WebSocket, format: Format) -> None:
        self._gateway = gateway
        self._websocket = websocket
        self._format = format
        self._refusals = make_frames(format, WIRE, Reply(id="", model="", created=0))
        self._trace = websocket.trace
        self._messages = 0
        self._asked: list[tuple[Message, Run]] = []
        """The run that is under way, and the one that is to take its place."""
        self._to_runs, self._runs = trio.open_memory_channel[Run](2)
        self._gone = False
        self._pulse = Pulse(gateway, websocket)
        self._close_code: int | None = None

    async def run(self) -> None:
        """Until the client leaves, or is to leave and has no run under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            nursery.start_soon(self._keep_alive)
            async for run in self._runs:
                await run.run()
                del self._asked[0]
                if self._gone:
                    break
            nursery.cancel_scope.cancel()
        if self._close_code is not None:
            await self._websocket.close(self._close_code, "connect again")

    def close(self, code: int) -> None:
        """Have him leave, with a code of RFC 6455, 7.4, as soon as his run has ended."""
        self._close_code = code
        self._to_runs.close()

    async def _hear(self) -> None:
        while (told := await self._websocket.receive())["type"] != "websocket.disconnect":
            self._pulse.heard()
            if told["type"] != "websocket.receive":
                continue
            try:
                self._take(told.get("text"))
            except BadMessage as error:
                await self._refuse(HttpError(400, str(error)))
            except HttpError as error:
                await self._refuse(error)
        self._gone = True
        self._to_runs.close()
        for _, run in self._asked:
            run.leave()

    def _take(self, text: str | None) -> None:
        """Do what he asks; `BadMessage` or `HttpError` if it can't be done."""
        if text is None:
            raise BadMessage("a message is text that holds a JSON object, not binary")
        fields = read_object(text.encode("utf-8", "replace"))
        match read_text(fields, "type"):
            case "cancel":
                for _, run in self._asked:
                    run.stop()
            case "message" | None:
                self._start(read_message(fields))
            case other:
                raise BadMessage(f"`type`: there is no {quoted(other)}; there are 'message' and 'cancel'")

    def _start(self, asked: Message) -> None:
        if self._close_code is not None:
            raise HttpError(503, "this worker is leaving: connect again, another one answers", code="connect_again")
        if self._under_way() and not self._gives_way(asked):
            raise HttpError(
                409,
                'a run is under way: wait for its end, send {"type":"cancel"}, or open another WebSocket',
                code="run_in_progress",
            )
        check_enabled(self._gateway)
        check_capacity(self._gateway)
        self._messages += 1
        self._websocket.trace = f"{self._trace}.{self._messages}"
        run = prepare(self._gateway, self._websocket, asked, self._format, WIRE, _Sink(self._websocket))
        for _, older in self._asked:
            older.stop()
        self._asked.append((asked, run))
        self._to_runs.send_nowait(run)

    def _under_way(self) -> list[Message]:
        """What is being answered.  A run that has sent `done` is over: its client may be faster than its record."""
        return [asked for asked, run in self._asked if not run.ended]

    def _gives_way(self, asked: Message) -> bool:
        """Whether the run that is under way gives its place to this one."""
        older = self._under_way()
        return (
            len(older) == 1
            and self._session(asked) is not None
            and self._session(asked) == self._session(older[0])
            and self._gateway.config.sessions.on_new_stream == "cancel"
        )

    def _session(self, asked: Message) -> str | None:
        return self._websocket.header(b"x-session-id") or asked.session

    async def _refuse(self, error: HttpError) -> None:
        await self._websocket.send_frames(self._refusals.refused(error.message, code=error.code, param=error.param))

    async def _keep_alive(self) -> None:
        """Until he is cut off, which ends his run."""
        there = True
        while there:
            await trio.sleep(self._pulse.interval)
            there = await self._pulse.beat()


class _Sink:
    """Where the frames of one run go: a `worker.streaming.sink.ClientSink`."""

    committed = True
    may_ping = False

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self.ended = False
        self.extra_headers: list[Header] = []

    async def send(self, data: bytes) -> None:
        """Complete frames."""
        await self._websocket.send_frames(data)

    async def finish(self, data: bytes = b"") -> None:
        """The last ones of the run; the socket stays open.  None of them if the run is cancelled by now."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.ended = True
        if data:
            await self._websocket.send_frames(data)

    async def refuse(self, status: int, body: bytes, headers: list[Header]) -> None:
        """Never called: an answer has begun with the handshake."""
        raise AssertionError("a WebSocket has been accepted")

    def is_ping_due(self, now: float) -> bool:
        """The conversation pings by itself, between its runs too."""
        return False

    async def ping(self) -> None:
        """One ping."""
        await self._websocket.ping()
