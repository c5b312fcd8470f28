"""The fleet of workers: carries out the plan, and tells it what happened.

One loop looks at the workers, asks `plan` and `heartbeat`, acts, and sleeps until something changes or is due.  Every
worker has one task, from the request to the fork server to the last line about its end.
"""

import dataclasses
import time
from collections.abc import Collection, Sequence
from typing import assert_never

import msgspec
import trio
from msgspec import Struct

from shared.config import Config
from shared.entry import WorkerStart
from shared.errors import StartError
from shared.events import WorkerRestarted
from shared.logs import get_logger
from shared.messages import Accept, Configure
from shared.paths import Paths
from supervisor import heartbeat
from supervisor.backoff import Slots
from supervisor.control import WorkerStatus
from supervisor.forkserver import ForkServer, WorkerProcess
from supervisor.hub import Hub
from supervisor.ledger import Ledger
from supervisor.link import Link, RecordStore
from supervisor.listen import Listener, close_listeners
from supervisor.plan import KILL_GRACE, Desired, Drain, DrainMode, Kill, Start, WorkerView, plan

UNKILLABLE = 5.0
"""A stop waits so long for killed workers to be gone; one that hangs in the kernel must not keep the service."""

log = get_logger()


class Settings(Struct, frozen=True, kw_only=True):
    """What workers are started with."""

    config: Config
    keys: dict[str, str]
    listeners: tuple[Listener, ...]
    generation: int = 1
    login_secret: bytes = b""


