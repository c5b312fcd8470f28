"""What one worker holds: its configuration, its live streams, its clients of the upstreams, its link."""

import os
import random

import tiktoken

from shared.config import Config
from shared.keys import CHATKIT
from shared.messages import Beat, Progress
from shared.records import CancelReason
from worker.admission import Admissions
from worker.agent.keeper import Keeper
from worker.agent.threads import AbandonedThreads
from worker.agent.toolbox import Toolbox
from worker.auth import Authenticator
from worker.health import HealthView
from worker.history import History
from worker.link import Link
from worker.listeners import Listeners
from worker.login import Logins
from worker.questions import Questions
from worker.streaming.accounting import Counter
from worker.streaming.session import Session
from worker.upstream.clients import Clients
from worker.visitors import Visitors


class Sessions:
    """The live streams of this worker, by id."""

    def __init__(self) -> None:
        self._live: dict[str, Session] = {}
        self._authenticator: Authenticator | None = None
        self._over: CancelReason | None = None

    def authorise(self, authenticator: Authenticator) -> None:
        """End what runs under a key that is no longer known, and whatever may be on its way to here with it."""
        self._authenticator = authenticator
        for session in list(self._live.values()):
            if authenticator.is_revoked(session.start.client):
                session.cancel("admin")

    def __len__(self) -> int:
        return len(self._live)

    def add(self, session: Session) -> None:
        """From admission…"""
        self._live[session.start.id] = session
        if self._authenticator is not None and self._authenticator.is_revoked(session.start.client):
            session.cancel("admin")
        if self._over is not None:
            session.cancel(self._over)

    def remove(self, session: Session) -> None:
        """…to its end."""
        del self._live[session.start.id]

    def check(self, now: float) -> None:
        """Apply every stream's deadlines."""
        for session in list(self._live.values()):
            session.check(now)

    def cancel(self, id: str, reason: CancelReason) -> None:
        """Cancel one; an unknown id has ended already."""
        if session := self._live.get(id):
            session.cancel(reason)

    def cancel_all(self, reason: CancelReason) -> None:
        """Cancel what is left, and what may still come on connections that are there."""
        self._over = reason
        for session in list(self._live.values()):
            session.cancel(reason)

    def progress(self) -> list[Progress]:
        """How far each has come."""
        return [Progress(id, session.tokens, session.received_bytes) for id, session in self._live.items()]


class Ids:
    """Ids for streams and requests: 128 random bits.

    They name, they protect nothing; a generator in memory costs a tenth of a system call.
    """

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(32))  # seeded in this process: forked siblings must differ

    def new(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._random.getrandbits(128):032x}"


class Gateway:
    """Shared by all requests of a worker.  `configure` replaces what a reload may change; live streams keep theirs."""

    def __init__(
        self,
        worker: int,
        config: Config,
        keys: dict[str, str],
        link: Link,
        encoding: tiktoken.Encoding,
        database: str = "",
        login_secret: bytes = b"",
    ) -> None:
        self.worker = worker
        self.link = link
        self.ids = Ids()
        self.sessions = Sessions()
        self.counter = Counter(encoding)
        self.clients = Clients()
        self.admissions = Admissions(link)
        self.health = HealthView()
        self.listeners = Listeners(link)
        self.visitors = Visitors()
        self.questions = Questions(link)
        self.history = History(database)
        self.logins = Logins(login_secret)
        self.keeper = Keeper()
        self.abandoned = AbandonedThreads(link)
        self.toolbox = Toolbox()
        self.draining = False
        self.configure(config, keys)

    def configure(self, config: Config, keys: dict[str, str]) -> None:
        """Use `config` for every request from now on."""
        self.config = config
        self.authenticator = Authenticator(config.auth)
        self.admissions.limited = self.authenticator.limited
        self.sessions.authorise(self.authenticator)
        self.clients.reconfigure(config, keys)
        self.toolbox.configure(config.agent)
        self.keeper.sandboxes.configure(config)
        self.chatkit_key = keys.get(CHATKIT)

    def send_away(self, code: int) -> None:
        """Have all WebSockets leave, with a code of RFC 6455, 7.4; a run of the agent may come to its end first."""
        self.listeners.close(code)
        self.visitors.close(code)

    def supervisor_gone(self) -> None:
        """Nobody answers any more: who waits for an answer goes on without."""
        self.admissions.supervisor_gone()
        self.questions.supervisor_gone()

    def beat(self, connections: int, rss_bytes: int, lag: float) -> None:
        """Tell the supervisor that this worker lives, and how far its streams have come."""
        self.link.beat(
            Beat(
                streams=len(self.sessions),
                connections=connections,
                rss_bytes=rss_bytes,
                lag=lag,
                dropped=self.link.up.dropped,
                progress=self.sessions.progress(),
            )
        )
