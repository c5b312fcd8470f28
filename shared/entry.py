"""Where a forked worker begins.

The fork server runs `worker_entry` in the child by reference; it reaches the worker's code by name, so that the
supervisor never imports it.
"""

import contextlib
import importlib
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection

import msgspec
from msgspec import Struct

from shared.config import Config

FOLDER_VARIABLE = "KIMI_PROXY_FORK_SERVER"
"""Names the folder of the fork server's socket to it, for it to remove should its supervisor be killed."""


class WorkerStart(Struct, frozen=True, kw_only=True):
    """All that a worker is born with, beside its listening sockets and its two pipes."""

    worker: int
    """The number of its slot, from 1: what people see in logs and `status`; it survives a restart."""
    generation: int
    """Grows with every reload that can't be applied in place."""
    supervisor_pid: int
    config: Config
    keys: dict[str, str]
    """Provider name → key; absent where no key is sent."""
    spool: str
    """The folder for records that can't be handed over (`shared.spool`); it need not exist."""
    held: bool = False
    """It says `Ready`, but accepts only when it is told to: the supervisor has not taken the service over yet."""
    database: str = ""
    """The file of the records, which a worker only reads; it need not exist."""
    login_secret: bytes = b""
    """What logins of the dashboard are sealed with; the same for all workers, and after a restart."""


def ignore_group_signals() -> None:
    """Make this process, and those forked from it, deaf to signals that are meant for the supervisor.

    ^C, a terminal that hangs up and the stop of a cgroup reach the whole group: a worker hears of them on its pipe.
    SIGUSR1 would kill until a worker has its own handler.  A handler that does nothing is better than SIG_IGN, which
    would be inherited by the programs that a worker runs.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, lambda _signum, _frame: None)
    # The supervisor blocks it (`shared.stackdump`), and its children would inherit that, too.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def worker_entry(start: bytes, listeners: list[socket.socket], up: Connection, down: Connection, main: str) -> None:
    """The target of `Process`: `start` is a msgpack-encoded `WorkerStart`, `up` is written, `down` is read.

    The `Connection`s only carry their descriptors to this process; what flows on them is `shared.framing`'s.  `main`
    names the module whose `run(start, listeners, up_fd, down_fd)` is the worker.
    """
    ignore_group_signals()
    module = importlib.import_module(main)
    module.run(msgspec.msgpack.decode(start, type=WorkerStart), listeners, up.fileno(), down.fileno())


def report_preload(report: Connection, module: str) -> None:
    """The target of the fork server's first child: tells whether `module` was preloaded, or why it can't be.

    Sends b"preloaded"; b"late" if it could only be imported here, so that every worker will do that for itself; or
    the traceback.
    """
    answer = b"preloaded"
    if module not in sys.modules:
        try:
            importlib.import_module(module)
        except Exception:
            answer = traceback.format_exc().encode()
        else:
            answer = b"late"
    with contextlib.suppress(BrokenPipeError):  # the supervisor was stopped meanwhile
        report.send_bytes(answer)
