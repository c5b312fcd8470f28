"""A person at a terminal: tmux with one window, its keys and its screen.

with Tmux(folder, newcomer.env, newcomer.home) as tmux:
    tmux.type("kimi-proxy setup", "Enter")
    tmux.wait("Key for kimi")
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

TMUX = shutil.which("tmux")
TIMEOUT = 60.0
PROMPT = "$"


class Tmux:
    """See the module.  The shell is bash with the person's own .bashrc."""

    def __init__(self, folder: Path, env: Mapping[str, str], home: Path, *, width: int = 100, height: int = 40) -> None:
        self._socket = os.fspath(folder / "tmux")
        self._env = {**env, "TERM": "xterm-256color"}
        self._home = os.fspath(home)
        self._size = ("-x", str(width), "-y", str(height))

    def __enter__(self) -> "Tmux":
        options = ("set", "-g", "status", "off", ";", "set", "-g", "history-limit", "5000", ";")
        self._tmux(*options, "new-session", "-d", "-c", self._home, *self._size, "bash", "--noprofile")
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def type(self, text: str, *keys: str) -> None:
        """Type a text, letter by letter, and then keys by their names, as in `Enter` or `C-c`."""
        if text:
            self._tmux("send-keys", "-l", text)
        if keys:
            self._tmux("send-keys", *keys)

    def screen(self, *, history: bool = False) -> str:
        """What can be read now; with what has scrolled off, and lines that were too long in one, if `history`."""
        more = ("-J", "-S", "-") if history else ()
        return self._tmux("capture-pane", "-p", *more).rstrip()

    def wait(self, text: str, *, history: bool = False) -> str:
        """Look until `text` is on the screen; what is on it then."""
        deadline = time.monotonic() + TIMEOUT
        while text not in (screen := self.screen(history=history)):
            assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {text}; on the screen:\n{screen}"
            time.sleep(0.05)
        return screen

    def wait_prompt(self, lines: int = 0) -> str:
        """Wait until the shell asks for the next command, below so many lines; all that has been on the screen."""
        return self._wait(lambda seen: seen[-1:] == [PROMPT] and len(seen) > lines)

    def clear(self) -> None:
        """Have an empty screen, and nothing that has scrolled off."""
        self.type("clear", "Enter")
        self._wait(lambda seen: seen == [PROMPT])

    def _wait(self, condition: Callable[[list[str]], bool]) -> str:
        deadline = time.monotonic() + TIMEOUT
        while not condition((screen := self.screen(history=True)).splitlines()):
            assert time.monotonic() < deadline, f"no prompt within {TIMEOUT:g} s; on the screen:\n{screen}"
            time.sleep(0.05)
        return screen

    def _tmux(self, *command: str) -> str:
        assert TMUX is not None
        done = subprocess.run(
            [TMUX, "-S", self._socket, "-f", "/dev/null", *command],
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
