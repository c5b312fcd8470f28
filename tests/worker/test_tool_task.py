"""The tools that touch nothing: TodoWrite, Task and ExitPlanMode."""

import pytest
from fakes.tools import serve_tools

from worker.agent.errors import ToolError
from worker.agent.tools import RunEnds, Todo


@pytest.fixture
async def tools(tmp_path):
    async with serve_tools(tmp_path, max_iterations=7) as tools:
        yield tools


async def test_a_list_replaces_the_one_before(tools):
    await tools.call("TodoWrite", todos=[{"content": "Dig", "status": "pending"}])
    said = await tools.call(
        "TodoWrite",
        todos=[
            {"content": "Dig", "status": "completed", "activeForm": "Digging"},
            {"content": "Sow", "status": "in_progress", "activeForm": "Sowing", "id": "2", "priority": "high"},
            {"content": "Reap", "status": "pending"},
        ],
    )
    assert said == "The list is kept: 1 of 3 done.\n[x] Dig\n[>] Sow\n[ ] Reap"
    assert tools.context.todos == [Todo("Dig", "completed"), Todo("Sow", "in_progress"), Todo("Reap", "pending")]
    assert await tools.call("TodoWrite", todos=[]) == "The list is empty now."
    assert tools.context.todos == []


@pytest.mark.parametrize(
    ("todos", "said"),
    [
        ([{"content": "Dig", "status": "done"}], r"`todos\[0\].status` can't be 'done'; it must be one of completed"),
        ([{"status": "pending"}], "content"),
        ([{"content": "", "status": "pending"}], r"`todos\[0\].content` must be"),
        ([{"content": "x" * 2001, "status": "pending"}], "more than 2000 characters"),
        ([{"content": "x", "status": "pending"}] * 201, "at most 200"),
    ],
)
async def test_a_list_that_is_none_changes_nothing(tools, todos, said):
    tools.context.todos.append(Todo("Dig", "pending"))
    with pytest.raises(ToolError, match=said):
        await tools.call("TodoWrite", todos=todos)
    assert tools.context.todos == [Todo("Dig", "pending")]


async def test_a_task_asks_with_a_budget_of_its_own(tools):
    answer = await tools.call("Task", description="Look", prompt=" Look around. ", subagent_type="general-purpose")
    assert answer == "answer to Look around."
    assert tools.asked == [("Look around.", 7)]
    with pytest.raises(ToolError, match="prompt is empty"):
        await tools.call("Task", description="Look", prompt=" ")


async def test_a_task_without_an_answer_says_so(tools):
    async def ask(prompt, budget):
        return "\n"

    tools.context.ask = ask
    assert await tools.call("Task", description="Look", prompt="Look") == "The agent has ended without an answer."


async def test_a_plan_ends_the_run(tools):
    with pytest.raises(RunEnds) as end:
        await tools.call("ExitPlanMode", plan="\n1. Dig\n2. Sow\n")
    assert end.value.text == "1. Dig\n2. Sow"
    with pytest.raises(ToolError, match="plan is empty"):
        await tools.call("ExitPlanMode", plan=" ")


async def test_only_those_that_change_nothing_run_beside_others(tools):
    parallel = {name for name, tool in tools.tools.items() if tool.parallel}
    assert parallel >= {"LS", "Read", "Glob", "Grep", "WebFetch", "WebSearch", "Task"}
    assert not parallel & {"Write", "Edit", "MultiEdit", "Bash", "TodoWrite", "ExitPlanMode"}
