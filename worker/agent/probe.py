"""Whether bubblewrap works here: installed is not enough, as containers and service units may forbid namespaces."""

import os
import shutil
from collections.abc import Awaitable, Callable

import trio

from shared.config import Config
from shared.logs import get_logger
from worker.agent.environment import DEFAULT_PATH, scrubbed
from worker.agent.errors import ToolError
from worker.agent.program import Outcome, Program
from worker.agent.sandbox import HIDDEN, Sandbox

TIMEOUT = 5.0
MAX_BYTES = 2000


class Sandboxes:
    """Those that this worker has tried, once each.  `execute` runs a program (`worker.agent.keeper`)."""

    def __init__(self, execute: Callable[[Program], Awaitable[Outcome]]) -> None:
        self._execute = execute
        self._trying = trio.Lock()
        self._known: dict[tuple[str, bool], Sandbox | str] = {}
        self._secrets: tuple[str, ...] = ()

    def configure(self, config: Config) -> None:
        """Hide the files that hold keys, or the way to them."""
        files = (config.source, *(provider.api_key_file for provider in config.providers.values()))
        self._secrets = tuple({os.path.realpath(file) for file in files if file is not None})

    def secrets(self) -> list[str]:
        """Those that exist now."""
        return [path for path in self._secrets if os.path.exists(path)]

    async def find(self, workspace: str, *, network: bool) -> Sandbox | str:
        """A sandbox that works, or why there is none.  A cancel leaves the question open."""
        key = (workspace, network)
        async with self._trying:
            if key not in self._known:
                self._known[key] = await self._try(workspace, network)
        return self._known[key]

    async def _try(self, workspace: str, network: bool) -> Sandbox | str:
        bwrap = shutil.which("bwrap", path=os.environ.get("PATH", DEFAULT_PATH))
        if bwrap is None:
            return "bubblewrap (bwrap) is not installed"
        sandbox = Sandbox(bwrap=bwrap, workspace=workspace, network=network, hidden=_hidden())
        program = Program(
            argv=sandbox.wrap(["true"]),
            env=scrubbed(os.environ),
            cwd=workspace,
            timeout=TIMEOUT,
            max_bytes=MAX_BYTES,
            grace=TIMEOUT,
            may_gain=True,
        )
        try:
            outcome = await self._execute(program)
        except ToolError as error:
            why = str(error)
        else:
            if outcome.status == 0:
                return sandbox
            said = (outcome.head + outcome.tail).decode("utf-8", "replace").strip()
            why = f"bubblewrap does not work here ({said or f'exit status {outcome.status}'})"
        get_logger().warning("sandbox_unavailable", reason=why)
        return why


def _hidden() -> tuple[str, ...]:
    return tuple(path for path in HIDDEN if os.path.isdir(path))
