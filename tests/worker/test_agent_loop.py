"""What follows from an answer: decided purely."""

import pytest

from shared.config import Agent
from worker.agent.calls import time_for, unknown_tool
from worker.agent.loop import Acts, Ended, Ends, GoesOn, TooMany, decide, ending
from worker.agent.tools import load_tools
from worker.dialects.neutral import Answer, Stop, Text, Thinking, ToolCall

TOOLS = load_tools(Agent(enabled=True, workspace="/"))


def call(name, id="c1"):
    return ToolCall(id, name, "{}")


def follows(*parts, stop="end", clients=(), step=1, max_steps=3):
    return decide(Answer(parts=parts, stop=stop), TOOLS, clients, step=step, max_steps=max_steps)


@pytest.mark.parametrize("stop", ["end", "length", "context", "refusal", "sequence"])
def test_without_calls_it_is_over(stop):
    assert follows(Thinking("hm"), Text("yes"), stop=stop) == Ends()


def test_a_pause_is_gone_on_from():
    assert follows(Text("searching"), stop="pause") == GoesOn()
    assert follows(Text("searching"), stop="pause", step=3) == Ends()


def test_calls_that_change_nothing_run_together():
    calls = (call("Read", "1"), call("LS", "2"))
    assert follows(Text("let me see"), *calls, stop="tools") == Acts(calls, (), together=True)


def test_one_that_changes_something_has_them_run_in_turn():
    calls = (call("Read", "1"), call("Write", "2"))
    assert follows(*calls, stop="tools") == Acts(calls, (), together=False)


def test_a_name_that_nobody_knows_is_ours():
    assert follows(call("Raed"), stop="tools") == Acts((call("Raed"),), (), together=True)


def test_a_call_of_the_client_s_goes_back_to_it():
    ours, theirs = call("Read", "1"), call("fly", "2")
    assert follows(theirs, ours, stop="tools", clients={"fly"}, step=3) == Acts((ours,), (theirs,), together=True)


def test_a_call_in_the_last_turn_is_one_too_many():
    assert follows(call("Read"), stop="tools", step=3) == TooMany()


@pytest.mark.parametrize(
    ("ended", "stop"),
    [
        (Ended("end"), "end"),
        (Ended("tools"), "end"),
        (Ended("pause"), "end"),
        (Ended("length"), "length"),
        (Ended("refusal"), "refusal"),
        (Ended("tools", handed_back=(call("fly"),)), "tools"),
    ],
)
def test_how_an_end_is_told(ended, stop):
    assert ending(ended) == Stop(stop)


def test_the_time_of_tools():
    settings = Agent(response_timeout=99.0)
    assert [time_for(name, settings) for name in ("Bash", "LS", "Glob", "Task")] == [30.0, 3.0, 60.0, 99.0]
    assert time_for("Task", Agent(timeouts={"Task": 5.0})) == 5.0


def test_a_model_that_errs_is_helped():
    assert unknown_tool("raed", TOOLS) == "there is no tool 'raed'; did you mean Read?"
    assert unknown_tool("xyz", TOOLS).startswith("there is no tool 'xyz'; there are LS, Read, ")
    assert unknown_tool("xyz", {}) == "there is no tool 'xyz'; there are none"
