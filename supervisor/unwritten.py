"""Conversations on their way to the database: of each session the newest, bounded in bytes, told from here."""

from collections.abc import Sequence
from itertools import islice

from msgspec import Struct


class Kept(Struct, frozen=True, eq=False):
    """What a session has said; b"" in the place of what is to be forgotten."""

    session: str
    client: str
    """A fingerprint of the client's key; "" where none is asked for."""
    updated: float
    """Epoch seconds."""
    data: bytes


class Unwritten:
    """See the module."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: dict[tuple[str, str], Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, kept: Kept) -> list[Kept]:
        """Take one, in the place of an older one of its session; the oldest others, which there is no room for."""
        self._drop((kept.session, kept.client))
        self._kept[kept.session, kept.client] = kept
        self._bytes += len(kept.data)
        lost = []
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            lost.append(self._drop(next(iter(self._kept))))
        return [one for one in lost if one is not None]

    def find(self, session: str, client: str) -> Kept | None:
        """That of a session, if it waits here."""
        return self._kept.get((session, client))

    def batch(self, count: int) -> list[Kept]:
        """The oldest, at most so many."""
        return list(islice(self._kept.values(), count))

    def forget(self, written: Sequence[Kept]) -> None:
        """These are in the database; newer ones of their sessions, which came meanwhile, stay."""
        for kept in written:
            if self._kept.get((kept.session, kept.client)) is kept:
                self._drop((kept.session, kept.client))

    def clear(self) -> int:
        """Give up; on how many."""
        left = len(self._kept)
        self._kept.clear()
        self._bytes = 0
        return left

    def _drop(self, key: tuple[str, str]) -> Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.data)
        return kept
