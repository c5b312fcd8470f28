"""What a run of the agent can be busy with for longer than a test has time.

A kind is what its user says, to a model of `fakes.openai_upstream`, and how it shows that the run has got there.
"""

import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fakes.programs import STUBBORN

if TYPE_CHECKING:
    from fakes.agent_runs import Run

BLOCK_TIME = 20.0
"""Seconds that a tool of the user's own blocks, in C."""
OWN_TOOLS = f"""
import time
from pathlib import Path
import trio
from worker.agent.tools import Context, tool

@tool
def block(mark: str, context: Context) -> str:
    "Blocks in C."
    Path(context.workspace.root, mark).touch()
    time.sleep({BLOCK_TIME})

@tool
async def heedless(mark: str, context: Context) -> str:
    "Heeds no cancel for a while."
    Path(context.workspace.root, mark).touch()
    with trio.CancelScope(shield=True):
        await trio.sleep(2)
    return "over"
"""
HAYSTACK = "x" * 60 + "\n"
TOOLS = ("Bash", "Grep", "Task", "WebSearch", "block", "heedless")


@dataclass(frozen=True)
class Kind:
    """What a run is busy with.  `says` makes of a mark what the user says, `is_busy` tells whether it has begun."""

    model: str
    is_busy: Callable[["Run"], bool | Awaitable[bool]]
    says: Callable[[str], str] = "go on, {}".format


def _call(name: str, **arguments: str) -> str:
    """Has the upstream call a tool.  Inside of another call's arguments it has to be quoted by `_quoted`."""
    return f"[[tool:{name} {json.dumps(arguments)}]]"


def _quoted(call: str) -> str:
    return json.dumps(call)[1:-1].replace("]]", "\\u005d\\u005d")


def _nested(mark: str) -> str:
    inner = _quoted(_call("Bash", command=STUBBORN["double fork"].format(mark=mark)))
    return f'[[tool:Task {{"prompt": "{inner}", "description": "inside"}}]]'


def _bash(script: str) -> Kind:
    return Kind(
        "fake/tools-whole", lambda run: run.is_asleep(), lambda mark: _call("Bash", command=script.format(mark=mark))
    )


def _own(tool: str) -> Kind:
    return Kind(
        "fake/tools-whole",
        lambda run: run.is_marked(),
        lambda mark: _call(tool, mark=mark),
    )


BLOCKED = "a tool blocked in C"
KINDS = {
    **{f"Bash: {name}": _bash(script) for name, script in STUBBORN.items()},
    "Bash in a run that a Task has nested": Kind("fake/tools-whole", lambda run: run.is_asleep(), _nested),
    BLOCKED: _own("block"),
    "a search that hangs": Kind(
        "fake/tools-whole",
        lambda run: run.mark in run.agent.searches,
        lambda mark: _call("WebSearch", query=mark),
    ),
    "upstream: no headers": Kind("fake/hang-before-headers", lambda run: bool(run.rows)),
    "upstream: no first byte": Kind("fake/hang-before-first", lambda run: bool(run.rows)),
    "upstream: silent": Kind("fake/hang-after-3", lambda run: any(row.chunks == 3 for row in run.rows)),
    "upstream: in mid-stream": Kind("fake/slow-20+text-2000", lambda run: any(row.chunks > 3 for row in run.rows)),
    "upstream: behind a tool": Kind(
        "fake/tools-whole+hang-after-5", lambda run: len(run.rows) == 2, lambda mark: _call("Bash", command=f": {mark}")
    ),
    "waiting to try again": Kind("fake/status-500", lambda run: any(row.outcome == "completed" for row in run.rows)),
    "waiting for a place": Kind("narrow/text-2", lambda run: run.is_listed()),
}
"""Everything that a run can be busy with for longer than a test has time."""
if shutil.which("rg") is None:  # which knows no pattern that takes for ever
    KINDS["Grep"] = Kind(
        "fake/tools-whole",
        lambda run: run.mark in run.agent.table.alive,
        lambda mark: _call("Grep", pattern=f"(x+x+)+y|{mark}", path="haystack"),
    )
HEEDLESS = "a tool that heeds no cancel"
"""Which nobody can end: it is left alone after the grace."""
FLOOD = "upstream: more than a client that doesn't read can take"
ALL_KINDS = {**KINDS, HEEDLESS: _own("heedless"), FLOOD: Kind("fake/big-16+text-4000", lambda run: run.is_stalled())}

SANDBOXES = [
    "off",
    pytest.param("auto", marks=pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")),
]
"""Where commands run."""
