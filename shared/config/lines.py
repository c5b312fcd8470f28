"""Which line of a TOML text a key stands on: `tomllib` forgets it, and an error message needs it.

    [server]                 →  ("server",): 1
    bind = ["a", "b"]        →  ("server", "bind"): 2, ("server", "bind", 0): 2, ("server", "bind", 1): 2
    proxy.retry = {a = 1}    →  ("server", "proxy"): 3, ("server", "proxy", "retry"): 3, (…, "retry", "a"): 3
    [[models]]               →  ("models",): 4, ("models", 0): 4

The scanner relies on `tomllib` having accepted the text (https://toml.io/en/v1.0.0); of other texts it makes
something, without an exception.
"""

import re
import tomllib
from bisect import bisect_left

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The long forms first: `"""` would match as an empty `""`.  A closing run may have up to two quotes more.
_STRING = re.compile(
    r'"""(?:[^\\"]|\\.|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]*")


def key_lines(text: str) -> dict[Path, int]:
    """Every key path of the document `text`, with the line (from 1) of its first mention."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._array_lengths: dict[Path, int] = {}
        """How many `[[…]]` headers each array of tables has had."""

    def document(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK_LINES) < len(self._text):
            if self._take("[["):
                table = self._header(array=True)
                self._take("]]")
            elif self._take("["):
                table = self._header(array=False)
                self._take("]")
            elif not self._pair(table):
                self._at += 1  # no TOML: go on somewhere
        return self._lines

    def _header(self, *, array: bool) -> Path:
        line = self._line()
        keys = self._key()
        path: Path = ()
        for depth, key in enumerate(keys, start=1):
            path = (*path, key)
            self._lines.setdefault(path, line)
            if array and depth == len(keys):
                self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            if path in self._array_lengths:  # a table below an array belongs to its last element
                path = (*path, self._array_lengths[path] - 1)
                self._lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> bool:
        """One `key = value`; False if there is none here."""
        line = self._line()
        keys = self._key()
        if not keys:
            return False
        path = table
        for key in keys:
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._take("=")
        self._value(path)
        return True

    def _key(self) -> list[str]:
        """A dotted key, bare and quoted parts mixed; leaves the scanner behind it and its blanks."""
        keys = []
        while True:
            self._skip(_BLANK)
            if match := _BARE_KEY.match(self._text, self._at):
                keys.append(match[0])
            elif match := _STRING.match(self._text, self._at):
                keys.append(_unquote(match[0]))
            else:
                return keys
            self._at = match.end()
            self._skip(_BLANK)
            if not self._take("."):
                return keys

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        if self._take("["):
            index = 0
            while self._skip(_BLANK_LINES) < len(self._text) and not self._take("]"):
                self._lines.setdefault((*path, index), self._line())
                self._value((*path, index))
                self._skip(_BLANK_LINES)
                self._take(",")
                index += 1
        elif self._take("{"):
            while self._skip(_BLANK_LINES) < len(self._text) and not self._take("}"):
                if not self._pair(path):
                    self._at += 1
                self._skip(_BLANK_LINES)
                self._take(",")
        elif match := _STRING.match(self._text, self._at):
            self._at = match.end()
        else:
            before = self._at
            if self._skip(_SCALAR) == before:
                self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match:
            self._at = match.end()
        return self._at

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _line(self) -> int:
        return bisect_left(self._newlines, self._at) + 1


def _unquote(quoted: str) -> str:
    try:
        value: str = tomllib.loads(f"key = {quoted}")["key"]
    except tomllib.TOMLDecodeError:
        return quoted
    return value
