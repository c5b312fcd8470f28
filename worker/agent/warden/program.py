"""One program: started, watched, and killed with everything it has started.

    start ─▶ running ──┬─ it ends ──────────────┐
                       ├─ its time is over ─────┼─▶ SIGTERM ─ polite ─▶ SIGSTOP, SIGKILL … until no child is left
                       └─ the worker hangs up ──┘

The worker hangs up to have it killed, and a worker that dies does so too.
"""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import struct
import time
from typing import Any, NoReturn

from worker.agent.warden import descent
from worker.agent.warden.tape import Tape

READ_BYTES = 65536
CROWD = 64
"""So many processes are not asked to end: they are more than anybody wants to wait for, or a fork bomb."""
NICENESS = 5
"""Streams go first."""
OOM_SCORE = 500
"""Where memory runs out, the kernel takes the program and not the worker (proc(5), oom_score_adj)."""
OPEN_FILES = 1024
"""The usual soft limit.  The service's own is so high that programs which close all they might have open take long."""
CANNOT_START = 127
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def receive_exactly(control: socket.socket, size: int) -> bytes:
    """Raises `EOFError` if the worker hangs up before."""
    data = b""
    while len(data) < size:
        chunk = control.recv(size - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def run(control: socket.socket) -> None:
    """The whole life of a warden: a request, a program, an answer.  Returns when nothing is left of the program.

    worker → warden   length as `!I`, then JSON: argv, env, cwd, beneath, timeout, polite, max_bytes, may_gain
    warden → worker   its pid as `!I`; at the end a line of JSON (status, timed_out, error, head, dropped) and the
                      output kept, whose first `head` bytes are its beginning
    """
    with contextlib.suppress(EOFError, ConnectionError):
        control.sendall(struct.pack("!I", os.getpid()))
        request = json.loads(receive_exactly(control, *struct.unpack("!I", receive_exactly(control, 4))))
        Program(control, request).run()


class Program:
    """See the module."""

    def __init__(self, control: socket.socket, request: dict[str, Any]) -> None:
        self._control = control
        self._request = request
        self._tape = Tape(request["max_bytes"])
        self._pid = 0
        self._status: int | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Start it, wait, kill, answer."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        output, theirs = os.pipe2(os.O_CLOEXEC)
        error = self._start(theirs)
        os.close(theirs)
        os.set_blocking(output, False)
        why = "ended" if error else self._watch(output)
        self._extinguish()
        if why == "hung_up":
            return
        self._read_out(output)
        head, dropped, tail = self._tape.read()
        answer = {
            "status": CANNOT_START if self._status is None else self._status,
            "timed_out": why == "timed_out",
            "error": error,
            "head": len(head),
            "dropped": dropped,
        }
        self._control.sendall(json.dumps(answer).encode() + b"\n" + head + tail)

    def _start(self, output: int) -> str:
        """Why it can't be started, or ""."""
        failure, theirs = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _become(self._request, output, theirs)
        os.close(theirs)
        with open(failure, "rb") as file:  # closed by the successful exec
            return file.read().decode("utf-8", "replace")

    def _watch(self, output: int) -> str:
        """Take what it says until there is a reason to end."""
        poll = select.poll()
        for fd in (self._control.fileno(), output, self._wake_read):
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + self._request["timeout"]
        while (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000 + 1):
                if fd == self._control.fileno():
                    if not self._control.recv(64):
                        return "hung_up"
                elif fd == output:
                    if self._read(output) == b"":
                        poll.unregister(output)
                else:
                    self._drain_wake()
                    self._reap()
            if self._status is not None:
                return "ended"
        return "timed_out"

    def _read(self, output: int) -> bytes | None:
        """One read; b"" at the end, None where there is nothing now."""
        try:
            data = os.read(output, READ_BYTES)
        except BlockingIOError:
            return None
        self._tape.add(data)
        return data

    def _read_out(self, output: int) -> None:
        """What the dead have left in the pipe."""
        while self._read(output):
            pass

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _reap(self) -> bool:
        """Bury the dead; whether anybody lives."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                self._status = os.waitstatus_to_exitcode(status)

    def _extinguish(self) -> None:
        """Kill everybody; returns when nobody is left, which only a process in an endless system call puts off."""
        me = (os.getpid(),)
        if not self._reap():
            return
        family = descent.descendants(me)
        if len(family) <= CROWD:
            descent.send(family, signal.SIGTERM)
            until = time.monotonic() + self._request["polite"]
            while self._reap():
                if (left := until - time.monotonic()) <= 0:
                    break
                select.select([self._wake_read], [], [], left)
                self._drain_wake()
        pause = 0.0005
        while True:
            descent.kill(descent.children(*me))
            if not self._reap():
                return
            select.select([self._wake_read], [], [], pause)
            self._drain_wake()
            pause = min(pause * 2, 0.02)


def _become(request: dict[str, Any], output: int, failure: int) -> NoReturn:
    """Turn this forked child into the program; says to `failure` why that is impossible."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError, ValueError):  # those that the C library keeps for itself
                signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not request["may_gain"]:  # what has become somebody else could not be killed
            descent.prctl(descent.PR_SET_NO_NEW_PRIVS, 1)
            for capability in descent.PRYING:  # who isn't root has none, and may not drop any
                with contextlib.suppress(OSError):
                    descent.prctl(descent.PR_CAPBSET_DROP, capability)
        with contextlib.suppress(OSError):  # a service unit may forbid it (SystemCallFilter=~@resources)
            os.nice(NICENESS)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(OOM_SCORE))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        with contextlib.suppress(OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.chdir(request["cwd"])
        for name in request["beneath"]:
            os.fchdir(os.open(name, FOLDER))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        argv = request["argv"]
        os.execvpe(argv[0], argv, request["env"])
    except BaseException as error:
        text = str(error)
        if isinstance(error, OSError):
            places = (request["cwd"], *request["beneath"])
            name = error.filename if error.filename in places else request["argv"][0]
            text = f"{name[:100]}: {error.strerror}"
        os.write(failure, text.encode("utf-8", "replace")[:4096])
    os._exit(CANNOT_START)
