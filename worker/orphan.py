"""A thread that makes sure that a worker ends, even one whose event loop is stuck.

A worker leaves politely when its down pipe ends or when it is told to drain.  This is the force behind the politeness:
it waits for the supervisor's death or for a deadline that a drain sets, and then exits the process, after one last act.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from typing import NoReturn

# From the supervisor's death to the exit of a worker that didn't leave by itself.
ORPHAN_DEADLINE = 4.5
# How long the last act may take; a disk that hangs must not keep the process.
LAST_ACT = 0.3
EXIT_CODE = 70


class ExitGuard:
    """Watches the supervisor by pidfd; `exit_by` adds a deadline.  `last_act` is called in a thread before the exit."""

    def __init__(self, supervisor_pid: int, last_act: Callable[[], None]) -> None:
        self._supervisor_pid = supervisor_pid
        self._last_act = last_act
        self._deadline: float | None = None
        self._wake_read, self._wake_write = os.pipe()

    def start(self) -> None:
        """Start the thread; it never stops."""
        threading.Thread(target=self._run, name="exit-guard", daemon=True).start()

    def exit_by(self, deadline: float) -> None:
        """Exit the process at this time (`time.monotonic`), whatever it is doing then."""
        self._deadline = deadline
        os.write(self._wake_write, b".")

    def _run(self) -> None:
        try:
            pidfd: int | None = os.pidfd_open(self._supervisor_pid)
        except ProcessLookupError:
            pidfd = None
            self._deadline = time.monotonic() + ORPHAN_DEADLINE
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if pidfd is not None:
            poll.register(pidfd, select.POLLIN)
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._exit()
            for fd, _ in poll.poll(None if left is None else left * 1000):
                if fd == self._wake_read:
                    os.read(self._wake_read, 64)
                else:
                    poll.unregister(fd)
                    at_last = time.monotonic() + ORPHAN_DEADLINE
                    self._deadline = at_last if self._deadline is None else min(self._deadline, at_last)

    def _exit(self) -> NoReturn:
        act = threading.Thread(target=self._last_act, name="last-act", daemon=True)
        act.start()
        act.join(LAST_ACT)
        os._exit(EXIT_CODE)
