"""Programs that a run has started, and that do not outlive it.

Each runs in a session and process group of its own, in bubblewrap where that works, with nothing of the service's
environment, and dies with all it started: at its end, after its time, with the run (`worker.agent.keeper`).
"""

import os
from collections.abc import Sequence

import trio
from msgspec import Struct

from shared.config import Agent
from worker.agent.environment import scrubbed
from worker.agent.errors import ToolError
from worker.agent.keeper import Keeper
from worker.agent.program import Outcome, Program
from worker.agent.sandbox import Sandbox
from worker.agent.workspace import Workspace


class Finished(Struct, frozen=True, kw_only=True):
    """How a program ended."""

    status: int
    """Its exit status; negative: the signal that ended it."""
    output: str
    """stdout and stderr as they came, decoded; what was too long is cut out of the middle, with a mark."""
    timed_out: bool = False
    sandboxed: bool = False


class Processes:
    """See the module.  One a run; `keeper` is the worker's (`gateway.keeper`), `trace` names the run in the log."""

    def __init__(self, settings: Agent, workspace: Workspace, keeper: Keeper, *, trace: str = "") -> None:
        self._settings = settings
        self._workspace = workspace
        self._keeper = keeper
        self._trace = trace
        self._live: set[trio.CancelScope] = set()
        self._quiet = trio.Event()

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        max_bytes: int,
        trusted: bool = False,
        beneath: tuple[str, ...] = (),
    ) -> Finished:
        """Run a program in the workspace until it ends; what it has left running is killed then.

        At most `max_bytes` of its output are kept.  After `timeout` seconds everything is killed, and what was said
        until then is returned.  Raises `ToolError` if it can't be started.  A cancel returns when nothing is alive, or
        after `cancel_grace`.  `trusted`: a program of our own, which confines itself and needs no sandbox.  `beneath`
        are the names of folders that lead to where it begins; none of them may be a link by then.
        """
        if any("\0" in argument for argument in argv):
            raise ToolError("A command can't hold NUL bytes.")
        with trio.CancelScope() as scope:
            self._live.add(scope)
            try:
                return await self._run(argv, timeout, max_bytes, trusted, beneath)
            finally:
                self._live.discard(scope)
                if not self._live:
                    self._quiet.set()
        raise ToolError("The program was killed.")

    async def kill_all(self) -> None:
        """Kill what runs, and wait until it is gone, for `cancel_grace` at the longest."""
        while self._live:
            self._quiet = trio.Event()
            for scope in self._live:
                scope.cancel()
            await self._quiet.wait()

    async def _run(
        self, argv: Sequence[str], timeout: float, max_bytes: int, trusted: bool, beneath: tuple[str, ...]
    ) -> Finished:
        sandbox = None if trusted else await self._find_sandbox()
        program = Program(
            argv=tuple(argv) if sandbox is None else sandbox.wrap(argv, self._keeper.sandboxes.secrets(), beneath),
            env=scrubbed(os.environ),
            cwd=self._workspace.root,
            beneath=() if sandbox is not None else beneath,
            timeout=timeout,
            max_bytes=max_bytes,
            grace=self._settings.cancel_grace,
            may_gain=sandbox is not None,
        )
        outcome = await self._keeper.execute(program, trace=self._trace)
        return Finished(
            status=outcome.status,
            output=_text(outcome),
            timed_out=outcome.timed_out,
            sandboxed=sandbox is not None,
        )

    async def _find_sandbox(self) -> Sandbox | None:
        settings = self._settings
        if settings.sandbox == "off":
            return None
        found = await self._keeper.sandboxes.find(self._workspace.root, network=settings.allow_network)
        if isinstance(found, Sandbox):
            return found
        if settings.sandbox == "required":
            raise ToolError(f"Programs may only run in a sandbox, and there is none: {found}.")
        return None


def _text(outcome: Outcome) -> str:
    if not outcome.dropped:
        return (outcome.head + outcome.tail).decode("utf-8", "replace")
    head, tail = (part.decode("utf-8", "replace").strip("\ufffd") for part in (outcome.head, outcome.tail))
    return f"{head}\n[… {outcome.dropped:,} bytes left out …]\n{tail}"
