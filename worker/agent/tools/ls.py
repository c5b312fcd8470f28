"""LS: what is in a folder, and in the folders below it."""

from collections import deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Annotated, Final

from msgspec import Meta, Struct

from worker.agent.errors import ToolError
from worker.agent.output import shown
from worker.agent.tools.base import Context, Tool
from worker.agent.workspace import Workspace

MAX_ENTRIES: Final = 1000
"""In one answer; folders near the top come first."""
MAX_SCANNED: Final = 100_000
"""Of one folder: so many are sorted."""
MAX_DEPTH: Final = 20
NOT_ENTERED: Final = (".*", "node_modules", "__pycache__")
"""Folders that are only named, unless they are asked for: they would take the place of all others."""


class LSArguments(Struct, frozen=True, kw_only=True):
    path: Annotated[str, Meta(description="The folder: an absolute path, or one relative to the workspace")] = "."
    ignore: Annotated[list[str] | None, Meta(description="Glob patterns of names or paths to leave out")] = None


class LS(Tool[LSArguments]):
    """See the module."""

    name = "LS"
    description = (
        f"Lists a folder and the folders below it, at most {MAX_ENTRIES:,} entries, those near the top first. "
        "Folders end with /, links with @. ignore takes glob patterns. Use Glob or Grep if you know what to look for."
    )
    arguments = LSArguments

    async def run(self, context: Context, arguments: LSArguments) -> str:
        return await context.threads.run(list_folder, context.workspace, arguments)


class _Folder(Struct):
    """A folder and how its contents are shown; `path` is relative to the one that is listed."""

    path: str
    depth: int
    entries: list[tuple[str, "_Folder | None"]] = []
    remark: str = ""


def list_folder(workspace: Workspace, arguments: LSArguments) -> str:
    """What the model gets; blocks."""
    ignore = [pattern.strip("/").removeprefix("./") for pattern in arguments.ignore or () if pattern.strip("/")]
    top = _Folder("", 0)
    # Breadth first, so that no deep folder takes the room of what is near the top.
    waiting = deque([top])
    room = MAX_ENTRIES
    while waiting:
        folder = waiting.popleft()
        name = folder.path.rpartition("/")[2]
        if not room or folder.depth > MAX_DEPTH or _matches(name, name, NOT_ENTERED):
            folder.remark = " …"
            continue
        try:
            found, is_all = _scan(workspace, arguments.path, folder, ignore)
        except ToolError as error:
            if folder is top:
                raise
            folder.remark = f" ({error})"
            continue
        if len(found) > room or not is_all:
            folder.remark = " (not all of it)"
        folder.entries = found[:room]
        room -= len(folder.entries)
        waiting += [inner for _, inner in folder.entries if inner]
    lines = [f"{shown(arguments.path).rstrip('/')}/{top.remark}", *_lines(top)]
    if not top.entries:
        lines.append("[the folder is empty, or all of it is ignored]")
    if not room:
        lines.append(f"[… only {MAX_ENTRIES:,} entries are listed: name a folder below, or use Glob …]")
    return "\n".join(lines)


def _scan(
    workspace: Workspace, path: str, folder: _Folder, ignore: Sequence[str]
) -> tuple[list[tuple[str, _Folder | None]], bool]:
    """The entries of a folder as they are shown, in order, and whether these are all."""
    found: list[tuple[str, _Folder | None]] = []
    with workspace.scandir(f"{path}/{folder.path}" if folder.path else path) as entries:
        for entry in islice(entries, MAX_SCANNED):
            below = f"{folder.path}/{entry.name}" if folder.path else entry.name
            if _matches(entry.name, below, ignore):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append((entry.name, _Folder(below, folder.depth + 1)))
            else:
                found.append((f"{entry.name}@" if entry.is_symlink() else entry.name, None))
        is_all = next(entries, None) is None
    found.sort(key=lambda entry: entry[0])
    return found, is_all


def _matches(name: str, path: str, patterns: Sequence[str]) -> bool:
    for pattern in patterns:
        plain = pattern.removeprefix("**/")
        if fnmatchcase(name, plain) or fnmatchcase(path, pattern) or fnmatchcase(path, plain):
            return True
    return False


def _lines(folder: _Folder) -> list[str]:
    """The lines for what is in a folder, those for its folders among them."""
    indent = "  " * (folder.depth + 1)
    lines = []
    for name, inner in folder.entries:
        lines.append(f"{indent}- {shown(name)}{f'/{inner.remark}' if inner else ''}")
        if inner:
            lines += _lines(inner)
    return lines
