"""Edit: replaces a string in a file."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.editing import NewString, OldString, ReplaceAll, Replaced, Replacement, apply
from worker.agent.errors import NotFound, ToolError
from worker.agent.output import shown
from worker.agent.tools.base import Context, Tool
from worker.agent.workspace import MAX_FILE_BYTES, Workspace

# Bytes that aren't UTF-8 come through an edit as they were.
BYTE_FOR_BYTE = "surrogateescape"


class EditArguments(Struct, frozen=True, kw_only=True):
    file_path: Annotated[str, Meta(description="The file: an absolute path, or one relative to the workspace")]
    old_string: OldString
    new_string: NewString
    replace_all: ReplaceAll = False


class Edit(Tool[EditArguments]):
    """See the module."""

    name = "Edit"
    description = (
        "Replaces old_string by new_string in a text file. old_string must be exactly as in the file, and stand there "
        "only once, unless replace_all is set. An empty old_string makes a new file of new_string."
    )
    arguments = EditArguments
    parallel = False

    async def run(self, context: Context, arguments: EditArguments) -> str:
        edit = Replacement(
            old_string=arguments.old_string, new_string=arguments.new_string, replace_all=arguments.replace_all
        )
        return await context.threads.run(edit_file, context.workspace, arguments.file_path, [edit])


def edit_file(workspace: Workspace, path: str, edits: Sequence[Replacement]) -> str:
    """Makes all the edits, or none of them; what the model gets.  Blocks."""
    try:
        data = workspace.read(path)
    except NotFound:
        if edits[0].old_string:
            raise
        data = b""
    if b"\0" in data:
        raise ToolError(f"{shown(path)} is a binary file: only text can be edited.")
    try:
        text, done = apply(data.decode("utf-8", BYTE_FOR_BYTE), edits, MAX_FILE_BYTES)
        data = text.encode("utf-8", BYTE_FOR_BYTE)
    except UnicodeEncodeError:
        raise ToolError("new_string isn't valid Unicode: it has half a surrogate pair.") from None
    except ToolError as error:
        raise ToolError(f"{shown(path)}: {error}") from None
    workspace.replace(path, data)
    return "\n".join([f"Changed {shown(path)}.", *map(_told, done)])


def _told(replaced: Replaced) -> str:
    if replaced.count == 1:
        return f"Replaced 1 occurrence, in line {replaced.line}."
    return f"Replaced {replaced.count:,} occurrences, the first in line {replaced.line}."
