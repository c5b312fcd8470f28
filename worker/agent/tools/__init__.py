"""The tools of a worker's agent: the built-in ones, then those of the user's own file.

    load_tools(settings) ─▶ name → Tool      once for each configuration
    definitions(tools)   ─▶ what a model is told of them
    decode_arguments(tool, text)             what a model wrote, checked

A user's file declares a tool as a function marked `@tool`, or as a class of `Tool`; `worker.agent.tools.own` reads it.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import Raw

from shared.config import Agent
from shared.errors import ConfigError
from worker.agent.tools.arguments import decode_arguments
from worker.agent.tools.base import Context, RunEnds, Todo, Tool, ToolError
from worker.agent.tools.bash import Bash
from worker.agent.tools.edit import Edit
from worker.agent.tools.exit_plan_mode import ExitPlanMode
from worker.agent.tools.glob import Glob
from worker.agent.tools.grep import Grep
from worker.agent.tools.ls import LS
from worker.agent.tools.multi_edit import MultiEdit
from worker.agent.tools.own import load_own_tools, tool
from worker.agent.tools.read import Read
from worker.agent.tools.schema import schema_of
from worker.agent.tools.task import Task
from worker.agent.tools.todo_write import TodoWrite
from worker.agent.tools.web_fetch import WebFetch
from worker.agent.tools.web_search import WebSearch
from worker.agent.tools.write import Write
from worker.dialects import neutral

__all__ = [
    "BUILT_IN",
    "Context",
    "RunEnds",
    "Todo",
    "Tool",
    "ToolError",
    "decode_arguments",
    "definitions",
    "load_tools",
    "tool",
]

BUILT_IN: tuple[type[Tool[Any]], ...] = (
    LS,
    Read,
    Write,
    Edit,
    MultiEdit,
    Bash,
    Glob,
    Grep,
    WebFetch,
    WebSearch,
    TodoWrite,
    Task,
    ExitPlanMode,
)
"""In the order in which a model is told of them."""


def load_tools(settings: Agent) -> dict[str, Tool[Any]]:
    """The tools that may be used, by name.  A tool of the user's own file takes the place of a built-in one.

    `ConfigError` names the file and line, or the name in `tools` that no tool has.  Runs the user's file: what that
    does at its top level happens now.
    """
    tools = {built_in.name: built_in() for built_in in BUILT_IN}
    if settings.tools_file is not None:
        tools |= {own.name: own for own in load_own_tools(settings.tools_file)}
    for name in settings.tools:
        if name not in tools:
            raise ConfigError(_unknown(name, tools, settings))
    return {name: found for name, found in tools.items() if not settings.tools or name in settings.tools}


def _unknown(name: str, tools: Iterable[str], settings: Agent) -> str:
    by_folded = {known.lower(): known for known in tools}
    near = get_close_matches(name.lower(), by_folded, 1)
    hint = f'did you mean "{by_folded[near[0]]}"?' if near else f"there are {', '.join(by_folded.values())}"
    file = f", {settings.tools_file} included" if settings.tools_file else ""
    return f'[agent] tools: no tool is called "{name}"{file}; {hint}'


def definitions(tools: dict[str, Tool[Any]]) -> tuple[neutral.Tool, ...]:
    """What a model is told of these tools; linear in their number, so do it once."""
    return tuple(
        neutral.Tool(
            name=name, schema=Raw(msgspec.json.encode(schema_of(known.arguments))), description=known.description
        )
        for name, known in tools.items()
    )
