"""The fork server: where workers come from, ready-made, in milliseconds.

It is the standard library's (`multiprocessing`, method `forkserver`), with the worker's imports preloaded.  Asking it
for a process blocks, so that happens in a thread.  When the server itself dies, the workers live on: each is watched
by its pidfd, never by `multiprocessing`'s sentinel; the next spawn brings up a new server.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from socket import socket

import msgspec
import trio

from shared.channel import open_pipe
from shared.entry import WorkerStart, report_preload, worker_entry
from shared.errors import StartError

PRELOAD_TIMEOUT = 60.0
"""What the first start may take: importing everything on a slow disk."""
SPAWN_TIMEOUT = 20.0
"""A fork server that has not answered for this long hangs, and is killed."""
REAP_PAUSES = (0.0, 0.02, 0.2, 1.0)
"""A dead server's sockets are closed before it can be waited for; until then the library takes it for alive."""
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

    def launch(self) -> bool:
        """Start the server and wait until it has preloaded; blocks, and belongs before `trio.run`.

        False if it could not find the preloaded module though its children can, so that every worker imports for
        itself.  `StartError` if the module can't be imported: without this look every worker would die of it.
        """
        self._context.set_forkserver_preload(["shared.forkguard", self._preload])
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
        if report not in ("preloaded", "late"):
            sys.stderr.write(report)
            raise StartError(f"the workers' code can't be loaded: {report.strip().splitlines()[-1]}")
        return report == "preloaded"

    async def spawn(self, start: WorkerStart, listeners: Sequence[socket]) -> WorkerProcess:
        """A new worker process.  `StartError` if there can't be one now; cancellation waits for the fork server.

        A server that is found dead is replaced, and asked again.
        """
        async with self._spawning:
            try:
                for pause in REAP_PAUSES:
                    with contextlib.suppress(EOFError, ConnectionError):
                        return await self._spawn(start, listeners)
                    await trio.sleep(pause)
                return await self._spawn(start, listeners)
            except (OSError, EOFError) as error:
                why = str(error) or type(error).__name__
                raise StartError(f"the fork server could not start a worker: {why}") from error

    async def _spawn(self, start: WorkerStart, listeners: Sequence[socket]) -> WorkerProcess:
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
            nursery.start_soon(_kill_hanging_server)
            try:
                await trio.to_thread.run_sync(start)
            except (OSError, EOFError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # a cycle through its traceback would keep multiprocessing's descriptors open


async def _kill_hanging_server() -> None:
    await trio.sleep(SPAWN_TIMEOUT)
    # There is no public name for it.
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


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
