"""Terminal records that a worker could not see stored: files which it leaves, and the next supervisor imports.

    <state>/spool/<pid>-<time_ns>.frames      frames (`shared.framing`) of `StreamEnded` messages (`shared.messages`)

A file appears whole, by its rename.  Everything here blocks for as long as the disk takes.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from shared.errors import FrameError
from shared.framing import FrameDecoder, frame
from shared.messages import StreamEnded, decode_up
from shared.records import StreamRecord

SUFFIX = ".frames"
CORRUPT = ".corrupt"


class Spool(Struct, frozen=True):
    """What was found in a file: the records up to its end, or up to the `damage` in it."""

    records: list[StreamRecord]
    damage: str | None = None


def write_spool(folder: Path, payloads: Sequence[bytes]) -> Path:
    """Leave encoded `StreamEnded` messages in a new file, on the disk when this returns.

    The folder is made, closed to others.  `OSError` if it can't be done; nothing is left behind then.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{time.time_ns()}{SUFFIX}"
    draft = path.with_suffix(".new")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(b"".join(map(frame, payloads)))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return path


def find_spools(folder: Path) -> list[Path]:
    """The files that wait in `folder`, by name; none if there is no such folder.  `OSError` if it can't be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []


def read_spool(path: Path) -> Spool:
    """The records in a file, however damaged it is.  `OSError` if it can't be read."""
    decoder = FrameDecoder()
    records: list[StreamRecord] = []
    try:
        payloads = decoder.receive(path.read_bytes())
        for payload in payloads:
            message = decode_up(payload)
            if not isinstance(message, StreamEnded):
                return Spool(records, f"a {type(message).__name__} instead of a record")
            records.append(message.record)
        decoder.receive(b"")  # raises here if garbage followed good frames
    except (FrameError, msgspec.DecodeError) as error:
        return Spool(records, str(error))
    if decoder.pending_bytes:
        return Spool(records, f"its last {decoder.pending_bytes} bytes are no whole record")
    return Spool(records)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nobody reads it again and somebody can look at it."""
    return path.rename(path.with_name(path.name + CORRUPT))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
