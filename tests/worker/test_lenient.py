import json

import msgspec
import pytest

from worker.dialects.anthropic.wire import read_event
from worker.dialects.lenient import BAD_JSON, MAX_MENDED_BYTES, without_lone_surrogates
from worker.dialects.openai.wire import read_chunk


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (r"a\ud83d", r"a\ufffd"),
        (r"\uDE00b", r"\ufffdb"),
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"\ude00\ud83d", r"\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
        (r"\\ud83d", r"\\ud83d"),
        (r"\\\ud83d", r"\\\ufffd"),
        (r"\n\ud83d\n", r"\n\ufffd\n"),
        (r"\ud83d\u0041", r"\ufffd\u0041"),
        (r"plain \u00fc", r"plain \u00fc"),
    ],
)
def test_half_a_character_is_none(text, mended):
    told = without_lone_surrogates(f'"{text}"'.encode())
    assert told == f'"{mended}"'.encode()
    assert msgspec.json.decode(told) == json.loads(told)


def test_what_is_long_is_left_as_it_is():
    long = b'"' + b"a" * MAX_MENDED_BYTES + b'\\ud83d"'
    assert without_lone_surrogates(long) is long


def test_events_with_half_a_character():
    chunk = read_chunk(rb'{"choices": [{"delta": {"content": "a\ud83d"}}], "usage": 5}')
    assert chunk.choices[0].delta.content == "a\ufffd"
    event = read_event(rb'{"type": "content_block_delta", "delta": {"text": "\ude00"}, "index": "0"}')
    assert (event.type, event.delta.text, event.index) == ("content_block_delta", "\ufffd", None)


@pytest.mark.parametrize("json", [b"", b"[]", b"5", b"{", rb'"\ud83d"', rb'{"a": "\ud83"}'])
def test_what_is_no_object(json):
    for read in (read_chunk, read_event):
        with pytest.raises(BAD_JSON):
            read(json)
