"""The fork server: where workers come from, ready-made, in milliseconds.

It is the standard library's (`multiprocessing`, method `forkserver`), with the worker's imports preloaded.  Asking it
for a process blocks, so that happens in a thread.  When the server itself dies, the workers live on: each is watched
by its pidfd, never by `multiprocessing`'s sentinel; the next spawn brings up a new server.
"""

import atexit
import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from socket import socket

import msgspec
import trio

from shared.channel import open_pipe
from shared.config.bind import MAX_UNIX_PATH_BYTES
from shared.entry import FOLDER_VARIABLE, WorkerStart, report_preload, worker_entry
from shared.errors import StartError

PRELOAD_TIMEOUT = 60.0
"""What the first start of a fork server may take: importing everything, on a slow disk or a busy machine."""
SPAWN_TIMEOUT = 20.0
"""A fork server that has answered before, and now not for this long, hangs, and is killed."""
REAP_PAUSES = (0.0, 0.02, 0.2, 1.0)
"""A dead server's sockets are closed before it can be waited for; until then the library takes it for alive."""
SOCKET_NAME_BYTES = len("/kimi-proxy-xxxxxxxx/listener-xxxxxxxx")
"""What the fork server's socket adds to the temporary folder's name."""
SPAWN_DESCRIPTORS = 16
"""More than a start takes: our pipes, multiprocessing's, and a new fork server's."""
_EXIT_CODE_TIMEOUT = 0.3
# What multiprocessing says when the server died before it could tell.
_EXIT_CODE_UNKNOWN = 255


class WorkerProcess:
    """A worker process and the supervisor's ends of its pipes."""

    def __init__(
        self, process: ForkServerProcess, spawning: trio.Lock, *, pid: int, pidfd: int, up_fd: int, down_fd: int
    ) -> None:
        self._process = process
        self._spawning = spawning
        self._pidfd = pidfd
        self.pid = pid
        self.up_fd = up_fd
        """To be read; whoever reads it closes it."""
        self.down_fd = down_fd
        """To be written; whoever writes it closes it."""

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal to this process and to no other that may get its number; nothing if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signum)

    async def wait_exit(self) -> None:
        """Wait until the process is dead, whoever its parent is by now."""
        await trio.lowlevel.wait_readable(self._pidfd)

    async def exit_code(self) -> int | None:
        """After `wait_exit`: the exit code, negative for a signal; None if the fork server died without telling it."""
        code: int | None = None
        with trio.move_on_after(_EXIT_CODE_TIMEOUT):
            await trio.lowlevel.wait_readable(self._process.sentinel)
            # `Process.start` looks at all its siblings, too, and only one of us gets to read the code.
            async with self._spawning:
                code = self._process.exitcode
        return None if code == _EXIT_CODE_UNKNOWN else code

    def close(self) -> None:
        """Let go of the dead process; the pipes' ends are their users' to close."""
        os.close(self._pidfd)
        with contextlib.suppress(ValueError):  # the fork server has not told yet; it is asked again at the next spawn
            self._process.close()


