"""What the running service says of itself, for the commands that show it."""

import msgspec
from msgspec import Struct

from shared.errors import ControlError
from shared.paths import Paths
from supervisor.cli.client import request
from supervisor.control import ElderStatus, Refused, Reply, Sessions, SessionsReply, Status, StatusReply

TIMEOUT = 5.0


class LiveStream(Struct, frozen=True, kw_only=True):
    """What people are shown of a live stream.  `age` in seconds, `tokens` an estimate of the completion so far."""

    id: str
    session: str | None = None
    provider: str
    model: str
    worker: int
    age: float
    tokens: int
    tokens_per_second: float


class LiveStreams(Struct, frozen=True):
    """The part of `GET /api/sessions/active` that people are shown."""

    sessions: list[LiveStream]


def ask_status(paths: Paths, timeout: float = TIMEOUT) -> StatusReply:
    """The service at a glance; `ControlError` if there is none, or if it can't be asked."""
    reply = request(paths, Status(), timeout)
    if not isinstance(reply, StatusReply):
        raise misfit(reply)
    return reply


def ask_sessions(paths: Paths, timeout: float = TIMEOUT) -> SessionsReply:
    """The live streams of all workers; raises as `ask_status`."""
    reply = request(paths, Sessions(), timeout)
    if not isinstance(reply, SessionsReply):
        raise misfit(reply)
    return reply


def live_streams(reply: SessionsReply) -> list[LiveStream]:
    """The live streams, oldest first."""
    try:
        streams = msgspec.convert(reply.active, LiveStreams).sessions
    except msgspec.ValidationError as error:
        raise misfit(reply) from error
    return sorted(streams, key=lambda stream: -stream.age)


def finishing(elder: ElderStatus) -> str:
    """What a supervisor still does that the one that serves has replaced."""
    return f"pid {elder.pid} finishes {elder.streams} stream{'' if elder.streams == 1 else 's'}"


def misfit(reply: Reply) -> ControlError:
    """The error for an answer that is none to the question: the refusal's own words, if it is one."""
    if isinstance(reply, Refused):
        return ControlError(reply.message)
    return ControlError("the service gave an answer that does not fit; is it of another version?")
