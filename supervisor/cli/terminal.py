"""The whole screen of a terminal, for as long as a command wants it, and as it was before afterwards.

    with Screen() as screen:
        screen.show(lines)
        screen.wait(1.0)        # until "q" is typed, the window has another size, or time has passed

Plain ANSI and termios: curses would need a terminfo entry for whatever TERM says.
"""

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, TextIO

from supervisor.cli.layout import Tone

Event = Literal["quit", "resized", "time"]

# Alternate screen on and off, cursor off and on (xterm's control sequences, which all terminals of today know).
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_CLEAR_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"
_SGR: dict[Tone, str] = {"title": "1", "heading": "2", "good": "32", "fair": "33", "bad": "31"}
# Keys without a letter come as sequences that may hold one: F2 is ESC O Q.
_KEY_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?", re.DOTALL)
_FALLBACK_SIZE = (80, 24)
_UNDISTURBED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def wants_colours(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that may be painted (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, tone: Tone) -> str:
    """`text` in the colour of its tone."""
    code = _SGR.get(tone)
    return text if code is None else f"\x1b[{code}m{text}\x1b[m"


class Screen:
    """See the module.  stdout is a terminal; keys are read if stdin is one, too.  For the main thread only."""

    def __init__(self) -> None:
        self._in = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._out = sys.stdout.fileno()
        self._modes: list[Any] = []
        self._undo = ExitStack()

    def __enter__(self) -> "Screen":
        with ExitStack() as undo:
            # Signals wake `wait` by a byte in this pipe, also those that come just before it.
            self._signals, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, self._signals)
            undo.callback(os.close, wake)
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake, warn_on_full_buffer=False))
            for signum in (signal.SIGWINCH, signal.SIGTSTP):
                undo.callback(signal.signal, signum, signal.signal(signum, lambda _signum, _frame: None))
            undo.callback(self._leave)
            self._enter()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None) -> None:
        self._undo.close()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        size = os.get_terminal_size(self._out)
        return size.columns or _FALLBACK_SIZE[0], size.lines or _FALLBACK_SIZE[1]

    def show(self, lines: list[str]) -> None:
        """Replace what is shown; there are no more lines, and none is wider, than the screen has."""
        # A line is cleared before it is written: afterwards, if it is as wide as the screen, its last column would go.
        self._write(_HOME + "\r\n".join(_CLEAR_LINE + line for line in lines) + _CLEAR_BELOW)

    def wait(self, timeout: float) -> Event:
        """Wait for `q`, the end of the input, or a new size, for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if self._in is not None:
            poll.register(self._in, select.POLLIN)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(1000 * remaining)}
            if self._signals in ready:
                signals = os.read(self._signals, 64)
                if signal.SIGTSTP in signals:
                    self._suspend()
                if {signal.SIGTSTP, signal.SIGWINCH} & set(signals):
                    return "resized"
            if self._in in ready and self._quits():
                return "quit"
        return "time"

    def _quits(self) -> bool:
        assert self._in is not None
        try:
            typed = os.read(self._in, 64)
        except OSError:
            return True  # the terminal is gone
        return not typed or b"q" in _KEY_SEQUENCE.sub(b"", typed).lower()

    def _suspend(self) -> None:
        """Be stopped as Ctrl-Z asks, with the terminal as the shell needs it."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    def _enter(self) -> None:
        if self._in is not None:
            self._modes = termios.tcgetattr(self._in)
            tty.setcbreak(self._in, termios.TCSANOW)  # keys at once and unseen; Ctrl-C stays a signal
        self._write(_ENTER)

    def _leave(self) -> None:
        with _blocked(_UNDISTURBED), suppress(OSError, termios.error):  # of a terminal that is gone
            self._write(_LEAVE)
            if self._in is not None and self._modes:
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._modes)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "replace")
        while data:
            data = data[os.write(self._out, data) :]


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
