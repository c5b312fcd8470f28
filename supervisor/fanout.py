"""Live events, from where they happen to the workers that have listeners.

    publish, started, ended, trouble, progress ──▶ pending ── flush ──▶ one Happened for each listening worker

While nobody listens, all of it returns at once.  Nothing here waits: a worker whose pipe is backed up loses events, is
told how many, and goes on with the next ones; so do all of them if more happens than can be told.
"""

import math
import time
from typing import Protocol

from msgspec import Struct

from shared.events import (
    Moving,
    OfTheService,
    Progress,
    StreamEnd,
    StreamingError,
    StreamStart,
    encode,
)
from shared.messages import Down, Happened, Trouble
from shared.records import StreamRecord
from shared.records import StreamStart as Start
from supervisor.ledger import Ledger

MAX_PENDING_BYTES = 512 * 1024
"""Between two flushes; more than that nobody can follow."""
MAX_BACKLOG_BYTES = 256 * 1024
"""A worker with more than this waiting for its pipe to have room reads too slowly."""
PROGRESS_INTERVAL = 1.0
PROGRESS_STREAMS = 200
"""In one event.  A listener's queue is bounded, and nothing in it should be large."""
PROGRESS_STREAMS_A_SECOND = 2000
"""With more streams than that, progress is told less often."""


class Peer(Protocol):
    """A worker, as the fan-out sees it (`supervisor.link.Link`)."""

    pid: int

    @property
    def backlog(self) -> int: ...

    def send(self, message: Down) -> None: ...


class _Listening(Struct):
    """A worker with listeners."""

    peer: Peer
    lost: int = 0
    """Events that it was not told of."""


class Fanout:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listening: dict[int, _Listening] = {}
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._lost = 0
        """Events that none of them is told of; they happened after the pending ones."""
        self._told = -math.inf
        self._told_any = False

    def __len__(self) -> int:
        """How many workers listen."""
        return len(self._listening)

    # Who listens

    def listen(self, peer: Peer, wanted: bool) -> None:
        """A worker has listeners now, or none any more."""
        if wanted:
            self._listening.setdefault(peer.pid, _Listening(peer))
        else:
            self.left(peer)

    def left(self, peer: Peer) -> None:
        """A worker is gone, and its listeners with it."""
        self._listening.pop(peer.pid, None)
        if not self._listening:
            self._pending.clear()
            self._pending_bytes = self._lost = 0

    # What happens

    def publish(self, event: OfTheService) -> None:
        """Tell it with the next `flush`."""
        if not self._listening:
            return
        data = encode(event)
        if self._pending_bytes + len(data) > MAX_PENDING_BYTES:
            self._lost += 1
            return
        self._pending.append(data)
        self._pending_bytes += len(data)

    def started(self, start: Start) -> None:
        """A stream was admitted."""
        if not self._listening:
            return
        self.publish(
            StreamStart(
                timestamp=start.started,
                id=start.id,
                trace=start.trace,
                session=start.session,
                worker=start.worker,
                provider=start.provider,
                model=start.model,
                dialect=start.dialect,
                streaming=start.streaming,
                client=start.client,
                context_size=start.context_size,
                prompt_estimate=start.prompt_estimate,
            )
        )

    def ended(self, record: StreamRecord) -> None:
        """A stream has its record.  If its worker died, nobody else has told of the error."""
        if not self._listening:
            return
        start, now = record.start, time.time()
        if record.error_type == "worker_died":
            self.publish(
                StreamingError(
                    timestamp=now,
                    id=start.id,
                    trace=start.trace,
                    provider=record.provider,
                    error_type="worker_died",
                    retry_count=record.retries,
                    tokens_received=record.completion.count if record.completion else 0,
                    message=f"worker {start.worker} died",
                    retried=False,
                )
            )
        self.publish(
            StreamEnd(
                timestamp=now,
                id=start.id,
                trace=start.trace,
                session=start.session,
                worker=start.worker,
                provider=record.provider,
                model=start.model,
                upstream_model=record.upstream_model,
                status=record.status,
                error_type=record.error_type,
                duration=record.duration,
                first_byte=record.first_byte,
                prompt=record.prompt,
                completion=record.completion,
                cache_read=record.cache_read,
                cache_write=record.cache_write,
                cost=record.cost,
                http_status=record.http_status,
                retries=record.retries,
                cancel_latency=record.cancel_latency,
            )
        )

    def trouble(self, trouble: Trouble) -> None:
        """An attempt at a provider failed."""
        if not self._listening:
            return
        stream = self._ledger.find(trouble.id)
        self.publish(
            StreamingError(
                timestamp=trouble.at,
                id=trouble.id,
                trace=stream.start.trace if stream else None,
                provider=trouble.provider,
                error_type=trouble.error_type,
                retry_count=trouble.retry_count,
                tokens_received=trouble.tokens_received,
                message=trouble.message,
                retried=trouble.retried,
                http_status=trouble.http_status,
            )
        )

    def progress(self, now: float) -> None:
        """The ledger has heard of progress: tell it, if it is time.  `now` as the ledger has it."""
        if not self._listening:
            return
        streams = self._ledger.active()
        interval = max(PROGRESS_INTERVAL, len(streams) / PROGRESS_STREAMS_A_SECOND)
        # A beat that comes a little early is no reason to wait for the one after it.
        if now - self._told < interval * 0.9 or not (streams or self._told_any):
            return
        self._told, self._told_any = now, bool(streams)
        moving = [
            Moving(
                id=stream.start.id,
                tokens=stream.tokens,
                tokens_per_second=round(stream.rate, 2),
                received_bytes=stream.received_bytes,
                age=round(now - stream.began, 3),
            )
            for stream in streams
        ]
        timestamp = time.time()
        tokens = sum(stream.tokens for stream in moving)
        rate = round(sum(stream.tokens_per_second for stream in moving), 2)
        for at in range(0, len(moving) or 1, PROGRESS_STREAMS):
            self.publish(
                Progress(
                    timestamp=timestamp,
                    streams=tuple(moving[at : at + PROGRESS_STREAMS]),
                    tokens=tokens,
                    tokens_per_second=rate,
                    active=len(moving),
                )
            )

    # On its way

    def flush(self) -> None:
        """Send what has happened since the last call.  Called several times a second."""
        if not self._listening:
            return
        events = tuple(self._pending)
        for listening in self._listening.values():
            if not events and not listening.lost:
                continue
            if listening.peer.backlog > MAX_BACKLOG_BYTES:
                listening.lost += len(events)
            else:
                listening.peer.send(Happened(events, lost=listening.lost))
                listening.lost = 0
            listening.lost += self._lost
        self._pending.clear()
        self._pending_bytes = self._lost = 0
