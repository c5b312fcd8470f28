"""Write: makes a text the whole content of a file."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.errors import ToolError
from worker.agent.output import shown
from worker.agent.tools.base import Context, Tool
from worker.agent.workspace import Workspace


class WriteArguments(Struct, frozen=True, kw_only=True):
    file_path: Annotated[str, Meta(description="The file: an absolute path, or one relative to the workspace")]
    content: Annotated[str, Meta(description="All that shall stand in the file")]


class Write(Tool[WriteArguments]):
    """See the module.  Nobody ever sees a part of the new content, and a cancel leaves the old one or the new."""

    name = "Write"
    description = (
        "Writes a file, in place of the old one if there is one; folders that lack are made. "
        "To change a part of a file, use Edit or MultiEdit instead."
    )
    arguments = WriteArguments
    parallel = False

    async def run(self, context: Context, arguments: WriteArguments) -> str:
        return await context.threads.run(write, context.workspace, arguments)


def write(workspace: Workspace, arguments: WriteArguments) -> str:
    """What the model gets; blocks."""
    path, content = arguments.file_path, arguments.content
    try:
        data = content.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"content isn't valid Unicode: it has half a surrogate pair at {error.start:,}.") from None
    is_new = workspace.replace(path, data)
    lines = content.count("\n") + (not content.endswith("\n") and bool(content))
    size = f"{lines:,} {'line' if lines == 1 else 'lines'}, {len(data):,} bytes"
    return f"{'Created' if is_new else 'Replaced'} {shown(path)}: {size}."
