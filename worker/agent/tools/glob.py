"""Glob: the files whose path matches a pattern, the newest first."""

import heapq
import os
import time
from typing import Annotated

from msgspec import Meta, Struct

from worker.agent import globs
from worker.agent.tools.base import Context, Tool, ToolError
from worker.agent.walk import HISTORIES, walk
from worker.agent.workspace import Workspace

MAX_FILES = 100
"""That are told: models know no more from elsewhere, and too many say nothing."""
PART_OF_TIMEOUT = 0.8
"""After so much of its time the tool tells what it has found until then."""


class GlobArguments(Struct):
    """What Glob takes."""

    pattern: Annotated[str, Meta(description='What paths look like: "**/*.py", "src/*.{ts,tsx}", "docs/**"')]
    path: Annotated[str | None, Meta(description="The folder to search; left out: the whole workspace")] = None


class Glob(Tool[GlobArguments]):
    """See the module."""

    name = "Glob"
    description = (
        "Finds files by what their paths look like. `*` is any part of a name, `**` any number of folders, `{a,b}` one"
        f" of the two. Returns up to {MAX_FILES} paths, relative to the workspace, the last changed first."
        " To search in what files contain, use Grep."
    )
    arguments = GlobArguments

    async def run(self, context: Context, arguments: GlobArguments) -> str:
        """See `Tool`."""
        settings = context.settings
        search = GlobSearch(
            context.workspace,
            arguments.pattern.strip(),
            arguments.path or ".",
            settings.timeouts.get(self.name, settings.tool_timeout) * PART_OF_TIMEOUT,
        )
        try:
            return await context.threads.run(search.run)
        finally:
            search.stopped = True  # a thread that is left behind enters no more folders


class GlobSearch:
    """One search (`worker.agent.walk.Visitor`); all but `stopped` belongs to its thread."""

    def __init__(self, workspace: Workspace, pattern: str, path: str, timeout: float) -> None:
        self._workspace = workspace
        self._pattern = pattern
        self._path = path
        self._timeout = timeout
        self.stopped = False
        self._states: dict[str, globs.State] = {}
        """Folder, as the beginning of its paths → where in the pattern it leads to."""

    def run(self) -> str:
        path, pattern = self._path, self._pattern
        if pattern.startswith("/"):
            path, pattern = ".", self._beneath_root(pattern)
        try:
            self._glob = globs.Glob(pattern)
        except ValueError as error:
            hint = "; name the folder as `path` instead" if ".." in pattern else ""
            raise ToolError(f'The pattern "{pattern}" {error}{hint}.') from None
        self._hidden = HISTORIES - set(pattern.split("/"))
        root = self._workspace.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found, count = self._newest(root)
        finally:
            os.close(root)
        if not count:
            return self._nothing(pattern)
        folder = self._workspace.relative(path)
        lines = [name if folder == "." else f"{folder}/{name}" for name in found]
        if self.stopped:
            lines.append(f"[stopped after {self._timeout:g} s: there may be more; name a smaller folder as `path`]")
        elif count > len(found):
            lines.append(f"[the newest {len(found)} of {count:,} files: a narrower pattern shows the others]")
        return "\n".join(lines)

    def _beneath_root(self, pattern: str) -> str:
        for root in (self._workspace.root, os.path.realpath(self._workspace.root)):
            if pattern.startswith(f"{root.rstrip('/')}/"):
                return pattern.removeprefix(root).lstrip("/")
        raise ToolError(f'The pattern "{pattern}" leads out of the workspace: it is {self._workspace.root}.')

    def _newest(self, root: int) -> tuple[list[str], int]:
        """The newest files, newest first, and how many there are."""
        deadline = time.monotonic() + self._timeout
        kept: list[tuple[int, str]] = []
        count = 0
        for found in walk(root, "", self):
            count += 1
            entry = (found.status.st_mtime_ns, found.path)
            (heapq.heappush if len(kept) < MAX_FILES else heapq.heappushpop)(kept, entry)
            self.stopped = self.stopped or time.monotonic() > deadline
        return [path for _, path in sorted(kept, key=lambda entry: (-entry[0], entry[1]))], count

    def _nothing(self, pattern: str) -> str:
        if self.stopped:
            return f"No files found within {self._timeout:g} s: name a smaller folder as `path`"
        if "**" not in pattern:
            return f"No files found. `{pattern}` matches in one folder only; `**/{pattern}` matches in all below it"
        return "No files found"

    def opened(self, prefix: str, folder: int) -> None:
        """See `Visitor`."""
        self._states.setdefault(prefix, self._glob.start)

    def enters(self, path: str, name: str) -> bool:
        """See `Visitor`."""
        if self.stopped or name in self._hidden:
            return False
        state = self._glob.enter(self._states[path[: len(path) - len(name)]], name)
        self._states[f"{path}/"] = state
        return bool(state)

    def wants(self, path: str, name: str) -> bool:
        """See `Visitor`."""
        state = self._states[path[: len(path) - len(name)]]
        return not self.stopped and self._glob.accepts(self._glob.enter(state, name))
