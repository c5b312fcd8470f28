"""Which streams are open in which worker, and how many have ended how: exactly one terminal record a stream.

Always true: started = active + completed + cancelled + failed.  The ledger has no clock and does no I/O; whoever feeds
it stores the records that it returns, and hands in `now`, in the seconds of a clock that is never set.
"""

from collections import OrderedDict

from msgspec import Struct

from shared.messages import Progress
from shared.records import StreamRecord, StreamStart, Tokens
from supervisor.control import Totals

# A second record of a stream can only follow its first closely (one pipe, one order; a worker's death drains its
# pipe first), so the memory of closed ids is short; the store's primary key stands behind it.
CLOSED_IDS = 16_384
# A rate is measured over at least so many seconds: beats that were read together tell nothing about it.
RATE_SECONDS = 0.5


class ActiveStream(Struct, kw_only=True):
    """One open stream and the last that was heard of it; times are those of the ledger's `now`."""

    worker_pid: int
    start: StreamStart
    tokens: int = 0
    received_bytes: int = 0
    began: float = 0.0
    moved: float = 0.0
    """When it was last heard to have received anything, at first its beginning."""
    rate: float = 0.0
    """Tokens a second, between the last two looks at it."""
    looked: float = 0.0
    """The last of these looks…"""
    looked_tokens: int = 0
    """…and what it saw."""

    def progress(self, step: Progress, now: float) -> None:
        """How far it has come."""
        if (step.tokens, step.received_bytes) != (self.tokens, self.received_bytes):
            self.tokens, self.received_bytes, self.moved = step.tokens, step.received_bytes, now
        if now - self.looked >= RATE_SECONDS:
            # An estimate may be corrected downwards, and a new attempt begins at nothing.
            self.rate = max(step.tokens - self.looked_tokens, 0) / (now - self.looked)
            self.looked, self.looked_tokens = now, step.tokens


class ProviderCounts(Struct):
    """What has been seen of one provider.  `active` counts by the provider asked, the rest by the one that answered."""

    active: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    last_error: str | None = None


class Ledger:
    """The open streams of each worker, and the totals since the supervisor's start."""

    def __init__(self) -> None:
        self._open: dict[int, dict[str, ActiveStream]] = {}
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._providers: dict[str, ProviderCounts] = {}
        self._started = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._told_tokens = 0
        self._counted_tokens = 0

    def started(self, worker_pid: int, start: StreamStart, now: float = 0.0) -> None:
        """A stream was admitted by a worker.  A repeated or already closed id changes nothing."""
        streams = self._open.setdefault(worker_pid, {})
        if start.id in streams or start.id in self._closed:
            return
        streams[start.id] = ActiveStream(worker_pid=worker_pid, start=start, began=now, moved=now, looked=now)
        self._started += 1
        self._counts(start.provider).active += 1

    def progress(self, worker_pid: int, progress: list[Progress], now: float = 0.0) -> None:
        """How far streams have come; those that are not open (they may have just ended) are passed over."""
        streams = self._open.get(worker_pid, {})
        for step in progress:
            if stream := streams.get(step.id):
                stream.progress(step, now)

    def ended(self, worker_pid: int, record: StreamRecord) -> StreamRecord | None:
        """The record to store, or None if this stream was closed before.

        A record of a stream that never was announced counts as started, too.
        """
        id = record.start.id
        if id in self._closed:
            return None
        self.started(worker_pid, record.start)
        stream = self._open[worker_pid].pop(id)
        self._closed[id] = None
        if len(self._closed) > CLOSED_IDS:
            self._closed.popitem(last=False)
        self._counts(stream.start.provider).active -= 1
        self._count_end(record)
        return record

    def worker_died(self, worker_pid: int, now: float) -> list[StreamRecord]:
        """Close what a dead worker left open; the records to store.

        `failed/worker_died`, with the tokens of the last progress heard as `partial` (0 if none was heard), and what
        these cost.  Call it when the worker's pipe has been read to its end.  `now` in epoch seconds.
        """
        records = [
            StreamRecord(
                start=stream.start,
                provider=stream.start.provider,
                upstream_model=stream.start.model,
                status="failed",
                duration=max(0.0, now - stream.start.started),
                completion=Tokens(stream.tokens, "partial"),
                cost=_cost(stream),
                error_type="worker_died",
            )
            for stream in self._open.get(worker_pid, {}).values()
        ]
        for record in records:
            self.ended(worker_pid, record)
        self._open.pop(worker_pid, None)
        return records

    def active(self, worker_pid: int | None = None) -> list[ActiveStream]:
        """The open streams of one worker, or of all; oldest first for each worker."""
        if worker_pid is not None:
            return list(self._open.get(worker_pid, {}).values())
        return [stream for streams in self._open.values() for stream in streams.values()]

    def find(self, id: str) -> ActiveStream | None:
        """An open stream by its id; None if there is none."""
        return next((stream for streams in self._open.values() if (stream := streams.get(id))), None)

    def active_count(self, worker_pid: int | None = None) -> int:
        """How many streams are open in one worker, or in all."""
        if worker_pid is not None:
            return len(self._open.get(worker_pid, {}))
        return sum(len(streams) for streams in self._open.values())

    @property
    def token_accuracy(self) -> float | None:
        """Our own count of completion tokens in relation to the provider's, over all streams that have both.

        None as long as there is none.
        """
        return self._counted_tokens / self._told_tokens if self._told_tokens else None

    def totals(self) -> Totals:
        """The sums over all providers."""
        providers = self._providers.values()
        return Totals(
            started=self._started,
            active=self.active_count(),
            completed=sum(counts.completed for counts in providers),
            cancelled=sum(counts.cancelled for counts in providers),
            failed=sum(counts.failed for counts in providers),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    def provider_counts(self) -> dict[str, ProviderCounts]:
        """What has been seen of each provider that was asked or has answered; the ledger's own objects, to be read."""
        return self._providers

    def _counts(self, provider: str) -> ProviderCounts:
        return self._providers.setdefault(provider, ProviderCounts())

    def _count_end(self, record: StreamRecord) -> None:
        counts = self._counts(record.provider)
        match record.status:
            case "completed":
                counts.completed += 1
            case "cancelled":
                counts.cancelled += 1
            case "failed":
                counts.failed += 1
                counts.last_error = record.error_type
        self._prompt_tokens += record.prompt.count if record.prompt else 0
        self._completion_tokens += record.completion.count if record.completion else 0
        if record.completion and record.completion.source == "provider" and record.counted_completion is not None:
            self._told_tokens += record.completion.count
            self._counted_tokens += record.counted_completion


def _cost(stream: ActiveStream) -> float | None:
    """Of what has been heard of the answer; what the prompt cost, nobody knows any more."""
    price = stream.start.output_price
    return None if price is None else stream.tokens * price / 1_000_000
