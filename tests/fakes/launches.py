"""`kimi-proxy launch` with a stand-in for the service that is a real process, and programs in the place of Claude Code.

launches = Launches(folder)
process = launches.start("-p", "hello")
assert launches.left() == []
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from fakes.marked import marked_lines

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0
_MARK = "KIMI_PROXY_TEST_LAUNCH"
# The stand-in is started as this program starts itself: by sys.executable.
_DRIVE = "import sys; sys.executable = sys.argv[1]; from supervisor.cli import main; sys.exit(main(sys.argv[2:]))"
# It tells what it got, waits for a file named `go`, and ends with the code in it, or by a signal.
_CLAUDE = """#!{python} -S
import json, os, sys, time
os.chdir(os.path.dirname(sys.argv[0]))
with open("told.new", "w") as file:
    json.dump({{"pid": os.getpid(), "argv": sys.argv[1:], "env": dict(os.environ)}}, file)
os.rename("told.new", f"told-{{os.getpid()}}")
while not os.path.exists("go"):
    time.sleep(0.01)
print("an answer")
sys.exit(int(open("go").read() or 0))
"""


class Launches:
    """See the module.  All files are below `folder`."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self._mark = uuid.uuid4().hex
        interpreter = folder / "python"
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/fakes/daemon.py"}" "$@"\n')
        self._interpreter = os.fspath(interpreter)
        claude = folder / "claude"
        claude.write_text(_CLAUDE.format(python=sys.executable))
        for program in (interpreter, claude):
            program.chmod(0o755)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(folder),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "STATE_DIRECTORY": os.fspath(folder / "s"),
            "RUNTIME_DIRECTORY": os.fspath(folder / "r"),
            "LOGS_DIRECTORY": os.fspath(folder / "l"),
            "KIMI_PROXY_CLAUDE": os.fspath(claude),
            _MARK: self._mark,
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
            **env,
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", _DRIVE, self._interpreter, *arguments]

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        """`kimi-proxy launch …`."""
        return subprocess.Popen(
            self.command("launch", *arguments),
            cwd=self.folder,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: "subprocess.Popen[str]") -> tuple[str, str]:
        """Wait for its end; what it has said, and complained."""
        return process.communicate(timeout=TIMEOUT)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`kimi-proxy …`, until its end."""
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )

    def go(self, code: int = 0) -> None:
        """Have Claude Code end, now or as soon as it has begun."""
        (self.folder / "go").write_text(str(code))

    def told(self, count: int = 1) -> list[dict]:
        """Wait until Claude Code has begun so often; what it got."""
        self.wait(lambda: len(list(self.folder.glob("told-*"))) == count)
        return [json.loads(file.read_text()) for file in self.folder.glob("told-*")]

    def services(self) -> int:
        """How many have been started so far."""
        log = self.folder / "l/kimi-proxy.log"
        return log.read_text().count("service_start") if log.exists() else 0

    def left(self) -> list[str]:
        """The command lines of all processes that came of a launch, and still run."""
        return marked_lines(_MARK, self._mark)

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s"
            time.sleep(0.01)

    def kill_everything(self) -> None:
        for line in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)
