"""A stream from its admission to its terminal record.

    run_stream ── Pump.run ── Asking.ask ── end
        └── record

Theory of operation: until the first byte is committed to the client, a failure leads to another attempt, another
target (`worker.streaming.asking`), or an error response; afterwards it ends the stream with the dialect's error event.
Only whole events go out, so that event can always be appended.
"""

from collections.abc import Sequence
from functools import partial

import trio
from msgspec import Struct

from shared.config import Config
from shared.errors import UpstreamError
from shared.logs import get_logger
from shared.messages import StreamStarted
from shared.records import Status, StreamRecord, StreamStart
from worker.asgi import Request
from worker.dialects.exchange import Exchange
from worker.gateway import Gateway
from worker.health import CircuitOpen
from worker.models import Target
from worker.streaming import refusal
from worker.streaming.accounting import UNBILLED
from worker.streaming.asking import Answered, Asking
from worker.streaming.downstream import Downstream
from worker.streaming.limits import LimitExceeded
from worker.streaming.report import tell_end, tell_failure
from worker.streaming.session import Session


class Outcome(Struct, frozen=True):
    """How a stream ended."""

    status: Status
    error_type: str | None = None


async def run_stream(
    gateway: Gateway,
    request: Request,
    exchange: Exchange,
    start: StreamStart,
    targets: Sequence[Target],
    forbidden: CircuitOpen | None = None,
) -> None:
    """Answer one request and account for it.  Exactly one terminal record follows, however this ends.

    `forbidden`: none of `targets` may be asked now, and the client is told so.
    """
    config = gateway.config
    ping = exchange.ping if exchange.stream else None
    downstream = Downstream(request, ping=ping, ping_interval=config.streaming.ping_interval)
    downstream.may_ping = config.streaming.early_ping
    session = Session(start, request.connection, downstream, config.server.send_timeout)
    pump = Pump(gateway, config, exchange, session, targets)
    gateway.sessions.add(session)
    gateway.link.send(StreamStarted(start))
    outcome = Outcome("failed", "InternalError")
    try:
        request.connection.watch(partial(session.cancel, "client_disconnect"))
        outcome = await pump.run(forbidden)
    finally:
        request.connection.watch(None)
        session.close_upstream()
        pump.asking.leave()
        gateway.sessions.remove(session)
        await _record(gateway, request, pump, outcome)


class Pump:
    """One question, and what the client is told of its answer."""

    def __init__(
        self, gateway: Gateway, config: Config, exchange: Exchange, session: Session, targets: Sequence[Target]
    ) -> None:
        self._gateway = gateway
        self._config = config
        self._targets = targets
        self.exchange = exchange
        self.session = session
        self.asking = Asking(gateway, config, session, session.downstream, targets)

    async def run(self, forbidden: CircuitOpen | None = None) -> Outcome:
        """Carry the stream to its end, and tell the client how it went; raises nothing but `trio.Cancelled`."""
        session = self.session
        outcome: Outcome | None = None
        with session.scope:
            try:
                if forbidden is None:
                    outcome = self._outcome(await self.asking.ask(self.exchange, self._targets))
                else:
                    outcome = await self._fail(forbidden)
            except UpstreamError as error:
                # After a cancel this only tells that the upstream was closed, by the cancel: a send can't be cancelled,
                # so a task that was stuck in one comes by here.
                if session.cancelled_at is None:
                    outcome = await self._fail(error)
            except Exception:
                get_logger().exception("stream_crashed", trace=session.start.trace)
                outcome = await self._fail(
                    UpstreamError("the gateway failed; its log has the details", "InternalError")
                )
        if outcome is None or session.client_gone:
            session.note_cancelled()
            await self._tell_cancelled()
            return Outcome("cancelled", session.reason)
        return outcome

    def _outcome(self, answered: Answered) -> Outcome:
        if answered.error is None:
            return Outcome("completed")
        tell_failure(self._gateway.link, self.session, self.asking.target, answered.error)
        return Outcome("failed", answered.error.error_type)

    async def _fail(self, error: UpstreamError) -> Outcome:
        """Tell the client, in its dialect, that the stream failed for good."""
        session, target = self.session, self.asking.target
        session.close_upstream()
        outcome = Outcome("failed", error.error_type)
        if session.client_gone:
            return outcome
        tell_failure(self._gateway.link, session, target, error)
        if session.downstream.committed:
            type = "rate_limit_error" if isinstance(error, LimitExceeded) else "upstream_error"
            await session.downstream.finish(self.exchange.error_event(str(error), type))
        else:
            provider = self._config.providers[target.provider]
            await session.downstream.refuse(*refusal.of_upstream_error(self.exchange, provider, error))
        return outcome

    async def _tell_cancelled(self) -> None:
        """End a stream that was cancelled from our side legally.  A client that doesn't read is reset by the clock."""
        session = self.session
        if session.client_gone or session.downstream.ended:
            return
        reason = session.reason or "admin"
        if session.downstream.committed:
            _, message, type = refusal.CANCELLED[reason]
            await session.downstream.finish(self.exchange.error_event(message, type))
        else:
            await session.downstream.refuse(*refusal.of_cancel(self.exchange, reason))


async def _record(gateway: Gateway, request: Request, pump: Pump, outcome: Outcome) -> None:
    session, asking = pump.session, pump.asking
    duration = trio.current_time() - session.began
    account = await gateway.counter.account(
        pump.exchange,
        session.relay,
        outcome.status,
        sent=asking.reached_upstream and outcome.error_type not in ("ConnectError", "ConnectTimeout"),
        price=asking.target.price,
        billed=outcome.error_type not in UNBILLED,
    )
    record = StreamRecord(
        start=session.start,
        provider=asking.target.provider,
        upstream_model=asking.target.model,
        status=outcome.status,
        duration=duration,
        first_byte=session.first_byte,
        prompt=account.prompt,
        completion=account.completion,
        counted_completion=account.counted_completion,
        cache_read=account.cache_read,
        cache_write=account.cache_write,
        cost=account.cost,
        error_type=outcome.error_type,
        http_status=request.response_status,
        retries=session.retries,
        cancel_latency=session.cancel_latency,
    )
    tell_end(gateway.link, record)
