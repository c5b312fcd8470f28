"""Where the process begins: it forks a warden for each program that the worker wants, and buries it.

    worker ─┬─ requests: one message and the socket of the new warden ─▶ this process ── warden ── program ── …
            └─ control: the program's own socket ───────────────────────────────────────▶ ┘

Forking the worker itself would copy its page tables and hold up its streams; this process is small and has nothing
else to do.  It keeps each control socket until its warden is dead and nothing of the program is left, so that the
end of that socket is the proof.

A program may kill its warden.  What it had started becomes this process's children then, and whoever is a child here
and no warden is killed.  A worker that dies hangs up on everybody, so nothing outlives it.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback

from worker.agent.warden import descent, program

STRAY_PAUSE = 0.005
FAREWELL = 1.0
"""How long wardens may take to end by themselves when the worker has hung up."""


def main(fd: int) -> None:
    """Serve the socket (SOCK_SEQPACKET) until the worker hangs up and every program is gone."""
    # A terminal's ^C and the stop of a cgroup are for the supervisor; the worker hangs up when it is time.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    descent.prctl(descent.PR_SET_CHILD_SUBREAPER, 1)
    gc.freeze()  # the wardens share this memory
    os.set_inheritable(fd, False)
    Main(socket.socket(fileno=fd)).run()


class Main:
    """See the module."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._wardens: dict[int, socket.socket] = {}
        self._bereaved: list[socket.socket] = []
        """Controls of wardens that died before their program did."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """See `main`."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        hung_up: float | None = None
        while hung_up is None or self._wardens or self._bereaved:
            wait = STRAY_PAUSE if self._bereaved else None if hung_up is None else FAREWELL
            for fd, _ in poll.poll(None if wait is None else wait * 1000):
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif not self._take_request():
                    poll.unregister(self._requests)
                    hung_up = time.monotonic()
            self._reap()
            self._kill_strays()
            if hung_up is not None and time.monotonic() - hung_up >= FAREWELL:
                descent.send(self._wardens, signal.SIGKILL)

    def _take_request(self) -> bool:
        """A new warden (a descriptor), or the end of one (its pid); False when the worker has hung up."""
        try:
            data, fds, _flags, _address = socket.recv_fds(self._requests, 64, 1)
        except ConnectionError:
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
            self._begin(socket.socket(fileno=fd))
        if data.isdigit() and int(data) in self._wardens:
            os.kill(int(data), signal.SIGKILL)
        return bool(data)

    def _begin(self, control: socket.socket) -> None:
        if _is_hung_up(control):
            control.close()
            return
        try:
            pid = os.fork()
        except OSError as error:  # no more processes: the worker learns it from the end of the socket
            sys.stderr.write(f"no warden can be started: {error}\n")
            control.close()
            return
        if pid == 0:
            self._be_warden(control)
        self._wardens[pid] = control

    def _be_warden(self, control: socket.socket) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            descent.prctl(descent.PR_SET_CHILD_SUBREAPER, 1)
            for other in (self._requests, *self._wardens.values(), *self._bereaved):
                other.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            program.run(control)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                control = self._wardens.pop(ended[0], None)
                if control is None:
                    continue
                if ended[1] == 0:
                    control.close()
                else:
                    self._bereaved.append(control)

    def _kill_strays(self) -> None:
        """Kill who has lost his warden; with the last of them, the bereaved controls end."""
        if not self._bereaved:
            return
        strays = [pid for pid in descent.children(os.getpid()) if pid not in self._wardens]
        if strays:
            descent.kill(strays)
            return
        for control in self._bereaved:
            control.close()
        self._bereaved.clear()


def _is_hung_up(control: socket.socket) -> bool:
    """Whether the program was given up before its turn came."""
    with contextlib.suppress(BlockingIOError):
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return False
