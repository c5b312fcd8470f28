"""Calls a tool of the agent as a run does: with the JSON that a model writes, in a workspace."""

import json
from pathlib import Path
from typing import Any

from shared.config import Agent
from worker.agent.threads import AbandonedThreads, Threads
from worker.agent.tools.arguments import decode_arguments
from worker.agent.tools.base import Context, Tool
from worker.agent.workspace import Workspace


class NoLink:
    def send(self, message):
        raise AssertionError(message)


async def call(tool: Tool[Any], root: Path, max_output_chars: int = 30_000, **arguments: Any) -> str:
    """What the model gets; raises `ToolError`."""
    settings = Agent(enabled=True, workspace=str(root))
    context = Context(
        settings=settings,
        workspace=Workspace(str(root)),
        processes=None,  # these tools start none
        threads=Threads(settings, AbandonedThreads(NoLink()), "0" * 32),
        ask=None,
        max_output_chars=max_output_chars,
    )
    return await tool.run(context, decode_arguments(tool.arguments, json.dumps(arguments)))
