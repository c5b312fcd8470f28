"""Grep without ripgrep: a program of its own, as a regular expression that never ends can only be killed.

    python -I -S -c PROGRAM <folder of the packages> <a Search as JSON>      in the workspace

It says what ripgrep would say of `./`, and follows no link.  Exit status: 0, or 2 with a sentence about what is wrong.
It imports nothing but the standard library, so that it starts in 20 ms.
"""

import json
import os
import re
import signal
import stat
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from io import TextIOWrapper
from types import FrameType
from typing import IO, NamedTuple

from worker.agent.globs import Rules
from worker.agent.walk import FOLDER, HISTORIES, Found, walk

PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from worker.agent.scan import main; main(sys.argv[2])"
LINE_BYTES = 1024 * 1024
"""Longer lines are looked at in pieces."""
WHOLE_BYTES = 32 * 1024 * 1024
"""Of larger files only so much is looked at where a match may have several lines."""
RULES_BYTES = 1024 * 1024
BINARY_PROBE = 8192
SHOWN_CHARS = 500
"""Of a line: data and minified code have longer ones."""
STOPPED = "[stopped after"
"""What the last line begins with where there was no time for all."""
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Search(NamedTuple):
    """What is looked for, and how it is told."""

    pattern: str
    path: str = ""
    """Relative to the workspace, and without links; "" is all of it."""
    mode: str = "files_with_matches"
    """…or `content`, or `count`."""
    globs: tuple[str, ...] = ()
    """Like the lines of a .gitignore, but of what is wanted, and with `!` of what is not."""
    types: tuple[str, ...] = ()
    """Globs of names, of which one must match."""
    before: int = 0
    after: int = 0
    numbers: bool = True
    ignore_case: bool = False
    multiline: bool = False
    seconds: float = 30.0
    """After them the search ends, wherever it is."""


class OutOfTime(Exception):
    """The search has taken its `seconds`."""


def main(text: str) -> None:
    """The program."""
    wanted = Search(**json.loads(text))
    out = TextIOWrapper(sys.stdout.buffer, "utf-8", "replace", newline="\n")
    scan = Scan(wanted)
    signal.signal(signal.SIGALRM, _out_of_time)  # inside a match, too: `re` lets signals in
    signal.setitimer(signal.ITIMER_REAL, wanted.seconds)
    try:
        scan.run(out)
    except (re.error, OverflowError, RecursionError) as error:
        out.write(f"the pattern is no regular expression: {error}\n")
        out.flush()
        sys.exit(2)
    except OSError as error:  # what was a folder is none any more
        out.write(f"{wanted.path or 'the workspace'} can't be searched: {error.strerror}\n")
        out.flush()
        sys.exit(2)
    except OutOfTime:
        at = f", at {scan.at}" if scan.at else ""
        out.write(f"{STOPPED} {wanted.seconds:g} s{at}: there may be more]\n")
    out.flush()


def _out_of_time(signal_number: int, frame: FrameType | None) -> None:
    raise OutOfTime


