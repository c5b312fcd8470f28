"""Listening sockets in the service manager's keeping (systemd's file descriptor store).

What is put there comes back at the next start, in LISTEN_FDS: while the service restarts, connections wait instead of
being refused, without a socket unit.
"""

from collections.abc import Iterable, Mapping, Sequence
from socket import socket

from supervisor.fdnames import name_of
from supervisor.listen import Listener
from supervisor.sdnotify import Notifier


class FdStore:
    """What the manager keeps for us; `passed` are the binds of the sockets that it had kept until our start."""

    def __init__(self, notifier: Notifier, passed: Iterable[str] = ()) -> None:
        self._notifier = notifier
        self._binds = set(passed)
        self._kept: set[socket] = set()

    def keep(self, listeners: Sequence[Listener]) -> None:
        """Have these kept, and no others.  Those that the manager has opened itself it has anyway."""
        ours = [listener for listener in listeners if not listener.adopted]
        binds = {listener.bind for listener in ours}
        for bind in self._binds - binds:
            if (name := name_of(bind)) is not None:
                self._notifier.forget_fds(name)
        for listener in ours:
            if listener.socket not in self._kept and (name := name_of(listener.bind)) is not None:
                self._notifier.keep_fds(name, [listener.socket.fileno()])
        self._binds = binds
        self._kept = {listener.socket for listener in ours}


def has_store(env: Mapping[str, str]) -> bool:
    """Whether the manager says that it keeps descriptors (FDSTORE, since systemd 254)."""
    return env.get("FDSTORE", "0").isdecimal() and int(env.get("FDSTORE", "0")) > 0
