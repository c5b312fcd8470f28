"""What two supervisors say to each other while the service passes from one, the elder, to the other, its heir.

    elder                                            heir
      │ starts it, with an `Offer` in its environment ─▶ │
      │ ◀──────────────────────────────────────── Hello │ loads its configuration, starts all its workers
      │ ◀──────────── Ready (or Failed, and it is over) │ …which do not accept yet
      │ Take ─────────────────────────────────────────▶ │ shares the instance's lock, has its workers accept
      │ ◀──────────────────────────────────────── Taken │
      │ retires its workers                             │
      │ Yours ────────────────────────────────────────▶ │ holds the lock, answers the command line, speaks for
      │                                                 │ the service
      │ Said, WorkerLeft, … ──────────────────────────▶ │
      │ ◀────────────────────────────────── Cancel, Stop │ until the elder's last stream has ended

Before `Take` the end of the link means that the other one is gone: the elder goes on as if nothing had happened, the
heir ends.  After it the heir serves, whatever becomes of the elder.

Two pipes, one frame a message (`shared.framing`), msgpack-encoded tagged structs.  The two may be of different
versions: what one of them does not know it passes over, and `PROTOCOL` changes with what can't be passed over.
"""

import msgspec
from msgspec import Struct

from shared.messages import Admit, Beat, StreamEnded, StreamStarted, Trouble
from shared.records import CancelReason

VARIABLE = "KIMI_PROXY_HANDOVER"
PROTOCOL = 1


class Offered(Struct, frozen=True):
    """A listening socket that the heir is born with: see `supervisor.listen.Listener`."""

    fd: int
    bind: str
    adopted: bool
    inode: tuple[int, int] | None


class Offer(Struct, frozen=True, kw_only=True):
    """JSON in the heir's environment: who calls, and the descriptors that it is born with."""

    protocol: int = PROTOCOL
    pid: int
    read_fd: int
    write_fd: int
    listeners: list[Offered]


class Hello(Struct, frozen=True, tag=True):
    """The heir lives."""

    pid: int
    version: str


class Failed(Struct, frozen=True, tag=True):
    """The heir gives up, for a reason that people are told."""

    message: str


class Ready(Struct, frozen=True, tag=True):
    """All workers of the heir are up.  `kept`: the descriptors of the offered sockets that it goes on with."""

    kept: list[int]


class Taken(Struct, frozen=True, tag=True):
    """The heir's workers accept."""


class Cancel(Struct, frozen=True, tag=True):
    """A stream of the elder's worker with this pid is to end."""

    pid: int
    id: str
    reason: CancelReason


class Stop(Struct, frozen=True, tag=True):
    """The service stops: the elder's streams have so many seconds."""

    timeout: float


class Take(Struct, frozen=True, tag=True):
    """The service is the heir's, if it can take it."""


class Yours(Struct, frozen=True, tag=True):
    """The elder has let go of everything but its streams."""


class Reload(Struct, frozen=True, tag=True):
    """The elder got a SIGHUP that was meant for the service."""


Told = StreamStarted | StreamEnded | Beat | Admit | Trouble
"""What the heir hears of what the elder's workers say.  The records are written by the elder."""


class Said(Struct, frozen=True, tag=True):
    """A worker, of the elder or of its own elder, said this."""

    supervisor: int
    pid: int
    slot: int
    message: Told


class WorkerLeft(Struct, frozen=True, tag=True):
    """That worker is gone; the records of its streams came before."""

    pid: int


FromHeir = Hello | Failed | Ready | Taken | Cancel | Stop
FromElder = Take | Yours | Reload | Said | WorkerLeft

_encoder = msgspec.msgpack.Encoder()
_from_heir: msgspec.msgpack.Decoder[FromHeir] = msgspec.msgpack.Decoder(FromHeir)
_from_elder: msgspec.msgpack.Decoder[FromElder] = msgspec.msgpack.Decoder(FromElder)


def encode(message: FromHeir | FromElder) -> bytes:
    """One message as the payload of a frame."""
    return _encoder.encode(message)


def decode_from_heir(payload: bytes) -> FromHeir | None:
    """What the heir says; None for what a newer one may mean by it."""
    try:
        return _from_heir.decode(payload)
    except msgspec.DecodeError:
        return None


def decode_from_elder(payload: bytes) -> FromElder | None:
    """What the elder says; None for what another version may mean by it."""
    try:
        return _from_elder.decode(payload)
    except msgspec.DecodeError:
        return None
