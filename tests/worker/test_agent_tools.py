"""Which tools there are, and what a model is told of them."""

import json
import re

import pytest

from shared.config import Agent
from shared.config.agent import TOOLS
from shared.errors import ConfigError
from worker.agent.tools import BUILT_IN, definitions, load_tools

NAMES = [built_in.name for built_in in BUILT_IN]


def agent(**settings):
    return Agent(enabled=True, workspace="/workspace", **settings)


def test_all_tools_are_there_by_default():
    tools = load_tools(agent())
    assert list(tools) == NAMES
    assert tuple(NAMES) == TOOLS  # which the configuration knows without a worker


def test_some_can_be_chosen():
    assert list(load_tools(agent(tools=("Grep", "Read")))) == ["Read", "Grep"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grep", 'no tool is called "grep"; did you mean "Grep"?'),
        ("MultiEdt", 'did you mean "MultiEdit"?'),
        ("Xyzzy", "there are LS, Read, Write, "),
    ],
)
def test_an_unknown_name_is_an_error(name, said):
    with pytest.raises(ConfigError, match=r"^\[agent\] tools: no tool is called ") as error:
        load_tools(agent(tools=("Read", name)))
    assert said in str(error.value)


def parts(schema):
    yield schema
    for part in schema.get("properties", {}).values():
        yield from parts(part)
    if "items" in schema:
        yield from parts(schema["items"])


@pytest.mark.parametrize("definition", definitions(load_tools(agent())), ids=lambda definition: definition.name)
def test_every_provider_can_read_what_it_is_told(definition):
    text = bytes(definition.schema).decode()
    schema = json.loads(text)
    assert schema["type"] == "object"
    assert not re.search(r'"(\$ref|\$defs|\$schema|title|anyOf|allOf|oneOf|prefixItems)":|null', text)
    for part in parts(schema):
        assert isinstance(part["type"], str)
        for name, property in part.get("properties", {}).items():
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
            assert property.get("description"), f"{name} is not explained"
        assert part["type"] != "array" or "items" in part
    assert set(schema.get("required", ())) <= set(schema["properties"])
    assert definition.description
    assert len(definition.description) < 1024


@pytest.mark.parametrize(
    ("tool", "required", "optional"),
    [
        ("Read", "file_path", "offset limit"),
        ("Write", "file_path content", ""),
        ("Edit", "file_path old_string new_string", "replace_all"),
        ("MultiEdit", "file_path edits", ""),
        ("LS", "path", "ignore"),
        ("Bash", "command", "timeout description"),
        ("Glob", "pattern", "path"),
        ("Grep", "pattern", "path glob type output_mode -A -B -C -n -i head_limit multiline"),
        ("WebFetch", "url", "prompt"),
        ("WebSearch", "query", "allowed_domains blocked_domains"),
        ("TodoWrite", "todos", ""),
        ("Task", "description prompt", "subagent_type"),
        ("ExitPlanMode", "plan", ""),
    ],
)
def test_arguments_have_the_names_that_models_know(tool, required, optional):
    (definition,) = definitions(load_tools(agent(tools=(tool,))))
    schema = json.loads(bytes(definition.schema))
    assert set(schema.get("required", ())) <= set(required.split())
    assert {*required.split(), *optional.split()} <= set(schema["properties"])
