"""Which idle connection is used next, and which ones have been kept for too long.  Pure: no sockets, no clock.

Last in, first out: the connection used last is the likeliest to be alive, and those that a burst left over age in
peace and expire.
"""

from collections import deque
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C")


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class IdlePool(Generic[C]):
    """Idle connections by origin.  Every method that drops some returns them: closing is the caller's part."""

    def __init__(self, *, max_idle: int, idle_expiry: float) -> None:
        self._max_idle = max_idle
        self._idle_expiry = idle_expiry
        self._idle: dict[Origin, deque[tuple[float, C]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def take(self, origin: Origin) -> C | None:
        """The connection to `origin` that was put last, or None."""
        connections = self._idle.get(origin)
        if not connections:
            return None
        self._count -= 1
        return connections.pop()[1]

    def put(self, origin: Origin, connection: C, *, now: float) -> list[C]:
        """Keep `connection`; returns those that must go for it: the expired, and the oldest above the bound."""
        dropped = self.expire(now=now)
        self._idle.setdefault(origin, deque()).append((now, connection))
        self._count += 1
        while self._count > self._max_idle:
            oldest = min((c for c in self._idle.values() if c), key=lambda c: c[0][0])
            dropped.append(oldest.popleft()[1])
            self._count -= 1
        return dropped

    def expire(self, *, now: float) -> list[C]:
        """Drop and return what has been idle for longer than the expiry."""
        dropped: list[C] = []
        limit = now - self._idle_expiry
        for connections in self._idle.values():
            while connections and connections[0][0] <= limit:
                dropped.append(connections.popleft()[1])
        self._count -= len(dropped)
        return dropped

    def clear(self) -> list[C]:
        """Drop and return all."""
        dropped = [connection for connections in self._idle.values() for _, connection in connections]
        self._idle.clear()
        self._count = 0
        return dropped
