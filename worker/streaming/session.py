"""The state of one live stream, and the one place that ends it early.

    waiting for a limit ─▶ connecting ─▶ streaming ─▶ ended
            └──────────────────┴─────────────┴─ cancel(reason) or an overdue upstream

`cancel` closes the upstream's socket before it returns; the task that pumps learns of it at its next checkpoint, or,
stuck in a send to a client that doesn't read, when `CANCEL_GRACE` has passed and its connection is reset.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from shared.records import CancelReason, StreamStart

if TYPE_CHECKING:
    from worker.asgi import ClientConnection
    from worker.dialects.relay import Relay
    from worker.streaming.sink import ClientSink
    from worker.upstream.client import UpstreamResponse

CANCEL_GRACE = 0.5


class Session:
    """One live stream.  Only the pump's task changes its plain attributes; `cancel` and `check` come from others."""

    def __init__(
        self, start: StreamStart, connection: "ClientConnection", downstream: "ClientSink", send_timeout: float
    ) -> None:
        self.start = start
        self.began = trio.current_time()
        self.connection = connection
        self.downstream = downstream
        self.send_timeout = send_timeout
        self.scope = trio.CancelScope()
        self.upstream: UpstreamResponse | None = None
        self.relay: Relay | None = None
        self.due = math.inf
        """trio time by which the upstream must have said something."""
        self.overdue = False
        self.drain_timeout: float | None = None
        """How long the upstream is read on after the client left; None: not at all."""
        self.earlier_tokens = 0
        """Said before `relay` came, as far as that is known: a run of the agent has one relay a turn."""
        self.client_gone = False
        self.reason: CancelReason | None = None
        self.cancelled_at: float | None = None
        self.cancel_latency: float | None = None
        self.first_byte: float | None = None
        self.received_bytes = 0
        self.retries = 0
        self.grace = CANCEL_GRACE
        """Seconds after a cancel in which a client that doesn't read is reset…"""
        self.unwinding = 0.0
        """…and how many more a stream may take that is not held up by its client."""
        self._nested: list[Session] = []

    @property
    def ended(self) -> bool:
        """The answer is complete as far as the client is concerned; leaving now is no cancellation."""
        return self.downstream.ended

    @property
    def tokens(self) -> int:
        """An estimate of what has been said so far, by nested runs too."""
        now = self.relay.meter.estimate if self.relay is not None else 0
        return self.earlier_tokens + now + sum(nested.tokens for nested in self._nested)

    @contextmanager
    def nested(self) -> Iterator["Session"]:
        """A session for each run that the agent nests in this one: it has its own upstream, and dies with it.

        Its `scope` is never entered, as all of it happens in this one's.
        """
        nested = Session(self.start, self.connection, self.downstream, self.send_timeout)
        nested.reason, nested.cancelled_at, nested.first_byte = self.reason, self.cancelled_at, self.first_byte
        self._nested.append(nested)
        try:
            yield nested
        finally:
            nested.close_upstream()
            self._nested.remove(nested)
            self.earlier_tokens += nested.tokens
            self.received_bytes += nested.received_bytes
            self.retries += nested.retries

    def cancel(self, reason: CancelReason) -> None:
        """End the stream early.  The first reason counts; after the end nothing is cancelled.

        A client that has left may leave a stream that drains; any other reason ends that too.
        """
        if self.ended and reason != "client_disconnect":
            self.close_upstream()  # whose body may not have ended yet: nobody should be kept waiting for that
        if self.ended or self.cancelled_at is not None:
            return
        now = trio.current_time()
        if self.reason is None:
            self.reason = reason
            self.client_gone = reason == "client_disconnect"
            if self.client_gone and self.drain_timeout is not None:
                self.due = math.inf
                self.scope.deadline = now + self.drain_timeout
                return
        elif reason == "client_disconnect":
            return
        self.cancelled_at = now
        # In this order: a task that waits for the upstream wakes up with the cancel, not with the socket's loss.
        self.scope.cancel()
        self.close_upstream()
        for nested in self._nested:
            nested.cancel(reason)

    def close_upstream(self) -> None:
        """Close the upstream's connection, if there is one, and note how long after a cancel that was."""
        if self.upstream is not None:
            self.upstream.close_nowait()
            self.upstream = None
            self.note_cancelled()

    def note_cancelled(self) -> None:
        """After a cancel: nothing goes on any more.  The first note counts."""
        if self.cancelled_at is not None and self.cancel_latency is None:
            self.cancel_latency = trio.current_time() - self.cancelled_at

    def check(self, now: float) -> None:
        """Apply every deadline of the stream.  Called from one clock for all streams; never waits."""
        connection = self.connection
        if connection.sending_since is not None and now - connection.sending_since > self.send_timeout:
            self.cancel("timeout")
            connection.abort()
        if self.cancelled_at is not None:
            patience = self.grace if connection.sending_since is not None else self.grace + self.unwinding
            if now - self.cancelled_at > patience:
                connection.abort()
        self._check_upstream(now)
        if connection.is_abandoned():
            self.cancel("client_disconnect")
        if self.reason is None and self.downstream.is_ping_due(now):
            connection.start_soon(self.downstream.ping)

    def _check_upstream(self, now: float) -> None:
        if now > self.due and self.upstream is not None:
            self.due = math.inf
            self.overdue = True
            self.upstream.close_nowait()
        for nested in self._nested:
            nested._check_upstream(now)
