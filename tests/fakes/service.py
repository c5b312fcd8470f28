"""The real service as a child process, with everything a test needs to look at it and to hurt it.

    async with run_service(folder, config) as service:      # READY=1 has been heard
        await service.status()
        service.send_signal(signal.SIGHUP)

On leaving, the service is stopped if it still runs, its exit code must be 0, its log free of crashes, every stream in
its log must have one record, and no process of it may be left.
"""

import contextlib
import inspect
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import trio
from fakes.marked import marked_folders

from shared.paths import Paths, resolve_paths
from supervisor.cli.client import request
from supervisor.control import Status, StatusReply, WorkerStatus

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 15.0
POLL = 0.02
MARK = "KIMI_PROXY_TEST_SERVICE"
CRASHES = ("Traceback", "request_crashed", "stream_crashed", "connection_crashed", "storage_error", "worker_garbage")


async def wait_until(
    condition: Callable[[], T | Awaitable[T]], what: str = "", timeout: float = TIMEOUT, poll: float = POLL
) -> T:
    """Ask `condition`, plain or async, until its answer is true; that answer.  Fails after `timeout` seconds."""
    deadline = trio.current_time() + timeout
    while True:
        found = condition()
        answer: Any = await found if inspect.isawaitable(found) else found
        if answer:
            return answer
        assert trio.current_time() < deadline, f"not within {timeout:g} s: {what or inspect.getsource(condition)}"
        await trio.sleep(poll)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def config_text(
    port: int,
    upstream: str | None = None,
    *,
    anthropic: str | None = None,
    server: Mapping[str, object] | None = None,
    provider: Mapping[str, object] | None = None,
    more: str = "",
) -> str:
    """A configuration with two workers; `more` is added as it is.

    Its providers are `fake` at `upstream`, and `claude`, which speaks Anthropic's dialect, at `anthropic`; `provider`
    holds for both.  Without any there is only `echo`.
    """
    lines = ["[server]", f'bind = ["127.0.0.1:{port}"]']
    lines += _keys({"workers": 2, "graceful_timeout": 5.0, **(server or {})})
    for name, base_url, dialect in (("fake", upstream, "openai"), ("claude", anthropic, "anthropic")):
        if base_url is not None:
            head = [f"[providers.{name}]", f'base_url = "{base_url}"', f'dialect = "{dialect}"']
            lines += [*head, *_keys(provider or {})]
    return "\n".join([*lines, more, ""])


def _keys(values: Mapping[str, object]) -> list[str]:
    def written(value: object) -> str:
        return str(value).lower() if isinstance(value, bool | int | float) else f'"{value}"'

    return [f"{name} = {written(value)}" for name, value in values.items()]


