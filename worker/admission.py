"""A stream's place at a provider: asked of the supervisor, which alone knows what all workers hold.

enter ── Admit ─▶ supervisor ── Verdict ─▶ take
leave ── Leave ─▶              a stream that ends needs none: its record says as much
"""

from hashlib import sha256

import trio

from shared.config import Config, Provider
from shared.messages import Admit, Leave, Verdict
from shared.records import StreamStart
from worker.link import Link

MAX_SESSION_CHARS = 256
HASH_CHARS = 32


class _Wait:
    """A stream that has asked; `verdict` is there once `answered` is set."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.verdict: Verdict | None = None


class Admissions:
    """The streams of this worker that wait for a verdict.  Shared by all of them."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: dict[str, _Wait] = {}
        self._supervisor_gone = False
        self.limited: frozenset[str] = frozenset()
        """Fingerprints of the clients that have limits of their own."""

    def __len__(self) -> int:
        """How many streams wait."""
        return len(self._waiting)

    def needs(self, config: Config, start: StreamStart, provider: Provider) -> bool:
        """Whether a stream has to ask at all: it has a key that others give way to, or a limit holds for it."""
        limiting = config.rate_limiting
        return (
            provider.rate_limit is not None
            or provider.max_concurrent is not None
            or session_key(config, start) is not None
            or (
                start.client is not None
                and (
                    limiting.per_key is not None
                    or limiting.max_concurrent_per_key is not None
                    or start.client in self.limited
                )
            )
        )

    async def enter(self, id: str, provider: str, session: str | None, client: str | None) -> Verdict:
        """Ask, and wait for the verdict.  If cancelled, the place is given back, whether it had been given or not.

        Without a supervisor everybody gets in: that is for a moment only, and refusing would help nobody.
        """
        if self._supervisor_gone:
            return Verdict(id, provider, admitted=True)
        wait = self._waiting[id] = _Wait()
        self._link.send(Admit(id, provider, session, client))
        try:
            await wait.answered.wait()
        except trio.Cancelled:
            self.leave(id, provider, unused=True)
            raise
        finally:
            del self._waiting[id]
        return wait.verdict or Verdict(id, provider, admitted=True)

    def leave(self, id: str, provider: str, *, unused: bool) -> None:
        """Give a place back.  `unused`: nothing was sent to the provider, so it counts as never asked for."""
        self._link.send(Leave(id, provider, unused))

    def take(self, verdict: Verdict) -> None:
        """A verdict has come; one that nobody waits for any more is passed over, as its place was given back."""
        if wait := self._waiting.get(verdict.id):
            wait.verdict = verdict
            wait.answered.set()

    def supervisor_gone(self) -> None:
        """No verdict will ever come."""
        self._supervisor_gone = True
        for wait in self._waiting.values():
            wait.answered.set()


def session_name(given: str) -> str:
    """What a client calls its session, at most `MAX_SESSION_CHARS` long.  Different ones stay different."""
    if len(given) <= MAX_SESSION_CHARS:
        return given
    return given[: MAX_SESSION_CHARS - HASH_CHARS] + sha256(given.encode()).hexdigest()[:HASH_CHARS]


def session_key(config: Config, start: StreamStart) -> str | None:
    """The key whose older stream gives way to this one, if any."""
    return None if start.groups_only or config.sessions.on_new_stream == "allow" else start.session
