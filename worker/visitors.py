"""WebSockets that live on between the things that they are for, and so have to be told when their worker leaves.

Whoever hears events is a `worker.listeners.Listener`; streams over HTTP end by themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Visitor(Protocol):
    """One of them."""

    def close(self, code: int) -> None:
        """Leave, with a code of RFC 6455, 7.4, as soon as what is under way has ended.  Never waits."""
        ...


class Visitors:
    """All of them in this worker."""

    def __init__(self) -> None:
        self._all: set[Visitor] = set()

    @contextmanager
    def joined(self, visitor: Visitor) -> Iterator[None]:
        """It is one of them as long as this lasts."""
        self._all.add(visitor)
        try:
            yield
        finally:
            self._all.discard(visitor)

    def close(self, code: int) -> None:
        """Have all leave that are here now."""
        for visitor in self._all:
            visitor.close(code)