class Choice:
    """Which files are looked at (`worker.agent.walk.Visitor`)."""

    def __init__(self, wanted: Search) -> None:
        self._globs = Rules(wanted.globs, braces=True)
        self._must_match = any(not glob.startswith("!") for glob in wanted.globs)
        self._types = Rules(wanted.types) if wanted.types else None
        self._ignored: dict[str, Rules] = {}
        """Prefix of a folder's paths → what its .gitignore says."""

    def opened(self, prefix: str, folder: int) -> None:
        with suppress(OSError), open(os.open(".gitignore", READ, dir_fd=folder), "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                text = file.read(RULES_BYTES).decode(errors="replace")
                self._ignored[prefix] = Rules(text.split("\n"))

    def enters(self, path: str, name: str) -> bool:
        if name in HISTORIES or self._globs.verdict(path, folder=True) is False:
            return False
        return not self._is_ignored(path, folder=True)

    def wants(self, path: str, name: str) -> bool:
        if self._types is not None and not self._types.verdict(name, folder=False):
            return False
        verdict = self._globs.verdict(path, folder=False)
        if verdict is None:
            return not (self._must_match or self._is_ignored(path, folder=False))
        return verdict

    def _is_ignored(self, path: str, *, folder: bool) -> bool:
        end = len(path)
        while end > 0:
            end = path.rfind("/", 0, end)
            rules = self._ignored.get(path[: end + 1])
            verdict = None if rules is None else rules.verdict(path[end + 1 :], folder=folder)
            if verdict is not None:
                return verdict
        return False


class Scan:
    """One search."""

    def __init__(self, wanted: Search) -> None:
        self._wanted = wanted
        self.at = ""
        """The file that is being looked at."""
        self._told = False

    def run(self, out: IO[str]) -> None:
        """Write what is found.  Raises `re.error`."""
        wanted = self._wanted
        flags = (re.IGNORECASE if wanted.ignore_case else 0) | (re.MULTILINE | re.DOTALL if wanted.multiline else 0)
        pattern = re.compile(_translated(wanted.pattern), flags)
        for found in self._files():
            self.at = found.path
            with suppress(OSError), open(os.open(found.name, READ, dir_fd=found.folder), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and b"\0" not in file.read(BINARY_PROBE):
                    file.seek(0)
                    self._tell(out, found.path, _matches(file, pattern, wanted))

    def _files(self) -> Iterator[Found]:
        choice = Choice(self._wanted)
        with ExitStack() as stack:
            folder, prefix = os.open(".", FOLDER), ""
            stack.callback(os.close, folder)
            for name in self._wanted.path.split("/") if self._wanted.path else ():
                choice.opened(prefix, folder)
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Found(prefix + name, name, folder, status)
                    return
                folder, prefix = os.open(name, FOLDER, dir_fd=folder), f"{prefix}{name}/"
                stack.callback(os.close, folder)
            yield from walk(folder, prefix, choice)

    def _tell(self, out: IO[str], path: str, lines: Iterator[tuple[int, str, bool]]) -> None:
        wanted = self._wanted
        if wanted.mode == "files_with_matches":
            if any(matches for _, _, matches in lines):
                out.write(f"./{path}\n")
        elif wanted.mode == "count":
            if count := sum(matches for _, _, matches in lines):
                out.write(f"./{path}:{count}\n")
        else:
            self._tell_lines(out, path, lines)

    def _tell_lines(self, out: IO[str], path: str, lines: Iterator[tuple[int, str, bool]]) -> None:
        wanted = self._wanted
        waiting: deque[tuple[int, str]] = deque(maxlen=wanted.before)
        last = -1

        def tell(number: int, line: str, mark: str) -> None:
            nonlocal last
            if (wanted.before or wanted.after) and self._told and number != last + 1:
                out.write("--\n")
            place = f"./{path}{mark}{number}{mark}" if wanted.numbers else f"./{path}{mark}"
            shown = line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]} [… end of a long line left out]"
            out.write(f"{place}{shown}\n")
            last, self._told = number, True

        due = 0
        for number, line, matches in lines:
            if matches:
                for before, text in waiting:
                    tell(before, text, "-")
                waiting.clear()
                tell(number, line, ":")
                due = wanted.after
            elif due:
                tell(number, line, "-")
                due -= 1
            else:
                waiting.append((number, line))


_POSIX = {
    "[:alnum:]": "a-zA-Z0-9", "[:alpha:]": "a-zA-Z", "[:digit:]": "0-9", "[:lower:]": "a-z", "[:space:]": r"\s",
    "[:upper:]": "A-Z", "[:word:]": r"\w", "[:xdigit:]": "0-9a-fA-F", "[:blank:]": r" \t",
}  # fmt: skip


def _translated(pattern: str) -> str:
    """A regular expression of ripgrep's in Python's words, as far as they differ in what people write."""
    for name, letters in _POSIX.items():
        pattern = pattern.replace(name, letters)
    return pattern.replace(r"\z", r"\Z")


def _matches(file: IO[bytes], pattern: re.Pattern[str], wanted: Search) -> Iterator[tuple[int, str, bool]]:
    """The file's lines: number, text, whether it matches."""
    if not wanted.multiline:
        number = 0
        while data := file.readline(LINE_BYTES):
            number += 1
            line = _text(data)
            yield number, line, pattern.search(line) is not None
        return
    text = file.read(WHOLE_BYTES).decode("utf-8", "replace")
    ends = [match.start() for match in re.finditer("\n", text)]
    spans = ((match.start(), max(match.start(), match.end() - 1)) for match in pattern.finditer(text))
    span = next(spans, None)
    start = 0
    for number, end in enumerate([*ends, len(text)] if not text.endswith("\n") else ends, 1):
        while span is not None and span[1] < start:
            span = next(spans, None)
        yield number, text[start:end].rstrip("\r"), span is not None and span[0] <= end
        start = end + 1


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode("utf-8", "replace")
