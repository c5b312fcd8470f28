"""ExitPlanMode: the model has made a plan, and the run ends with it."""

from typing import Annotated

from msgspec import Meta, Struct

from worker.agent.tools.base import Context, RunEnds, Tool, ToolError


class ExitPlanModeArguments(Struct):
    """What ExitPlanMode takes."""

    plan: Annotated[str, Meta(description="The plan, in Markdown, short and complete")]


class ExitPlanMode(Tool[ExitPlanModeArguments]):
    """See the module."""

    name = "ExitPlanMode"
    description = (
        "Ends your work with a plan for the user to approve. Use it only when the user wants a plan before anything is"
        " done, and the plan is ready. What you give here is what the user reads."
    )
    arguments = ExitPlanModeArguments
    parallel = False

    async def run(self, context: Context, arguments: ExitPlanModeArguments) -> str:
        """Raises `RunEnds` with the plan."""
        plan = arguments.plan.strip()
        if not plan:
            raise ToolError("The plan is empty: write it into `plan`.")
        raise RunEnds(plan)
