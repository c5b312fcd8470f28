"""What the service manager hears, and when: readiness, the status line, the watchdog's sign of life."""

import trio

from shared.logs import get_logger
from supervisor.fleet import Fleet
from supervisor.listen import urls
from supervisor.sdnotify import Notifier
from supervisor.state import ServiceState

STATUS_INTERVAL = 1.0
"""The status line changes at most this often."""

log = get_logger()


class Announcer:
    """Speaks for the service.  `watchdog_interval`: seconds between two signs of life, None if nobody watches."""

    def __init__(
        self, notifier: Notifier, fleet: Fleet, state: ServiceState, *, watchdog_interval: float | None
    ) -> None:
        self._notifier = notifier
        self._fleet = fleet
        self._state = state
        self._watchdog_interval = watchdog_interval
        self._is_ready = False
        self._said = ""

    async def run(self) -> None:
        """Announce until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce_ready)
            nursery.start_soon(self._announce_status)
            if self._watchdog_interval is not None:
                nursery.start_soon(self._show_life, self._watchdog_interval)

    def reload_begins(self) -> None:
        """Between this and `reload_ends` the service says that it is reloading."""
        if self._is_ready:
            self._notifier.reloading()

    def reload_ends(self) -> None:
        """Whether applied or refused: the service is ready again, and its status line says which."""
        if self._is_ready and not self._fleet.stopping:
            self._said = self._state.line()
            self._notifier.ready(self._said)

    def stopping(self) -> None:
        """The service drains."""
        self._notifier.stopping()

    async def _announce_ready(self) -> None:
        while not self._fleet.serving:
            await self._fleet.changed.wait()
        if not self._fleet.stopping:
            self._is_ready = True
            self._said = self._state.line()
            self._notifier.ready(self._said)
            settings = self._fleet.settings
            log.info("service_ready", bind=urls(settings.listeners, settings.config.server.tls))

    async def _announce_status(self) -> None:
        while True:
            if (line := self._state.line()) != self._said:
                self._said = line
                self._notifier.status(line)
            await trio.sleep(STATUS_INTERVAL)

    async def _show_life(self, interval: float) -> None:
        while True:
            if self._state.healthy:
                self._notifier.watchdog()
            await trio.sleep(interval)
