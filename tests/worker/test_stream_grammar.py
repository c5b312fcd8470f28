"""The machine check itself: it must find what is wrong with a stream."""

import re
from pathlib import Path

import pytest
from fakes.grammar import anthropic_faults, ends_in_error, openai_faults

GOLDEN = Path(__file__).parents[1] / "golden"
ANTHROPIC = sorted((GOLDEN / "openai_to_anthropic").glob("*.out.sse"))
OPENAI = sorted((GOLDEN / "anthropic_to_openai").glob("*.out.sse"))


def events_in(path) -> list[bytes]:
    return re.findall(rb".+?\n\n", path.read_bytes(), re.DOTALL)


@pytest.mark.parametrize("path", ANTHROPIC, ids=lambda path: path.name)
def test_an_event_too_few_too_many_or_misplaced(path):
    events = events_in(path)
    assert anthropic_faults(b"".join(events)) == []
    for at, event in enumerate(events):
        if b"content_block_delta" not in event:
            assert anthropic_faults(b"".join(events[:at] + events[at + 1 :])) or ends_in_error(b"".join(events))
            assert anthropic_faults(b"".join(events[: at + 1] + events[at:]))
        if at and event.split(b"\n")[0] != events[at - 1].split(b"\n")[0]:
            assert anthropic_faults(b"".join([*events[: at - 1], event, events[at - 1], *events[at + 1 :]]))
        assert anthropic_faults(b"".join(events) + event)


@pytest.mark.parametrize("path", OPENAI, ids=lambda path: path.name)
def test_the_same_for_chunks(path):
    events = events_in(path)
    assert openai_faults(b"".join(events)) == []
    for at, event in enumerate(events):
        if b"role" in event or b'"finish_reason":"' in event or at == len(events) - 1:
            assert openai_faults(b"".join(events[:at] + events[at + 1 :]))
            assert openai_faults(b"".join(events[: at + 1] + events[at:]))
        assert openai_faults(b"".join(events) + event)
    if not ends_in_error(b"".join(events)):
        assert openai_faults(b"".join(events[:-1]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"event: message_stop", b"event: message_end"),
        (b"event: message_stop\n", b""),
        (b'"text_delta","text":"The "', b'"text_delta","text":""'),
        (b'"text_delta","text"', b'"thinking_delta","thinking"'),
        (b'"text_delta"', b'"input_json_delta"'),
        (b'"index":0', b'"index":1'),
        (b'"end_turn"', b'"stop"'),
        (b'"end_turn"', b'"tool_use"'),
        (b'"end_turn"', b"null"),
        (b'"output_tokens":9', b'"output_tokens":null'),
        (b'"input_tokens":25,', b""),
        (b'"input_tokens":11,', b""),
        (b'"content":[]', b'"content":null'),
        (b"\n\nevent: message_stop", b"\n\nevent: x\n\nevent: message_stop"),
        (b'{"type":"message_stop"}\n\n', b'{"type":"message_stop"}\n'),
        (b'{"type":"message_stop"}', b'{"type":"message_stop"'),
    ],
)
def test_one_wrong_word(old, new):
    stream = (GOLDEN / "openai_to_anthropic" / "text.out.sse").read_bytes()
    assert old in stream
    assert anthropic_faults(stream.replace(old, new, 1))


def test_tool_inputs():
    stream = (GOLDEN / "openai_to_anthropic" / "tools.out.sse").read_bytes()
    assert anthropic_faults(stream.replace(b'"partial_json":"{', b'"partial_json":"['))
    assert anthropic_faults(stream.replace(b'"tool_use","stop_sequence"', b'"end_turn","stop_sequence"'))
    assert anthropic_faults(stream.replace(b'"id":"call_a"', b'"id":""'))
    half = stream.replace(b"]}", b"")
    assert half != stream
    assert anthropic_faults(half)
    assert anthropic_faults(half.replace(b'"tool_use","stop_sequence"', b'"max_tokens","stop_sequence"')) == []


def test_pings_and_comments_are_fine_but_not_behind_the_end():
    stream = (GOLDEN / "openai_to_anthropic" / "text.out.sse").read_bytes()
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    assert anthropic_faults(ping + stream.replace(b"\n\n", b"\n\n: ping\n\n" + ping)[: -len(ping)]) == []
    assert anthropic_faults(stream + ping)
