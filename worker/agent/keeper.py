"""The worker's end of the process that starts programs and kills them (`worker.agent.warden`).

    execute ── keeper: forks ──▶ warden: starts, watches, kills ──▶ program ── everything it starts

The end of a program's socket is the proof that nothing of it is left, not even a zombie.
"""

import array
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

import worker
from shared.logs import get_logger
from worker.agent.environment import scrubbed
from worker.agent.errors import ToolError
from worker.agent.probe import Sandboxes
from worker.agent.program import Outcome, Program

# Its code is found by path: it runs without site-packages, and with nothing of the worker's environment.
MAIN = "import sys; sys.path.insert(0, sys.argv[1]); from worker.agent.warden.main import main; main(int(sys.argv[2]))"
ROOT = str(Path(worker.__file__).parents[1])
RECEIVE_BYTES = 65536
POLITE = 0.2
"""Of the grace, how long programs have after SIGTERM."""
FORCE = 0.6
"""Of the grace, after which the warden itself is killed, if it has not made an end: a program may have stopped it."""
LATE = 2.0
"""Seconds after a program's own timeout, in which its warden should have answered."""
FAREWELL = 0.3
MAX_STARTS = 4
"""So many wardens are born at once; a crowd would keep the processors from those that kill."""
START_TIMEOUT = 10.0


class Keeper:
    """See the module.  One a worker (`gateway.keeper`); it starts its process when the first program is wanted."""

    def __init__(self) -> None:
        self.sandboxes = Sandboxes(self.execute)
        self._starting = trio.Lock()
        self._births = trio.CapacityLimiter(MAX_STARTS)
        self._process: trio.Process | None = None
        self._requests: trio.socket.SocketType | None = None

    async def execute(self, program: Program, *, trace: str = "") -> Outcome:
        """Run it until it ends or its time is over; nothing that it started is left then.

        Raises `ToolError` if it can't be run.  A cancel returns when everything is dead, or after `program.grace`: it
        is logged then under `trace`, and killed whenever the kernel lets go of it.
        """
        ours, theirs = socket.socketpair()
        warden = _Warden(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        async with warden.stream:
            try:
                with theirs:
                    await self._bear(warden, theirs)
                with trio.move_on_after(program.timeout + program.grace + LATE):
                    return await warden.ask(program)
            finally:
                await self._end(warden, program.grace, trace)
        raise ToolError("The program stopped the process that watched it. Everything it had started was killed.")

    async def aclose(self) -> None:
        """End the process and all programs."""
        process, self._process = self._process, None
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if process is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(FAREWELL):
                await process.wait()
            if process.poll() is None:
                process.kill()
                await process.wait()

    async def _bear(self, warden: "_Warden", control: socket.socket) -> None:
        """Have a warden that listens at the other end of `control`, which is closed here."""
        async with self._births:
            await self._hand_over(control)
            control.close()
            with trio.move_on_after(START_TIMEOUT):
                await warden.wait_born()
        if warden.is_over or warden.pid is None:
            raise ToolError("No program can be started now: there are too many processes.")

    async def _hand_over(self, control: socket.socket) -> None:
        """Have a warden born that has this socket; a process that is found dead is replaced."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [control.fileno()]))]
        try:
            async with self._starting:
                if self._requests is not None:
                    with contextlib.suppress(OSError):
                        await self._requests.sendmsg([b"+"], rights)
                        return
                    await self.aclose()
                requests = await self._start()
                await requests.sendmsg([b"+"], rights)
        except OSError as error:
            raise ToolError(f"No program can be started now: {error.strerror or error}.") from error

    async def _start(self) -> trio.socket.SocketType:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                fd = theirs.fileno()
                self._process = await trio.lowlevel.open_process(
                    [sys.executable, "-I", "-S", "-c", MAIN, ROOT, str(fd)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(fd,),
                    env=scrubbed(os.environ),
                    cwd="/",
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        self._requests = trio.socket.from_stdlib_socket(ours)
        return self._requests

    async def _end(self, warden: "_Warden", grace: float, trace: str) -> None:
        """Hang up, and wait until that has been taken note of; force it after a while."""
        if warden.is_over:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + grace):
            with trio.move_on_after(grace * FORCE):
                await warden.hang_up()
            if not warden.is_over and warden.pid is not None and self._requests is not None:
                with contextlib.suppress(OSError):
                    await self._requests.sendmsg([b"%d" % warden.pid])
                await warden.hang_up()
        if not warden.is_over:
            get_logger().warning("agent_task_timeout_on_cancel", trace=trace, task="a program", warden=warden.pid)


class _Warden:
    """One program's socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.is_over = False
        self._received = bytearray()

    @property
    def pid(self) -> int | None:
        """None until it has introduced itself."""
        return struct.unpack_from("!I", self._received)[0] if len(self._received) >= 4 else None

    async def ask(self, program: Program) -> Outcome:
        """The request, and its answer."""
        request = json.dumps(
            {
                "argv": program.argv,
                "env": program.env,
                "cwd": program.cwd,
                "beneath": program.beneath,
                "timeout": program.timeout,
                "polite": program.grace * POLITE,
                "max_bytes": program.max_bytes,
                "may_gain": program.may_gain,
            }
        ).encode()
        with contextlib.suppress(trio.BrokenResourceError):  # it is dead already: then there is no answer either
            await self.stream.send_all(struct.pack("!I", len(request)) + request)
        await self._receive()
        header, _, output = bytes(self._received[4:]).partition(b"\n")
        if not header:
            raise ToolError("The program killed the process that watched it. Everything it had started was killed.")
        answer: dict[str, Any] = json.loads(header)
        if answer["error"]:
            raise ToolError(f"The program can't be started: {answer['error']}.")
        return Outcome(
            status=answer["status"],
            timed_out=answer["timed_out"],
            head=output[: answer["head"]],
            dropped=answer["dropped"],
            tail=output[answer["head"] :],
        )

    async def wait_born(self) -> None:
        """Wait until it has introduced itself, or is dead."""
        while self.pid is None and not self.is_over:
            await self._receive_some()

    async def hang_up(self) -> None:
        """Have it killed, and wait until it is gone."""
        with contextlib.suppress(OSError):
            self.stream.socket.shutdown(socket.SHUT_WR)
        await self._receive()

    async def _receive(self) -> None:
        while not self.is_over:
            await self._receive_some()

    async def _receive_some(self) -> None:
        data = b""
        with contextlib.suppress(trio.BrokenResourceError):  # it died with a request unread
            data = bytes(await self.stream.receive_some(RECEIVE_BYTES))
        self._received += data
        self.is_over = not data
