"""Grep: the lines, or the files, in which a regular expression matches.

ripgrep does it where it is installed, else a program of our own (`worker.agent.scan`) that says the same: either way a
program, which can be killed.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field, structs

import worker
from worker.agent import scan
from worker.agent.file_types import FILE_TYPES
from worker.agent.globs import Glob
from worker.agent.processes import Finished
from worker.agent.tools.base import Context, Tool, ToolError
from worker.agent.walk import HISTORIES
from worker.agent.workspace import Workspace

PACKAGES = str(Path(worker.__file__).parents[1])
HEAD_LIMIT = 250
MAX_BYTES = 2 * 1024 * 1024
"""Of what the program says: more than a model ever gets, for `offset` to go on in."""
MAX_CONTEXT = 100
MAX_COLUMNS = 500
PART_OF_TIMEOUT = 0.8
"""After so much of its time the tool tells what it has found until then…"""
LATE = 1.15
"""…and a search that should have stopped by itself is killed a little later."""
NOT_RUN = range(126, 128)
"""What a sandbox says of a program that doesn't exist in it."""

Lines = Annotated[int, Meta(ge=0)]


class GrepArguments(Struct):
    """What Grep takes, by the names that models know."""

    pattern: Annotated[str, Meta(description="The regular expression, as of ripgrep: literal braces need a backslash")]
    path: Annotated[str | None, Meta(description="The file or folder to search; left out: the whole workspace")] = None
    glob: Annotated[str | None, Meta(description='Only files like this: "*.js", "src/**/*.{ts,tsx}", "!*.min.js"')] = (
        None
    )
    type: Annotated[str | None, Meta(description="Only files of this type: py, js, rust, go, java, md, …")] = None
    output_mode: Annotated[
        Literal["content", "files_with_matches", "count"],
        Meta(description="The lines, the paths of their files, or how many lines each file has"),
    ] = "files_with_matches"
    before: Annotated[Lines, Meta(description="With content: lines shown before each match")] = field(
        default=0, name="-B"
    )
    after: Annotated[Lines, Meta(description="With content: lines shown after each match")] = field(
        default=0, name="-A"
    )
    around: Annotated[Lines, Meta(description="With content: lines shown before and after")] = field(
        default=0, name="-C"
    )
    context: Annotated[Lines, Meta(description="The same as -C")] = 0
    numbers: Annotated[bool, Meta(description="With content: number the lines")] = field(default=True, name="-n")
    ignore_case: Annotated[bool, Meta(description="Whether upper and lower case are the same")] = field(
        default=False, name="-i"
    )
    multiline: Annotated[bool, Meta(description="Whether a match may have several lines, and . a line's end")] = False
    head_limit: Annotated[Lines, Meta(description="How many lines or entries are shown; 0: as many as fit")] = (
        HEAD_LIMIT
    )
    offset: Annotated[Lines, Meta(description="How many of them are left out first")] = 0


class Grep(Tool[GrepArguments]):
    """See the module."""

    name = "Grep"
    description = (
        "Searches in files by a regular expression, and says which files match (the last changed first), which lines,"
        " or how many. Leaves out binary files and what .gitignore names. Use it rather than grep or rg in Bash."
    )
    arguments = GrepArguments

    async def run(self, context: Context, arguments: GrepArguments) -> str:
        """See `Tool`."""
        settings = context.settings
        timeout = settings.timeouts.get(self.name, settings.tool_timeout) * PART_OF_TIMEOUT
        path, is_folder = await context.threads.run(_resolved, context.workspace, arguments.path or ".")
        search = _search(arguments, path, timeout)
        output, notes = await _run(context, search, arguments.type, is_folder=is_folder)
        entries = [line.removeprefix("./") for line in output.splitlines()]
        if entries and entries[-1].startswith(scan.STOPPED):
            notes.append(entries.pop())
        if arguments.output_mode == "files_with_matches":
            entries = await context.threads.run(_newest_first, context.workspace, entries)
        return "\n".join([*_shown(entries, arguments), *notes])


def _search(arguments: GrepArguments, path: str, timeout: float) -> scan.Search:
    """What the model asks for; `ToolError` for what can't be searched."""
    if not arguments.pattern:
        raise ToolError("The pattern is empty: it would match every line.")
    if "\0" in arguments.pattern:
        raise ToolError("The pattern has a NUL byte in it, which no text has.")
    if not arguments.multiline and re.search(r"(?<!\\)(?:\\\\)*\\n|\n", arguments.pattern):
        raise ToolError("The pattern has a line break in it: set `multiline` to true, or search for a part of it.")
    globs = _split(arguments.glob or "")
    for glob in globs:
        try:
            Glob(glob.removeprefix("!"))
        except ValueError as error:
            raise ToolError(f'The glob "{glob}" {error}.') from None
    return scan.Search(
        pattern=arguments.pattern,
        path="" if path == "." else path,
        mode=arguments.output_mode,
        globs=globs,
        types=FILE_TYPES.get(arguments.type or "", ()),
        before=min(arguments.before or arguments.around or arguments.context, MAX_CONTEXT),
        after=min(arguments.after or arguments.around or arguments.context, MAX_CONTEXT),
        numbers=arguments.numbers,
        ignore_case=arguments.ignore_case,
        multiline=arguments.multiline,
        seconds=timeout,
    )


def _split(globs: str) -> tuple[str, ...]:
    """Globs stand beside each other with blanks or commas between them, but for those in braces."""
    return tuple(re.findall(r"(?:\{[^{}]*\}|[^\s,])+", globs))


