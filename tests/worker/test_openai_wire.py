import json

import pytest

from worker.dialects.openai.wire import MAX_RAW_CHARS, error_message, read_chunk


@pytest.mark.parametrize(
    ("error", "is_error"),
    [
        (None, False),
        ("", False),
        ({}, False),
        ([], False),
        (False, False),
        (0, False),
        ("no", True),
        ({"code": 5}, True),
    ],
)
def test_what_is_an_error(error, is_error):
    assert read_chunk(json.dumps({"error": error}).encode()).is_error is is_error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "no", "type": "t"}, "no"),
        ({"message": "", "type": "t"}, "t"),
        ({"code": 429}, "error 429"),
        ({}, "unnamed error"),
        ("just words", "just words"),
        (None, None),
        ([1], None),
        ({"message": "Provider returned error", "metadata": {"raw": '{"x": 1}'}}, 'Provider returned error: {"x": 1}'),
        ({"message": "no", "metadata": {"raw": {"x": 1}}}, "no"),
        ({"message": "no", "metadata": "raw"}, "no"),
    ],
)
def test_what_an_error_says(error, message):
    assert error_message(json.dumps({"error": error}).encode()) == message


def test_what_a_host_behind_openrouter_says_is_not_told_without_end():
    told = error_message(json.dumps({"error": {"message": "m", "metadata": {"raw": "x" * 100_000}}}).encode())
    assert told == "m: " + "x" * MAX_RAW_CHARS
