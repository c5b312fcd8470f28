"""Frames over the raw descriptors of a pipe, for trio.

    writer ── send_nowait ──▶ os.write ──▶ pipe ──▶ os.read ──▶ receive ── reader
                  │ full        ▲
                  ▼             │ run(), once writable
                 queue ─────────┘

Neither end ever blocks its thread.  The writer takes every lossless frame at once, into the pipe or into its queue,
and says `congested` when the queue is long; the owner then admits no more work.  Frames that may be lost go through
`send_or_drop_nowait`.  One task uses an end at a time; each end closes its own descriptor.

O_NONBLOCK belongs to the open file description, which every process that inherited the descriptor shares; the two
ends of a pipe are two descriptions, so making both non-blocking surprises nobody but the other copies of the same end.
"""

import contextlib
import fcntl
import itertools
import math
import os
import struct
import termios
from collections import deque

import trio

from shared.errors import FrameError
from shared.framing import FrameDecoder, frame

READ_BYTES = 256 * 1024
# One receive takes at most this much, so that a pipe that is filled as fast as it is emptied lets other tasks run.
MAX_RECEIVE_BYTES = 4 * 1024 * 1024
# Frames in one writev; the kernel's bound (IOV_MAX) is 1024.
WRITE_FRAMES = 128
# So many reads may follow one another without a pause, after pauses that were longer than they had to be: a peer that
# says little is heard at once, its second frame too, and one that says much is read at the pace of `linger`.
PROMPT_READS = 8


def open_pipe(capacity_bytes: int = 1024 * 1024) -> tuple[int, int]:
    """A pipe as (read_fd, write_fd), both non-blocking and close-on-exec.  The caller closes both.

    The capacity is a wish: the kernel bounds it per pipe and per user, and a smaller pipe works as well.
    """
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, capacity_bytes)
    return read_fd, write_fd


class FrameWriter:
    """The writing end.  `run` must be running for queued frames to leave; the sends are plain calls.

    Once the reader is gone (EPIPE) the writer is `broken`: what was queued and what is sent later counts as `dropped`.
    """

    def __init__(self, fd: int, *, max_pending_bytes: int = 16 * 1024 * 1024) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._max_pending_bytes = max_pending_bytes
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = trio.Event()
        self._flushed = trio.Event()
        self.pending_bytes = 0
        self.dropped = 0
        self.broken = False

    @property
    def congested(self) -> bool:
        """More than `max_pending_bytes` wait: whoever owns the writer should take on nothing new."""
        return self.pending_bytes > self._max_pending_bytes

    @property
    def unread_bytes(self) -> int:
        """What has been sent and the reader has not read, queued or in the pipe; 0 once closed."""
        return self.pending_bytes + _bytes_in_pipe(self._fd)

    def send_nowait(self, payload: bytes) -> None:
        """Send one frame without loss and without waiting.  `FrameError` if it is over the frame's bound."""
        data = frame(payload)
        if self.broken:
            self.dropped += 1
        elif self._queue:
            self._append(data)
        else:
            self._write_or_queue(data)

    def send_or_drop_nowait(self, payload: bytes) -> bool:
        """Send one frame unless earlier ones wait or the pipe is full; False if it was dropped.

        A frame whose beginning fitted into the pipe is sent to its end: the reader never sees a torn one.
        """
        data = frame(payload)
        if self.broken or self._queue:
            self.dropped += 1
            return False
        return self._write_or_queue(data, or_drop=True)

    def _write_or_queue(self, data: bytes, *, or_drop: bool = False) -> bool:
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            self._break()
            self.dropped += 1
            return False
        if written == 0 and or_drop:
            self.dropped += 1
            return False
        if written < len(data):
            self._append(memoryview(data)[written:])
        return True

    def _append(self, data: bytes | memoryview) -> None:
        self._queue.append(data)
        self.pending_bytes += len(data)
        self._queued.set()

    async def run(self) -> None:
        """Flush the queue whenever the pipe has room; returns once the reader is gone or the writer is closed.

        Cancellation loses nothing: what is queued stays queued.
        """
        while not self.broken and self._fd >= 0:
            if not self._queue:
                self._queued = trio.Event()
                await self._queued.wait()
                continue
            try:
                await trio.lowlevel.wait_writable(self._fd)
            except trio.ClosedResourceError:
                return
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            try:
                written = os.writev(self._fd, list(itertools.islice(self._queue, WRITE_FRAMES)))
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._break()
                return
            self.pending_bytes -= written
            while written:
                head = self._queue.popleft()
                if written < len(head):
                    self._queue.appendleft(memoryview(head)[written:])
                    return
                written -= len(head)
        self._flushed.set()

    async def wait_flushed(self) -> None:
        """Wait until nothing is queued, because it was written or because the reader is gone.  `run` does the work."""
        while self._queue:
            if self._flushed.is_set():
                self._flushed = trio.Event()
            await self._flushed.wait()
        await trio.lowlevel.checkpoint()

    def _break(self) -> None:
        self.broken = True
        self._forget_queue()

    def _forget_queue(self) -> None:
        self.dropped += len(self._queue)
        self._queue.clear()
        self.pending_bytes = 0
        self._queued.set()
        self._flushed.set()

    def close(self) -> None:
        """Close the descriptor; what is still queued is dropped and counted, later sends too.  May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._break()
            _close(fd)


class FrameReader:
    """The reading end.

    `linger`: seconds from one read to the next, on the average, so that many small frames cost one wake-up.
    """

    def __init__(self, fd: int, *, linger: float = 0.0) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._linger = linger
        self._paid_until = -math.inf
        """Where the clock would stand if each read so far had taken `linger`."""
        self._decoder = FrameDecoder()

    @property
    def unread_bytes(self) -> int:
        """What waits in the pipe; 0 once closed."""
        return _bytes_in_pipe(self._fd)

    async def receive(self) -> list[bytes]:
        """Wait for frames; at least one payload, or [] once every writer is gone (a torn last frame is left out).

        Raises `FrameError` on garbage, when all frames before it have been returned, and
        `trio.ClosedResourceError` if the reader is closed meanwhile.  Cancellation loses nothing.
        """
        self._decoder.receive(b"")  # raises if garbage followed the frames of the last call; no more need come
        if self._linger:
            await trio.sleep_until(self._paid_until - (PROMPT_READS - 1) * self._linger)
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            payloads, ended = self._read(MAX_RECEIVE_BYTES)
            if payloads or ended:
                break
        if self._linger:
            self._paid_until = max(self._paid_until, trio.current_time()) + self._linger
        return payloads

    def receive_available_nowait(self) -> list[bytes]:
        """All that can be read now, without waiting: the last words of a peer that has died.  `FrameError` as above."""
        self._decoder.receive(b"")
        return self._read(None)[0]

    def _read(self, max_bytes: int | None) -> tuple[list[bytes], bool]:
        """Payloads, and whether the stream has ended.  A short read means that the pipe was empty at that moment."""
        payloads: list[bytes] = []
        taken = 0
        while max_bytes is None or taken < max_bytes:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                return payloads, True
            try:
                payloads += self._decoder.receive(data)
            except FrameError:
                if payloads:
                    break
                raise
            taken += len(data)
            if len(data) < READ_BYTES:
                break
        return payloads, False

    def close(self) -> None:
        """Close the descriptor.  May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _close(fd)


def _bytes_in_pipe(fd: int) -> int:
    if fd < 0:
        return 0
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


def _close(fd: int) -> None:
    with contextlib.suppress(RuntimeError):  # outside of trio.run nobody can be waiting
        trio.lowlevel.notify_closing(fd)
    os.close(fd)
