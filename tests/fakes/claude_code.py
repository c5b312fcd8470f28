"""The real Claude Code, as tests/clients/claude-code pins it, run without a terminal.

    claude = ClaudeCode(install_claude_code(), folder, port)
    ended = await claude.ask("What is this?", "--model", "fake/text")

`NoNode` where there is no node or npm to install it with.
"""

import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from fakes.node import NoNode, install_packages

__all__ = ["ClaudeCode", "Ended", "NoNode", "install_claude_code"]
TIMEOUT = 60.0


def install_claude_code() -> Path:
    """Its executable, installed on first use and whenever the lock has changed.  Blocks, for seconds then."""
    # Its own script puts the program of the right platform in its place.
    modules = install_packages("claude-code", "node", "node_modules/@anthropic-ai/claude-code/install.cjs")
    return modules / ".bin" / "claude"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    said: str
    complained: str


class ClaudeCode:
    """See the module.  It works in `folder`/workspace, with a home of its own, and knows nothing but the gateway."""

    def __init__(self, executable: Path, folder: Path, port: int) -> None:
        self._executable = executable
        self.session = str(uuid.uuid4())
        """As it tells the gateway."""
        self.workspace = folder / "workspace"
        home = folder / "home"
        for made in (self.workspace, home):
            made.mkdir()
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": os.fspath(home),
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
            "ANTHROPIC_AUTH_TOKEN": "any",
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",  # it refuses to run tools unasked as root without this
        }

    @asynccontextmanager
    async def started(self, prompt: str, *arguments: str) -> AsyncIterator[trio.Process]:
        """Its process; killed if it still runs on leaving."""
        command = [self._executable, "-p", prompt, "--session-id", self.session, *arguments]
        process = await trio.lowlevel.open_process(
            command,
            cwd=self.workspace,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()

    async def ask(self, prompt: str, *arguments: str) -> Ended:
        """Ask, and wait for the end."""
        said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        with trio.fail_after(TIMEOUT):
            async with self.started(prompt, *arguments) as process, trio.open_nursery() as nursery:

                async def read(name: str) -> None:
                    async for data in getattr(process, name):
                        said[name] += data

                nursery.start_soon(read, "stdout")
                nursery.start_soon(read, "stderr")
                code = await process.wait()
        return Ended(code, said["stdout"].decode(), said["stderr"].decode())
