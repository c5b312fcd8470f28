"""The process that is about to be our heir, and the link to it (`supervisor.handover`)."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from shared.channel import FrameReader, FrameWriter, open_pipe
from shared.errors import FrameError, StartError
from supervisor.handover import (
    VARIABLE,
    Failed,
    FromElder,
    FromHeir,
    Hello,
    Offer,
    Offered,
    Ready,
    decode_from_heir,
    encode,
)
from supervisor.listen import Listener

END_TIMEOUT = 3.0
"""For one that is not wanted any more to end by itself."""
REAP_TIMEOUT = 1.0
FLUSH_TIMEOUT = 1.0


class HeirProcess:
    """Started by `start`, ended by `end`, unless it takes over: then it outlives us."""

    def __init__(self) -> None:
        self.pid = 0
        """0 until it has said it: it goes on in a child of the process that we start."""
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfds: list[int] = []
        """Of the process we start, and of the one that it goes on in."""
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._received: deque[FromHeir | None] = deque()

    async def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        log_file: Path | None,
        listeners: Sequence[Listener],
    ) -> None:
        """Start it, with the listening sockets and its ends of two pipes; `StartError` if that can't be done."""
        with contextlib.ExitStack() as theirs:
            read_fd, ours = open_pipe()
            self._writer = FrameWriter(ours)
            theirs.callback(os.close, read_fd)
            ours, write_fd = open_pipe()
            self._reader = FrameReader(ours)
            theirs.callback(os.close, write_fd)
            offered = [Offered(each.socket.fileno(), each.bind, each.adopted, each.inode) for each in listeners]
            offer = Offer(pid=os.getpid(), read_fd=read_fd, write_fd=write_fd, listeners=offered)

            def popen() -> "subprocess.Popen[bytes]":
                with contextlib.ExitStack() as files:
                    log = None if log_file is None else files.enter_context(log_file.open("ab"))
                    return subprocess.Popen(
                        argv,
                        env={**env, VARIABLE: msgspec.json.encode(offer).decode()},
                        cwd=cwd,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(read_fd, write_fd, *(each.fd for each in offered)),
                    )

            try:
                self._process = await trio.to_thread.run_sync(popen)
                self._pidfds.append(os.pidfd_open(self._process.pid))
            except OSError as error:
                raise StartError(f"the new supervisor can't be started: {error.filename}: {error.strerror}") from error

    async def wait_ready(self) -> list[int]:
        """The descriptors of the listening sockets that it goes on with; `StartError` with its own sentence, if any."""
        while True:
            match await self.receive():
                case Hello(pid, version):
                    self.pid, self.version = pid, version
                    with contextlib.suppress(ProcessLookupError):
                        self._pidfds.append(os.pidfd_open(pid))
                    await self._reap()
                case Ready(kept):
                    return kept
                case Failed(message):
                    raise StartError(message)
                case None:
                    await self._reap()
                    raise self.death()
                case _:
                    pass

    def send(self, message: FromElder) -> None:
        """Without loss and without waiting; nothing where it is gone."""
        if self._writer is not None:
            self._writer.send_nowait(encode(message))

    async def receive(self) -> FromHeir | None:
        """The next thing it says; None when it is gone."""
        assert self._reader is not None
        while not self._received:
            try:
                payloads = await self._reader.receive()
            except FrameError:
                return None
            if not payloads:
                return None
            self._received += [message for payload in payloads if (message := decode_from_heir(payload)) is not None]
        return self._received.popleft()

    def death(self) -> StartError:
        """How it ended, when it has not told."""
        code = None if self._process is None else self._process.returncode
        if code and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with code {code}" if code else f"(pid {self.pid}) died"
        return StartError(f"the new supervisor {how} before it was ready; `kimi-proxy logs` may tell why")

    async def run_writer(self) -> None:
        """Write what the pipe could not take at once, until it is gone."""
        assert self._writer is not None
        await self._writer.run()

    async def flush(self) -> None:
        """Wait until it was told everything, or for a moment."""
        if self._writer is not None:
            with trio.move_on_after(FLUSH_TIMEOUT):
                await self._writer.wait_flushed()

    async def end(self) -> None:
        """Cut the link, which ends it, and make sure of that."""
        for end in (self._reader, self._writer):
            if end is not None:
                end.close()
        for pidfd in self._pidfds:
            with trio.move_on_after(END_TIMEOUT) as patience:
                await trio.lowlevel.wait_readable(pidfd)
            if patience.cancelled_caught:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await trio.lowlevel.wait_readable(pidfd)
        await self._reap()
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()

    async def _reap(self) -> None:
        """The process that we started has ended, or does so now."""
        if self._process is not None and self._pidfds:
            with trio.move_on_after(REAP_TIMEOUT):
                await trio.lowlevel.wait_readable(self._pidfds[0])
            self._process.poll()
