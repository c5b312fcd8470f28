"""Read: some lines of a text file, numbered."""

import os
from typing import Annotated, Final

from msgspec import Meta, Struct

from worker.agent.errors import ToolError
from worker.agent.excerpt import Excerpt
from worker.agent.output import shown
from worker.agent.tools.base import Context, Tool
from worker.agent.workspace import Workspace

LINES: Final = 2000
CHUNK_BYTES: Final = 256 * 1024
MAX_SCANNED_BYTES: Final = 256 * 1024 * 1024
"""Of one file in one call: a thread isn't kept at it longer than a fraction of a second."""
NOTE_CHARS: Final = 200
"""Room for what is said after the lines."""

FromZero = Annotated[int, Meta(ge=0)]
FromOne = Annotated[int, Meta(ge=1)]


class ReadArguments(Struct, frozen=True, kw_only=True):
    file_path: Annotated[str, Meta(description="The file: an absolute path, or one relative to the workspace")]
    offset: Annotated[FromZero | None, Meta(description="The number of the first line to read, from 1")] = None
    limit: Annotated[FromOne | None, Meta(description=f"How many lines to read; {LINES:,} unless said")] = None


class Read(Tool[ReadArguments]):
    """See the module.  Any part of a large file can be read; memory stays bounded."""

    name = "Read"
    description = (
        f"Reads a text file: its first {LINES:,} lines, or those that offset and limit ask for. "
        "Each line comes after its number and a tab, as from cat -n; very long lines are cut. "
        "Binary files can't be read, and folders neither: list those with LS."
    )
    arguments = ReadArguments

    async def run(self, context: Context, arguments: ReadArguments) -> str:
        return await context.threads.run(read, context.workspace, arguments, context.max_output_chars)


def read(workspace: Workspace, arguments: ReadArguments, max_chars: int) -> str:
    """What the model gets; blocks."""
    path, offset = arguments.file_path, max(1, arguments.offset or 1)
    name = shown(path)
    excerpt = Excerpt(offset=offset, limit=arguments.limit or LINES, max_chars=max(1, max_chars - NOTE_CHARS))
    scanned = 0
    with workspace.reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        while scanned < MAX_SCANNED_BYTES:
            data = file.read1(CHUNK_BYTES)
            scanned += len(data)
            if b"\0" in data:
                raise ToolError(f"{name} is a binary file ({size:,} bytes): only text can be read.")
            if not excerpt.receive(data):
                break
        else:
            excerpt.receive(b"")  # shows what it has of a line without an end
            excerpt.is_full = True
    text = excerpt.text()
    if excerpt.next == offset:
        if excerpt.is_full:
            raise ToolError(
                f"Line {offset:,} is not within the first {MAX_SCANNED_BYTES:,} bytes of {name} ({size:,} bytes):"
                " look for it with Grep, or cut it out with Bash."
            )
        if excerpt.lines:
            raise ToolError(f"{name} has only {excerpt.lines:,} lines: there is no line {offset:,}.")
        return "[the file is empty]"
    if not excerpt.is_full:
        return text
    return f"{text}\n[… the file goes on: {size:,} bytes in all; the next line is offset={excerpt.next} …]"
