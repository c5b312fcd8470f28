"""The one timer of a worker: every deadline of every stream, the keep-alive timeout, and the beat are checked here.

Timers of their own would be armed and disarmed with every chunk; a look at some hundred numbers ten times a second
costs less, and a tenth of a second is exact enough for timeouts.
"""

import functools
import os

import trio

from worker.gateway import Gateway
from worker.serve import Server

TICK = 0.1
BEAT = 1.0
# With a short `worker_timeout` beats come more often: one or two that are late must not look like a worker that hangs.
BEATS_IN_TIMEOUT = 4
# After a pause of the whole process, what waits in the sockets is read before anybody is called overdue.
LATE = 0.5


async def run_clock(gateway: Gateway, server: Server) -> None:
    """Tick until cancelled."""
    tick = next_beat = trio.current_time()
    worst_lag = 0.0
    while True:
        await trio.sleep_until(tick)
        now = trio.current_time()
        lag = now - tick
        worst_lag = max(worst_lag, lag)
        if lag < LATE:
            gateway.sessions.check(now)
        gateway.abandoned.check(now)
        if now >= next_beat:
            server.close_overdue()
            gateway.beat(len(server.connections), rss_bytes(), worst_lag)
            interval = min(BEAT, gateway.config.server.worker_timeout / BEATS_IN_TIMEOUT)
            next_beat, worst_lag = now + interval, 0.0
        tick = max(tick + TICK, now)


def rss_bytes() -> int:
    """The resident memory of this process (proc(5), statm)."""
    return int(os.pread(_statm(os.getpid()), 128, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _statm(_pid: int) -> int:
    """Opened once a process and kept: when descriptors run out, the beat must go on."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
