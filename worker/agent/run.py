"""One run of the agent, from its admission to its terminal record: turns of a model, and the tools it calls.

How an endpoint starts one (`worker.endpoints.agent`, `worker.endpoints.agent_socket`):

    addressed = address(gateway, request, id=…, now=…, model=…, …)      worker.addressing
    run = make_run(gateway, request, addressed, message, presenter, client)
    await run.run()

`client` is a `worker.streaming.sink.ClientSink`: for SSE a `Downstream(request, ping=PING, ping_interval=…)`; for a
WebSocket an object of the endpoint's own whose `send(data)` sends `data`, complete frames, whose `committed` is True
from the start, and whose `finish(data)` sends the last frames and sets `ended` but leaves the socket open.  The
presenter makes the bytes, so it decides between `data: …\\n\\n` and `text_frame(…)`.  On a WebSocket the hearing task
calls `run.stop()` for `{"type":"cancel"}`, and `run.leave()` for `websocket.disconnect`; both may be called at any
time, from any task, also before and after the run.

Theory of operation: a run is one stream of the gateway, with one session and one record.  All that it starts lives in
one nursery: the loop of turns in the session's cancel scope, each tool in a scope of its own, which the loop cancels.
However it ends, what was said is kept, the client is told, and the record is written, in this order, when everything is
gone, or the grace for that is over.
"""

from collections.abc import Callable
from functools import partial

import trio
from msgspec import structs

from shared.errors import DialectError, UpstreamError
from shared.logs import get_logger
from shared.messages import StreamStarted
from shared.records import StreamRecord
from worker.addressing import Addressed
from worker.agent import memory
from worker.agent.bill import Bill
from worker.agent.hidden import keep_hidden
from worker.agent.loop import Ended, ending
from worker.agent.presenter import CANCELLED, TIMEOUT, Presenter
from worker.agent.voice import Voice
from worker.agent.wish import Wish, asked_for
from worker.agent.workshop import Workshop
from worker.asgi import HttpError, Request
from worker.dialects.exchange import Exchange
from worker.dialects.neutral import Message, TextDelta, ToolDelta, ToolStart, UsageTold
from worker.gateway import Gateway
from worker.streaming import refusal
from worker.streaming.pump import Outcome
from worker.streaming.refusal import Refusal
from worker.streaming.report import tell_end, tell_failure
from worker.streaming.session import Session
from worker.streaming.sink import ClientSink

Refuse = Callable[[Exchange], Refusal]
"""An error response in the words of the client's dialect."""

TIMED_OUT = "ResponseTimeout"
TOO_MANY = "MaxIterations"


def make_run(
    gateway: Gateway, request: Request, addressed: Addressed, message: str, presenter: Presenter, client: ClientSink
) -> "Run":
    """A run that answers `message`; it goes on with the conversation of the stream's session, if it has one.

    `HttpError` if the agent's tools can't be had.
    """
    settings, tools, definitions = gateway.config.agent, gateway.toolbox.tools, gateway.toolbox.definitions
    asked = asked_for(message, settings, tools, definitions, max_steps=settings.max_iterations)
    wish = Wish(request=asked, tools=tools, definitions=definitions, remembers=True)
    return Run(gateway, request, addressed, wish, presenter, client)


