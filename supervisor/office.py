"""What only one supervisor of a service has: the instance's lock, the command line's socket, the service manager's ear.

elder   hold ───────────── share ─────────────── leave ──▶ nothing
heir                              prepare ─────────────── enter ──▶ all of it
"""

import contextlib
from collections.abc import Mapping, Sequence

import trio

from shared.paths import Paths
from supervisor.admin import AdminSocket, heir_path
from supervisor.fdnames import kept_binds
from supervisor.fdstore import FdStore
from supervisor.instance import InstanceLock
from supervisor.listen import Listener
from supervisor.sdnotify import Notifier

ENTER_TIMEOUT = 2.0
_POLL = 0.02
LINGER = 1.0
"""So long an elder answers who was connected to it before its heir took its place."""


class Office:
    """See the module.  `env` is the service's, `heir` says that another supervisor is in office until `enter`."""

    def __init__(self, paths: Paths, env: Mapping[str, str], *, heir: bool) -> None:
        """`StartError` if another one is in office, and no heir's elder."""
        self._paths = paths
        self.duties = trio.CancelScope()
        """Around the tasks that belong to it."""
        self.commands = trio.CancelScope()
        """Around the one that answers the command line."""
        with contextlib.ExitStack() as stack:
            lock = InstanceLock.join if heir else InstanceLock.acquire
            self.lock = stack.enter_context(lock(paths.instance_lock))
            self.admin = AdminSocket(heir_path(paths.admin_socket) if heir else paths.admin_socket)
            stack.callback(self.admin.close)
            self.notifier = Notifier()
            stack.callback(self.notifier.close)
            self._store = FdStore(self.notifier, kept_binds(env))
            self._stack = stack.pop_all()

    async def enter(self) -> bool:
        """The elder has left, or is gone, whatever it had let go of; False if it is neither."""
        with trio.move_on_after(ENTER_TIMEOUT):
            while True:
                with contextlib.suppress(OSError):
                    self.lock.complete()
                    break
                await trio.sleep(_POLL)  # a process that is killed lets go of one thing after the other
            self.admin.move(self._paths.admin_socket)
            return True
        return False

    def keep_sockets(self, listeners: Sequence[Listener]) -> None:
        """Have the service manager keep these, for the time in which no supervisor of this service lives."""
        self._store.keep(listeners)

    def share(self) -> None:
        """Let an heir join us."""
        self.lock.share()

    def keep(self) -> None:
        """There is no heir any more; one that was killed has left its socket."""
        self.lock.complete()
        heir_path(self._paths.admin_socket).unlink(missing_ok=True)

    def leave(self, heir: int) -> None:
        """It is the heir's, which has this pid."""
        self.duties.cancel()
        self.commands.deadline = trio.current_time() + LINGER
        self.notifier.main_pid(heir)
        self.notifier.close()
        self.admin.hand_over(heir_path(self._paths.admin_socket))
        self.lock.release()

    def close(self) -> None:
        """Let go of what is ours."""
        self._stack.close()
