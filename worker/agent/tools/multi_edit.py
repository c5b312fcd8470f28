"""MultiEdit: replaces several strings in a file, all of them or none."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.editing import Replacement
from worker.agent.tools.base import Context, Tool
from worker.agent.tools.edit import edit_file


class MultiEditArguments(Struct, frozen=True, kw_only=True):
    file_path: Annotated[str, Meta(description="The file: an absolute path, or one relative to the workspace")]
    edits: Annotated[
        list[Replacement],
        Meta(min_length=1, description="In the order in which they are made, each to what the last one left"),
    ]


class MultiEdit(Tool[MultiEditArguments]):
    """See the module."""

    name = "MultiEdit"
    description = (
        "Makes several edits to one text file, each as Edit does, one after the other. "
        "If one of them can't be made, none is, and the file stays as it was."
    )
    arguments = MultiEditArguments
    parallel = False

    async def run(self, context: Context, arguments: MultiEditArguments) -> str:
        return await context.threads.run(edit_file, context.workspace, arguments.file_path, arguments.edits)
