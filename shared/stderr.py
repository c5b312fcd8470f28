"""Writing to stderr without ever waiting for whoever reads it.

Several processes share stderr, so asking `poll` first is not enough where it is a pipe: another process may fill it
between the question and the write.  A pipe is therefore opened once more, as a non-blocking description of our own;
setting O_NONBLOCK on the inherited one would make the writes of all the others (a shell, a child) fail at random.
"""

import contextlib
import os
import select
import socket
import stat
import struct
import time

STDERR = 2
# What one write puts into a pipe whole or not at all (POSIX: PIPE_BUF).
ATOMIC_BYTES = select.PIPE_BUF
_SEND_TIMEOUT = struct.pack("@ll", 0, 10_000)  # struct timeval: 10 ms


class StderrWriter:
    """This process's way to stderr; see `stderr`, the only instance.

    `fd` is where it leads.  A description of our own keeps its number for life, so that others may hold on to it.
    """

    def __init__(self) -> None:
        self.fd = STDERR
        self.is_pipe = False
        self._is_file = False
        self._own_fd = -1
        self._own_inode = (-1, -1)
        self._poll = select.poll()
        self._poll.register(STDERR, select.POLLOUT)

    def reopen(self) -> None:
        """Look at what stderr is now: once at the start of a process, again whenever it may have been redirected."""
        try:
            status = os.fstat(STDERR)
        except OSError:  # closed; every write will find that out
            return
        self.is_pipe = stat.S_ISFIFO(status.st_mode)
        self._is_file = stat.S_ISREG(status.st_mode)
        self.fd = self._open_pipe((status.st_dev, status.st_ino)) if self.is_pipe else STDERR
        if stat.S_ISSOCK(status.st_mode):  # journald; a socket can't be opened again, but its writes can be bounded
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(STDERR)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLOUT)

    def _open_pipe(self, inode: tuple[int, int]) -> int:
        if self._own_inode == inode:
            return self._own_fd
        try:
            fd = os.open(f"/proc/self/fd/{STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no reader (ENXIO), another user's pipe (EACCES), no /proc
            return STDERR
        if self._own_fd < 0:
            self._own_fd = fd
        else:
            os.dup2(fd, self._own_fd, inheritable=False)
            os.close(fd)
        self._own_inode = inode
        return self._own_fd

    def write(self, data: bytes, timeout: float = 0.0) -> int:
        """Write what can be written within `timeout` seconds (0: at once); the number of bytes.  Never raises.

        At most `ATOMIC_BYTES` stay in one piece in a pipe; any length does in a file opened with O_APPEND.
        """
        if self._is_file:  # always takes what there is room for; it needs no question
            try:
                return os.write(self.fd, data)
            except OSError:
                return 0
        deadline = time.monotonic() + timeout
        written = 0
        while written < len(data):
            remaining = deadline - time.monotonic()
            ready = self._poll.poll(max(0.0, remaining) * 1000)
            if not ready or not ready[0][1] & select.POLLOUT:
                break
            try:
                written += os.write(self.fd, data[written:])
            except BlockingIOError:
                pass  # another process was faster
            except OSError:  # EPIPE, ENOSPC, EIO: whoever keeps stderr is gone; the service is not
                break
            if remaining <= 0:
                break
        return written


stderr = StderrWriter()
