"""What models write as arguments, taken as it is meant, or refused in words that they can act on."""

import json
from contextlib import suppress
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, field

from worker.agent.errors import ToolError
from worker.agent.tools.arguments import decode_arguments
from worker.agent.tools.schema import schema_of


class Item(Struct):
    text: str
    kind: Literal["a", "b"] = "a"


class Arguments(Struct):
    file_path: str
    items: list[Item] = []
    limit: Annotated[int, Meta(ge=1)] = 10
    size: float | None = None
    either: str | list[str] | None = None
    flag: bool = field(default=False, name="-i")


def decode(**given):
    return decode_arguments(Arguments, json.dumps(given))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, {}),
        ({"limit": "5", "-i": "true", "size": "1.5"}, {"limit": 5, "flag": True, "size": 1.5}),
        ({"limit": None, "size": None}, {}),
        ({"limit": 5.0}, {"limit": 5}),
        ({"items": '[{"text": "x"}]'}, {"items": [Item("x")]}),
        ({"items": [{"text": "x", "kind": "b", "more": 1}]}, {"items": [Item("x", "b")]}),
        ({"either": "[1"}, {"either": "[1"}),
        ({"either": '["x"]'}, {"either": '["x"]'}),
        ({"description": "", "offset": None, "other": 0, "edits": []}, {}),
    ],
)
def test_what_is_meant_is_understood(given, meant):
    assert decode(file_path="f", **given) == Arguments("f", **meant)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {},
            "the parameter `file_path` is required. The parameters are: file_path, items (optional), limit (optional)",
        ),
        ({"path": "f", "x": 1}, "`file_path` is required; there is no parameter `path`"),
        ({"filePath": "f"}, "there is no parameter `filePath`, did you mean `file_path`?"),
        ({"file_path": 5}, "`file_path` must be a string, but is a whole number"),
        ({"file_path": "f", "limit": 0}, "`limit` must be int >= 1"),
        ({"file_path": "f", "limit": "many"}, "`limit` must be a whole number, but is a string"),
        ({"file_path": "f", "limit": 1.5}, "`limit` must be a whole number, but is a number"),
        ({"file_path": "f", "size": []}, "`size` must be a number, but is a list"),
        ({"file_path": "f", "either": 5}, "`either` must be a string or a list, but is a whole number"),
        ({"file_path": "f", "items": "x"}, "`items` must be a list, but is a string"),
        ({"file_path": "f", "items": ["x"]}, "`items[0]` must be an object, but is a string"),
        ({"file_path": "f", "items": [{}]}, "`items[0]` missing required field `text`"),
        (
            {"file_path": "f", "items": [{"text": "", "kind": "c"}]},
            "`items[0].kind` can't be 'c'; it must be one of a, b",
        ),
        ({"file_path": None}, "`file_path` must be a string, but is null"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    with pytest.raises(ToolError) as error:
        decode(**given)
    assert said in str(error.value)


@pytest.mark.parametrize("text", ['{"file_path": "f', "[]", "5", "not json", '{"file_path": "\\ud800"}', "[" * 10_000])
def test_what_is_no_object_is_said(text):
    with pytest.raises(ToolError, match="no complete JSON object"):
        decode_arguments(Arguments, text)


def test_an_object_in_a_string_is_one():
    assert decode_arguments(Arguments, json.dumps('{"file_path": "f"}')) == Arguments("f")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_is_understood_or_refused(value):
    for written in (
        {"file_path": "f", "items": value},
        {"file_path": value},
        {"file_path": "f", "limit": value},
        value,
    ):
        with suppress(ToolError):
            decode_arguments(Arguments, json.dumps(written))


class Node(Struct):
    """A node."""

    name: Annotated[str, Meta(description="Its name")]
    below: "list[Node]" = []


class Tree(Struct):
    """For those who read the code."""

    root: Annotated[Node, Meta(description="Where it begins")]
    other: Annotated[Node | None, Meta(description="Another")] = None
    words: dict[str, int] = {}
    choice: Annotated[Literal["x", "y"] | None, Meta(description="Which")] = None
    many: Annotated[list[str] | str, Meta(description="One or many")] = "x"


def test_a_schema_is_plain_and_whole():
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Its name"},
            "below": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["name"],
    }
    assert schema_of(Tree) == {
        "type": "object",
        "properties": {
            "root": {**node, "description": "Where it begins"},
            "other": {**node, "description": "Another"},
            "words": {"type": "object", "additionalProperties": {"type": "integer"}},
            "choice": {"type": "string", "enum": ["x", "y"], "description": "Which"},
            "many": {
                "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}],
                "description": "One or many",
                "default": "x",
            },
        },
        "required": ["root"],
    }
