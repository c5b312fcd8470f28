"""Live events: what listeners of `WS /ws` are told, each a JSON object whose `type` says what happened.

    of the service     stream_start, progress, streaming_error, stream_end, provider_degraded, provider_recovered,
                       worker_restarted, config_reloaded
    of the connection  hello first; dropped where events were lost

`timestamp` is in epoch seconds, durations are float seconds.  None of them is ever stored; `docs/events.md` is the
reference for those who listen.
"""

import msgspec
from msgspec import Struct

from shared.records import Dialect, Status, Tokens


class Event(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all have."""

    timestamp: float


class StreamStart(Event, frozen=True, kw_only=True, tag="stream_start"):
    """A stream was admitted.  `provider` is the first that is asked, `client` a fingerprint of the client's key."""

    id: str
    trace: str
    session: str | None
    worker: int
    provider: str
    model: str
    dialect: Dialect
    streaming: bool
    client: str | None = None
    context_size: int | None = None
    """How many tokens the model's context holds, where the configuration tells."""
    prompt_estimate: int | None = None
    """Tokens of the prompt, roughly."""


class Moving(Struct, frozen=True, kw_only=True):
    """How far one live stream has come."""

    id: str
    tokens: int
    """An estimate of the completion so far."""
    tokens_per_second: float
    """Since the report before this one."""
    received_bytes: int
    age: float


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """All live streams of the service, about once a second while there are any; many come in several such events."""

    streams: tuple[Moving, ...]
    tokens: int
    """Of all live streams, those that come in other events included…"""
    tokens_per_second: float
    """…as here…"""
    active: int
    """…and here."""


class StreamEnd(Event, frozen=True, kw_only=True, tag="stream_end"):
    """A stream has its record; the fields are those of `shared.records.StreamRecord`."""

    id: str
    trace: str
    session: str | None
    worker: int
    provider: str
    model: str
    upstream_model: str
    status: Status
    error_type: str | None
    duration: float
    first_byte: float | None
    prompt: Tokens | None
    completion: Tokens | None
    cache_read: int | None
    cache_write: int | None
    cost: float | None
    http_status: int | None
    retries: int
    cancel_latency: float | None


class StreamingError(Event, frozen=True, kw_only=True, tag="streaming_error"):
    """An attempt at a provider failed.  `retried`: the stream goes on with another one."""

    id: str
    trace: str | None
    """None if the stream has ended already."""
    provider: str
    error_type: str
    retry_count: int
    tokens_received: int
    message: str
    retried: bool
    http_status: int | None = None
    """What the provider answered with, if the error is that."""


class ProviderDegraded(Event, frozen=True, kw_only=True, tag="provider_degraded"):
    """A provider has failed too often; `types` counts its errors in the window by type."""

    provider: str
    errors: int
    types: dict[str, int]


class ProviderRecovered(Event, frozen=True, kw_only=True, tag="provider_recovered"):
    """It is as it should be again."""

    provider: str


class WorkerRestarted(Event, frozen=True, kw_only=True, tag="worker_restarted"):
    """A worker took the place of one that had died; `reason` says how that one did, if it is known."""

    worker: int
    pid: int
    reason: str | None = None


class ConfigReloaded(Event, frozen=True, kw_only=True, tag="config_reloaded"):
    """A reload was done, or refused with `error`; the configuration before it is then still in force."""

    source: str | None
    ok: bool
    message: str | None = None
    """What the new one changed."""
    error: str | None = None


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """The first event of every listener."""

    version: str
    worker: int
    """The one that answers him."""
    sessions: msgspec.Raw
    """What `GET /api/sessions/active` answers at this moment; null if that is not known."""


class Dropped(Event, frozen=True, kw_only=True, tag="dropped"):
    """`count` events that would stand here were lost: the listener, or the worker it hangs on, was too slow."""

    count: int


OfTheService = (
    StreamStart
    | Progress
    | StreamEnd
    | StreamingError
    | ProviderDegraded
    | ProviderRecovered
    | WorkerRestarted
    | ConfigReloaded
)
OfTheConnection = Hello | Dropped
ALL: tuple[type[Event], ...] = (
    StreamStart,
    Progress,
    StreamingError,
    StreamEnd,
    ProviderDegraded,
    ProviderRecovered,
    WorkerRestarted,
    ConfigReloaded,
    Hello,
    Dropped,
)


class _Tagged(Struct):
    """Only its type is of interest."""

    type: str


_encoder = msgspec.json.Encoder()
_type_decoder = msgspec.json.Decoder(_Tagged)


def type_of(kind: type[Event]) -> str:
    """What stands in `type`."""
    return str(kind.__struct_config__.tag)


TYPES = tuple(type_of(kind) for kind in ALL)
ALWAYS = (type_of(Hello), type_of(Dropped))
"""Told to every listener, whatever it asked for."""


def encode(event: OfTheService | OfTheConnection) -> bytes:
    """An event as JSON, on one line."""
    return _encoder.encode(event)


def read_type(event: bytes) -> str:
    """The type of an encoded event."""
    return _type_decoder.decode(event).type
