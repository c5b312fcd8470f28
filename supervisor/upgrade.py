"""Handing the service over to a new supervisor: `kimi-proxy restart`, and with it an upgrade.

    Upgrade ──▶ start the heir ──▶ wait until it is ready ──▶ hand over ──▶ retire, and tell it of the last streams
                      └── it fails, is killed, or takes too long ──▶ go on as if nothing had happened

The protocol is `supervisor.handover`'s, the process and the link to it `supervisor.heirprocess`'.
"""

import os
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

import trio

from shared.errors import StartError
from shared.logs import get_logger
from shared.messages import Admit, Beat, StreamEnded, StreamStarted, Trouble, Up
from shared.paths import Paths
from supervisor.control import STOPPING, Done, Refused, Reply, Upgrade
from supervisor.elder import ElderWorker
from supervisor.fleet import Fleet
from supervisor.handover import Cancel, Reload, Said, Stop, Take, Taken, WorkerLeft, Yours
from supervisor.heirprocess import HeirProcess
from supervisor.hub import Hub, Peer
from supervisor.listen import Listener
from supervisor.reload import Outcome, Reloads

READY_TIMEOUT = 60.0
TAKE_TIMEOUT = 10.0
_OF_THE_PROCESS = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
_OF_THE_MANAGER = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE", "SYSTEMD_EXEC_PID", "JOURNAL_STREAM")
"""What the service manager told us of the service is true of the heir, too, whatever environment it gets."""

log = get_logger()


class Office(Protocol):
    """What only one supervisor of a service has; no call waits."""

    def share(self) -> None:
        """Let the heir join us."""

    def keep(self) -> None:
        """It is gone again."""

    def leave(self, heir: int) -> None:
        """It is the heir's, whose pid this is: the lock, the command line's socket, the service manager's ear."""


