"""What the metrics tell of this moment, as the other parts know it: workers, live streams, providers, the database.

Sums that those parts keep themselves stand here, too: they go up only, as long as the supervisor lives.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from msgspec import Struct

from supervisor.control import StatusReply, WorkerStatus
from supervisor.exposition import Family, Gauge, Labels
from supervisor.health import HEALTHY, ProviderHealth
from supervisor.plan import State


class Gauges(Struct, frozen=True, kw_only=True):
    """What is known now."""

    status: StatusReply
    active: dict[str, int]
    """Open streams by the provider that they asked for."""
    waiting: int = 0
    """Those that are not admitted yet."""
    health: Mapping[str, ProviderHealth] = {}
    """Of the providers that were in trouble at some time."""
    token_accuracy: float | None = None
    """Our own counts in relation to the providers'; None as long as there is nothing to compare."""


class Moment:
    """The families of what is known of this moment; a slot that has two workers during a reload counts as one."""

    def __init__(self) -> None:
        self._active = Gauge(
            "kimi_proxy_streams_active", "Open streams, by the provider that they asked for.", ("provider",)
        )
        self._waiting = Gauge(
            "kimi_proxy_streams_waiting", "Of them, those that wait for a limit, or for an older one of their session."
        )
        self._accuracy = Gauge(
            "kimi_proxy_token_accuracy",
            "Our own count of output tokens in relation to the provider's, over all streams that have both.",
        )
        self._degraded = Gauge(
            "kimi_proxy_provider_degraded", "1 for a provider with too many errors of late.", ("provider",)
        )
        self._open = Gauge("kimi_proxy_provider_circuit_open", "1 for a provider that is not asked.", ("provider",))
        self._workers = Gauge("kimi_proxy_workers", "Workers by their state.", ("state",))
        self._wanted = Gauge("kimi_proxy_workers_wanted", "Workers that should serve.")
        self._restarts = Gauge("kimi_proxy_worker_restarts_total", "Workers that died unasked.", kind="counter")
        self._rss = Gauge("kimi_proxy_worker_rss_bytes", "Resident memory, shared pages included.", ("worker",))
        self._lag = Gauge(
            "kimi_proxy_worker_lag_seconds",
            "By how much the worker's clock woke late, at the worst in the last second.",
            ("worker",),
        )
        self._connections = Gauge("kimi_proxy_worker_connections", "Open connections of clients.", ("worker",))
        self._up = Gauge(
            "kimi_proxy_up_pipe_bytes", "Bytes that a worker has said and the supervisor has not read.", ("worker",)
        )
        self._down = Gauge(
            "kimi_proxy_down_pipe_bytes", "Bytes that the supervisor has said and a worker has not read.", ("worker",)
        )
        self._buffered = Gauge(
            "kimi_proxy_store_buffered_records", "Terminal records that are not in the database yet."
        )
        self._lost = Gauge(
            "kimi_proxy_store_lost_records_total", "Terminal records that never will be in it.", kind="counter"
        )
        self._store_lag = Gauge("kimi_proxy_store_lag_seconds", "How long the oldest of the buffered has waited.")
        self._reload = Gauge(
            "kimi_proxy_config_last_reload_success", "0 while the newest configuration is a refused one."
        )
        self._loaded = Gauge(
            "kimi_proxy_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded, in epoch seconds.",
        )
        self._uptime = Gauge("kimi_proxy_uptime_seconds", "Since the supervisor's start.")
        self._info = Gauge("kimi_proxy_info", "Always 1; the version is in its label.", ("version",))
        self.families: tuple[Family, ...] = tuple(vars(self).values())

    def take(self, gauges: Gauges) -> None:
        """Replace what was known before."""
        status = gauges.status
        states = {provider.name: gauges.health.get(provider.name, HEALTHY).state for provider in status.providers}
        active = dict.fromkeys(states, 0) | gauges.active
        self._active.set_all({(name,): count for name, count in active.items()})
        self._waiting.set(gauges.waiting)
        self._accuracy.set(gauges.token_accuracy)
        self._degraded.set_all({(name,): state != "healthy" for name, state in states.items()})
        self._open.set_all({(name,): state == "open" for name, state in states.items()})
        self._workers.set_all({(state,): sum(w.state == state for w in status.workers) for state in get_args(State)})
        self._wanted.set(status.workers_wanted)
        self._restarts.set(status.restarts)
        self._rss.set_all(_by_worker(status.workers, lambda worker: worker.rss_bytes))
        self._lag.set_all(_by_worker(status.workers, lambda worker: worker.lag, max))
        self._connections.set_all(_by_worker(status.workers, lambda worker: worker.connections))
        self._up.set_all(_by_worker(status.workers, lambda worker: worker.up_pipe_bytes))
        self._down.set_all(_by_worker(status.workers, lambda worker: worker.down_pipe_bytes))
        self._buffered.set(status.storage.buffered)
        self._lost.set(status.storage.lost)
        self._store_lag.set(status.storage.lag)
        self._reload.set(status.config_error is None)
        self._loaded.set(status.config_loaded)
        self._uptime.set(status.uptime)
        self._info.set_all({(status.version,): 1})


def _by_worker(
    workers: Iterable[WorkerStatus],
    value: Callable[[WorkerStatus], float],
    join: Callable[[list[float]], float] = sum,
) -> dict[Labels, float]:
    found: defaultdict[Labels, list[float]] = defaultdict(list)
    for worker in workers:
        found[(str(worker.worker),)].append(value(worker))
    return {labels: join(values) for labels, values in found.items()}
