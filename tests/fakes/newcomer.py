"""A person who has just installed kimi-proxy and perhaps Claude Code: a fresh home, and both on the PATH.

newcomer = Newcomer(folder)
newcomer.install(install_claude_code())
newcomer.run("kimi-proxy", "launch", "-p", "Hello")
assert newcomer.left() == []
"""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import trio
from fakes.marked import marked_lines

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0
_MARK = "KIMI_PROXY_TEST_NEWCOMER"


class Newcomer:
    """See the module.  `home` is the working folder, too."""

    def __init__(self, folder: Path) -> None:
        self._mark = uuid.uuid4().hex
        self.home = folder / "home"
        self.programs = folder / "programs"
        runtime = folder / "runtime"
        for made in (self.home, self.programs, runtime):
            made.mkdir()
        runtime.chmod(0o700)
        script = self.programs / "kimi-proxy"
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m supervisor "$@"\n')
        script.chmod(0o755)
        self.env = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "HOME": os.fspath(self.home),
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": os.fspath(runtime),
            "PYTHONPATH": os.fspath(ROOT),
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            _MARK: self._mark,
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        }
        self.config = self.home / ".config/kimi-proxy/config.toml"

    def install(self, claude: Path) -> None:
        """Put Claude Code on the PATH."""
        (self.programs / "claude").symlink_to(claude.resolve())

    def start(self, *command: str, **env: str) -> "subprocess.Popen[str]":
        """A command of theirs, without a terminal."""
        return subprocess.Popen(
            command,
            cwd=self.home,
            env=self.env | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, stdin: str = "", **env: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command of theirs."""
        process = self.start(*command, **env)
        out, err = process.communicate(stdin, timeout=TIMEOUT)
        return process.returncode, out, err

    async def end(self, process: "subprocess.Popen[str]") -> tuple[int, str, str]:
        """`run` for one that has been started, while the trio of an upstream goes on."""
        out, err = await trio.to_thread.run_sync(lambda: process.communicate("", timeout=TIMEOUT))
        return process.returncode, out, err

    def left(self) -> list[str]:
        """The command lines of all processes that came of these commands, and still run."""
        return marked_lines(_MARK, self._mark)

    def kill_everything(self) -> None:
        for line in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)