async def _run(context: Context, search: scan.Search, type: str | None, *, is_folder: bool) -> tuple[str, list[str]]:
    """The lines that ripgrep says, or our own program where it can't be had; and what to add."""
    timeout = search.seconds
    finished = await _by_ripgrep(context, search, type) if is_folder else None
    if finished is None or finished.status in NOT_RUN:
        if type and type not in FILE_TYPES:
            raise ToolError(f'"{type}" is no type: there are {", ".join(FILE_TYPES)}. A `glob` can name any other.')
        argv = [sys.executable, "-I", "-S", "-W", "ignore", "-c", scan.PROGRAM, PACKAGES]
        argv.append(msgspec.json.encode(search._asdict()).decode())
        finished = await context.processes.run(argv, timeout=timeout * LATE, max_bytes=MAX_BYTES, trusted=True)
    if finished.timed_out:
        return finished.output, [f"{scan.STOPPED} {timeout:g} s: there may be more; name a smaller folder as `path`]"]
    # ripgrep says 2 for a file that can't be read, too, but then it says nothing else, or what it has found.
    if finished.status not in (0, 1, 2) or (finished.output and not finished.output.startswith(("./", scan.STOPPED))):
        raise ToolError(finished.output.strip() or f"The search ended with status {finished.status}.")
    return finished.output, []


async def _by_ripgrep(context: Context, search: scan.Search, type: str | None) -> Finished | None:
    """What it says of a folder; None where it isn't installed, or can't be asked for this.

    It would follow a link that has come to stand in a path meanwhile, so it is told none and begins in the folder.
    There a glob that names folders, which is meant from the workspace's top, would be another.
    """
    ripgrep = shutil.which("rg")
    if ripgrep is None or (search.path and any(map(_is_anchored, search.globs))):
        return None
    beneath = tuple(search.path.split("/")) if search.path else ()
    argv = ripgrep_command(ripgrep, search, type)
    try:
        finished = await context.processes.run(argv, timeout=search.seconds, max_bytes=MAX_BYTES, beneath=beneath)
    except ToolError:
        return None
    if not beneath:
        return finished
    output = re.sub(r"^\./", lambda _: f"./{search.path}/", finished.output, flags=re.MULTILINE)
    return structs.replace(finished, output=output)


def _is_anchored(glob: str) -> bool:
    return "/" in glob.removeprefix("!").removeprefix("**/").rstrip("/")


def ripgrep_command(ripgrep: str, search: scan.Search, type: str | None) -> Sequence[str]:
    """The same search for ripgrep (rg(1)), which follows no link by itself."""
    options = ["--no-config", "--no-messages", "--no-heading", "--with-filename", "--color=never", "--sort=path"]
    options += ["--hidden", "--no-require-git", "--no-ignore-global", "--no-ignore-dot", "--engine=auto"]
    options += [f"--max-columns={MAX_COLUMNS}", "--max-columns-preview"]
    if not search.path:
        options.append("--no-ignore-parent")
    match search.mode:
        case "files_with_matches":
            options.append("--files-with-matches")
        case "count":
            options.append("--count")
        case _:
            options += ["--line-number" if search.numbers else "--no-line-number"]
            options += [f"--before-context={search.before}", f"--after-context={search.after}"]
    if search.ignore_case:
        options.append("--ignore-case")
    if search.multiline:
        options += ["--multiline", "--multiline-dotall"]
    if type:
        options.append(f"--type={type}")
    # Later globs win, so what is never wanted comes last.
    options += [f"--glob={glob}" for glob in (*search.globs, *(f"!{name}" for name in sorted(HISTORIES)))]
    return [ripgrep, *options, f"--regexp={search.pattern}", "--", "./"]


def _resolved(workspace: Workspace, path: str) -> tuple[str, bool]:
    """Where `path` is, relative to the workspace and without links; and whether it is a folder, not a file."""
    is_folder = True
    try:
        descriptor = workspace.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except ToolError:
        descriptor, is_folder = workspace.open(path, os.O_RDONLY), False
    try:
        return os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), os.path.realpath(workspace.root)), is_folder
    finally:
        os.close(descriptor)


def _newest_first(workspace: Workspace, paths: Sequence[str]) -> list[str]:
    """The paths by the time of their last change; what isn't there any more is left out."""
    changed: list[tuple[int, str]] = []
    for path in paths:
        with suppress(OSError, ValueError):
            status = os.stat(os.path.join(workspace.root, path), follow_symlinks=False)
            changed.append((-status.st_mtime_ns, path))
    return [path for _, path in sorted(changed)]


def _shown(entries: Sequence[str], arguments: GrepArguments) -> list[str]:
    """What the model gets of them, with a note on what it doesn't."""
    first = arguments.offset
    last = first + arguments.head_limit if arguments.head_limit else len(entries)
    shown = list(entries[first:last])
    if not shown:
        found = f"No more than {len(entries):,} found" if entries else "No matches found"
        return [found]
    if len(shown) < len(entries):
        goes_on = f"; offset={last} goes on" if last < len(entries) else ""
        shown.append(f"[{first + 1:,} to {min(last, len(entries)):,} of {len(entries):,}{goes_on}]")
    if arguments.output_mode == "count":
        counts = [int(entry.rpartition(":")[2]) for entry in entries if entry.rpartition(":")[2].isdecimal()]
        shown.append(f"{sum(counts):,} lines in {len(counts):,} files")
    return shown
