"""The arguments of a tool call as a model writes them, piece by piece."""

import re

from worker.dialects.arguments import object_text

_INSIDE_STRING = re.compile(r'["\\]')
_OUTSIDE = re.compile(r'[{}\[\]"]')


class Fragments:
    """A text that grows, and whether it is a whole JSON object by now.

    Theory of operation: a scanner follows strings and brackets, and reads every fragment once, when it is first asked
    for; what closes the first bracket is the only place where an object can be whole, and is parsed once.  Parsing
    anew with each question would be quadratic, and calls with large arguments do come mixed.
    """

    __slots__ = ("_closed", "_depth", "_escaped", "_in_string", "_scanned", "_texts", "_whole")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._scanned = 0
        """How many of the texts."""
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._closed = False
        self._whole = False

    def add(self, text: str) -> None:
        """One more fragment."""
        self._texts.append(text)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._texts)

    def is_whole(self) -> bool:
        """Whether it is a JSON object, so that nothing but white space may follow.  Linear over all questions."""
        if self._scanned < len(self._texts):
            fresh = "".join(self._texts[self._scanned :])
            self._scanned = len(self._texts)
            if not self._closed:
                self._scan(fresh)
            elif fresh.strip():
                self._whole = False
        return self._whole

    def _scan(self, text: str) -> None:
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            mark = (_INSIDE_STRING if self._in_string else _OUTSIDE).search(text, at)
            if mark is None:
                return
            at = mark.end()
            match mark[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = True
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        self._closed = True
                        self._whole = object_text(self.text) is not None
                        return
