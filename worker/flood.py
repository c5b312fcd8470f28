"""What an HTTP/2 client may send beside requests: frames that cost it nothing and us something are counted.  Pure.

A client has credit, which such frames use up.  What we send to it and time give it back, so that one who cancels
now and then, or acknowledges what it reads in small steps, never runs out.  One who resets what it asks for at once
(CVE-2023-44487), asks for more streams than it may have, each of which costs h2 a look at all others, or floods us with
settings, pings, or pieces of headers or bodies (CVE-2019-9512 to 9518, CVE-2024-27316), is sent away before any of it
is looked at.
"""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES = 16384
CREDIT = 2000
"""What a connection begins with, and what time alone gives back…"""
CREDIT_A_SECOND = 200
"""…at this rate."""
CREDIT_A_FRAME = 4
"""For each frame of an answer, so that a request that has one costs nothing…"""
MAX_CREDIT = 20_000
"""…up to this."""
SMALL_BYTES = 128
_HEAD_BYTES = 9
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = range(5)
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(6, 10)
_END_STREAM = 0x1
_COSTS = {
    _HEADERS: CREDIT_A_FRAME,
    _PRIORITY: 1,
    _RST_STREAM: 1,
    _SETTINGS: 5,
    _PING: 1,
    _GOAWAY: 5,
    _WINDOW_UPDATE: 1,
    _CONTINUATION: 5,
}
# Of no use to us.  h2 takes a GOAWAY for the end of all streams, where a client only says that it opens no more.
_DROPPED = frozenset({_PRIORITY, _GOAWAY})


class Flood(Exception):
    """The client has used up its credit."""


class Gate:
    """Lets bytes through, whole frames at a time."""

    def __init__(self, now: float) -> None:
        self._credit: float = CREDIT
        self._counted = now
        self._buffer = b""
        self._preface = PREFACE

    def earn(self) -> None:
        """A frame of an answer was sent."""
        self._credit = min(MAX_CREDIT, self._credit + CREDIT_A_FRAME)

    def receive(self, data: bytes, now: float) -> bytes:
        """The frames that `data` completes, but for those that are of no use; `Flood` when enough is enough.

        What is no HTTP/2 is let through, as it will not be understood.
        """
        if self._credit < CREDIT:
            self._credit = min(CREDIT, self._credit + (now - self._counted) * CREDIT_A_SECOND)
        self._counted = now
        data = self._buffer + data
        passed: list[bytes] = []
        at = 0
        if self._preface:
            if len(data) < len(self._preface) and self._preface.startswith(data):
                self._buffer = data
                return b""
            at = len(self._preface)
            passed.append(data[:at])
            self._preface = b""
        while len(data) - at >= _HEAD_BYTES:
            high, low, kind, flags = struct.unpack_from("!BHBB", data, at)
            length = high << 16 | low
            if length > MAX_FRAME_BYTES:
                self._buffer = b""
                return b"".join([*passed, data[at:]])
            end = at + _HEAD_BYTES + length
            if end > len(data):
                break
            self._charge(kind, flags, length)
            if kind not in _DROPPED and kind <= _CONTINUATION:
                passed.append(data[at:end])
            at = end
        self._buffer = data[at:]
        return b"".join(passed)

    def _charge(self, kind: int, flags: int, length: int) -> None:
        if kind == _DATA:
            cost = 1 if length < SMALL_BYTES and not flags & _END_STREAM else 0
        else:
            cost = _COSTS.get(kind, 0 if kind <= _CONTINUATION else 1)
        self._credit -= cost
        if self._credit < 0:
            raise Flood
