"""What travels on the two pipes of a worker: tagged structs, msgpack-encoded, one a frame (`shared.framing`).

    up    worker → supervisor   Ready, Beat, StreamStarted, StreamEnded, Admit, Leave, Trouble, Listen, Ask, Recycle
    down  supervisor → worker   Accept, Configure, Drain, CancelStream, Stored, Verdict, Health, Happened, Told

`Beat` carries progress, which may be dropped and is then counted; all others are lossless.

    a stream with a session key or a limit     StreamStarted · Admit ─▶  ◀─ Verdict · … · StreamEnded
    any other                                  StreamStarted · … · StreamEnded
"""

from typing import Literal

import msgspec
from msgspec import Struct

from shared.config import Config
from shared.framing import decoded
from shared.records import CancelReason, StreamRecord, StreamStart


class Ready(Struct, frozen=True, tag=True):
    """The worker accepts connections."""

    pid: int
    generation: int


class Progress(Struct, frozen=True, array_like=True):
    """How far one live stream has come.  `tokens` is an estimate of the completion so far."""

    id: str
    tokens: int
    received_bytes: int


class Beat(Struct, frozen=True, tag=True):
    """Once a second: the worker's loop is alive, and this is what it carries."""

    streams: int
    connections: int
    rss_bytes: int
    lag: float
    """Seconds by which the worker's own clock task woke late, at the worst since the last beat."""
    dropped: int
    """Progress messages dropped since the worker started, because the pipe was full."""
    progress: list[Progress] = []


class StreamStarted(Struct, frozen=True, tag=True):
    """Sent before anything goes upstream, so that a record can be written whatever happens next."""

    start: StreamStart


class StreamEnded(Struct, frozen=True, tag=True):
    """The terminal record; the worker forgets the stream with it."""

    record: StreamRecord


class Accept(Struct, frozen=True, tag=True):
    """A worker that was born `held` (`shared.entry.WorkerStart`) is to accept connections from now on."""


class Configure(Struct, frozen=True, tag=True):
    """A validated configuration for a running worker; streams in flight keep the one they began with."""

    config: Config
    keys: dict[str, str]
    """Provider name → key, resolved by the supervisor; absent where no key is sent."""


class Drain(Struct, frozen=True, tag=True):
    """Stop accepting, let streams finish for `timeout` seconds, cancel the rest as `shutdown`, exit.

    `retire` (reload, scale-down) lets idle keep-alive connections send one more request; `shutdown` closes them at
    once.  A second `Drain` replaces the first one's deadline.
    """

    mode: Literal["retire", "shutdown"]
    timeout: float


class CancelStream(Struct, frozen=True, tag=True):
    """Cancel one live stream; an unknown id is no error, it may have just ended."""

    id: str
    reason: CancelReason


class Stored(Struct, frozen=True, tag=True):
    """The first `count` terminal records of this worker are in the database; the answer to a beat, when it grew."""

    count: int


class Admit(Struct, frozen=True, tag=True):
    """A stream asks to be let in to a provider, and waits for the `Verdict`; nothing goes upstream before.

    `session`: the key whose older stream gives way; None if there is none, or it only groups.  `client` names the
    client's key (a fingerprint) where keys are limited.
    """

    id: str
    provider: str
    session: str | None = None
    client: str | None = None


class Leave(Struct, frozen=True, tag=True):
    """The stream does not wait for `provider` any longer, or is done with it and goes on to another."""

    id: str
    provider: str
    unused: bool = False
    """Nothing was sent there: it counts as never asked."""


class LimitState(Struct, frozen=True):
    """A rate limit as it stands behind a verdict; durations in seconds."""

    name: str
    """`provider kimi`, `key 1a2b3c4d5e6f`, `client ci`."""
    limit: int
    """Requests a minute, or at once."""
    remaining: int
    reset_after: float
    """Until the limit is as good as new."""
    retry_after: float = 0.0
    """Until asking again makes sense; 0 for one that was let in."""
    concurrent: bool = False
    """`limit` counts streams at once."""


class Verdict(Struct, frozen=True, tag=True):
    """The answer to `Admit`.  `limit` is the tightest one that was looked at; None if none applies."""

    id: str
    provider: str
    admitted: bool
    limit: LimitState | None = None


