"""What a soak does to the service, one thing after the other, and what of it explains that clients were cut off."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio
from fakes.service import REPOSITORY, wait_until
from fakes.soak.plan import Injection
from fakes.soak.service import Managed

SETTLE = 90.0
"""How long the service may take to be itself again."""


@dataclass(eq=False)
class Done:
    """An injection that has been carried out.  Times are epoch seconds."""

    injection: Injection
    began: float
    ended: float = 0.0
    detail: str = ""

    @property
    def recovery(self) -> float:
        return self.ended - self.began


@dataclass(eq=False)
class Victim:
    """A worker that was killed on purpose, and the clients' ports of what it held then."""

    at: float
    slot: int
    ports: set[int]
    dead: float = math.inf
    """When it was; one that was stopped is killed by its supervisor, some seconds later."""


@dataclass
class History:
    """What was done, and what that explains."""

    done: list[Done] = field(default_factory=list)
    victims: list[Victim] = field(default_factory=list)
    down: list[tuple[float, float]] = field(default_factory=list)
    """From when to when nobody listened."""
    leaving: list[tuple[float, float]] = field(default_factory=list)
    """From when to when a supervisor's workers were leaving: streams may be ended with a shutdown's error."""
    problems: list[str] = field(default_factory=list)
    """What did not come back as it should."""


