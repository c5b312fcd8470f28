"""Bash: a command in a shell of its own, in the workspace.  Named and called as Claude Code's."""

import signal
from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.errors import ToolError
from worker.agent.processes import Finished
from worker.agent.tools.base import Context, Tool

SHELL = "bash"
TIME_TO_TELL = 0.3
"""Seconds before the tool's own time is over, in which a command is killed and what it said is told."""
ROOM_FOR_NOTES = 200
"""Characters of a result that are kept for what is added to the output."""

Positive = Annotated[float, Meta(gt=0)]


class BashArguments(Struct, kw_only=True):
    """See the tool."""

    command: Annotated[str, Meta(description="The command to run.")]
    timeout: Annotated[Positive | None, Meta(description="Milliseconds after which it is killed.")] = None
    description: Annotated[str | None, Meta(description="What it does, in 5 to 10 words.")] = None
    run_in_background: Annotated[bool, Meta(description="Not supported: leave it out.")] = False


class Bash(Tool[BashArguments]):
    """See the module."""

    name = "Bash"
    description = (
        "Runs a command with bash in the workspace, and returns what it writes to stdout and stderr, in this order of"
        " time, and its exit status. Each call starts a new shell in the workspace's top folder. There is nobody to"
        " answer prompts. Everything that a command has started, also in the background, is killed when its shell"
        " ends. For files use Read, Write, Edit, Glob and Grep."
    )
    arguments = BashArguments
    parallel = False

    async def run(self, context: Context, arguments: BashArguments) -> str:
        """What it wrote, and its exit status in the last line."""
        if arguments.run_in_background:
            raise ToolError(
                "Commands can't run in the background here: what a command starts ends with it."
                " Run it without run_in_background, together with what needs it in one command."
            )
        limit = context.settings.timeouts.get(self.name, context.settings.tool_timeout)
        limit = max(limit - TIME_TO_TELL, limit / 2)
        asked = limit if arguments.timeout is None else arguments.timeout / 1000
        timeout = min(asked, limit)
        finished = await context.processes.run(
            [SHELL, "-c", arguments.command],
            timeout=timeout,
            max_bytes=max(context.max_output_chars - ROOM_FOR_NOTES, 2),
        )
        return _told(finished, timeout)


def _told(finished: Finished, timeout: float) -> str:
    if finished.timed_out:
        note = f"[killed after {timeout:g} s, with everything it had started; it had not ended]"
    elif finished.status < 0:
        note = f"[killed by {_signal_name(-finished.status)}]"
    else:
        note = f"[exit status {finished.status}]"
    output = finished.output.rstrip("\n")
    return f"{output}\n{note}" if output else note


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
