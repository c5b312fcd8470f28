"""A stream from its admission to its terminal record.

    run_stream ── Pump.run ── targets ── attempts ── relay ── end
        └── record

Theory of operation: until the first byte is committed to the client, a failure leads to another attempt, another
target, or an error response; afterwards it ends the stream with the dialect's error event.  An upstream whose stream
begins with an error has failed as if that were its response.  Only whole events go out, so that event can always be
appended.  The hot path is the loop in `_relay`: one upstream read, one send.
"""

import math
import time
from collections.abc import Sequence
from functools import partial

import trio
from msgspec import Struct

from shared.config import Config, Provider
from shared.errors import DialectError, UpstreamBroken, UpstreamError, UpstreamTimeout
from shared.logs import get_logger
from shared.messages import StreamStarted
from shared.records import Status, StreamRecord, StreamStart
from worker.admission import session_key
from worker.asgi import Request
from worker.dialects.exchange import Exchange
from worker.dialects.foreign_error import foreign_message
from worker.dialects.relay import Relay
from worker.gateway import Gateway
from worker.health import CircuitOpen
from worker.models import Target
from worker.streaming import refusal
from worker.streaming.accounting import FOLD_CHARS, UNBILLED
from worker.streaming.downstream import Downstream
from worker.streaming.limits import LimitExceeded, limit_headers
from worker.streaming.refusal import StreamedRejection, UntranslatableRequest, UpstreamRejection
from worker.streaming.report import tell_end, tell_failure, tell_first_byte, tell_start
from worker.streaming.session import Session
from worker.upstream.client import UpstreamResponse
from worker.upstream.policy import Failure, NextTarget, Retry, failure_of, next_step, parse_retry_after

MAX_ERROR_BYTES = 1024 * 1024
# After `[DONE]` the upstream's body should end at once; waiting for it keeps the connection for the next request.
EOF_WAIT = 1.0
NOT_A_STREAM = ("application/json", "text/html")
# Translating this much takes some three milliseconds; for more a thread is worth its hop.
INLINE_BYTES = 64 * 1024


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
        pump.leave()
        gateway.sessions.remove(session)
        await _record(gateway, request, pump, outcome)


