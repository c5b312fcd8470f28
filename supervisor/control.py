"""What the command line and the running supervisor say to each other on the admin UNIX socket.

One connection carries one request frame and one reply frame (`shared.framing`), msgpack-encoded tagged structs:

    Status → StatusReply          Reload → Done | Refused      DumpStacks → Done
    Sessions → SessionsReply      CancelSession → Cancelled    CancelStale → Cancelled
    Upgrade → Done | Refused
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared.framing import decoded


class Status(Struct, frozen=True, tag=True):
    """Ask for a `StatusReply`."""


class Reload(Struct, frozen=True, tag=True):
    """Do what SIGHUP does, and tell how it went."""


class DumpStacks(Struct, frozen=True, tag=True):
    """Do what SIGUSR1 does."""


class Sessions(Struct, frozen=True, tag=True):
    """Ask for the live streams of all workers."""


class CancelSession(Struct, frozen=True, tag=True):
    """Cancel one live stream by its id, or all those of a session."""

    id: str


class CancelStale(Struct, frozen=True, tag=True):
    """Cancel the live streams for which nothing has come in `idle` seconds."""

    idle: float = 60.0


NO_REQUEST = "that is no request"
"""How a `Refused` begins that answers what the service can't understand: it is of an older version."""


STOPPING = "the service is stopping"
"""The whole message of a `Refused` when a restart is asked of a service that stops, or stops meanwhile."""


class Upgrade(Struct, frozen=True, tag=True, kw_only=True):
    """Start another supervisor and hand the service over to it, without refusing a connection or cutting a stream."""

    argv: list[str]
    """What is to be started, without `--config`…"""
    config: str | None = None
    """…the absolute path that follows it; None: the one in force."""
    cwd: str | None = None
    """The folder to start it in; None: the supervisor's own."""
    env: dict[str, str] | None = None
    """Its environment; None: the one that the supervisor was started with, which one under systemd always takes."""


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """One worker process.  Sizes in bytes, durations in seconds."""

    worker: int
    pid: int
    generation: int
    state: Literal["starting", "serving", "draining", "stuck"]
    streams: int = 0
    connections: int = 0
    rss_bytes: int = 0
    uptime: float = 0.0
    restarts: int = 0
    """How often this slot's worker died unasked."""
    lag: float = 0.0
    dropped: int = 0
    up_pipe_bytes: int = 0
    """Said by the worker, and not read yet by the supervisor…"""
    down_pipe_bytes: int = 0
    """…and the other way round, what waits for room in the pipe included."""


class ProviderStatus(Struct, frozen=True, kw_only=True):
    """One configured provider and what has been seen of it since the start."""

    name: str
    dialect: str
    base_url: str
    has_key: bool
    health: Literal["healthy", "degraded", "open", "half_open"] = "healthy"
    """`degraded`: asked last.  `open`: not asked, as its circuit is open; `half_open`: tried by few streams."""
    active: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    last_error: str | None = None


class ElderStatus(Struct, frozen=True):
    """A supervisor from which this one has taken over, and whose last streams go on."""

    pid: int
    streams: int


class Totals(Struct, frozen=True, kw_only=True):
    """Since the supervisor's start."""

    started: int = 0
    active: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class StorageStatus(Struct, frozen=True, kw_only=True):
    """The database: `problem` is None while it can be written."""

    path: str
    problem: str | None = None
    buffered: int = 0
    lost: int = 0
    lag: float = 0.0
    """Seconds that the oldest of the buffered records has waited."""


class StatusReply(Struct, frozen=True, tag=True, kw_only=True):
    """The service at a glance."""

    version: str
    pid: int
    state: Literal["starting", "running", "reloading", "draining"]
    uptime: float
    bind: list[str]
    config_source: str | None
    config_loaded: float
    """Epoch seconds of the last configuration that was applied."""
    config_error: str | None
    """Why the newest configuration was refused; the one before it is in force."""
    crash_loop: str | None
    workers_wanted: int
    workers: list[WorkerStatus]
    elders: list[ElderStatus] = []
    restarts: int = 0
    """How many workers died unasked since the start, in all slots."""
    providers: list[ProviderStatus]
    totals: Totals
    storage: StorageStatus


class SessionsReply(Struct, frozen=True, tag=True):
    """The live streams, as `GET /api/sessions/active` has them: what programs read is one thing wherever they ask."""

    active: dict[str, Any]


class Cancelled(Struct, frozen=True, tag=True):
    """The ids of the streams that were told to end; none if nothing fitted."""

    ids: list[str]


class Done(Struct, frozen=True, tag=True):
    """It was done; `message` says what."""

    message: str


class Refused(Struct, frozen=True, tag=True):
    """It was not done; `message` says why."""

    message: str


Request = Status | Reload | DumpStacks | Sessions | CancelSession | CancelStale | Upgrade
Reply = StatusReply | SessionsReply | Cancelled | Done | Refused

_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """One message as the payload of a frame."""
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """The request in a frame; raises `msgspec.DecodeError` on garbage."""
    return decoded(payload, _request_decoder)


def decode_reply(payload: bytes) -> Reply:
    """The reply in a frame; raises `msgspec.DecodeError` on garbage."""
    return decoded(payload, _reply_decoder)
