"""Which stream of a session key may run: the one that came last.

    join ─▶ waiting until the older ones are gone ─▶ clear ─▶ giving way to a newer one ─▶ leave
                              └───────────────────────────────────┘

An older one is gone when it has left, or when `GRACE` has passed since it was told to: a stream that is stuck must not
take the newer one with it.
"""

import math
from collections.abc import Hashable, Iterator

from msgspec import Struct

GRACE = 0.75
"""Seconds for a cancelled stream to be gone.  One whose client doesn't read ends when its worker resets the connection,
after half a second and a tick of its clock; the newer one still begins behind it."""


class _Member(Struct):
    id: str
    key: Hashable
    gone_by: float = math.inf
    """When it counts as gone; infinite as long as it has not been told to go."""


class Registry:
    """The streams that have a key, in the order of their coming."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._keys: dict[Hashable, list[_Member]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[str]:
        """The streams, in the order of their coming."""
        return iter(self._members)

    def join(self, id: str, key: Hashable, now: float) -> list[str]:
        """The streams to be cancelled for the new one, oldest first.  One that has joined before stays where it is."""
        if id in self._members:
            return []
        line = self._keys.setdefault(key, [])
        given_up = [member for member in line if member.gone_by == math.inf]
        for member in given_up:
            member.gone_by = now + GRACE
        self._members[id] = _Member(id, key)
        line.append(self._members[id])
        return [member.id for member in given_up]

    def is_clear(self, id: str, now: float) -> bool:
        """Whether a stream has no older one to wait for; one that must give way itself never is."""
        member = self._members.get(id)
        if member is None:
            return True
        others = (other for other in self._keys[member.key] if other is not member)
        return member.gone_by == math.inf and all(other.gone_by <= now for other in others)

    def leave(self, id: str) -> str | None:
        """A stream has ended, or was unknown.  The last one of its key, which may have waited for just that."""
        member = self._members.pop(id, None)
        if member is None:
            return None
        line = self._keys[member.key]
        line.remove(member)
        if line:
            return line[-1].id
        del self._keys[member.key]
        return None
