"""Finding markers in text that comes in pieces."""

import re
from collections.abc import Iterable


class Markers:
    """A set of markers to look for."""

    def __init__(self, markers: Iterable[str]) -> None:
        markers = tuple(markers)
        # The longest first: one marker may begin like another.
        self._any = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True))))
        self._beginnings = frozenset(marker[:size] for marker in markers for size in range(1, len(marker)))
        self._longest = max(map(len, markers)) - 1
        self._first = re.compile("[" + re.escape("".join({marker[0] for marker in markers})) + "]")

    def cut(self, text: str, at: int) -> tuple[str, str | None, int]:
        """What stands in `text[at:]` before the first marker, that marker, and where it ends.

        Without a marker, what follows that place may be the beginning of one: it is to stand before what comes next.
        """
        start = self._first.search(text, at)
        if start is None:  # nearly always
            return text[at:], None, len(text)
        found = self._any.search(text, start.start())
        if found is not None:
            return text[at : found.start()], found[0], found.end()
        for size in range(min(self._longest, len(text) - at), 0, -1):
            if text[-size:] in self._beginnings:
                return text[at:-size], None, len(text) - size
        return text[at:], None, len(text)
