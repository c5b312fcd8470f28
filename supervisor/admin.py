"""The far end of the admin socket: answers what `supervisor.control` defines.

    ┌─ connection ─┐   request frame ──▶ decode ──▶ answer ──▶ reply frame ──▶ close

The socket file is for the service's user alone (0600).  A client can neither make it large nor make it wait.
"""

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import trio

from shared.errors import FrameError, StartError
from shared.framing import FrameDecoder, frame
from supervisor.control import NO_REQUEST, Refused, Reply, Request, decode_request, encode

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""`Upgrade` brings a whole environment along."""
CLIENT_TIMEOUT = 5.0
"""For a client to send its request, and again to take the reply."""
_BACKLOG = 64
_READ_BYTES = 4096

Answer = Callable[[Request], Awaitable[Reply]]


def open_admin_socket(path: Path) -> socket.socket:
    """Listen on `path`, for this user only; what lies there is a dead instance's, as the caller holds the lock.

    `StartError` if it can't be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        # The file takes its mode from the socket's: closed to others from its first moment, without an umask.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"the admin socket {path} can't be made: {error.strerror or error}") from error
    return sock


class AdminSocket:
    """The socket of `open_admin_socket` and its file, whose place may change hands."""

    def __init__(self, path: Path) -> None:
        self.sock = open_admin_socket(path)
        self._path: Path | None = path

    def move(self, path: Path) -> None:
        """Have it at another place of the same folder, in one step, whoever's socket is there, unless it is there."""
        if self._path is not None:
            with suppress(FileNotFoundError):  # the elder has moved it
                os.replace(self._path, path)
        self._path = path

    def hand_over(self, heirs: Path) -> None:
        """Let the heir's socket take the place of ours; whoever is connected to ours still has an answer."""
        if self._path is not None:
            with suppress(FileNotFoundError):
                os.replace(heirs, self._path)
            self._path = None

    def close(self) -> None:
        """Close it, and remove the file, if that is ours.  May be called twice."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.sock.close()


def heir_path(path: Path) -> Path:
    """Where an heir listens until the place `path` is its own; no longer than that, as such paths are bounded."""
    return path.with_name("heir.sock")


async def serve_admin(
    sock: socket.socket, answer: Answer, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer connections until cancelled; any number at the same time."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    await trio.serve_listeners(partial(_serve_client, answer), [listener], task_status=task_status)


async def _serve_client(answer: Answer, stream: trio.SocketStream) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError):
            request: Request | None = None
            reply: Reply = Refused("no request came")
            with trio.move_on_after(CLIENT_TIMEOUT):
                try:
                    request = await _receive(stream)
                except (FrameError, msgspec.DecodeError) as error:
                    reply = Refused(f"{NO_REQUEST}: {error}")
            if request is not None:
                reply = await answer(request)
            with trio.move_on_after(CLIENT_TIMEOUT):
                await stream.send_all(_framed(reply))


def _framed(reply: Reply) -> bytes:
    try:
        return frame(encode(reply))
    except FrameError as error:  # tens of thousands of live streams
        return frame(encode(Refused(f"the answer is too long: {error}")))


async def _receive(stream: trio.SocketStream) -> Request | None:
    """The one request of a connection; None if the client went away."""
    decoder = FrameDecoder(MAX_REQUEST_BYTES)
    while data := await stream.receive_some(_READ_BYTES):
        for payload in decoder.receive(data):
            return decode_request(payload)
    return None
