"""What systemd hears from the service: sd_notify(3) over a datagram UNIX socket, and the watchdog's rhythm.

Without `NOTIFY_SOCKET` everything here does nothing.  No call blocks and none raises: telling the service manager is
never a reason to stop serving.
"""

import os
import socket
import time
from array import array
from collections.abc import Mapping, MutableMapping, Sequence


class Notifier:
    """Speaks to the service manager that `NOTIFY_SOCKET` names, `/path` or `@abstract`.

    The variable is taken out of `env`, so that no child speaks in the service's name.  Every method tells whether
    the manager's socket took the message.
    """

    def __init__(self, env: MutableMapping[str, str] | None = None) -> None:
        where = (os.environ if env is None else env).pop("NOTIFY_SOCKET", "")
        self._address = "\0" + where[1:] if where.startswith("@") else where
        self._socket: socket.socket | None = None
        if where.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def ready(self, status: str) -> bool:
        """The service serves (again, after `reloading`)."""
        return self._send("READY=1", _status(status))

    def reloading(self) -> bool:
        """A reload begins; `ready` ends it.  The clock is what `Type=notify-reload` orders the two by."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        """The service drains and will exit."""
        return self._send("STOPPING=1", _status("stopping"))

    def status(self, text: str) -> bool:
        """One line for people, shown by `systemctl status`."""
        return self._send(_status(text))

    def watchdog(self) -> bool:
        """All is well; due every `watchdog_interval`."""
        return self._send("WATCHDOG=1")

    def main_pid(self, pid: int) -> bool:
        """That process is the service from now on, and the only one that is listened to (NotifyAccess=main)."""
        return self._send(f"MAINPID={pid}")

    def keep_fds(self, name: str, fds: Sequence[int]) -> bool:
        """Keep these open and hand them to the next process of the service; what is kept already is kept once."""
        return self._send("FDSTORE=1", f"FDNAME={name}", fds=fds)

    def forget_fds(self, name: str) -> bool:
        """Close all that is kept by this name."""
        return self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    def close(self) -> None:
        """Close the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str, fds: Sequence[int] = ()) -> bool:
        if self._socket is None:
            return False
        message = "\n".join(assignments).encode("utf-8", "replace")
        try:
            # Not connected for good: a service manager that re-executes itself makes its socket anew.
            # socket.send_fds loses the address (CPython 3.11).
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self._socket.sendmsg([message], passed, 0, self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> str:
    # A line end would begin an assignment of its own.
    return "STATUS=" + " ".join(text.split())


def watchdog_interval(env: Mapping[str, str], pid: int) -> float | None:
    """Seconds between two `watchdog` calls: half of `WATCHDOG_USEC`; None if no watchdog watches process `pid`."""
    try:
        usec = int(env.get("WATCHDOG_USEC", ""))
        watched = int(env.get("WATCHDOG_PID") or pid)
    except ValueError:
        return None
    return usec / 2_000_000 if usec > 0 and watched == pid else None
