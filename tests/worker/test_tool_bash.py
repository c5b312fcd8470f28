"""Bash as a model calls it."""

import pytest
from fakes.programs import alive, new_mark
from fakes.tools import serve_tools

from worker.agent.errors import ToolError

pytestmark = pytest.mark.integration


@pytest.fixture
async def tools(tmp_path):
    async with serve_tools(tmp_path) as tools:
        yield tools


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("echo hello", "hello\n[exit status 0]"),
        ("true", "[exit status 0]"),
        ("echo out; echo err >&2; exit 3", "out\nerr\n[exit status 3]"),
        ("no-such-program", "bash: line 1: no-such-program: command not found\n[exit status 127]"),
        ("kill -KILL $$", "[killed by SIGKILL]"),
        ("kill -40 $$", "[killed by signal 40]"),
        ("printf 'no newline'", "no newline\n[exit status 0]"),
        ("cat", "[exit status 0]"),
    ],
)
async def test_results(tools, command, result):
    assert await tools.call("Bash", command=command) == result


async def test_it_takes_what_claude_code_sends(tools):
    arguments = {"timeout": 5000, "description": "Says hello", "run_in_background": False}
    assert await tools.call("Bash", command="echo hello", **arguments) == "hello\n[exit status 0]"


async def test_no_background(tools):
    with pytest.raises(ToolError, match="can't run in the background"):
        await tools.call("Bash", command="sleep 1", run_in_background=True)


async def test_the_timeout_of_the_call(tools):
    mark = new_mark()
    result = await tools.call("Bash", command=f"echo begun; setsid sleep {mark} & sleep {mark}", timeout=200)
    assert result == "begun\n[killed after 0.2 s, with everything it had started; it had not ended]"
    assert alive(mark) == []


async def test_the_timeout_of_the_tool_bounds_it(tmp_path):
    mark = new_mark()
    async with serve_tools(tmp_path, timeouts={"Bash": 0.5}) as tools:
        result = await tools.call("Bash", command=f"sleep {mark}", timeout=60_000)
    assert result.startswith("[killed after 0.25 s")


async def test_no_more_output_than_allowed(tools):
    tools.context.max_output_chars = 1000
    result = await tools.call("Bash", command="seq 1000000; echo the end")
    assert len(result) <= 1000
    assert result.startswith("1\n2\n3\n")
    assert result.endswith("the end\n[exit status 0]")
    assert "bytes left out" in result


async def test_each_call_is_a_new_shell_in_the_workspace(tools, tmp_path):
    (tmp_path / "sub").mkdir()
    await tools.call("Bash", command="cd sub; name=value")
    assert await tools.call("Bash", command='pwd; echo "$name."') == f"{tmp_path}\n.\n[exit status 0]"
