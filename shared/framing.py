"""Length-prefixed frames on a byte stream.

┌────────────────┬───────────────┐
│ length, 4 byte │ payload       │   length: of the payload, unsigned, big-endian
└────────────────┴───────────────┘
"""

from typing import TypeVar

import msgspec

from shared.errors import FrameError

MAX_FRAME_BYTES = 16 * 1024 * 1024
HEADER_BYTES = 4
T = TypeVar("T")


def frame(payload: bytes) -> bytes:
    """`payload` behind its length; raises `FrameError` above `MAX_FRAME_BYTES`."""
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(payload)} bytes is over the bound of {MAX_FRAME_BYTES}")
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def decoded(payload: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """The message in a frame; `msgspec.DecodeError` for whatever is none, broken UTF-8 and endless nests included."""
    try:
        return decoder.decode(payload)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


class FrameDecoder:
    """Bytes in, payloads out, however the bytes were cut."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes.

        `FrameError` for an oversized one.  If good frames came before it in the same `data`, they are returned and
        the next call raises, whatever it is given: records that arrived whole are not lost with the garbage.
        """
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        at = 0
        while len(buffer) - at >= HEADER_BYTES:
            start = at + HEADER_BYTES
            length = int.from_bytes(buffer[at:start], "big")
            if length > self._max:
                if payloads:
                    break
                raise FrameError(f"a frame announces {length} bytes, over the bound of {self._max}")
            if len(buffer) - start < length:
                break
            at = start + length
            payloads.append(bytes(buffer[start:at]))
        del buffer[:at]
        return payloads

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame is held; not 0 at EOF means the peer died inside a write."""
        return len(self._buffer)
