"""Sentences about what is wrong, and the field that they are about."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from worker.dialects.fault import MAX_QUOTED_CHARS, field_in, of_json, of_value, quoted


class Leaf(Struct, tag_field="type", tag="leaf"):
    size: int
    word: Literal["a", "b"] = "a"


class Branch(Struct, tag_field="type", tag="branch"):
    parts: "list[Leaf | Branch]"


decoder: msgspec.json.Decoder[Leaf | Branch] = msgspec.json.Decoder(Leaf | Branch)


def said_of(json: bytes, path: str = "") -> str:
    with pytest.raises(msgspec.ValidationError) as error:
        decoder.decode(json)
    return of_value(error.value, json, decoder.type, path)


@pytest.mark.parametrize(
    ("json", "said"),
    [
        (b"[]", "an object is needed, not a list"),
        (b'{"type":"leaf"}', "`size` is required"),
        (b'{"type":"leaf","size":true}', "`size`: a whole number is needed, not a truth value"),
        (b'{"type":"twig"}', "`type`: there is no 'twig'; there are leaf, branch"),
        (b'{"type":"leaf","size":1,"word":"c"}', "`word`: there is no 'c'; there are a, b"),
        (
            b'{"type":"branch","parts":[{"type":"leaf","size":1},{"type":"branch","parts":[{"type":"x"}]}]}',
            "`parts[1].parts[0].type`: there is no 'x'; there are leaf, branch",
        ),
    ],
)
def test_values(json, said):
    assert said_of(json).startswith(said)


def test_a_path_before():
    assert said_of(b'{"type":"leaf"}', "messages[2]") == "`messages[2].size` is required"
    assert said_of(b"5", "messages[2]") == "`messages[2]`: an object is needed, not a number"


def test_what_is_said_is_short():
    assert len(said_of(b'{"type":"%s"}' % (b"x" * 100_000))) < 200
    assert len(quoted("x" * 100_000)) == MAX_QUOTED_CHARS + 3


def test_broken_text_elsewhere_is_no_matter():
    assert said_of(b'{"type":"leaf","size":1,"word":"c","more":"\xff"}') == "`word`: there is no 'c'"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("`model` is required", "model"),
        ("`messages[2].content[0].type`: no", "messages[2].content[0].type"),
        ("the body is empty", None),
        ("`not a field`", None),
        ("the `model` is odd", None),
    ],
)
def test_the_field(message, field):
    assert field_in(message) == field


@given(st.binary(max_size=50))
def test_any_bytes_that_are_no_json(body):
    problem: Exception = UnicodeDecodeError("utf-8", b"", 0, 1, "")
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = error
    assert of_json(body, problem).strip()
