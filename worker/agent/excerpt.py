"""Some lines of a text that arrives in pieces, numbered, in bounded memory.  Pure.

excerpt = Excerpt(offset=1, limit=2000, max_chars=30_000)
while excerpt.receive(data): …            data: bytes as they come, b"" at the end
excerpt.text()
"""

from typing import Final

MAX_LINE_CHARS: Final = 2000
"""Of longer lines the rest is left out."""


class Excerpt:
    """Lines `offset` (from 1) to `offset + limit - 1`, as many of them as `max_chars` have room for.

    Lines end with LF or CRLF.  What isn't UTF-8 is replaced.
    """

    def __init__(self, *, offset: int, limit: int, max_chars: int) -> None:
        self._offset = offset
        self._limit = limit
        self._room = max_chars
        self._max_line_chars = min(MAX_LINE_CHARS, max_chars)
        self._shown: list[str] = []
        self._line = bytearray()
        self._line_bytes = 0  # of the current line, those included that are not kept
        self.lines = 0
        """Complete lines that were received."""
        self.is_full = False
        """There is more than is shown."""

    @property
    def next(self) -> int:
        """The first line that isn't shown."""
        return self._offset + len(self._shown)

    def receive(self, data: bytes) -> bool:
        """Takes the next bytes, or b"" for the end; whether more are wanted."""
        if not data:
            if self._line_bytes:
                self._end_line()
            return False
        start = 0
        while start < len(data):
            if self.lines + 1 < self._offset:
                start = self._skip(data)
                if self.lines + 1 < self._offset:
                    self._line_bytes = len(data) - start  # a line has begun; what it says is of no interest
                    return True
                self._line_bytes = 0
                continue
            if self.is_full or len(self._shown) >= self._limit:
                self.is_full = True
                return False
            end = data.find(b"\n", start)
            self._keep(data[start : end if end >= 0 else len(data)])
            if end < 0:
                break
            self._end_line()
            start = end + 1
        return not self.is_full

    def text(self) -> str:
        """The lines, each after its number as `cat -n` has it."""
        return "\n".join(self._shown)

    def _skip(self, data: bytes) -> int:
        """Counts lines of `data` up to the first that is wanted; where what follows them begins.

        Only for the bytes at the beginning of `data`: once a line is wanted, all after it are.
        """
        missing = self._offset - 1 - self.lines
        found = data.count(b"\n")
        if found < missing:
            self.lines += found
            return data.rfind(b"\n") + 1
        start = 0
        for _ in range(missing):
            start = data.index(b"\n", start) + 1
        self.lines += missing
        return start

    def _keep(self, part: bytes) -> None:
        """A part of a line: so much of it as can be shown."""
        self._line_bytes += len(part)
        # A character has at most four bytes.
        self._line += part[: max(0, 4 * self._max_line_chars - len(self._line))]

    def _end_line(self) -> None:
        self.lines += 1
        if self.lines >= self._offset:
            self._show()
        self._line.clear()
        self._line_bytes = 0

    def _show(self) -> None:
        text = self._line.decode("utf-8", "replace").removesuffix("\r")
        if len(text) > self._max_line_chars or self._line_bytes > len(self._line):
            text = f"{text[: self._max_line_chars]}[… this line has {self._line_bytes:,} bytes …]"
        line = f"{self.lines:6}\t{text}"
        self._room -= len(line) + 1
        # One line at least: else nobody would get beyond it.
        if self._room < 0 and self._shown:
            self.is_full = True
        else:
            self._shown.append(line)
