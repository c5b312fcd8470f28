"""The place that a stream has at a provider, whose limits count it there."""

import time

import trio

from shared.config import Config, Provider
from worker.admission import Admissions, session_key
from worker.asgi import Header
from worker.streaming.limits import LimitExceeded, limit_headers
from worker.streaming.session import Session


class Place:
    """See the module.  Nested runs share their stream's: the supervisor knows a stream at one provider at a time."""

    def __init__(self, admissions: Admissions, config: Config, session: Session) -> None:
        self._admissions = admissions
        self._config = config
        self._start = session.start
        self._taken: str | None = None
        """The provider whose limits count the stream…"""
        self._unused = False
        """…and which has not been asked yet."""
        self._taking: trio.Lock | None = None
        """Nested runs take it one after the other; most streams need none."""

    def is_needed(self, provider: Provider) -> bool:
        """Whether a limit holds for the stream there, or others give way to it."""
        return self._admissions.needs(self._config, self._start, provider)

    async def take(self, provider: Provider) -> list[Header]:
        """Wait until the stream may ask; what its answer tells of the limits.  `LimitExceeded` if it may not."""
        self._taking = self._taking or trio.Lock()
        async with self._taking:
            self.leave()
            start = self._start
            key = session_key(self._config, start)
            verdict = await self._admissions.enter(start.id, provider.name, key, start.client)
            limit = verdict.limit
            if limit is None:
                return []
            headers = limit_headers(limit, start.dialect, time.time())
            if not verdict.admitted:
                raise LimitExceeded(limit, headers)
            self._taken, self._unused = provider.name, True
            return [] if limit.concurrent else headers

    def used(self) -> None:
        """A request is on its way: it counts, whatever becomes of it."""
        self._unused = False

    def leave(self) -> None:
        """Give it to others, if the stream has one."""
        if self._taken is not None:
            self._admissions.leave(self._start.id, self._taken, unused=self._unused)
            self._taken = None
