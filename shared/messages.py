"""What travels on the two pipes of a worker: tagged structs, msgpack-encoded, one a frame (`shared.framing`).

    up    worker → supervisor   Ready, Beat, StreamStarted, StreamEnded
    down  supervisor → worker   Configure, Drain, CancelStream, Stored

`StreamStarted` and `StreamEnded` are lossless; `Beat` carries progress, which may be dropped and is then counted.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from shared.config import Config
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


Up = Ready | Beat | StreamStarted | StreamEnded
Down = Configure | Drain | CancelStream | Stored

_encoder = msgspec.msgpack.Encoder()
_up_decoder: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down_decoder: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)


def encode(message: Up | Down) -> bytes:
    """One message as the payload of a frame."""
    return _encoder.encode(message)


def decode_up(payload: bytes) -> Up:
    """The message in a frame from a worker; raises `msgspec.DecodeError` on garbage."""
    return _up_decoder.decode(payload)


def decode_down(payload: bytes) -> Down:
    """The message in a frame from the supervisor; raises `msgspec.DecodeError` on garbage."""
    return _down_decoder.decode(payload)
