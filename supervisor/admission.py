"""Who may begin: the streams that have a session key or a limit, from their `Admit` to their end.

    Admit ─▶ held, until the older streams of its key are gone     supervisor.registry
               └─▶ waiting, until its limits have room             supervisor.ratelimit
                     └─▶ Verdict

What a stream holds it loses with its `Leave`, its record, or its worker, whichever comes first.
"""

from collections.abc import Iterator
from typing import Protocol

from msgspec import Struct

from shared.config import Config
from shared.messages import Admit, CancelStream, Down, Leave, Verdict
from shared.records import StreamRecord
from supervisor.ratelimit import Decision, Limits
from supervisor.registry import Registry


class Peer(Protocol):
    """The worker that a stream runs in."""

    pid: int

    def send(self, message: Down) -> None: ...


class _Stream(Struct):
    id: str
    peer: Peer
    client: str | None
    provider: str
    """The one it asked for last."""
    session: str | None


class Admission:
    """Decides, and says so to the workers; no I/O of its own.  `now` is any clock that never goes back, in seconds."""

    def __init__(self, config: Config) -> None:
        self._limits = Limits(config)
        self._registry = Registry()
        self._streams: dict[str, _Stream] = {}
        self._held: dict[str, None] = {}
        self._now = 0.0
        self.configure(config)

    def configure(self, config: Config) -> None:
        """A reload: streams stay where they are, buckets keep their levels."""
        self._supersedes = config.sessions.on_new_stream == "cancel"
        self._limits.configure(config)

    @property
    def waiting(self) -> int:
        """How many streams have asked and not been answered."""
        return len(self._held) + self._limits.waiting

    @property
    def inside(self) -> int:
        """How many streams hold places."""
        return self._limits.inside

    def admit(self, peer: Peer, message: Admit, now: float) -> None:
        """A stream asks; its verdict follows at once or later, unless it leaves before."""
        self._now = now
        stream = self._join(peer, message)
        stream.provider = message.provider
        if message.session is not None and self._supersedes:
            # Clients can't know of each other's keys, so what they call a session is one only among their own streams.
            self._supersede(self._registry.join(stream.id, (message.client, message.session), now))
        if self._registry.is_clear(stream.id, now):
            self._ask(stream)
        else:
            self._held[stream.id] = None

    def adopt(self, peer: Peer, message: Admit, now: float) -> None:
        """A stream in a worker of our elder has joined the ones of its session; whether it begins is decided there."""
        self._now = now
        stream = self._join(peer, message)
        if message.session is not None and self._supersedes:
            self._supersede(self._registry.join(stream.id, (message.client, message.session), now))

    def sessions(self) -> Iterator[tuple[int, Admit]]:
        """The streams that have a session key, in the order of their coming, each with its worker's pid."""
        for stream in map(self._streams.__getitem__, self._registry):
            yield stream.peer.pid, Admit(stream.id, stream.provider, stream.session, stream.client)

    def leave(self, message: Leave, now: float) -> None:
        """A stream gives back what it has of a provider.  It stays the one of its session key."""
        self._now = now
        stream = self._streams.get(message.id)
        if stream is not None and stream.provider == message.provider:
            self._held.pop(stream.id, None)
            self._tell(self._limits.withdraw([stream.id], now, unused=message.unused))

    def ended(self, record: StreamRecord, now: float) -> None:
        """A stream's terminal record has come."""
        stream = self._streams.get(record.start.id)
        if stream is None:
            return
        self._now = now
        if record.error_type == "worker_died":
            self.left(stream.peer)  # at once, or places would be given to those that died with it
        else:
            self._forget([stream.id])

    def left(self, peer: Peer) -> None:
        """A worker is gone, with all its streams."""
        self._forget([id for id, stream in self._streams.items() if stream.peer is peer])

    def tick(self, now: float) -> None:
        """Look whether anybody has waited long enough."""
        self._now = now
        for id in [id for id in self._held if self._registry.is_clear(id, now)]:
            self._release(id)
        self._tell(self._limits.tick(now))

    def _join(self, peer: Peer, message: Admit) -> _Stream:
        stream = _Stream(message.id, peer, message.client, message.provider, message.session)
        return self._streams.setdefault(message.id, stream)

    def _supersede(self, ids: list[str]) -> None:
        for id in ids:
            self._streams[id].peer.send(CancelStream(id, "registry_new_stream"))
        self._tell(self._limits.withdraw([id for id in ids if self._limits.is_waiting(id)], self._now))

    def _forget(self, ids: list[str]) -> None:
        for id in ids:
            del self._streams[id]
            self._held.pop(id, None)
        self._tell(self._limits.withdraw(ids, self._now))
        for id in ids:
            last = self._registry.leave(id)
            if last in self._held and self._registry.is_clear(last, self._now):
                self._release(last)

    def _release(self, id: str) -> None:
        del self._held[id]
        self._ask(self._streams[id])

    def _ask(self, stream: _Stream) -> None:
        self._tell(self._limits.ask(stream.id, stream.provider, stream.client, self._now))

    def _tell(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            stream = self._streams[decision.id]
            stream.peer.send(Verdict(stream.id, stream.provider, decision.admitted, decision.limit))
