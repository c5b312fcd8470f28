"""A worker process: serve the inherited sockets, obey the supervisor, leave in good order.

run ── Worker.run ── one nursery ──┬── link.up.run        what the up pipe could not take at once
                                   ├── server.serve       clients (worker.serve → worker.app)
                                   ├── run_clock          deadlines, beat
                                   ├── _obey_commands     the down pipe; its end means that the supervisor is gone
                                   └── _obey_sigterm
"""

import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, assert_never

import trio

from shared import logs, stackdump
from shared.config import Config
from shared.entry import WorkerStart
from shared.logs import get_logger
from shared.messages import Accept, CancelStream, Configure, Drain, Happened, Health, Ready, Stored, Told, Verdict
from shared.privacy import hide_memory
from shared.tokenizer import load_encoding
from worker.app import App
from worker.clock import rss_bytes, run_clock
from worker.gateway import Gateway
from worker.link import Link
from worker.listeners import GOING_AWAY, SERVICE_RESTART
from worker.orphan import ExitGuard
from worker.serve import Server
from worker.streaming.session import CANCEL_GRACE

# How long streams may go on when the supervisor has died: a new one needs the sockets.
ORPHAN_TIMEOUT = 2.5
# In a retired worker: how long an idle client connection may wait for its next request, which is answered with
# `connection: close`.  Closing at once could cross a request on its way.
RETIRE_LINGER = 5.0
# From the reset of the last connections to the exit: records may wait for a token count, then for their way to the
# database; what has not arrived there is left in a file.  The supervisor kills 5 s after the drain's deadline
# (`supervisor.plan.KILL_GRACE`).
COUNT_SLACK = 3.0
STORE_TIMEOUT = 1.0
SPOOL_SLACK = 0.2
# Without a supervisor the exit guard leaves less time (`worker.orphan.ORPHAN_DEADLINE`): estimates stand instead.
ORPHAN_COUNT_SLACK = 1.0
POLL = 0.05


def run(start: WorkerStart, listeners: Sequence[socket.socket], up_fd: int, down_fd: int) -> None:
    """Be a worker until drained; called in the forked process (`shared.entry`), signals already ignored."""
    logs.configure(start.config.logging, worker=start.worker)
    if start.config.agent.enabled:
        hide_memory()
    stackdump.install(f"worker {start.worker}")
    rss_bytes()  # opens its file, while there are descriptors
    link = Link(up_fd, down_fd)
    guard = ExitGuard(start.supervisor_pid, partial(link.spool, Path(start.spool)))
    guard.start()
    trio.run(Worker(start, listeners, link, guard).run)


class Worker:
    """The composition root of a worker process."""

    def __init__(self, start: WorkerStart, listeners: Sequence[socket.socket], link: Link, guard: ExitGuard) -> None:
        self._start = start
        self._link = link
        self._guard = guard
        self._listeners = listeners
        self._drain_mode: Literal["retire", "shutdown"] | None = None
        self._drain_deadline = 0.0
        self._orphaned = False

    async def run(self) -> None:
        """Serve until drained.  Records that did not reach the database stay in a file."""
        start = self._start
        self.gateway = Gateway(
            start.worker, start.config, start.keys, self._link, load_encoding(), start.database, start.login_secret
        )
        self.server = Server(App(self.gateway), start.config.server, self._listeners, start.keys)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._link.up.run)
                if not start.held:
                    await nursery.start(self.server.serve)
                nursery.start_soon(run_clock, self.gateway, self.server)
                self._link.send(Ready(pid=os.getpid(), generation=start.generation))
                nursery.start_soon(self._obey_commands)
        finally:
            self._link.spool(Path(start.spool))  # blocks for a moment, but nothing else runs any more
            self._link.close()

    async def _obey_commands(self) -> None:
        while commands := await self._link.receive():
            for command in commands:
                match command:
                    case Accept():
                        if self._drain_mode is None:
                            await self._nursery.start(self.server.serve)
                    case Configure(config, keys):
                        logs.configure(config.logging, worker=self._start.worker)
                        if config.auth != self.gateway.config.auth:  # those who may still listen come again
                            self.gateway.send_away(SERVICE_RESTART)
                        if config.agent.enabled:
                            hide_memory()
                        self.gateway.configure(config, keys)
                        self._renew_certificate(config, keys)
                    case Drain(mode, timeout):
                        self.drain(mode, timeout)
                    case CancelStream(id, reason):
                        self.gateway.sessions.cancel(id, reason)
                    case Stored():
                        self._link.take_stored(command)
                    case Verdict():
                        self.gateway.admissions.take(command)
                    case Health():
                        self.gateway.health.take(command)
                    case Happened():
                        self.gateway.listeners.take(command)
                    case Told():
                        self.gateway.questions.take(command)
                    case _:
                        assert_never(command)
        self._orphaned = True
        self.gateway.supervisor_gone()
        get_logger().warning("supervisor_gone", action="drain", timeout=ORPHAN_TIMEOUT)
        self.drain("shutdown", ORPHAN_TIMEOUT)

    def _renew_certificate(self, config: Config, keys: dict[str, str]) -> None:
        try:
            self.server.offer.configure(config.server, keys)
        except OSError as error:  # no descriptor is free
            get_logger().error("certificate_kept", problem=str(error))

    def drain(self, mode: Literal["retire", "shutdown"], timeout: float) -> None:
        """Stop accepting now, and end within `timeout` seconds and a grace.  Later calls change mode and deadline."""
        first = self._drain_mode is None
        self._drain_mode = mode
        self._drain_deadline = trio.current_time() + timeout
        self._guard.exit_by(time.monotonic() + timeout + CANCEL_GRACE + COUNT_SLACK + STORE_TIMEOUT + SPOOL_SLACK)
        if first:
            self.gateway.draining = True
            self.gateway.send_away(SERVICE_RESTART if mode == "retire" else GOING_AWAY)
            self.server.stop_accepting()
            self._nursery.start_soon(self._drained)

    async def _drained(self) -> None:
        """Polite until the deadline, then cancel, then reset; the nursery ends with it."""
        began = trio.current_time()
        while self.server.connections and trio.current_time() < self._drain_deadline:
            if self._drain_mode == "shutdown":
                self.server.close_idle()
            elif (lingered := trio.current_time() - RETIRE_LINGER) > began:
                self.server.close_idle(since=lingered)
            await trio.sleep(POLL)
        self.gateway.sessions.cancel_all("shutdown")
        await self._wait_quiet(CANCEL_GRACE)
        self.server.abort_all()
        await self._wait_quiet(ORPHAN_COUNT_SLACK if self._orphaned else COUNT_SLACK)
        self.gateway.counter.hurry()
        with trio.move_on_after(STORE_TIMEOUT):
            await self._wait_stored()
        await self.gateway.clients.aclose()
        await self.gateway.keeper.aclose()
        self._nursery.cancel_scope.cancel()

    async def _wait_stored(self) -> None:
        """Wait until the supervisor has every record on its disk, which it says in answer to a beat, or is gone."""
        while self._link.unstored and not (self._orphaned or self._link.up.broken):
            self.gateway.beat(len(self.server.connections), rss_bytes(), 0.0)
            await trio.sleep(POLL)

    async def _wait_quiet(self, timeout: float) -> None:
        deadline = trio.current_time() + timeout
        while (self.gateway.sessions or self.server.connections) and trio.current_time() < deadline:
            self.server.close_idle()
            await trio.sleep(POLL)
