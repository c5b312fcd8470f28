"""What is true of the whole service, whichever worker answers: sessions, limits, health, metrics, live events.

Each part is a plain object with one job; the hub tells each what concerns it, in an order that all can rely on, and has
the one task that looks at the clock.

    Link ── take ──▶ Hub ──┬── admission   session keys and limits        Admit, Leave   ─▶ Verdict, CancelStream
                           ├── health      errors by provider             Trouble        ─▶ Health
                           ├── metrics     counters, never going down
                           ├── fanout      listeners of live events       Listen         ─▶ Happened
                           └── answers     questions of workers           Ask            ─▶ Told

The answers need to know of everything, the fleet included, and so come last: `run` is given them.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import trio

from shared.config import Config
from shared.events import ProviderDegraded, ProviderRecovered
from shared.messages import Admit, Ask, Beat, CancelStream, Down, Leave, Listen, StreamEnded, StreamStarted, Trouble, Up
from shared.records import CancelReason, StreamRecord
from supervisor.admission import Admission
from supervisor.answers import Answers
from supervisor.fanout import Fanout
from supervisor.health import HealthBoard
from supervisor.health_log import log_health
from supervisor.ledger import Ledger
from supervisor.metrics import Metrics

TICK = 0.05
"""How often waiting streams, recoveries and live events are looked at."""


class Peer(Protocol):
    """A worker, as the parts see it (`supervisor.link.Link`)."""

    slot: int
    pid: int

    @property
    def backlog(self) -> int: ...

    def send(self, message: Down) -> None: ...


class Hub:
    """See the module; `run` is its one task, everything else are plain calls."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.fanout = Fanout(ledger)
        self.metrics = Metrics(config)
        self.health = HealthBoard(config.health, publish=self._health_changed)
        self.admission = Admission(config)
        self._ledger = ledger
        self._answers: Answers | None = None
        self._peers: dict[int, Peer] = {}
        self.mirror: Callable[[Peer, Up | None], None] | None = None
        """Hears, too, what workers say, and None when one is gone: the heir that has taken the service over."""

    def configure(self, config: Config) -> None:
        """A reload: what has been counted stays."""
        self.admission.configure(config)
        self.health.configure(config.health)
        self.metrics.configure(config)

    def joined(self, peer: Peer) -> None:
        """A worker has begun."""
        self._peers[peer.pid] = peer
        peer.send(self.health.message())

    def left(self, peer: Peer, records: list[StreamRecord]) -> None:
        """A worker is gone; `records` are those of the streams that it left open."""
        del self._peers[peer.pid]
        for record in records:
            self._ended(record)
        if self.mirror is not None:
            for record in records:
                self.mirror(peer, StreamEnded(record))
            self.mirror(peer, None)
        self.metrics.left(peer.pid)
        self.admission.left(peer)
        self.fanout.left(peer)

    def take(self, peer: Peer, message: Up) -> None:
        """What a worker says, after the ledger has heard it."""
        if self.mirror is not None:
            self.mirror(peer, message)
        match message:
            case StreamStarted(start):
                self.fanout.started(start)
            case StreamEnded(record):
                self._ended(record)
            case Beat():
                self.metrics.beat(peer.pid, message)
                self.fanout.progress(trio.current_time())
            case Admit():
                self.admission.admit(peer, message, trio.current_time())
            case Leave():
                self.admission.leave(message, trio.current_time())
            case Trouble():
                self.metrics.trouble(message)
                self.fanout.trouble(message)
                self._tell(self.health.trouble(message, trio.current_time()))
            case Listen(wanted):
                self.fanout.listen(peer, wanted)
            case Ask():
                if self._answers is not None:
                    self._answers.answer(peer, message)
            case _:
                pass

    def take_older(self, peer: Peer, message: Admit) -> None:
        """A stream of a worker of our elder has a session key; it has been, or will be, let in there."""
        self.admission.adopt(peer, message, trio.current_time())

    @property
    def active_streams(self) -> int:
        """How many streams are open, those of our elders included."""
        return self._ledger.active_count()

    def open_streams(self) -> Iterator[tuple[Peer, StreamStarted | Admit]]:
        """What an heir has to know of the streams that are open now, as if the workers told it now."""
        for pid, peer in self._peers.items():
            for stream in self._ledger.active(pid):
                yield peer, StreamStarted(stream.start)
        for pid, message in self.admission.sessions():
            if (owner := self._peers.get(pid)) is not None:
                yield owner, message

    def cancel(self, pid: int, id: str, reason: CancelReason = "admin") -> None:
        """Have the worker with this pid cancel a stream; a worker that is gone took it along."""
        if peer := self._peers.get(pid):
            peer.send(CancelStream(id, reason))

    async def run(self, answers: Answers) -> None:
        """Look at the clock until cancelled, and let `answers` answer meanwhile."""
        self._answers = answers
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            self.admission.tick(now)
            self._tell(self.health.tick(now))
            self.fanout.flush()

    def _ended(self, record: StreamRecord) -> None:
        now = trio.current_time()
        self.admission.ended(record, now)
        self.metrics.ended(record)
        self.fanout.ended(record)
        self._tell(self.health.ended(record, now))

    def _health_changed(self, event: ProviderDegraded | ProviderRecovered) -> None:
        log_health(event)
        self.fanout.publish(event)

    def _tell(self, changed: bool) -> None:
        """A change of health goes to all workers."""
        if changed:
            for peer in self._peers.values():
                peer.send(self.health.message())
