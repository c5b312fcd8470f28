"""What is kept of an output that may be endless: its beginning and its end."""


class Tape:
    """Holds at most some `max_bytes` bytes, however many are added."""

    def __init__(self, max_bytes: int) -> None:
        self._half = max(max_bytes // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def add(self, data: bytes) -> None:
        """What comes next."""
        if room := self._half - len(self._head):
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        # Not at every byte too many: moving the end costs as much as it is long.
        if len(self._tail) > 2 * self._half:
            self._trim()

    def read(self) -> tuple[bytes, int, bytes]:
        """The beginning, how many bytes lack behind it, and the end."""
        self._trim()
        return bytes(self._head), self._dropped, bytes(self._tail)

    def _trim(self) -> None:
        excess = max(len(self._tail) - self._half, 0)
        del self._tail[:excess]
        self._dropped += excess
