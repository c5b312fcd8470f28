"""The service at a glance: for `kimi-proxy status`, and in one line for `systemctl status`."""

import os
from typing import Literal

import trio

from shared import VERSION
from shared.config import Config
from supervisor.control import ProviderStatus, StatusReply
from supervisor.elder import Elder
from supervisor.fleet import Fleet
from supervisor.health import HEALTHY, ProviderHealth
from supervisor.hub import Hub
from supervisor.ledger import Ledger, ProviderCounts
from supervisor.listen import urls
from supervisor.reload import Reloader, Reloads
from supervisor.store import Store

Phase = Literal["starting", "running", "reloading", "draining"]


class ServiceState:
    """Puts together what the parts know; holds nothing but the time of the start."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        reloads: Reloads,
        reloader: Reloader,
        ledger: Ledger,
        store: Store,
        hub: Hub,
        elder: Elder | None = None,
    ) -> None:
        """`elder`: from whom we have taken over."""
        self._elder = elder
        self._fleet = fleet
        self._reloads = reloads
        self._reloader = reloader
        self._ledger = ledger
        self._store = store
        self._hub = hub
        self._started = trio.current_time()

    @property
    def phase(self) -> Phase:
        """What the service is doing as a whole."""
        if self._fleet.stopping:
            return "draining"
        if not self._fleet.was_ready:
            return "starting"
        return "reloading" if self._reloads.running else "running"

    @property
    def healthy(self) -> bool:
        """What the watchdog asks: the loop runs, as it asks us, and at least one worker serves (or all may leave)."""
        return self._fleet.serving > 0 or self._fleet.stopping

    def line(self) -> str:
        """One line: workers, streams, and what is wrong."""
        fleet = self._fleet
        active = self._ledger.active_count()
        streams = "1 stream" if active == 1 else f"{active} streams"
        parts = [f"{fleet.serving}/{fleet.settings.config.server.workers} workers", streams]
        if self.phase != "running":
            parts.insert(0, self.phase)
        if fleet.crash_loop is not None:
            parts.append(fleet.crash_loop)
        if (problem := self._store.status().problem) is not None:
            parts.append(f"database: {problem}")
        error = self._reloader.error
        parts.append("config ok" if error is None else f"config refused: {error}")
        return ", ".join(parts)

    def reply(self) -> StatusReply:
        """All of it."""
        fleet = self._fleet
        config = fleet.settings.config
        return StatusReply(
            version=VERSION,
            pid=os.getpid(),
            state=self.phase,
            uptime=trio.current_time() - self._started,
            bind=urls(fleet.settings.listeners, config.server.tls),
            config_source=config.source,
            config_loaded=self._reloader.loaded,
            config_error=self._reloader.error,
            crash_loop=fleet.crash_loop,
            workers_wanted=config.server.workers,
            workers=fleet.statuses(),
            elders=[] if self._elder is None else self._elder.statuses(),
            restarts=fleet.restarts,
            providers=_providers(
                config, fleet.settings.keys, self._ledger.provider_counts(), self._hub.health.snapshot()
            ),
            totals=self._ledger.totals(),
            storage=self._store.status(),
        )


def _providers(
    config: Config, keys: dict[str, str], counts: dict[str, ProviderCounts], board: dict[str, ProviderHealth]
) -> list[ProviderStatus]:
    """The configured ones, in the order of the file."""
    none = ProviderCounts()
    statuses = []
    for name, provider in config.providers.items():
        seen = counts.get(name, none)
        statuses.append(
            ProviderStatus(
                name=name,
                dialect=provider.dialect,
                base_url=provider.base_url,
                has_key=name in keys,
                health=board.get(name, HEALTHY).state,
                active=seen.active,
                completed=seen.completed,
                cancelled=seen.cancelled,
                failed=seen.failed,
                last_error=seen.last_error,
            )
        )
    return statuses
