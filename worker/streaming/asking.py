"""The attempts at upstreams, until one has answered: targets, retries, fallbacks, limits, deadlines, the loop of bytes.

    ask ── targets ── attempts ── relay

A stream of a client's asks once (`worker.streaming.pump`), a run of the agent once a turn (`worker.agent.loop`).

Theory of operation: until something of the answer is committed, a failure leads to another attempt or another target;
afterwards it is the caller's.  An upstream whose stream begins with an error has failed as if that were its response.
The hot path is the loop in `_relay`: one upstream read, one send.
"""

import math
import time
from collections.abc import Sequence

import trio
from msgspec import Struct

from shared.config import Config, Provider
from shared.errors import DialectError, UpstreamBroken, UpstreamError, UpstreamTimeout
from worker.dialects.foreign_error import foreign_message
from worker.dialects.relay import Relay
from worker.gateway import Gateway
from worker.models import Target
from worker.streaming.accounting import FOLD_CHARS
from worker.streaming.inquiry import Inquiry
from worker.streaming.limits import LimitExceeded
from worker.streaming.place import Place
from worker.streaming.refusal import StreamedRejection, UntranslatableRequest, UpstreamRejection
from worker.streaming.report import tell_failure, tell_first_byte, tell_start
from worker.streaming.session import Session
from worker.streaming.sink import Sink
from worker.upstream.client import UpstreamResponse
from worker.upstream.policy import Failure, NextTarget, Retry, failure_of, next_step, parse_retry_after

MAX_ERROR_BYTES = 1024 * 1024
# After `[DONE]` the upstream's body should end at once; waiting for it keeps the connection for the next request.
EOF_WAIT = 1.0
NOT_A_STREAM = ("application/json", "text/html")
# Translating this much takes some three milliseconds; for more a thread is worth its hop.
INLINE_BYTES = 64 * 1024


class Answered(Struct, frozen=True):
    """An upstream has answered to the end.  `error`: its own, inside the stream; the sink has got it."""

    relay: Relay
    error: UpstreamError | None = None