class Trouble(Struct, frozen=True, tag=True):
    """An attempt at a provider failed; the stream may go on with another one."""

    id: str
    provider: str
    error_type: str
    message: str
    retry_count: int
    tokens_received: int
    retried: bool
    at: float
    """Epoch seconds."""
    http_status: int | None = None
    """What the provider answered with, if the error is that (`HTTPStatusError`)."""


class Health(Struct, frozen=True, tag=True):
    """The providers that are not as they should be; all others are healthy.  Sent at the start and at each change."""

    degraded: tuple[str, ...] = ()
    """Asked last."""
    open: tuple[str, ...] = ()
    """Not asked: their circuit is open."""
    half_open: tuple[str, ...] = ()
    """Asked in its place by one stream of the worker for each message that says so; by others after all others."""


class Listen(Struct, frozen=True, tag=True):
    """Whether this worker has listeners for live events."""

    wanted: bool


class Happened(Struct, frozen=True, tag=True):
    """Live events, each as its JSON."""

    events: tuple[bytes, ...]
    lost: int = 0
    """How many happened before these that could not be told."""


class Recycle(Struct, frozen=True, tag=True):
    """The worker wants to be replaced: a new one starts, then this one drains as with a reload.  Sent once."""

    reason: str


class Metrics(Struct, frozen=True, tag=True):
    """All metrics, as Prometheus text."""


class ActiveSessions(Struct, frozen=True, tag=True):
    """The live streams of all workers."""


class CancelSession(Struct, frozen=True, tag=True):
    """Cancel one stream by its id, or all streams of a session key."""

    id: str


class CancelStale(Struct, frozen=True, tag=True):
    """Cancel the streams for which nothing has come in `idle` seconds."""

    idle: float = 60.0


class Overview(Struct, frozen=True, tag=True):
    """The service at a glance, for the dashboard: workers, providers, configuration, totals."""


class Conversation(Struct, frozen=True, tag=True):
    """What a session of the agent has said, in the bytes of `KeepConversation`; 404: nothing is known of it."""

    session: str
    client: str | None = None
    """The fingerprint of the client's key: to others the session is another one."""


class KeepConversation(Struct, frozen=True, tag=True):
    """Keep what a session has said, in the place of what was kept of it; b"" forgets it.

    A question for the sake of its answer: when that comes, `Conversation` has it in every worker.
    """

    session: str
    client: str | None
    data: bytes
    """JSON, at most `[agent] max_conversation_bytes`, which leaves a frame room."""


class LogIn(Struct, frozen=True, tag=True):
    """Count an attempt to log in to the dashboard.  429, with `retry_after` in seconds: there were too many."""

    address: str
    """Whence it came."""
    failed: bool


Question = Metrics | ActiveSessions | CancelSession | CancelStale | Overview | Conversation | KeepConversation | LogIn


class Ask(Struct, frozen=True, tag=True):
    """A question whose answer only the supervisor knows; `number` is the worker's own."""

    number: int
    question: Question


class Told(Struct, frozen=True, tag=True):
    """The answer: a body as HTTP clients get it (text for `Metrics`, JSON for all others).

    From status 400 on it is `{"message": …}`, to be said in the client's dialect.
    """

    number: int
    status: int
    body: bytes


Up = Ready | Beat | StreamStarted | StreamEnded | Admit | Leave | Trouble | Listen | Ask | Recycle
Down = Accept | Configure | Drain | CancelStream | Stored | Verdict | Health | Happened | Told

_encoder = msgspec.msgpack.Encoder()
_up_decoder: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down_decoder: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)


def encode(message: Up | Down) -> bytes:
    """One message as the payload of a frame."""
    return _encoder.encode(message)


def decode_up(payload: bytes) -> Up:
    """The message in a frame from a worker; raises `msgspec.DecodeError` on garbage."""
    return decoded(payload, _up_decoder)


def decode_down(payload: bytes) -> Down:
    """The message in a frame from the supervisor; raises `msgspec.DecodeError` on garbage."""
    return decoded(payload, _down_decoder)
