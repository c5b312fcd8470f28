"""The listeners of this worker: what the supervisor tells is put into a queue for each of them.

    Happened ── take ──▶ frames, made once for all ──▶ queue of each listener ──▶ his own task (`endpoints.events`)

A queue is bounded.  Behind a full one events are lost and counted until it has been emptied; then the listener is told
how many, and gets the next ones: what he hears is in order, and he knows where something is missing.
"""

import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio

from shared import events
from shared.messages import Happened, Listen
from worker.link import Link
from worker.serve import Connection
from worker.websocket import text_frame

MAX_EVENTS = 1000
MAX_BYTES = 1024 * 1024
SEND_BYTES = 128 * 1024
"""What waits is sent together up to this size."""
TURN = 0.25
"""Each listener is sent to at a time of his own, once in so many seconds.  200 of them at once would hold up the
streams of their worker for 20 ms."""
GOING_AWAY = 1001
SERVICE_RESTART = 1012
"""Registered with IANA after RFC 6455: connect again, another worker answers."""


class Batch(NamedTuple):
    """Events as they go over the wire, the same bytes for everybody."""

    frames: bytes
    events: int


class Listener:
    """One of them.  `types` are those he wants to hear of; None: of all."""

    def __init__(self, connection: Connection, types: frozenset[str] | None = None) -> None:
        self.types = types
        self.close_code: int | None = None
        """Set once he is to leave."""
        self._connection = connection
        self._queue: deque[Batch] = deque()
        self._events = 0
        self._bytes = 0
        self._lost = 0
        self._turn = random.random() * TURN
        self._wait = trio.CancelScope()
        """Its deadline is when he wakes: moving it costs less than a task that wakes to see that it is too early."""

    @property
    def waiting_bytes(self) -> int:
        """What stands in his queue."""
        return self._bytes

    def put(self, batch: Batch) -> None:
        """Events for him; lost if his queue is full, or has been so and was not emptied since."""
        if self._queue and (
            self._lost or self._events + batch.events > MAX_EVENTS or self._bytes + len(batch.frames) > MAX_BYTES
        ):
            self._lost += batch.events
            return
        if not self._queue:  # else he is awake, or will be
            self._wait.deadline = min(self._wait.deadline, self._next_turn())
        self._queue.append(batch)
        self._events += batch.events
        self._bytes += len(batch.frames)

    async def wait(self, until: float) -> None:
        """Wait until it is his turn and there is something for him, until he is to leave, or until that (trio) time."""
        if self.close_code is None:
            self._wait = trio.CancelScope(deadline=min(self._next_turn(), until) if self._has_something else until)
            with self._wait:
                await trio.sleep_forever()

    def take(self) -> bytes:
        """What he is to be sent next; nothing if there is nothing."""
        if not self._queue:
            lost, self._lost = self._lost, 0
            return _dropped(lost) if lost else b""
        frames = [self._take()]
        size = len(frames[0])
        while self._queue and size + len(self._queue[0].frames) <= SEND_BYTES:
            frames.append(self._take())
            size += len(frames[-1])
        return frames[0] if len(frames) == 1 else b"".join(frames)

    @property
    def _has_something(self) -> bool:
        return bool(self._queue or self._lost)

    def _next_turn(self) -> float:
        now = trio.current_time()
        return now + (self._turn - now) % TURN

    def _take(self) -> bytes:
        frames, number = self._queue.popleft()
        self._events -= number
        self._bytes -= len(frames)
        return frames

    def close(self, code: int) -> None:
        """Have him leave, with a code of RFC 6455, 7.4.  One who is not reading would not hear it: he is cut off."""
        if self._connection.sending_since is not None or not self._connection.has_room():
            self._connection.abort()
        self.close_code = code
        self._wait.cancel()


class Listeners:
    """All of them.  The supervisor is told when the first has come and when the last has left."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._all: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    @contextmanager
    def joined(self, listener: Listener) -> Iterator[None]:
        """He gets what happens as long as this lasts."""
        self._all.add(listener)
        if len(self._all) == 1:
            self._link.send(Listen(True))
        try:
            yield
        finally:
            self._all.discard(listener)
            if not self._all:
                self._link.send(Listen(False))

    def take(self, happened: Happened) -> None:
        """Something has happened."""
        lost = Batch(_dropped(happened.lost), happened.lost) if happened.lost else None
        batches: dict[frozenset[str] | None, Batch] = {}
        for listener in self._all:
            if lost is not None:
                listener.put(lost)
            batch = batches.get(listener.types)
            if batch is None:
                batch = batches[listener.types] = _batch(happened.events, listener.types)
            if batch.events:
                listener.put(batch)

    def close(self, code: int) -> None:
        """Have all leave that are here now."""
        for listener in self._all:
            listener.close(code)


def _batch(happened: tuple[bytes, ...], types: frozenset[str] | None) -> Batch:
    wanted = [event for event in happened if types is None or events.read_type(event) in types]
    return Batch(b"".join(map(text_frame, wanted)), len(wanted))


def _dropped(count: int) -> bytes:
    return text_frame(events.encode(events.Dropped(timestamp=time.time(), count=count)))