class Asking:
    """See the module.  `session` is the stream's, or a nested run's, whose `place` is then the stream's."""

    def __init__(
        self,
        gateway: Gateway,
        config: Config,
        session: Session,
        sink: Sink,
        targets: Sequence[Target],
        *,
        place: Place | None = None,
        drains: bool = True,
    ) -> None:
        """`drains`: whether the upstream may be read on when the client has left, if its provider is set so."""
        self._gateway = gateway
        self._config = config
        # Taken now: a reload may drop a provider, but not from under a stream that has begun.
        self._clients = {target.provider: gateway.clients.get(target.provider) for target in targets}
        self._session = session
        self._sink = sink
        self._drains = drains
        self.place = place or Place(gateway.admissions, config, session)
        self.target = targets[0]
        """Which is asked, or was asked last."""
        self.reached_upstream = False
        """A request was on its way to an upstream: its prompt may be billed."""
        self._admitted = place is not None

    async def ask(self, inquiry: Inquiry, targets: Sequence[Target]) -> Answered:
        """An answer of the first of `targets` that gives one.  Raises `UpstreamError` however they fail."""
        session = self._session
        for number, target in enumerate(targets):
            self.target = target
            provider = self._config.providers[target.provider]
            attempt = 0
            while True:
                try:
                    if attempt == 0:
                        await self._enter(target, provider)
                    return await self._attempt(inquiry, target, provider)
                except UpstreamError as error:
                    session.close_upstream()
                    if self._sink.committed or session.reason is not None:
                        raise
                    left = len(targets) - number - 1
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
        session = self._session
        self.leave()
        session.drain_timeout = None  # nothing is sent yet: a client that leaves now leaves nothing to be read
        if self.place.is_needed(provider):
            self._sink.extra_headers = await self.place.take(provider)
            await trio.lowlevel.checkpoint_if_cancelled()
        if self._drains and provider.on_disconnect == "drain":
            session.drain_timeout = provider.drain_timeout
        if not self._admitted:
            self._admitted = True
            tell_start(session, target)

    def leave(self) -> None:
        """Give the place at a provider to others, if the stream has one."""
        self.place.leave()
        self._sink.extra_headers = []

    async def _attempt(self, inquiry: Inquiry, target: Target, provider: Provider) -> Answered:
        """One request to one upstream, relayed to its end."""
        session = self._session
        client = self._clients[target.provider]
        try:
            if inquiry.translates(provider) and inquiry.body_bytes > INLINE_BYTES:
                body = await trio.to_thread.run_sync(inquiry.upstream_body, provider, target.model)
            else:
                body = inquiry.upstream_body(provider, target.model)
        except DialectError as error:
            raise UntranslatableRequest(str(error)) from None
        relay = session.relay = inquiry.relay(provider)
        session.overdue = False
        self.reached_upstream = True
        self.place.used()
        with trio.CancelScope(deadline=trio.current_time() + provider.first_byte_timeout) as first_byte:
            response = session.upstream = await client.open(
                body, headers=inquiry.upstream_headers(provider), query=inquiry.upstream_query(provider)
            )
            if not 200 <= response.status < 300:
                raise UpstreamRejection(
                    response.status, response.headers, await response.read(MAX_ERROR_BYTES), target.provider
                )
            _check_is_plain(response, provider)
            if inquiry.stream:
                await _check_is_stream(inquiry, response, provider)
            self._sink.may_ping = True
            data = await response.receive()
            first_byte.deadline = math.inf
            if session.first_byte is None:
                self._note_first_byte(inquiry)
            return await self._relay(response, relay, data, provider.chunk_timeout)
        raise UpstreamTimeout(
            f"provider {target.provider} sent nothing within {provider.first_byte_timeout:g} s", "ReadTimeout"
        )

    def _note_first_byte(self, inquiry: Inquiry) -> None:
        session = self._session
        session.first_byte = trio.current_time() - session.began
        if not inquiry.stream:
            return  # its end, which tells the same, follows at once
        tell_first_byte(session, self.target, session.first_byte)

    async def _relay(self, response: UpstreamResponse, relay: Relay, data: bytes, chunk_timeout: float) -> Answered:
        session = self._session
        sink = self._sink
        receive, translate = response.receive, relay.receive
        try:
            while data:
                session.received_bytes += len(data)
                out = translate(data)
                if relay.done:
                    break
                if out and not session.client_gone:
                    await sink.send(out)
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
        if relay.error is not None:
            out = response.without_key(out)
            relay.error = response.without_key(relay.error.encode("utf-8", "replace")).decode()
        if relay.refusal is not None and not sink.committed:
            refusal = response.without_key(relay.refusal)
            raise StreamedRejection(response.headers, refusal, self.target.provider, str(relay.error))
        if not session.client_gone:
            await sink.finish(out)
        if data:
            await _read_to_eof(response)
        return Answered(relay, None if relay.error is None else UpstreamError(relay.error))


def _check_is_plain(response: UpstreamResponse, provider: Provider) -> None:
    """We ask for no compression, and undo none: a few bytes of it can stand for gigabytes."""
    coding = response.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        said = f"provider {provider.name} compressed its answer ({coding[:40]}), which it was not asked to do"
        raise UpstreamBroken(said, "DecodingError")


async def _check_is_stream(inquiry: Inquiry, response: UpstreamResponse, provider: Provider) -> None:
    """Some hosts say 200 and then, as one body, what went wrong."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in NOT_A_STREAM:
        return
    body = await response.read(MAX_ERROR_BYTES)
    said = inquiry.error_message(provider, body) or foreign_message(body)
    if said is not None:
        raise StreamedRejection(response.headers, body, provider.name, said)
    raise UpstreamBroken(f"the upstream answered with {kind} instead of a stream", "RemoteProtocolError")


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
