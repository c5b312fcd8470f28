"""Taking the service over from a running supervisor, which has started us for that (`supervisor.handover`).

Until the elder says `Take` nothing of the service is ours: whatever goes wrong ends this process, and the elder goes
on.  From then on it is ours, whatever becomes of the elder.
"""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, MutableMapping, Sequence
from types import TracebackType

import msgspec
import trio

from shared import VERSION
from shared.channel import FrameReader, FrameWriter
from shared.config import Server
from shared.errors import FrameError, KimiProxyError, StartError
from shared.framing import frame
from supervisor.elder import Elder
from supervisor.fleet import Fleet
from supervisor.handover import (
    PROTOCOL,
    VARIABLE,
    Failed,
    Hello,
    Offer,
    Ready,
    Reload,
    Said,
    Take,
    Taken,
    WorkerLeft,
    Yours,
    decode_from_elder,
    encode,
)
from supervisor.instance import InstanceLock
from supervisor.listen import Listener, close_listeners, reopen

_ABOUT_ITSELF = ("WATCHDOG_PID", "SYSTEMD_EXEC_PID")
"""Variables in which the service manager told the elder its own pid."""


class Heir:
    """Our side of the hand-over.  Pushed on an `ExitStack` it tells the elder why we gave up, if we did."""

    def __init__(self, offer: Offer, pidfd: int) -> None:
        self._offer = offer
        self.pidfd = pidfd
        """Of the elder."""
        self.writer = FrameWriter(offer.write_fd)
        self.elder_pid = offer.pid
        self._offered = [
            Listener(offered.bind, socket.socket(fileno=offered.fd), adopted=offered.adopted)
            for offered in offer.listeners
        ]
        self._inodes = {
            listener.socket: offered.inode for listener, offered in zip(self._offered, offer.listeners, strict=True)
        }
        self._kept: list[int] = []
        self.taken = False
        """The service is ours."""
        self.in_office = trio.Event()
        """So is everything but the elder's streams."""
        self.failure: str | None = None
        """Why it never will be."""
        self._told_failure = False

    @classmethod
    def of(cls, env: MutableMapping[str, str]) -> "Heir | None":
        """The heir that we are, if the environment says so; what it says is taken out.

        To be called first of all, by a process of one thread: it goes on in a child, whose parent is whoever takes care
        of orphans.  A service manager that watches over the service would not hear of the end of another one's child.
        """
        said = env.pop(VARIABLE, "")
        if not said:
            return None
        try:
            offer = msgspec.json.decode(said, type=Offer)
            for fd in (offer.read_fd, offer.write_fd, *(offered.fd for offered in offer.listeners)):
                os.set_inheritable(fd, False)
            pidfd = os.pidfd_open(offer.pid)
        except (msgspec.DecodeError, OSError) as error:
            raise StartError(f"{VARIABLE} is for `kimi-proxy restart` alone: {error}") from error
        if os.fork():
            os._exit(0)
        os.setsid()
        for name in _ABOUT_ITSELF:
            if env.get(name) == str(offer.pid):
                env[name] = str(os.getpid())
        heir = cls(offer, pidfd)
        heir._say(Hello(os.getpid(), VERSION))
        if offer.protocol != PROTOCOL:
            message = (
                f"versions too far apart for a hand-over ({offer.protocol}, {PROTOCOL}): stop the service, start it"
            )
            heir._say(Failed(message))
            raise StartError(message)
        return heir

    def open_listeners(self, server: Server) -> list[Listener]:
        """The sockets for the configured `bind`: those of the elder that stay, and new ones.  Raises as `reopen`."""
        listeners, removed = reopen(self._offered, server.bind, tcp_user_timeout=server.tcp_user_timeout)
        close_listeners(removed)
        self._kept = [listener.socket.fileno() for listener in self._offered if listener in listeners]
        return listeners

    def __enter__(self) -> "Heir":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if isinstance(error, KimiProxyError):
            self._tell_failure(str(error))
        elif error is None or isinstance(error, SystemExit | KeyboardInterrupt):
            self._tell_failure("it was stopped before it could take the service over")
        else:
            self._tell_failure(f"{type(error).__name__}: {error}")

    async def run(
        self,
        fleet: Fleet,
        elder: Elder,
        lock: InstanceLock,
        *,
        open_store: Callable[[], None],
        on_reload: Callable[[], object],
    ) -> None:
        """From the first worker to the elder's end; a failure before `Take` stops the fleet and is in `failure`.

        `open_store` blocks, and comes last: it may upgrade the database.
        """
        reader = FrameReader(self._offer.read_fd)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.writer.run)
                nursery.start_soon(self._prepare, fleet, open_store)
                while messages := await self._receive(reader):
                    for message in messages:
                        match message:
                            case Take():
                                lock.take_share()
                                self.taken = True
                                fleet.accept(self._owned(fleet.settings.listeners))
                                self.writer.send_nowait(encode(Taken()))
                            case Yours():
                                self.in_office.set()
                            case Said() | WorkerLeft():
                                elder.take(message)
                            case Reload():
                                on_reload()
                            case None:
                                pass
                nursery.cancel_scope.cancel()
            if self.taken:
                self.in_office.set()
                await elder.lost()
            else:
                self.fail(fleet, "the running service has ended, or given the hand-over up")
        finally:
            reader.close()
            if self.taken:  # or it is still needed, to say why not
                self.writer.close()

    async def _prepare(self, fleet: Fleet, open_store: Callable[[], None]) -> None:
        while fleet.serving < fleet.settings.config.server.workers:
            if fleet.stopping:
                return
            if fleet.crash_loop is not None:
                self.fail(fleet, fleet.crash_loop)
                return
            await fleet.changed.wait()
        try:
            await trio.to_thread.run_sync(open_store)
        except StartError as error:
            self.fail(fleet, str(error))
            return
        self.writer.send_nowait(encode(Ready(self._kept)))

    async def _receive(self, reader: FrameReader) -> list[Take | Yours | Reload | Said | WorkerLeft | None]:
        try:
            return [decode_from_elder(payload) for payload in await reader.receive()]
        except FrameError:
            return []

    def fail(self, fleet: Fleet, why: str) -> None:
        """The service will not be ours."""
        self.failure = self.failure or why
        self._tell_failure(self.failure)
        fleet.stop(0.0)

    def _owned(self, listeners: Sequence[Listener]) -> list[Listener]:
        """The same, with the files of the UNIX sockets as ours."""
        return [
            dataclasses.replace(listener, inode=self._inodes.get(listener.socket, listener.inode))
            for listener in listeners
        ]

    def _tell_failure(self, why: str) -> None:
        if not self.taken and not self._told_failure:
            self._told_failure = True
            self._say(Failed(why))

    def _say(self, message: Hello | Failed) -> None:
        """Without trio: a small frame always has room in the pipe."""
        with contextlib.suppress(OSError):  # the elder is gone
            os.write(self._offer.write_fd, frame(encode(message)))
