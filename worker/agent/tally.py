"""Counts the tokens of a text while it comes.  Pure.

Pieces are often smaller than a token, or end inside of one, so that their own counts would add up to twice as many. And
a count takes its time: it is made when the next step may have been reached, as a token is at least a byte.
"""

from collections.abc import Callable

# Text without a space in it can't be cut between tokens for sure; to count all of it again and again would be slow.
MAX_TAIL_CHARS = 1024
MAX_CHAR_BYTES = 4


class Tally:
    """See the module.  `count`: the tokens of a text; `step`: what `add` counts in."""

    def __init__(self, count: Callable[[str], int], step: int) -> None:
        self._count = count
        self._step = step
        self._steps = 0
        self._settled = 0
        """Tokens of all that came before the tail, which the next piece may still change."""
        self._tail: list[str] = []
        self._bytes_left = step
        """No sooner is the next step reached."""

    def add(self, text: str) -> range:
        """The steps that are reached with this piece, from 1."""
        self._tail.append(text)
        self._bytes_left -= len(text) if text.isascii() else len(text) * MAX_CHAR_BYTES
        if self._bytes_left > 0:
            return range(0)
        tail = "".join(self._tail)
        tokens = self._settled + self._count(tail)
        before, self._steps = self._steps, max(self._steps, tokens // self._step)
        self._bytes_left = (self._steps + 1) * self._step - tokens
        if self._steps > before:
            tail = self._settle(tail)
        self._tail = [tail]
        return range(before + 1, self._steps + 1)

    def _settle(self, tail: str) -> str:
        """Count for good what comes before the last word, which is left."""
        end = tail.rfind(" ")
        if end <= 0:
            end = len(tail) if len(tail) > MAX_TAIL_CHARS else 0
        if end:
            self._settled += self._count(tail[:end])
        return tail[end:]