class Run:
    """See the module."""

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        addressed: Addressed,
        wish: Wish,
        presenter: Presenter,
        client: ClientSink,
    ) -> None:
        self._gateway = gateway
        self._request = request
        self._addressed = addressed
        self._wish = wish
        self._client = client
        self._config = config = gateway.config
        self._settings = settings = config.agent
        self._start = addressed.start
        self._session = session = Session(self._start, request.connection, client, config.server.send_timeout)
        session.grace, session.unwinding = settings.cancel_grace / 2, settings.cancel_grace
        self._presenter = presenter
        self._bill = Bill(gateway.counter)
        self._target = addressed.targets[0]

    def stop(self) -> None:
        """The client wants it to end, and is told that it has: `done` with "stream_cancelled"."""
        self._session.cancel("client_cancel")

    def leave(self) -> None:
        """The client is gone."""
        self._session.cancel("client_disconnect")

    @property
    def ended(self) -> bool:
        """The client has been told that it has, though its record may be still to come."""
        return self._client.ended

    async def run(self) -> None:
        """Carry it to its end.  Exactly one terminal record follows, and one `done` for a client that is there.

        Raises nothing but `trio.Cancelled`.  When it returns nothing of the run is alive.
        """
        gateway, session = self._gateway, self._session
        session.began = trio.current_time()
        gateway.sessions.add(session)
        gateway.link.send(StreamStarted(self._start))
        outcome = Outcome("failed", "InternalError")
        async with trio.open_nursery() as nursery:
            try:
                self._request.connection.watch(partial(session.cancel, "client_disconnect"))
                outcome = await self._carry(nursery)
            finally:
                self._request.connection.watch(None)
                session.close_upstream()
                gateway.sessions.remove(session)
                with trio.CancelScope(shield=True):  # bounded: counting is, and nothing else waits
                    await self._bill.settle()
                self._record(outcome)
                nursery.cancel_scope.cancel()

    # --- how it ends

    async def _carry(self, nursery: trio.Nursery) -> Outcome:
        """To the end, and the client is told how it went; raises nothing but `trio.Cancelled`."""
        session = self._session
        outcome: Outcome | None = None
        with session.scope:
            try:
                ended: Ended | None = None
                with trio.move_on_after(self._settings.response_timeout):
                    ended = await self._converse(nursery)
                outcome = await (self._give_up() if ended is None else self._tell_end(ended))
            except UpstreamError as error:
                # After a cancel it only tells that the upstream was closed, by the cancel.
                if session.cancelled_at is None:
                    outcome = await self._fail(error)
            except DialectError as error:  # the client's has no words for how it ends
                outcome = await self._fail(UpstreamError(str(error), "DialectError"))
            except HttpError as error:  # of the conversation, which can't be had
                outcome = await self._fail(UpstreamError(error.message, "ConversationUnavailable"))
            except Exception:
                get_logger().exception("stream_crashed", trace=self._start.trace)
                outcome = await self._fail(
                    UpstreamError("the gateway failed; its log has the details", "InternalError")
                )
        if outcome is None or session.client_gone:
            session.note_cancelled()
            await self._tell_error(CANCELLED, lambda base: refusal.of_cancel(base, session.reason or "admin"))
            return Outcome("cancelled", session.reason)
        return outcome

    async def _tell_end(self, ended: Ended) -> Outcome:
        presenter, base, said = self._presenter, self._wish.base, b""
        if ended.too_many:
            sentence = f"the agent was stopped after {self._settings.max_iterations} turns ([agent] max_iterations)"
            if base is None:
                await self._finish(presenter.done(sentence))
                return Outcome("failed", TOO_MANY)
            # Where an error would have the client ask for all of it anew.
            said += presenter.event(TextDelta(f"\n\n({sentence})"))
        for index, call in enumerate(ended.handed_back):
            said += presenter.event(ToolStart(index, call.id, call.name))
            said += presenter.event(ToolDelta(index, call.arguments))
        await self._bill.settle()
        usage = self._bill.usage if base is None else self._bill.last_usage
        said += presenter.event(ending(ended)) + presenter.event(UsageTold(usage))
        await self._finish(said + presenter.done())
        return Outcome("failed", TOO_MANY) if ended.too_many else Outcome("completed")

    async def _give_up(self) -> Outcome:
        limit = self._settings.response_timeout
        sentence = f"the run took longer than {limit:g} s ([agent] response_timeout)"
        await self._tell_error(TIMEOUT, lambda base: refusal.plain(base, 504, sentence, TIMED_OUT))
        return Outcome("failed", TIMED_OUT)

    async def _fail(self, error: UpstreamError) -> Outcome:
        if not self._session.client_gone:
            tell_failure(self._gateway.link, self._session, self._target, error)
            provider = self._config.providers[self._target.provider]
            await self._tell_error(
                refusal.sentence(error), lambda base: refusal.of_upstream_error(base, provider, error)
            )
        return Outcome("failed", error.error_type)

    async def _tell_error(self, error: str, refuse: Refuse) -> None:
        """The end, as an error response where the client's dialect has that and nothing is committed."""
        client, base = self._client, self._wish.base
        if self._session.client_gone or client.ended:
            return
        if base is not None and not client.committed:
            await client.refuse(*refuse(base))
        else:
            await client.finish(self._presenter.done(error))

    async def _finish(self, data: bytes) -> None:
        if not self._session.client_gone:
            await self._client.finish(data)

    def _record(self, outcome: Outcome) -> None:
        session, total = self._session, self._bill.total
        record = StreamRecord(
            start=self._start,
            provider=self._target.provider,
            upstream_model=self._target.model,
            status=outcome.status,
            duration=trio.current_time() - session.began,
            first_byte=session.first_byte,
            prompt=total.prompt,
            completion=total.completion,
            counted_completion=total.counted_completion,
            cache_read=total.cache_read,
            cache_write=total.cache_write,
            cost=total.cost,
            error_type=outcome.error_type,
            http_status=self._request.response_status,
            retries=session.retries,
            cancel_latency=session.cancel_latency,
        )
        tell_end(self._gateway.link, record)

    # --- the turns

    async def _converse(self, nursery: trio.Nursery) -> Ended:
        wish, start, presenter = self._wish, self._start, self._presenter
        voice = Voice(presenter, self._session, self._client, self._gateway.counter.count_delta)
        workshop = Workshop(
            self._gateway, self._config, self._addressed, wish, self._session, self._client, voice, self._bill, nursery
        )
        await voice.say(presenter.status_thinking(1))
        if self._addressed.forbidden is not None:
            raise self._addressed.forbidden
        earlier: tuple[Message, ...] = ()
        if wish.remembers:
            await workshop.wait_for_older()
            earlier = await memory.load(self._gateway, start.session, start.client)
        known = len(earlier) + len(wish.request.messages)
        loop = workshop.loop(earlier)
        try:
            ended = await loop.run(workshop.context, self._settings.max_iterations)
        finally:
            self._target = workshop.asker.target
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._settings.cancel_grace):
                await workshop.close()
            if wish.remembers and len(loop.messages) > known:
                await memory.keep(self._gateway, start.session, start.client, loop.messages)
        if not ended.handed_back:
            return ended
        calls = await keep_hidden(self._gateway, loop.messages[known:], ended.handed_back, start)
        return structs.replace(ended, handed_back=calls)