class Fleet:
    """All workers.  `run` is its one task; everything else are plain calls from the same trio."""

    def __init__(
        self,
        server: ForkServer,
        settings: Settings,
        *,
        ledger: Ledger,
        store: RecordStore,
        hub: Hub,
        supervisor_pid: int,
        paths: Paths,
        held: bool = False,
        keep_files: bool = False,
    ) -> None:
        """`held`: the workers wait with accepting until `accept`.  `keep_files`: a stop leaves the files of UNIX
        sockets, as somebody else holds the sockets."""
        self._server = server
        self._ledger = ledger
        self._store = store
        self._hub = hub
        self._supervisor_pid = supervisor_pid
        self._paths = paths
        self._held = held
        self._keep_files = keep_files
        self._clock = heartbeat.AwakeClock(trio.current_time())
        self._asked_for: set[Start] = set()
        self._links: dict[int, Link] = {}
        self._tasks = 0
        self._slots = Slots()
        self._died: dict[int, str] = {}
        """Slot → how its worker ended, until another one is ready there."""
        self._stop_at: float | None = None
        self._stop_mode: DrainMode = "shutdown"
        self._removed: tuple[Listener, ...] = ()
        self.settings = settings
        self.changed = trio.Event()
        """Set at the next change of any worker's state, then replaced by a new one."""
        self.was_ready = False
        """A worker has been ready at some time since the start."""
        self.failure: str | None = None
        """Why the fleet gave up: no worker ever got ready."""

    # What others ask

    @property
    def stopping(self) -> bool:
        """No new workers; those that live drain."""
        return self._stop_at is not None

    @property
    def serving(self) -> int:
        """How many workers take requests."""
        return sum(link.state == "serving" for link in self._links.values())

    @property
    def crash_loop(self) -> str | None:
        """A sentence about slots that can't be filled, if there are any."""
        return self._slots.crash_loop

    @property
    def restarts(self) -> int:
        """How many workers died unasked since the start."""
        return self._slots.all_restarts

    @property
    def open_listeners(self) -> tuple[Listener, ...]:
        """Every listening socket that is open here, those included that only the older generation still uses."""
        return self.settings.listeners + self._removed

    def statuses(self) -> list[WorkerStatus]:
        """One for each living worker, by slot, the older generation first."""
        links = sorted(self._links.values(), key=lambda link: (link.slot, link.generation, link.born))
        return [link.status(self._slots.restarts(link.slot)) for link in links]

    def dump_stacks(self) -> int:
        """Have every worker write its stacks; how many were asked.  Safe in a signal handler."""
        links = [link for link in list(self._links.values()) if link.was_ready]
        for link in links:
            link.dump_stacks()
        return len(links)

    # What others order

    def configure(self, config: Config, keys: dict[str, str], listeners: Sequence[Listener], *, roll: bool) -> None:
        """Put a new configuration in force: at once in every worker, and for those to come.

        `roll` also replaces the workers one by one.  Listeners that are no longer among `listeners` are closed when
        nobody serves them any more.
        """
        keep = {listener.socket for listener in listeners}
        self._removed = tuple(listener for listener in self.open_listeners if listener.socket not in keep)
        generation = self.settings.generation + (1 if roll else 0)
        self.settings = msgspec.structs.replace(
            self.settings, config=config, keys=keys, listeners=tuple(listeners), generation=generation
        )
        self._hub.configure(config)
        for link in self._links.values():
            link.send(Configure(config, keys))
        self._slots.forgive()
        self._notify()

    def accept(self, listeners: Sequence[Listener]) -> None:
        """The service is ours now, the files of `listeners`, the same sockets as so far, included."""
        self._held = False
        self.settings = msgspec.structs.replace(self.settings, listeners=tuple(listeners))
        for link in self._links.values():
            link.send(Accept())

    def stop(self, timeout: float) -> None:
        """Drain every worker within `timeout` seconds; `run` then returns.  A later call may shorten it."""
        self._stop_mode = "shutdown"
        self._stop_within(timeout)

    def retire(self, timeout: float, handed_over: Collection[Listener]) -> None:
        """The same, while another supervisor's workers accept from the sockets `handed_over`: they own the files."""
        listeners = tuple(
            dataclasses.replace(listener, inode=None) if listener in handed_over else listener
            for listener in self.settings.listeners
        )
        self.settings = msgspec.structs.replace(self.settings, listeners=listeners)
        self._stop_mode = "retire"
        self._stop_within(timeout)

    def _stop_within(self, timeout: float) -> None:
        stop_at = trio.current_time() + timeout
        self._stop_at = stop_at if self._stop_at is None else min(stop_at, self._stop_at)
        self._notify()

    # The loop

    async def run(self) -> None:
        """Keep the fleet as desired until `stop`, or until it gives up with `failure`; closes the listeners."""
        try:
            async with trio.open_nursery() as nursery:
                while not self._is_over():
                    changed = self.changed
                    due = self._act(nursery, trio.current_time())
                    with trio.move_on_at(due):
                        await changed.wait()
                nursery.cancel_scope.cancel()
        finally:
            close_listeners(self.open_listeners, keep_files=self._keep_files)

    def _act(self, nursery: trio.Nursery, now: float) -> float:
        """Do what is due; the time at which to look again even if nothing happens."""
        look_again = self._check_pulses(now)
        decision = plan(self._desired(), self._views(), self._slots.backoffs, now)
        for action in decision.actions:
            match action:
                case Start():
                    self._asked_for.add(action)
                    self._tasks += 1
                    nursery.start_soon(self._run_worker, action)
                case Drain(pid, mode, deadline):
                    self._links[pid].drain(mode, deadline)
                case Kill(pid):
                    self._links[pid].kill("it did not exit in time")
                case _:
                    assert_never(action)
        self._close_unserved_listeners()
        return look_again if decision.wake_at is None else min(look_again, decision.wake_at)

    def _is_over(self) -> bool:
        if self._stop_at is None:
            return False
        if trio.current_time() > self._stop_at + KILL_GRACE + UNKILLABLE:
            log.error("workers_unkillable", pids=sorted(self._links))
            return True
        return self._tasks == 0

    def _desired(self) -> Desired:
        server = self.settings.config.server
        return Desired(
            workers=server.workers,
            generation=self.settings.generation,
            drain_timeout=server.retire_timeout,
            stop_at=self._stop_at,
            stop_mode=self._stop_mode,
        )

    def _views(self) -> list[WorkerView]:
        asked_for = [
            WorkerView(slot=start.slot, generation=start.generation, pid=None, state="starting")
            for start in self._asked_for
        ]
        return asked_for + [link.view() for link in self._links.values()]

    def _check_pulses(self, now: float) -> float:
        """Deal with workers that don't beat; the time of the next look."""
        awake = self._clock.read(now)
        timeout = self.settings.config.server.worker_timeout
        due = now + heartbeat.TICK
        for link in self._links.values():
            silence = awake - link.last_heard
            match heartbeat.verdict(silence, None if link.stuck_since is None else now - link.stuck_since, timeout):
                case "dump":
                    link.declare_stuck(silence)
                    self._notify()
                case "last_words":
                    link.ask_last_words()
                case "kill":
                    link.kill("it was stuck")
            if link.stuck_since is not None:
                due = min(due, now + heartbeat.LAST_WORDS_TIME / 2)
        return due

    def _close_unserved_listeners(self) -> None:
        """Close what nobody will accept from again, so that new connections are refused instead of left waiting."""
        if self._asked_for:  # the fork server may be taking the descriptors right now
            return
        if self._stop_at is not None:
            close_listeners(self.open_listeners, keep_files=self._keep_files)
            self.settings = msgspec.structs.replace(self.settings, listeners=())
            self._removed = ()
        elif self._removed and not any(
            link.generation != self.settings.generation and link.state in ("starting", "serving")
            for link in self._links.values()
        ):
            close_listeners(self._removed)
            self._removed = ()

    # One worker

    async def _run_worker(self, start: Start) -> None:
        try:
            settings, held = self.settings, self._held
            process = await self._spawn(start, settings, held)
            if process is not None:
                await self._live(start, process, settings, held)
        finally:
            self._tasks -= 1
            self._notify()

    async def _spawn(self, start: Start, settings: Settings, held: bool) -> WorkerProcess | None:
        birth = WorkerStart(
            worker=start.slot,
            generation=start.generation,
            supervisor_pid=self._supervisor_pid,
            config=settings.config,
            keys=settings.keys,
            spool=str(self._paths.spool),
            held=held,
            database=str(self._paths.database),
            login_secret=settings.login_secret,
        )
        try:
            return await self._server.spawn(birth, [listener.socket for listener in settings.listeners])
        except StartError as error:
            log.error("worker_start_failed", worker=start.slot, error=str(error))
            self._blame(start.slot, lived=0.0, ready=False)
            return None
        finally:
            self._asked_for.discard(start)
            self._notify()

    async def _live(self, start: Start, process: WorkerProcess, settings: Settings, held: bool) -> None:
        """From a new process to the last line about it."""
        link = Link(
            process,
            slot=start.slot,
            generation=start.generation,
            ledger=self._ledger,
            store=self._store,
            hub=self._hub,
            clock=self._clock,
            on_ready=lambda: self._take_ready(start.slot, process.pid),
            on_worn=self._notify,
        )
        self._links[link.pid] = link
        log.info("worker_start", worker=link.slot, pid=link.pid, generation=link.generation)
        if self.settings is not settings:
            link.send(Configure(self.settings.config, self.settings.keys))
        if held and not self._held:
            link.send(Accept())
        try:
            await link.run()
        finally:
            del self._links[link.pid]
            self._notify()
        lived = trio.current_time() - link.born
        if not link.asked_to_leave:
            self._died[link.slot] = "it died" if link.stuck_since is None else "it was stuck"
            self._blame(link.slot, lived=lived, ready=link.was_ready)
        code = await process.exit_code()
        process.close()
        log.info(
            "worker_exit",
            worker=link.slot,
            pid=link.pid,
            code="unknown" if code is None else code,
            lived=round(lived, 3),
            asked=link.asked_to_leave,
        )

    def _take_ready(self, slot: int, pid: int) -> None:
        self.was_ready = True
        self._slots.take_ready(slot)
        if reason := self._died.pop(slot, None):
            event = WorkerRestarted(timestamp=time.time(), worker=slot, pid=pid, reason=reason)
            self._hub.fanout.publish(event)
        self._notify()

    def _blame(self, slot: int, *, lived: float, ready: bool) -> None:
        """Count a death that nobody asked for; give up if the service has never served and never will."""
        was_looping = self.crash_loop
        self._slots.take_death(slot, trio.current_time(), lived, ready=ready)
        verdict = self.crash_loop
        if verdict is not None and was_looping is None:
            log.error("crash_loop", worker=slot, verdict=verdict)
        if verdict is not None and not self.was_ready and not self.stopping:
            self.failure = verdict
            self.stop(0.0)

    def _notify(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()