class Upgrades:
    """See the module.  `env` is what the service was started with, `on_stop` is told the heir's `Stop`."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        hub: Hub,
        reloads: Reloads,
        office: Office,
        paths: Paths,
        env: Mapping[str, str],
        on_stop: Callable[[float], None],
    ) -> None:
        self._fleet = fleet
        self._hub = hub
        self._reloads = reloads
        self._office = office
        self._paths = paths
        self._env = env
        self._on_stop = on_stop
        self._heir: HeirProcess | None = None
        self._attempt = trio.CancelScope()
        self._answered = trio.Event()
        self._answered.set()
        self._nursery: trio.Nursery | None = None
        self.done = False
        """The service is the heir's."""

    async def run(self) -> None:
        """Own what a hand-over leaves running; for ever."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    async def upgrade(self, request: Upgrade) -> Reply:
        """Hand the service over; returns when the heir serves, or when it is clear that it won't."""
        if (why_not := self._why_not()) is not None:
            return Refused(why_not)
        log.info("upgrade_start", command=shlex.join(request.argv))
        self._heir = heir = HeirProcess()
        self._attempt, self._answered = trio.CancelScope(), trio.Event()
        problem = STOPPING
        try:
            async with self._reloads.paused():
                with self._attempt:
                    try:
                        kept = await self._raise(heir, request)
                        await self._commit(heir, kept)
                    except StartError as error:
                        problem = str(error)
        finally:
            if not self.done:
                self._hub.mirror = None
                with trio.CancelScope(shield=True):
                    await heir.end()
                self._heir = None
                self._office.keep()
            # Nothing waits from here until whoever asked has been told.
            self._answered.set()
        if not self.done:
            action = "the service goes on as it was"
            if self._fleet.stopping:
                problem, action = STOPPING, "the new supervisor has been ended"
            log.error("upgrade_failed", error=problem, action=action)
            return Refused(problem)
        streams = self._hub.active_streams
        log.info("upgrade_done", pid=heir.pid, streams=streams)
        left = f"{streams} stream{'s' if streams != 1 else ''} of pid {os.getpid()} go{'es' if streams == 1 else ''} on"
        rest = f"{left} until the end" if streams else f"pid {os.getpid()} had no stream left"
        return Done(f"kimi-proxy {heir.version} serves as pid {heir.pid}; {rest}")

    def abandon(self) -> None:
        """The service stops: give up the attempt that is going on, if there is one."""
        self._attempt.cancel()

    def reload_heir(self) -> None:
        """A SIGHUP that was meant for the service reached us, whose it no longer is."""
        if self._heir is not None:
            self._heir.send(Reload())

    async def flush(self) -> None:
        """At the end: tell whoever asked, and the heir, what they have not heard yet."""
        await self._answered.wait()
        if self._heir is not None:
            await self._heir.flush()

    # How it goes

    def _why_not(self) -> str | None:
        if self.done:
            return "the service has just been handed over; ask again"
        if self._fleet.stopping:
            return STOPPING
        if self._heir is not None:
            return "another restart is going on; wait until it has ended"
        if not self._fleet.was_ready:
            return "the service is still starting; try again in a moment"
        if os.getpid() == 1:
            return "the service is process 1 of a container, which ends with it: restart the container"
        return None

    async def _raise(self, heir: HeirProcess, request: Upgrade) -> list[Listener]:
        """Start the heir and wait until it is ready: those of our sockets that it goes on with."""
        listeners = self._fleet.settings.listeners
        config = request.config or self._fleet.settings.config.source
        command = [*request.argv, *(["--config", config] if config else [])]
        with trio.move_on_after(READY_TIMEOUT):
            await heir.start(command, self._environment(request), request.cwd, self._log_file(), listeners)
            kept = await heir.wait_ready()
            return [listener for listener in listeners if listener.socket.fileno() in kept]
        raise StartError(f"the new supervisor was not ready within {READY_TIMEOUT:g} s; see the log")

    async def _commit(self, heir: HeirProcess, kept: Collection[Listener]) -> None:
        """Up to `Taken` there is a way back; from there on nothing waits, and so nothing comes in between."""
        assert self._nursery is not None
        self._nursery.start_soon(heir.run_writer)
        self._office.share()
        self._hub.mirror = self._mirror
        heir.send(Take())
        for peer, message in self._hub.open_streams():
            self._mirror(peer, message)
        taken = None
        with trio.move_on_after(TAKE_TIMEOUT):
            taken = await heir.receive()
        if not isinstance(taken, Taken):
            raise heir.death()
        self.done = True
        self._fleet.retire(self._fleet.settings.config.server.retire_timeout, kept)
        self._office.leave(heir.pid)
        heir.send(Yours())
        if self._reloads.dismiss(Outcome(True, f"pid {heir.pid} has just taken over, and reads it again")):
            heir.send(Reload())
        self._nursery.start_soon(self._obey, heir)

    async def _obey(self, heir: HeirProcess) -> None:
        while (message := await heir.receive()) is not None:
            match message:
                case Cancel(pid, id, reason):
                    self._hub.cancel(pid, id, reason)
                case Stop(timeout):
                    self._on_stop(timeout)
                case _:
                    pass
        log.warning("heir_gone", pid=heir.pid)

    def _mirror(self, peer: Peer, message: Up | None) -> None:
        """What the heir has to know of what our workers say, and those of our own elder."""
        if self._heir is None:
            return
        if message is None:
            self._heir.send(WorkerLeft(peer.pid))
        elif isinstance(message, StreamStarted | StreamEnded | Beat | Trouble) or (
            isinstance(message, Admit) and message.session is not None
        ):
            supervisor = peer.supervisor if isinstance(peer, ElderWorker) else os.getpid()
            self._heir.send(Said(supervisor, peer.pid, peer.slot, message))

    def _environment(self, request: Upgrade) -> dict[str, str]:
        # systemd tells a service its own pid; what it set up must not give way to the shell of whoever upgrades.
        managed = self._env.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        if request.env is None or managed:
            env = dict(self._env)
        else:
            ours = {name: self._env[name] for name in _OF_THE_MANAGER if name in self._env}
            theirs = {name: value for name, value in request.env.items() if name not in _OF_THE_MANAGER}
            folders = {
                "STATE_DIRECTORY": os.fspath(self._paths.state),
                "RUNTIME_DIRECTORY": os.fspath(self._paths.runtime),
                "LOGS_DIRECTORY": os.fspath(self._paths.logs),
            }
            env = theirs | ours | folders
        return {name: value for name, value in env.items() if name not in _OF_THE_PROCESS}

    def _log_file(self) -> Path | None:
        """Where the heir writes its log if it can't go on with ours: a terminal is its user's."""
        return self._paths.log_file if os.isatty(2) else None
