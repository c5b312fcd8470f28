"""Tools of the agent in a workspace, called as a run calls them: with the JSON that a model writes.

async with serve_tools(tmp_path) as tools:
    assert await tools.call("Glob", pattern="*.py") == "a.py"
"""

import json
from contextlib import asynccontextmanager
from typing import Any

from fakes.file_tools import NoLink

from shared.config import Agent
from worker.agent.keeper import Keeper
from worker.agent.processes import Processes
from worker.agent.threads import AbandonedThreads, Threads
from worker.agent.tools import decode_arguments, load_tools
from worker.agent.tools.base import Context
from worker.agent.workspace import Workspace


class Tools:
    def __init__(self, settings: Agent, keeper: Keeper) -> None:
        self.tools = load_tools(settings)
        self.asked: list[tuple[str, int]] = []
        workspace = Workspace(settings.workspace)
        self.abandoned = AbandonedThreads(NoLink())
        self.context = Context(
            settings=settings,
            workspace=workspace,
            processes=Processes(settings, workspace, keeper),
            threads=Threads(settings, self.abandoned, "0" * 32),
            ask=self._ask,
        )

    async def _ask(self, prompt: str, budget: int) -> str:
        self.asked.append((prompt, budget))
        return f"answer to {prompt}"

    async def call(self, name: str, **arguments: Any) -> str:
        """What the model gets; raises `ToolError`."""
        tool = self.tools[name]
        return await tool.run(self.context, decode_arguments(tool.arguments, json.dumps(arguments)))


@asynccontextmanager
async def serve_tools(root, **settings):
    keeper = Keeper()
    try:
        yield Tools(Agent(**{"enabled": True, "workspace": str(root), "sandbox": "off", **settings}), keeper)
    finally:
        await keeper.aclose()