@dataclass(eq=False)
class Upstream:
    """An upstream's process."""

    kind: str
    port: int
    log: Path
    process: "subprocess.Popen[bytes]"

    async def order(self, what: str) -> int:
        """`drop` or `open`; how many requests are open."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what.encode() + b"\n")
        self.process.stdin.flush()
        return int(await trio.to_thread.run_sync(self.process.stdout.readline))

    def end(self) -> None:
        """Let it end; its log is whole then."""
        self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start_upstream(kind: str, folder: Path) -> Upstream:
    """A process of `fakes.soak.upstream`."""
    log = folder / f"{kind}.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "fakes.soak.upstream", kind, os.fspath(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
        start_new_session=True,
    )
    assert process.stdout is not None
    return Upstream(kind, int(process.stdout.readline()), log, process)


class Faults:
    """Carries injections out.  `config` makes a configuration for so many workers."""

    def __init__(self, service: Managed, upstreams: list[Upstream], config: Callable[[int], str], workers: int) -> None:
        self.history = History()
        self.workers = workers
        self._service = service
        self._upstreams = upstreams
        self._config = config

    async def run(self, plan: Iterator[Injection], until: float) -> None:
        """One after the other, each to its end, until this time (`trio.current_time`)."""
        for injection in plan:
            if trio.current_time() + injection.pause >= until:
                return
            await trio.sleep(injection.pause)
            await self.inject(injection)

    async def inject(self, injection: Injection) -> None:
        """One, and wait until as many workers serve as should."""
        acts: dict[str, Callable[[Injection], Awaitable[str]]] = {
            "kill worker": self._kill_worker,
            "kill fork server": self._kill_fork_server,
            "pause worker": self._pause_worker,
            "stop worker": self._stop_worker,
            "reload": self._reload,
            "bad config": self._bad_config,
            "half config": self._half_config,
            "storm": self._storm,
            "dump stacks": self._dump_stacks,
            "lock database": self._lock_database,
            "drop upstreams": self._drop_upstreams,
            "pause upstream": self._pause_upstream,
            "hand over": self._hand_over,
            "restart": self._restart,
            "kill supervisor": self._kill_supervisor,
        }
        done = Done(injection, time.time())
        self.history.done.append(done)
        try:
            done.detail = await acts[injection.fault](injection)
            await self._service.wait_slots(self.workers, SETTLE)
        except AssertionError as error:
            found = [(process.pid, process.status(), process.cmdline()[-1:]) for process in self._service.processes()]
            self.history.problems.append(f"{injection.fault}: {error}; processes: {found}")
            with suppress(ProcessLookupError):
                self._service.send_signal(signal.SIGUSR1)
        done.ended = time.time()

    async def _victim(self, injection: Injection) -> tuple[psutil.Process, int]:
        """A worker, and its slot."""
        serving = sorted(await self._service.serving(), key=lambda worker: worker.worker)
        assert serving, "no worker serves"
        chosen = serving[int(injection.choice * len(serving))]
        return psutil.Process(chosen.pid), chosen.worker

    async def _suspend(self, worker: psutil.Process) -> set[int]:
        """Stop it; the clients' ports of what it holds, which is known exactly then."""
        worker.suspend()
        await wait_until(lambda: worker.status() == psutil.STATUS_STOPPED, "a stopped worker", poll=0.002)
        found = worker.net_connections("tcp")
        return {one.raddr.port for one in found if one.raddr and one.laddr.port == self._service.port}

    async def _kill_worker(self, injection: Injection) -> str:
        worker, slot = await self._victim(injection)
        ports = await self._suspend(worker)
        victim = Victim(time.time(), slot, ports)
        self.history.victims.append(victim)
        worker.kill()
        await wait_until(lambda: not _lives(worker), "a dead worker")
        victim.dead = time.time()
        return f"pid {worker.pid} with {len(ports)} connections"

    async def _kill_fork_server(self, injection: Injection) -> str:
        try:
            pid = self._service.fork_server_pid()
        except ValueError:
            return "none has been needed since the last one was killed"
        psutil.Process(pid).kill()
        return f"pid {pid}"

    async def _pause_worker(self, injection: Injection) -> str:
        worker, _ = await self._victim(injection)
        worker.suspend()
        await trio.sleep(injection.seconds)
        worker.resume()
        return f"pid {worker.pid} for {injection.seconds:.1f} s"

    async def _stop_worker(self, injection: Injection) -> str:
        """Until the supervisor finds that it hangs, and kills it."""
        worker, slot = await self._victim(injection)
        ports = await self._suspend(worker)
        victim = Victim(time.time(), slot, ports)
        self.history.victims.append(victim)
        await wait_until(lambda: not _lives(worker), "the end of a worker that hangs", SETTLE)
        victim.dead = time.time()
        return f"pid {worker.pid} with {len(ports)} connections"

    async def _reload(self, injection: Injection) -> str:
        self.workers = injection.workers
        self._service.write_config(self._config(injection.workers))
        await self._service.reload()
        return f"{injection.workers} workers"

    async def _bad_config(self, injection: Injection) -> str:
        self._service.write_config(self._config(self.workers).replace("[server]", "[servor]", 1))
        await self._service.reload()
        self._service.write_config(self._config(self.workers))
        return "refused" if self._service.reloads()[-1] == "reload_failed" else "NOT refused"

    async def _half_config(self, injection: Injection) -> str:
        """As an editor without care writes it: the file is there, but not yet all of it."""
        text = self._config(self.workers)
        cut = text.index('base_url = "') + 14
        self._service.config_file.write_text(text[:cut])
        await self._service.reload()
        outcome = self._service.reloads()[-1]
        self._service.config_file.write_text(text)
        await self._service.reload()
        return "refused" if outcome == "reload_failed" else "NOT refused"

    async def _storm(self, injection: Injection) -> str:
        for number in range(20):
            self._service.send_signal(signal.SIGUSR1 if number % 5 == 4 else signal.SIGHUP)
            await trio.sleep(0.01)
        await self._service.reload()
        return "16 SIGHUP, 4 SIGUSR1"

    async def _dump_stacks(self, injection: Injection) -> str:
        self._service.send_signal(signal.SIGUSR1)
        return ""

    async def _lock_database(self, injection: Injection) -> str:
        with self._service.locked_database():
            await trio.sleep(injection.seconds)
        return f"for {injection.seconds:.1f} s"

    async def _drop_upstreams(self, injection: Injection) -> str:
        upstream = self._upstreams[int(injection.choice * len(self._upstreams))]
        return f"{upstream.kind}, {await upstream.order('drop')} open requests"

    async def _pause_upstream(self, injection: Injection) -> str:
        upstream = self._upstreams[int(injection.choice * len(self._upstreams))]
        upstream.process.send_signal(signal.SIGSTOP)
        await trio.sleep(injection.seconds)
        upstream.process.send_signal(signal.SIGCONT)
        return f"{upstream.kind} for {injection.seconds:.1f} s"

    async def _hand_over(self, injection: Injection) -> str:
        before = self._service.pid
        await self._service.hand_over()
        return f"pid {before} to pid {self._service.pid}"

    async def _restart(self, injection: Injection) -> str:
        began = time.time()
        self._service.send_signal(signal.SIGTERM)
        code = await self._service.wait_exit(self._service.graceful_timeout + 15.0)
        assert code == 0, f"exit code {code}"
        await self._start(began)
        return ""

    async def _kill_supervisor(self, injection: Injection) -> str:
        began = time.time()
        await self._service.wait_slots(self.workers, SETTLE)
        self._service.kill()
        await self._start(began)
        return ""

    async def _start(self, began: float) -> None:
        self._service.launch()
        await self._service.wait_ready()
        now = time.time()
        self.history.down.append((began, now))
        self.history.leaving.append((began, now + 5.0))


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
