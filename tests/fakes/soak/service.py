"""The service of a soak: one that others may take the place of, as `kimi-proxy restart` has them do."""

import ctypes
import os
import signal
import sys
from pathlib import Path

import psutil
import trio
from fakes.service import TIMEOUT, Service, wait_until

from supervisor.instance import running_pid

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on, who loses its parent becomes a child of this process, whose exit code can then be had."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Managed(Service):
    """A `Service` whose supervisor may be followed by another, in `port`'s place."""

    def __init__(self, folder: Path, config: str, port: int, graceful_timeout: float) -> None:
        super().__init__(folder, config)
        self.port = port
        self.graceful_timeout = graceful_timeout
        self._heir: int | None = None
        self.restart_help = ""

    def launch(self, *, pass_fds: tuple[int, ...] = ()) -> None:
        self._heir = None
        super().launch(pass_fds=pass_fds)

    @property
    def pid(self) -> int:
        return self._heir if self._heir is not None else super().pid

    @property
    def exit_code(self) -> int | None:
        if self._heir is None:
            return super().exit_code
        try:
            pid, status = os.waitpid(self._heir, os.WNOHANG)
        except ChildProcessError:  # not (yet) ours
            return None if psutil.pid_exists(self._heir) else 0
        return os.waitstatus_to_exitcode(status) if pid else None

    def send_signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def kill(self) -> None:
        """kill -9 of the supervisor, and bury it."""
        os.kill(self.pid, signal.SIGKILL)
        if self._heir is None:
            self.process.wait()

    async def hand_over(self) -> None:
        """`kimi-proxy restart`, and wait until the old supervisor is gone."""
        old = self.pid
        command = [sys.executable, "-m", "supervisor", "restart"]
        done = await trio.run_process(
            command, cwd=self.folder, env=self.env, check=False, capture_stdout=True, capture_stderr=True
        )
        assert done.returncode == 0, f"restart: exit code {done.returncode}: {done.stderr.decode()[-500:]}"
        self._heir = await wait_until(
            lambda: pid if (pid := running_pid(self.paths.instance_lock)) != old else None, "a new supervisor"
        )

    async def wait_slots(self, count: int, timeout: float = TIMEOUT) -> None:
        """Wait until exactly `count` workers serve; others may be leaving."""

        async def reached() -> bool:
            return len(await self.serving()) == count

        await wait_until(reached, f"{count} workers that serve", timeout, poll=0.05)

    def bury(self) -> None:
        """Take the exit codes of orphans that have ended."""
        for child in psutil.Process().children():
            if child.pid not in (self._heir, self._process.pid if self._process else None):
                try:
                    if child.status() == psutil.STATUS_ZOMBIE:
                        os.waitpid(child.pid, os.WNOHANG)
                except (psutil.NoSuchProcess, ChildProcessError):
                    pass