class Pump:
    """The attempts of one stream and the loop that carries its bytes."""

    def __init__(
        self, gateway: Gateway, config: Config, exchange: Exchange, session: Session, targets: Sequence[Target]
    ) -> None:
        self._gateway = gateway
        self._config = config
        # Taken now: a reload may drop a provider, but not from under a stream that has begun.
        self._clients = {target.provider: gateway.clients.get(target.provider) for target in targets}
        self.exchange = exchange
        self.session = session
        self._targets = targets
        self.target = targets[0]
        self.reached_upstream = False
        """A request was on its way to an upstream: its prompt may be billed."""
        self._place: str | None = None
        """The provider whose limits count this stream."""
        self._unused = False
        """…and which has not been asked yet."""
        self._admitted = False

    async def run(self, forbidden: CircuitOpen | None = None) -> Outcome:
        """Carry the stream to its end, and tell the client how it went; raises nothing but `trio.Cancelled`."""
        session = self.session
        outcome: Outcome | None = None
        with session.scope:
            try:
                outcome = await (self._try_targets() if forbidden is None else self._fail(forbidden))
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
            if session.cancelled_at is not None and session.cancel_latency is None:
                session.cancel_latency = trio.current_time() - session.cancelled_at
            await self._tell_cancelled()
            return Outcome("cancelled", session.reason)
        return outcome

    async def _try_targets(self) -> Outcome:
        session = self.session
        for number, target in enumerate(self._targets):
            self.target = target
            provider = self._config.providers[target.provider]
            attempt = 0
            while True:
                try:
                    if attempt == 0:
                        await self._enter(target, provider)
                    return await self._attempt(target, provider)
                except UpstreamError as error:
                    session.close_upstream()
                    if session.downstream.committed or session.reason is not None:
                        raise
                    left = len(self._targets) - number - 1
                    step = next_step(_failure(error), attempt, provider, fallbacks_left=left)
                    if not isinstance(step, Retry | NextTarget):
                        raise
                    tell_failure(self._gateway.link, session, target, error, retried=True)
                    if not isinstance(error, LimitExceeded):
                        session.retries += 1
                    if isinstance(step, NextTarget):
                        break
                    await trio.sleep(step.delay)
                    if session.client_gone:
                        raise
                    attempt += 1
        raise AssertionError("the policy named a next target where there is none")

    async def _enter(self, target: Target, provider: Provider) -> None:
        """Wait until the stream may ask this provider.  `LimitExceeded` if it may not."""
        session, start = self.session, self.session.start
        admissions = self._gateway.admissions
        self.leave()
        session.drain_timeout = None  # nothing is sent yet: a client that leaves now leaves nothing to be read
        if admissions.needs(self._config, start, provider):
            key = session_key(self._config, start)
            verdict = await admissions.enter(start.id, target.provider, key, start.client)
            if (limit := verdict.limit) is not None:
                headers = limit_headers(limit, self.exchange.dialect, time.time())
                if not verdict.admitted:
                    raise LimitExceeded(limit, headers)
                self._place, self._unused = target.provider, True
                session.downstream.extra_headers = [] if limit.concurrent else headers
            await trio.lowlevel.checkpoint_if_cancelled()
        session.drain_timeout = provider.drain_timeout if provider.on_disconnect == "drain" else None
        if not self._admitted:
            self._admitted = True
            tell_start(session, target)

    def leave(self) -> None:
        """Give the place at a provider to others, if the stream has one."""
        if self._place is not None:
            self._gateway.admissions.leave(self.session.start.id, self._place, unused=self._unused)
            self._place = None
            self.session.downstream.extra_headers = []

    async def _attempt(self, target: Target, provider: Provider) -> Outcome:
        """One request to one upstream, relayed to its end.  Raises `UpstreamError` however it fails."""
        session = self.session
        client = self._clients[target.provider]
        exchange = self.exchange
        try:
            if exchange.translates(provider) and exchange.body_bytes > INLINE_BYTES:
                body = await trio.to_thread.run_sync(exchange.upstream_body, provider, target.model)
            else:
                body = exchange.upstream_body(provider, target.model)
        except DialectError as error:
            raise UntranslatableRequest(str(error)) from None
        relay = session.relay = exchange.relay(provider)
        session.overdue = False
        self.reached_upstream, self._unused = True, False
        with trio.CancelScope(deadline=trio.current_time() + provider.first_byte_timeout) as first_byte:
            response = session.upstream = await client.open(
                body, headers=exchange.upstream_headers(provider), query=exchange.upstream_query(provider)
            )
            if not 200 <= response.status < 300:
                raise UpstreamRejection(
                    response.status, response.headers, await response.read(MAX_ERROR_BYTES), target.provider
                )
            if exchange.stream:
                await self._check_is_stream(response, provider)
            session.downstream.may_ping = True
            data = await response.receive()
            first_byte.deadline = math.inf
            if session.first_byte is None:
                self._note_first_byte(target)
            return await self._relay(response, relay, data, provider.chunk_timeout)
        raise UpstreamTimeout(
            f"provider {target.provider} sent nothing within {provider.first_byte_timeout:g} s", "ReadTimeout"
        )

    async def _check_is_stream(self, response: UpstreamResponse, provider: Provider) -> None:
        """Some hosts say 200 and then, as one body, what went wrong."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in NOT_A_STREAM:
            return
        body = await response.read(MAX_ERROR_BYTES)
        said = self.exchange.error_message(provider, body) or foreign_message(body)
        if said is not None:
            raise StreamedRejection(response.headers, body, provider.name, said)
        raise UpstreamBroken(f"the upstream answered with {kind} instead of a stream", "RemoteProtocolError")

    def _note_first_byte(self, target: Target) -> None:
        session = self.session
        session.first_byte = trio.current_time() - session.began
        if not self.exchange.stream:
            return  # its end, which tells the same, follows at once
        tell_first_byte(session, target, session.first_byte)

    async def _relay(self, response: UpstreamResponse, relay: Relay, data: bytes, chunk_timeout: float) -> Outcome:
        session = self.session
        downstream = session.downstream
        receive, translate = response.receive, relay.receive
        try:
            while data:
                session.received_bytes += len(data)
                out = translate(data)
                if relay.done:
                    break
                if out and not session.client_gone:
                    await downstream.send(out)
                if relay.meter.chars > FOLD_CHARS:
                    await self._gateway.counter.fold(relay.meter)
                if not session.client_gone:
                    session.due = trio.current_time() + chunk_timeout
                data = await receive()
                if not session.client_gone:
                    session.due = math.inf
            else:
                out = relay.receive_eof()
        except UpstreamBroken as error:
            if session.overdue:
                raise UpstreamTimeout(f"the upstream was silent for {chunk_timeout:g} s", "ReadTimeout") from None
            raise error
        except DialectError as error:
            raise UpstreamBroken(str(error), "DialectError") from None
        if relay.refusal is not None and not downstream.committed:
            raise StreamedRejection(response.headers, relay.refusal, self.target.provider, str(relay.error))
        session.ended = not session.client_gone
        if not session.client_gone:
            await downstream.finish(out)
        if data:
            await _read_to_eof(response)
        if relay.error is not None:
            told = UpstreamError(relay.error)
            tell_failure(self._gateway.link, session, self.target, told)
            return Outcome("failed", told.error_type)
        return Outcome("completed")

    async def _fail(self, error: UpstreamError) -> Outcome:
        """Tell the client, in its dialect, that the stream failed for good."""
        session = self.session
        session.close_upstream()
        outcome = Outcome("failed", error.error_type)
        if session.client_gone:
            return outcome
        tell_failure(self._gateway.link, session, self.target, error)
        session.ended = True
        if session.downstream.committed:
            type = "rate_limit_error" if isinstance(error, LimitExceeded) else "upstream_error"
            await session.downstream.finish(self.exchange.error_event(str(error), type))
        else:
            provider = self._config.providers[self.target.provider]
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


async def _read_to_eof(response: UpstreamResponse) -> None:
    """Let the connection go back to the pool."""
    with trio.move_on_after(EOF_WAIT):
        try:
            while await response.receive():
                pass
        except UpstreamError:
            pass  # it isn't reusable then; the answer was complete


def _failure(error: UpstreamError) -> Failure:
    if isinstance(error, UpstreamRejection):
        retry_after = parse_retry_after(error.headers.get("retry-after"), now=time.time())
        return Failure("status", status=error.status, retry_after=retry_after)
    if isinstance(error, UntranslatableRequest):
        return Failure("untranslatable")
    if isinstance(error, LimitExceeded):
        return Failure("limited")
    return failure_of(error)


async def _record(gateway: Gateway, request: Request, pump: Pump, outcome: Outcome) -> None:
    session = pump.session
    duration = trio.current_time() - session.began
    account = await gateway.counter.account(
        pump.exchange,
        session.relay,
        outcome.status,
        sent=pump.reached_upstream and outcome.error_type not in ("ConnectError", "ConnectTimeout"),
        price=pump.target.price,
        billed=outcome.error_type not in UNBILLED,
    )
    record = StreamRecord(
        start=session.start,
        provider=pump.target.provider,
        upstream_model=pump.target.model,
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
