import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dialects.arguments import object_text


@pytest.mark.parametrize("text", ["{}", '{"a": 1}', ' {"a" :\n[1e999, "\\u00e9"]} ', '{"a":1,"a":2}', '{"":{}}'])
def test_an_object_stays_as_it_was_written(text):
    assert object_text(text) == text


@pytest.mark.parametrize("text", ["", " \n", "null", ' ""', '"null"', '"  "', '"\\"\\""'])
def test_nothing_is_an_object_without_fields(text):
    assert object_text(text) == "{}"


def test_an_object_in_a_string_is_taken_out():
    assert object_text(json.dumps('{"a": "ü"}')) == '{"a": "ü"}'


@pytest.mark.parametrize(
    "text",
    ['{"a":', "[]", "5", "true", "{}{}", "nil", '"x"', '"{', json.dumps("[]"), "\ud800", '"\ud800"', '{"a":NaN}'],
)
def test_anything_else_is_none(text):
    assert object_text(text) is None


def test_a_nest_too_deep_is_none():
    assert object_text('{"a":' * 100_000 + "1" + "}" * 100_000) is None


@given(st.text() | st.text('{}[]":,\\a1 ').map("{{{}".format))
def test_what_comes_out_is_an_object(text):
    written = object_text(text)
    assert written is None or isinstance(json.loads(written), dict)
