"""Server-sent events as bytes: where one ends, and what its data is.

An event ends with a blank line; a line ends with LF, CRLF or CR (WHATWG HTML, "Parsing an event stream").  JSON never
holds a raw line break, so cutting needs no decoding, and borders inside a UTF-8 character don't matter.
"""

import itertools
import re

from shared.errors import DialectError

PING = b": ping\n\n"
_BOM = b"\xef\xbb\xbf"
# `\n\r\n` is the tail of a CRLF blank line.
_BORDER = re.compile(rb"\n\n|\n\r\n|\r\r")


def end_of_last_event(data: bytes | bytearray, start: int = 0) -> int:
    """The index behind the last complete event in `data[start:]`, or 0."""
    end = _behind_last(data, b"\n\n", start)
    if data.find(b"\r", start) < 0:  # nearly always, and one quick look instead of two slow ones
        return end
    return max(end, _behind_last(data, b"\n\r\n", start), _behind_last(data, b"\r\r", start))


def _behind_last(data: bytes | bytearray, mark: bytes, start: int) -> int:
    at = data.rfind(mark, start)
    return at + len(mark) if at >= 0 else 0


class EventCutter:
    """Holds back the beginning of an event until its end has come.

    Only whole events may go to a client: a failure can then always be told as an event of its own, and a ping can
    stand between any two.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._held = bytearray()

    def receive(self, data: bytes) -> bytes:
        """The bytes up to the end of the last complete event, or b"".  Raises `DialectError` for an endless event."""
        held = self._held
        if not held:
            if data.endswith(b"\n\n"):  # nearly always: one upstream write is one event
                return data
            end = end_of_last_event(data)
            if end == len(data):
                return data
            held += data[end:]
            out = data[:end]
        else:
            searched = max(0, len(held) - 2)
            held += data
            end = end_of_last_event(held, searched)
            out = bytes(held[:end])
            del held[:end]
        if len(held) > self._max:
            raise DialectError(f"an event of the upstream is larger than max_event_bytes = {self._max}")
        return out

    def receive_eof(self) -> bytes:
        """What was held at the end of the body: an event whose blank line never came."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


def encode_event(name: str, data: bytes) -> bytes:
    """One named event; `data` holds no line break, as JSON doesn't."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def split_events(block: bytes) -> list[bytes]:
    """`block`, which holds whole events, cut into them; joined they are `block` again."""
    ends = [border.end() for border in _BORDER.finditer(block)]
    if not ends or ends[-1] < len(block):
        ends.append(len(block))
    return [block[start:end] for start, end in itertools.pairwise([0, *ends])]


def through_payload(block: bytes, number: int) -> bytes:
    """`block`, which holds whole events, up to the end of the one with the `number`-th of its `payloads`, from 1."""
    end = 0
    for event in split_events(block):
        end += len(event)
        number -= len(payloads(event))
        if number <= 0:
            break
    return block[:end]


def with_data(event: bytes, data: bytes) -> bytes:
    """One event with `data`, which holds no line break, in the place of its own; its other lines stay as they are."""
    lines = []
    for line in event.removeprefix(_BOM).splitlines(keepends=True):
        if not line.startswith(b"data:"):
            lines.append(line)
        elif data:
            lines.append(b"data: " + data + line[len(line.rstrip(b"\r\n")) :])
            data = b""
    return b"".join(lines)


def payloads(block: bytes) -> list[bytes]:
    """The data of each event in `block` that has any; comments and other fields are left out."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[bytes] = []
    for event in block.split(b"\n\n"):
        if event.startswith(b"data:") and b"\n" not in event:
            found.append(event[6:] if event[5:6] == b" " else event[5:])
        elif event:
            lines = event.removeprefix(_BOM).split(b"\n")  # the first event of a stream may begin with one
            lines = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
            if lines:
                found.append(b"\n".join(lines))
    return found
