"""Task: a run inside the run, with a prompt and a budget of its own, which tells its answer only."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.tools.base import Context, Tool, ToolError


class TaskArguments(Struct):
    """What Task takes."""

    description: Annotated[str, Meta(description="What it is about, in three to five words")]
    prompt: Annotated[str, Meta(description="All that the agent has to know, and what it is to answer")]
    subagent_type: Annotated[str | None, Meta(description="There is one kind of agent: general-purpose")] = None


class Task(Tool[TaskArguments]):
    """See the module.

    Several of a turn run side by side, which is what models call it for; files change in one step each, so the worst
    that two can do to each other is to find a file changed.
    """

    name = "Task"
    description = (
        "Starts another agent with the same tools and an empty conversation, and returns its answer. Use it for work"
        " whose steps you needn't see, such as a long search; several in one turn run at the same time. It knows only"
        " what the prompt says, and can't ask back."
    )
    arguments = TaskArguments

    async def run(self, context: Context, arguments: TaskArguments) -> str:
        """See `Tool`.  Cancelled with its parent, as it is a part of it."""
        prompt = arguments.prompt.strip()
        if not prompt:
            raise ToolError("The prompt is empty: write into it what the agent is to do.")
        answer = await context.ask(prompt, context.settings.max_iterations)
        return answer.strip() or "The agent has ended without an answer."
