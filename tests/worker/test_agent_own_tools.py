"""The user's own tools: how a file declares them, and what is said of one that can't be used."""

import json
import os

import pytest
import trio
from fakes.tools import serve_tools

from shared.config import Agent
from shared.errors import ConfigError
from worker.agent.errors import ToolError
from worker.agent.tools import definitions, load_tools

FILE = '''
from __future__ import annotations

import time
from typing import Annotated, Literal

from msgspec import Struct
from worker.agent.tools import Context, RunEnds, Tool, ToolError, tool


class Place(Struct):
    city: str
    zip: int | None = None


@tool
def parcel(number: Annotated[str, "As on the slip"], to: Place, speed: Literal["slow", "fast"] = "slow") -> str:
    """Says where a parcel is."""
    return f"{number} to {to.city}, {speed}"


@tool(name="where-am-i", parallel=True)
async def where(context: Context, suffix: str = "!"):
    """Tells the workspace."""
    return {"workspace": context.settings.workspace + suffix}


@tool
def nothing():
    """Takes nothing and says nothing."""


@tool
def fails(how: str):
    """Fails."""
    if how == "told":
        raise ToolError("not today")
    if how == "ends":
        raise RunEnds("the end")
    return 1 / 0


class ShoutArguments(Struct):
    text: str


class _Base(Tool[ShoutArguments]):
    arguments = ShoutArguments


class Shout(_Base):
    name = "Shout"
    description = "Shouts."

    async def run(self, context, arguments):
        return arguments.text.upper()


@tool
def sleeps(seconds: float):
    """Sleeps where nothing can wake it."""
    time.sleep(seconds)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own_tools.py"
    path.write_text(FILE)
    return path


def load(path, **settings):
    return load_tools(Agent(enabled=True, workspace="/workspace", tools_file=str(path), **settings))


async def test_functions_and_classes_are_tools(file, tmp_path):
    async with serve_tools(tmp_path, tools_file=str(file)) as tools:
        assert await tools.call("parcel", number="7", to={"city": "Bonn"}) == "7 to Bonn, slow"
        assert json.loads(await tools.call("where-am-i")) == {"workspace": f"{tmp_path}!"}
        assert await tools.call("nothing") == "null"
        assert await tools.call("Shout", text="hey") == "HEY"
        assert await tools.call("Glob", pattern="*.py") == "own_tools.py"
        with pytest.raises(ToolError, match="not today"):
            await tools.call("fails", how="told")
        with pytest.raises(ZeroDivisionError):
            await tools.call("fails", how="?")
        with pytest.raises(ToolError, match="`speed` can't be 'warp'; it must be one of fast, slow"):
            await tools.call("parcel", number="7", to={"city": "Bonn"}, speed="warp")
        with pytest.raises(ToolError, match=r"the parameter `to` is required\. The parameters are: number, to, speed"):
            await tools.call("parcel", number="7")


def test_a_model_is_told_what_a_function_takes(file):
    told = {definition.name: definition for definition in definitions(load(file))}
    parcel = told["parcel"]
    assert parcel.description == "Says where a parcel is."
    assert json.loads(bytes(parcel.schema)) == {
        "type": "object",
        "properties": {
            "number": {"type": "string", "description": "As on the slip"},
            "to": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}},
                "required": ["city"],
            },
            "speed": {"type": "string", "enum": ["fast", "slow"], "default": "slow"},
        },
        "required": ["number", "to"],
    }
    assert json.loads(bytes(told["nothing"].schema)) == {"type": "object", "properties": {}}
    assert "context" not in bytes(told["where-am-i"].schema).decode()


def test_functions_run_one_after_the_other_unless_they_say_so(file):
    tools = load(file)
    assert not tools["parcel"].parallel
    assert tools["where-am-i"].parallel


def test_they_can_be_chosen_like_the_built_in_ones(file):
    assert list(load(file, tools=("parcel", "Read"))) == ["Read", "parcel"]
    with pytest.raises(
        ConfigError, match=r'no tool is called "parcels", .*own_tools\.py included; did you mean "parcel"'
    ):
        load(file, tools=("parcels",))


def test_one_may_take_the_place_of_a_built_in_one(tmp_path):
    path = tmp_path / "own.py"
    path.write_text('from worker.agent.tools import tool\n@tool\ndef Read(x: int):\n    "Mine."\n')
    assert load(path)["Read"].description == "Mine."


async def test_a_function_that_blocks_is_left_behind(file, tmp_path):
    async with serve_tools(tmp_path, tools_file=str(file), cancel_grace=0.0) as tools:
        with trio.move_on_after(0.05) as scope:
            await tools.call("sleeps", seconds=0.6)
        assert scope.cancelled_caught
        tools.abandoned.check(trio.current_time())
        assert tools.abandoned.count == 1


def test_the_file_is_read_anew_each_time(tmp_path):
    path = tmp_path / "own.py"
    for answer in ("1", "2"):  # of the same size, and within the same second
        path.write_text(f'from worker.agent.tools import tool\n@tool\ndef one():\n    "Says {answer}."\n')
        os.utime(path, (1e9, 1e9))
        assert load(path)["one"].description == f"Says {answer}."


IMPORT = "from worker.agent.tools import Tool, tool\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("\ndef f(:\n", 2, "invalid syntax"),
        ("x = 'é'\n".encode("latin-1"), None, "codec can't decode"),
        ("x = 1\0\n", None, "null bytes"),
        ("\n\nimport nothing_of_this_name\n", 3, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def f():\n    return {}['key']\n\nf()\n", 2, "KeyError: 'key'"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("x = 1\n", None, "declares no tool: mark a function with @tool"),
        (IMPORT + "@tool\ndef f(x: int): ...\n", 3, "f is no tool: a model needs a description"),
        (IMPORT + '@tool\ndef f(x):\n    "A."\n', 2, "TypeError: the parameter x of f needs a type"),
        (IMPORT + '@tool\ndef f(*x: int):\n    "A."\n', 2, "no name that a model could use"),
        (IMPORT + '@tool\ndef f(x: complex):\n    "A."\n', 3, "f is no tool: TypeError"),
        (IMPORT + '@tool\ndef f(x: "Nowhere"):\n    "A."\n', 2, "NameError: name 'Nowhere' is not defined"),
        (IMPORT + '@tool(name="a b")\ndef f():\n    "A."\n', 3, '"a b" is no name for a tool'),
        (IMPORT + "class A(Tool): ...\n", 2, "A is no tool: TypeError: Can't instantiate abstract class"),
        (
            IMPORT + "class A(Tool):\n    async def run(self, context, arguments): ...\n",
            2,
            "A is no tool: it has no `name`",
        ),
        (
            IMPORT + '@tool\ndef f():\n    "A."\n@tool(name="f")\ndef g():\n    "B."\n',
            6,
            "g and f are both called f",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, line, said):
    path = tmp_path / "own.py"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        load(path)
    message = str(error.value)
    assert said in message
    assert "\n" not in message
    if line is not None:
        assert message.startswith(f"{path}:{line}: ")
    else:
        assert message.startswith(f"{path}:")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name, said in (
        ("nowhere.py", "can't be read: No such file"),
        ("fifo", "no regular file"),
        ("", "can't be read|no"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(tmp_path / name)