class ForkServer:
    """Starts workers.  `main` names their module, `preload` what the server imports beforehand."""

    def __init__(self, main: str = "worker.main", preload: str = "worker.preload") -> None:
        self._main = main
        self._preload = preload
        self._context = multiprocessing.get_context("forkserver")
        self._spawning = trio.Lock()
        self._answered: int | None = None
        """The pid of the server that has last started a process."""

    def launch(self) -> bool:
        """Start the server and wait until it has preloaded; blocks, and belongs before `trio.run`.

        False if it could not find the preloaded module though its children can, so that every worker imports for
        itself.  `StartError` if the module can't be imported: without this look every worker would die of it.
        """
        self._context.set_forkserver_preload(["shared.forkguard", self._preload])
        try:
            _make_folder()
        except OSError as error:
            raise StartError(
                f"no folder can be made in {tempfile.gettempdir()}: {error.strerror}; make it writable or set TMPDIR"
            ) from error
        ours, theirs = self._context.Pipe(duplex=False)
        probe = self._context.Process(target=report_preload, args=(theirs, self._preload), daemon=True)
        with ours:
            try:
                with theirs, _blank_main():
                    probe.start()
                if not ours.poll(PRELOAD_TIMEOUT):
                    raise StartError(f"the fork server has not loaded {self._preload} within {PRELOAD_TIMEOUT:g} s")
                report = ours.recv_bytes().decode(errors="replace")
            except (OSError, EOFError) as error:
                raise StartError(
                    f"the fork server died while it loaded {self._preload}; its traceback stands above"
                ) from error
        probe.join()
        probe.close()
        self._answered = _server_pid()
        if report not in ("preloaded", "late"):
            sys.stderr.write(report)
            raise StartError(f"the workers' code can't be loaded: {report.strip().splitlines()[-1]}")
        return report == "preloaded"

    async def spawn(self, start: WorkerStart, listeners: Sequence[socket]) -> WorkerProcess:
        """A new worker process.  `StartError` if there can't be one now; cancellation waits for the fork server.

        A server that is found dead, or that nobody can reach any more, is replaced, and asked again.
        """
        async with self._spawning:
            try:
                for pause in REAP_PAUSES:
                    try:
                        return await self._spawn(start, listeners)
                    except FileNotFoundError:  # the server's socket has been cleaned up
                        _kill_server()
                        _make_folder()
                    except (EOFError, ConnectionError):
                        pass
                    await trio.sleep(pause)
                return await self._spawn(start, listeners)
            except ProcessLookupError as error:
                raise StartError("the worker was dead before it could be watched") from error
            except (OSError, EOFError) as error:
                why = str(error) or type(error).__name__
                raise StartError(f"the fork server could not start a worker: {why}") from error

    async def _spawn(self, start: WorkerStart, listeners: Sequence[socket]) -> WorkerProcess:
        _require_descriptors(SPAWN_DESCRIPTORS)
        with contextlib.ExitStack() as on_failure:
            up_fd, their_up = open_pipe()
            up = on_failure.enter_context(Connection(their_up, readable=False))
            on_failure.callback(os.close, up_fd)
            their_down, down_fd = open_pipe()
            down = on_failure.enter_context(Connection(their_down, writable=False))
            on_failure.callback(os.close, down_fd)
            process = self._context.Process(
                target=worker_entry,
                args=(msgspec.msgpack.encode(start), list(listeners), up, down, self._main),
                name=f"worker-{start.worker}",
                daemon=True,
            )
            await self._start(process)
            assert process.pid is not None
            pidfd = os.pidfd_open(process.pid)
            on_failure.pop_all()
        up.close()
        down.close()
        return WorkerProcess(process, self._spawning, pid=process.pid, pidfd=pidfd, up_fd=up_fd, down_fd=down_fd)

    async def _start(self, process: ForkServerProcess) -> None:
        """`process.start()` in a thread; a fork server that doesn't answer is killed, which ends the wait."""

        def start() -> None:
            with _blank_main():
                process.start()

        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_hanging_server, self._answered)
            try:
                await trio.to_thread.run_sync(start)
            except (OSError, EOFError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        try:
            if failure is not None:
                raise failure
            self._answered = _server_pid()
        finally:
            del failure  # a cycle through its traceback would keep multiprocessing's descriptors open


def _require_descriptors(count: int) -> None:
    """`OSError` unless so many can be had: the library would lose the first of those that it needs."""
    taken: list[int] = []
    try:
        for _ in range(count):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in taken:
            os.close(fd)


async def _kill_hanging_server(answered: int | None) -> None:
    """`answered`: the pid of the server that has started a process before; another one has yet to preload."""
    await trio.sleep(SPAWN_TIMEOUT)
    if _server_pid() != answered:
        await trio.sleep(PRELOAD_TIMEOUT - SPAWN_TIMEOUT)
    _kill_server()


def _server_pid() -> int | None:
    # There is no public name for it.
    pid: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    return pid


def _kill_server() -> None:
    pid = _server_pid()
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _make_folder() -> None:
    """A new folder for the fork server's socket.

    Not the library's own choice: when somebody cleans up the temporary folder, that one is gone for good, and is
    missed with a traceback at the end.  An abstract socket needs none, but every user of the machine could reach it.
    """
    where = tempfile.gettempdir()
    if len(os.fsencode(where)) > MAX_UNIX_PATH_BYTES - SOCKET_NAME_BYTES:
        where = "/tmp"
    folder = tempfile.mkdtemp(prefix="kimi-proxy-", dir=where)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[FOLDER_VARIABLE] = folder
    # There is no public name for it, either.
    config: dict[str, object] = getattr(multiprocessing.current_process(), "_config", {})
    config["tempdir"] = folder


@contextlib.contextmanager
def _blank_main() -> Iterator[None]:
    """Hide `__main__` while a process is started.

    Otherwise each child would run the command line's script again to recreate it, which costs time and memory that
    nothing here needs.
    """
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = real
