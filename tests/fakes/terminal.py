"""A terminal with a person before it: a real pty, and as much of a screen as `kimi-proxy top` writes to.

with Terminal(80, 24) as terminal:
    process = terminal.run([...], env)
    terminal.wait(lambda: "kimi-proxy" in terminal.text)
    terminal.type(b"q")
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence

TIMEOUT = 20.0
# Make the pty the controlling terminal of the new session, so that its keys become signals and its end a hang-up.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal:
    """See the module.  `lines` is what is on the screen; `modes` what the program has switched on."""

    def __init__(self, width: int = 80, height: int = 24) -> None:
        self._master, self._slave = pty.openpty()
        self._pending = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._row = self._column = 0
        self.modes = {"?25"}  # the cursor is seen
        self.colours: set[str] = set()
        self.received = ""
        self.resize(width, height)
        self.settings = termios.tcgetattr(self._slave)
        """As they are before any program runs."""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.hang_up()

    def run(
        self, command: Sequence[str], env: Mapping[str, str], *, keyboard: bool = True
    ) -> "subprocess.Popen[bytes]":
        """Start a program in this terminal; without `keyboard` its stdin is empty."""
        process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=self._slave if keyboard else subprocess.DEVNULL,
            stdout=self._slave,
            stderr=self._slave,
            env=env,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def resize(self, width: int, height: int) -> None:
        """Change the window, as a person does; what was on it stays where it was."""
        self.width, self.height = width, height
        self.lines = [""] * height
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Close the window."""
        for name in ("_master", "_slave"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    @property
    def text(self) -> str:
        """What can be read on the screen now."""
        return "\n".join(self.lines)

    def settings_now(self) -> list[object]:
        """What `stty -a` would show."""
        return termios.tcgetattr(self._slave)

    def wait(self, condition: Callable[[], object]) -> None:
        """Look at the screen until `condition` is true."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"not within {TIMEOUT:g} s; on the screen:\n{self.text}"
            if select.select([self._master], [], [], min(remaining, 0.05))[0]:
                self._receive(os.read(self._master, 65536).decode())

    def wait_exit(self, process: "subprocess.Popen[bytes]") -> int:
        """The exit code, and everything that the program has written on the screen."""
        self.wait(lambda: process.poll() is not None)
        while select.select([self._master], [], [], 0)[0]:
            self._receive(os.read(self._master, 65536).decode())
        return process.returncode

    def _receive(self, text: str) -> None:
        self.received += text
        text = self._pending + text
        # A sequence that is not whole yet waits for its end.
        cut = text.rfind("\x1b")
        if cut >= 0 and not _SEQUENCE.match(text, cut):
            text, self._pending = text[:cut], text[cut:]
        else:
            self._pending = ""
        for found in _SEQUENCE.finditer(text):
            self._obey(found[0], found[1], found[2])

    def _obey(self, text: str, parameters: str | None, final: str | None) -> None:
        line = self.lines[min(self._row, self.height - 1)]
        match final, parameters:
            case None, _ if text == "\r":
                self._column = 0
            case None, _ if text == "\n":
                self._row += 1
                assert self._row < self.height or "?1049" not in self.modes, "the screen scrolled"
                if self._row >= self.height:
                    self._row = self.height - 1
                    self.lines = [*self.lines[1:], ""]
            case None, _:
                assert self._column + len(text) <= self.width or "?1049" not in self.modes, f"too wide: {text!r}"
                before = line[: self._column].ljust(self._column)
                self._column += len(text)
                self.lines[self._row] = before + text + line[self._column :]
            case "H", "":
                self._row = self._column = 0
            case "K", "":
                self.lines[self._row] = line[: self._column]
            case "J", "":
                self.lines[self._row] = line[: self._column]
                self.lines[self._row + 1 :] = [""] * (self.height - self._row - 1)
            case "h", mode:
                assert mode is not None
                self.modes.add(mode)
            case "l", mode:
                assert mode is not None
                self.modes.discard(mode)
            case "m", colour:
                assert colour is not None
                self.colours.add(colour)
            case _:
                raise AssertionError(f"a sequence that is not understood: {text!r}")
