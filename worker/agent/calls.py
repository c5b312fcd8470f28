"""Runs the calls of a turn: beside each other where all of them may be, else one after the other.

A call runs in a task of its own in the run's nursery, so that a cancel needn't wait for a tool that doesn't end: after
the grace it goes on without.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import trio

from shared.config import Agent
from shared.logs import get_logger
from worker.agent.errors import ToolError
from worker.agent.output import cut
from worker.agent.tools import Context, RunEnds, Tool, decode_arguments
from worker.agent.voice import Voice
from worker.dialects.neutral import Text, ToolCall, ToolResult

NESTING = "Task"
"""A run in a run has the time of the whole run, unless it is given its own: it is many calls."""

Tools = Mapping[str, Tool[Any]]


class Calls:
    """See the module."""

    def __init__(self, settings: Agent, tools: Tools, voice: Voice, nursery: trio.Nursery, trace: str) -> None:
        self._settings = settings
        self._tools = tools
        self._voice = voice
        self._nursery = nursery
        self._trace = trace

    async def run(
        self, calls: Sequence[ToolCall], context: Context, results: list[ToolResult], *, together: bool
    ) -> None:
        """Run `calls`; `results` gets each result as soon as it is there.

        `RunEnds` when a tool has ended the run.  A cancel returns when all of them have ended, or after the grace.
        """
        await self._voice.say(self._voice.presenter.status_executing([call.name for call in calls]))
        numbered = list(enumerate(calls, 1))
        for batch in [numbered] if together else [[one] for one in numbered]:
            ends = await self._beside(batch, len(calls), context, results)
            if ends:
                raise ends[0]

    async def _beside(
        self, batch: Sequence[tuple[int, ToolCall]], of: int, context: Context, results: list[ToolResult]
    ) -> list[RunEnds]:
        presenter = self._voice.presenter
        ends: list[RunEnds] = []
        scopes: list[trio.CancelScope] = []
        left: set[int] = set()
        changed = trio.Event()

        async def job(scope: trio.CancelScope, index: int, call: ToolCall) -> None:
            began = trio.current_time()
            try:
                with scope:
                    try:
                        result = await self._result(call, context)
                    except RunEnds as end:
                        ends.append(end)
                        result = ToolResult(call.id, (Text("The run has ended with this."),))
                    results.append(result)
                    ms = (trio.current_time() - began) * 1000
                    await self._voice.say(presenter.tool(call.name, "end", index, of, ms))
            finally:
                left.discard(index)
                changed.set()

        async def wait_over() -> None:
            nonlocal changed
            while left:
                changed = trio.Event()
                await changed.wait()

        try:
            for index, call in batch:
                await self._voice.say(presenter.tool(call.name, "start", index, of, None))
                scopes.append(trio.CancelScope())
                left.add(index)
                self._nursery.start_soon(job, scopes[-1], index, call, name=f"{call.name} of {self._trace}")
            await wait_over()
        finally:
            for scope in scopes:
                scope.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self._settings.cancel_grace):
                await wait_over()
            if left:
                tools = ", ".join(call.name for index, call in batch if index in left)
                get_logger().warning("agent_task_timeout_on_cancel", trace=self._trace, task=tools, left=len(left))
        return ends

    async def _result(self, call: ToolCall, context: Context) -> ToolResult:
        """What the model is told.  Raises nothing but `RunEnds` and `trio.Cancelled`."""
        is_error = True
        try:
            text, is_error = await self._outcome(call, context), False
        except ToolError as error:
            text = str(error)
        except RunEnds:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # The user's own tools may raise anything, or call `exit`; ours may raise something by mistake.
            get_logger().exception("agent_tool_crashed", trace=self._trace, tool=call.name)
            text = f"{call.name} failed: {type(error).__name__}: {error}"
        return ToolResult(call.id, (Text(cut(text, self._settings.max_output_chars)),), is_error=is_error)

    async def _outcome(self, call: ToolCall, context: Context) -> str:
        tool = self._tools.get(call.name)
        if tool is None:
            raise ToolError(unknown_tool(call.name, self._tools))
        arguments = decode_arguments(tool.arguments, call.arguments)
        limit = time_for(call.name, self._settings)
        with trio.move_on_after(limit):
            return await tool.run(context, arguments)
        raise ToolError(f"{call.name} was stopped, as it had not ended after {limit:g} s: ask for less at once")


def time_for(name: str, settings: Agent) -> float:
    """Seconds that a tool may take."""
    usual = settings.response_timeout if name == NESTING else settings.tool_timeout
    return settings.timeouts.get(name, usual)


def unknown_tool(name: str, tools: Tools) -> str:
    """For a model that calls what there isn't."""
    folded = {known.lower(): known for known in tools}
    near = get_close_matches(name.lower(), folded, 1)
    hint = f"did you mean {folded[near[0]]}?" if near else f"there are {', '.join(tools) or 'none'}"
    return f"there is no tool {name!r}; {hint}"
