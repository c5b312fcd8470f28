"""The worker's ends of its two pipes: records and beats go up, commands come down.

A terminal record is kept here until the supervisor has said that it is on the disk: what it had in its pipe and in its
memory dies with it.
"""

from collections import deque
from pathlib import Path

import msgspec

from shared.channel import FrameReader, FrameWriter
from shared.errors import FrameError
from shared.logs import get_logger
from shared.messages import (
    Admit,
    Ask,
    Beat,
    Down,
    Leave,
    Listen,
    Ready,
    Recycle,
    Stored,
    StreamEnded,
    StreamStarted,
    Trouble,
    decode_down,
    encode,
)
from shared.spool import write_spool

# Kept while the database can't be written; the oldest go first.  A record has some 300 bytes.
MAX_UNSTORED = 100_000


class Link:
    """Sends without ever waiting; `run` must be running for what the pipe could not take at once."""

    def __init__(self, up_fd: int, down_fd: int) -> None:
        self.up = FrameWriter(up_fd)
        self._down = FrameReader(down_fd)
        self._unstored: deque[bytes] = deque()
        self._first_unstored = 0
        """How many records came before those that are kept."""

    def send(
        self, message: Ready | StreamStarted | StreamEnded | Admit | Leave | Trouble | Listen | Ask | Recycle
    ) -> None:
        """Lossless: what the pipe can't take now is queued."""
        payload = encode(message)
        if isinstance(message, StreamEnded):
            self._unstored.append(payload)
            if len(self._unstored) > MAX_UNSTORED:
                self._forget_first()
        self.up.send_nowait(payload)

    def beat(self, beat: Beat) -> None:
        """Progress: dropped and counted when the pipe is full."""
        self.up.send_or_drop_nowait(encode(beat))

    async def receive(self) -> list[Down]:
        """Wait for commands; [] when the supervisor is gone, or has said what is no command."""
        try:
            return [decode_down(payload) for payload in await self._down.receive()]
        except (FrameError, msgspec.DecodeError) as error:
            get_logger().error("down_pipe_garbage", message=str(error))
            return []

    @property
    def unstored(self) -> int:
        """How many terminal records are not known to be on the disk."""
        return len(self._unstored)

    def take_stored(self, stored: Stored) -> None:
        """Forget the records that are."""
        while self._unstored and self._first_unstored < stored.count:
            self._forget_first()

    def _forget_first(self) -> None:
        self._unstored.popleft()
        self._first_unstored += 1

    def spool(self, folder: Path) -> None:
        """Leave the records that are not on the disk to the next supervisor; blocking.  Never raises `OSError`.

        May be called from any thread, when the loop's is stuck.
        """
        payloads = list(self._unstored)
        if not payloads:
            return
        try:
            path = write_spool(folder, payloads)
        except OSError as error:
            get_logger().error(
                "records_not_spooled", path=str(folder), count=len(payloads), problem=error.strerror or str(error)
            )
        else:
            get_logger().warning("records_spooled", path=str(path), count=len(payloads))

    def close(self) -> None:
        """Close both ends."""
        self.up.close()
        self._down.close()