class Service:
    """See the module.  `folder` holds all its files; `env` is added to a bare environment."""

    def __init__(self, folder: Path, config: str | None, *, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.config_file = folder / "config.toml"
        self.log_file = folder / "log"
        self.mark = uuid.uuid4().hex
        self.notifications: list[tuple[float, dict[str, str]]] = []
        """What the service manager heard, with trio's time."""
        self.excused: set[str] = set()
        """Of `CRASHES`: what a test has brought about itself."""
        self.log_reader = -1
        """The reading end of its log, where a test has made that a pipe."""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notify.bind(os.fspath(folder / "notify"))
        self._process: subprocess.Popen[bytes] | None = None
        self.arguments = ["run"]
        self.command = [sys.executable, "-m", "supervisor"]
        if config is not None:
            self.write_config(config)
            self.arguments += ["--config", os.fspath(self.config_file)]
        self.env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.fspath(folder),
            "PYTHONPATH": os.fspath(REPOSITORY),
            "STATE_DIRECTORY": os.fspath(folder / "s"),
            "RUNTIME_DIRECTORY": os.fspath(folder / "r"),
            "LOGS_DIRECTORY": os.fspath(folder / "l"),
            "NOTIFY_SOCKET": os.fspath(folder / "notify"),
            MARK: self.mark,
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
            **(env or {}),
        }

    # Its life

    def launch(self, *, pass_fds: tuple[int, ...] = ()) -> None:
        """Start the supervisor (again)."""
        self.notifications.clear()
        self._log_began = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.command, *self.arguments],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    async def listen(self) -> None:
        """Hear what the service tells its manager; for ever."""
        sock = trio.socket.from_stdlib_socket(self._notify)
        while True:
            message = (await sock.recv(65536)).decode()
            pairs = dict(line.partition("=")[::2] for line in message.splitlines())
            self.notifications.append((trio.current_time(), pairs))

    def heard(self, name: str) -> list[str]:
        """The values of one variable in the notifications, in order."""
        return [pairs[name] for _, pairs in self.notifications if name in pairs]

    async def wait_ready(self) -> None:
        """Wait for READY=1; fails if the service gives up before."""
        await wait_until(lambda: self.heard("READY") or self.exit_code is not None, "READY=1")
        assert self.exit_code is None, f"exit code {self.exit_code}:\n{self.log()}"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def send_signal(self, signum: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(signum)

    def signal_group(self, signum: signal.Signals) -> None:
        """Send the signal to the supervisor's process group, as a terminal does."""
        os.killpg(self.pid, signum)

    async def wait_exit(self, timeout: float = TIMEOUT) -> int:
        """The exit code, once it has ended."""
        await wait_until(lambda: self.exit_code is not None, "the supervisor's exit", timeout)
        assert self.exit_code is not None
        return self.exit_code

    async def stop(self, signum: signal.Signals = signal.SIGTERM) -> None:
        """Stop it as its manager would; exit code 0, no crashes, no processes left, every stream accounted for."""
        if self.exit_code is None:
            self.send_signal(signum)
        assert await self.wait_exit() == 0, self.log()
        await wait_until(lambda: not self.processes(), f"all processes gone; left: {self.processes()}")
        self.check_log()
        self.check_accounts()

    def kill_everything(self) -> None:
        """Leave no process, whatever happened; nor one that was forked meanwhile."""
        for _ in range(10):
            found = self.processes()
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if self._process is not None:
                self._process.kill()  # its environment, and so its mark, is empty while it is being executed
                self._process.wait()
            psutil.wait_procs(found, timeout=2)
            if not found:
                break
        self._notify.close()

    # Its looks

    @property
    def paths(self) -> Paths:
        return resolve_paths(self.env)

    async def status(self) -> StatusReply:
        """What `kimi-proxy status` shows."""
        reply = await trio.to_thread.run_sync(request, self.paths, Status(), 5.0)
        assert isinstance(reply, StatusReply)
        return reply

    async def serving(self) -> list[WorkerStatus]:
        """The workers that take requests."""
        return [worker for worker in (await self.status()).workers if worker.state == "serving"]

    async def worker_pids(self) -> list[int]:
        """Of all workers, in any state, by slot."""
        return [worker.pid for worker in (await self.status()).workers]

    async def wait_serving(self, count: int, timeout: float = TIMEOUT) -> list[int]:
        """Wait until exactly `count` workers live, all of which serve; their pids."""

        async def found() -> list[int]:
            workers = (await self.status()).workers
            if len(workers) == count and all(worker.state == "serving" for worker in workers):
                return [worker.pid for worker in workers]
            return []

        return await wait_until(found, f"{count} workers that serve", timeout, poll=0.05)

    def processes(self) -> list[psutil.Process]:
        """Every living process of this service, workers and fork server included."""
        found = []
        for entry in marked_folders(MARK, self.mark):
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                process = psutil.Process(int(entry.name))
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    found.append(process)
        return found

    def fork_server_pid(self) -> int:
        """The process that the supervisor forks its workers from."""
        [pid] = [
            process.pid
            for process in self.processes()
            if process.ppid() == self.pid and "forkserver" in " ".join(process.cmdline())
        ]
        return pid

    def log(self) -> str:
        """All that it has ever written."""
        return self.log_file.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, str]]:
        """The log lines of one event since the last start; values are as they stand, without their quotes."""
        log = self.log_file.read_bytes()[self._log_began :].decode(errors="replace")
        lines = re.findall(rf"^timestamp=\S+ level=\S+ event={name}(?: .*)?$", log, re.MULTILINE)
        return [dict(_fields(line)) for line in lines]

    @contextlib.contextmanager
    def locked_database(self) -> Iterator[None]:
        """The database can't be written meanwhile, as when another process forgot to commit."""
        with contextlib.closing(sqlite3.connect(self.paths.database, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")

    def records(self) -> list[dict[str, Any]]:
        """The rows of the database, in the order of their streams' beginnings."""
        with contextlib.closing(sqlite3.connect(f"file:{self.paths.database}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM streams ORDER BY started")]

    async def wait_records(self, count: int, timeout: float = TIMEOUT) -> list[dict[str, Any]]:
        """Wait until the database holds `count` rows; fails at once if it holds more."""
        await wait_until(lambda: len(self.records()) >= count, f"{count} records", timeout)
        records = self.records()
        assert len(records) == count
        return records

    async def record(self, trace: str) -> dict[str, Any]:
        """The one record of the stream with this request id, once it is there."""
        [record] = await wait_until(
            lambda: [record for record in self.records() if record["trace"] == trace], f"the record of {trace}"
        )
        return record

    # Its configuration

    def write_config(self, text: str) -> None:
        """Replace the configuration file in one step."""
        new = self.config_file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config_file)

    async def reload(self) -> None:
        """SIGHUP, and wait until the reload it asked for has ended, well or badly."""
        before = len(self.reloads())
        self.send_signal(signal.SIGHUP)
        await wait_until(lambda: len(self.reloads()) > before, "the end of a reload")

    def reloads(self) -> list[str]:
        """The outcome of each reload so far."""
        return re.findall(r"event=(reload_\w+)", self.log())

    # What must be true at the end

    def check_log(self) -> None:
        """No part of the service has crashed."""
        log = self.log()
        assert not [crash for crash in CRASHES if crash in log and crash not in self.excused], log[-20_000:]

    def check_accounts(self) -> None:
        """Every stream that the log says began has exactly one record, and every record a final status."""
        records = self.records()
        begun = Counter(event["trace"] for event in self.events("stream_start"))
        recorded = Counter(record["trace"] for record in records)
        assert not begun - recorded, f"without a record: {begun - recorded}"
        assert len({record["id"] for record in records}) == len(records)
        assert {record["status"] for record in records} <= {"completed", "cancelled", "failed"}


def _fields(line: str) -> Iterator[tuple[str, str]]:
    for name, quoted, plain in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S*))', line):
        yield name, re.sub(r"\\(.)", r"\1", quoted) if quoted else plain


@asynccontextmanager
async def run_service(
    folder: Path, config: str | None = None, *, env: Mapping[str, str] | None = None, stop: bool = True
) -> AsyncIterator[Service]:
    """A ready `Service`; on leaving it is stopped and checked as above, unless `stop` is False: then it is killed."""
    async with watch_over(Service(folder, config, env=env), stop=stop) as service:
        service.launch()
        await service.wait_ready()
        yield service


@asynccontextmanager
async def watch_over(service: Service, *, stop: bool = True) -> AsyncIterator[Service]:
    """`run_service` for one that the caller launches."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.listen)
        try:
            yield service
            if stop:
                await service.stop()
        except BaseException:
            with contextlib.suppress(OSError):
                print(service.log()[-20_000:])
            raise
        finally:
            service.kill_everything()
        nursery.cancel_scope.cancel()
    assert not service.processes()


def monotonic_usec() -> int:
    """The clock of MONOTONIC_USEC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
