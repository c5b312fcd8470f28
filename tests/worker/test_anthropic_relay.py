import json

import pytest
from fakes.anthropic_events import (
    MESSAGE_STOP,
    PING,
    block_delta,
    block_start,
    block_stop,
    error,
    event,
    message_delta,
    message_start,
    text,
    thinking,
    tool_use,
)
from fakes.grammar import anthropic_faults
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.relay import MESSAGE_STOP as ADDED
from worker.dialects.anthropic.relay import BodyRelay, StreamRelay
from worker.dialects.neutral import Usage

PROMPT = Usage(prompt_tokens=10, cache_read_tokens=3, cache_write_tokens=2)
FULL = Usage(prompt_tokens=10, cache_read_tokens=3, cache_write_tokens=2, completion_tokens=7)


def relay(max_event_bytes=100_000, model=None) -> StreamRelay:
    return StreamRelay(max_event_bytes=max_event_bytes, model=model)


def feed(relay, *pieces) -> bytes:
    """What the pump would send: it stops at `done`."""
    out = b""
    for piece in pieces:
        out += relay.receive(piece)
        if relay.done:
            return out
    return out + relay.receive_eof()


def text_of(relay) -> str:
    return "".join(relay.meter.take())


def by_byte(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


BLOCKS = (
    PING + thinking(0, "hm", signature="c2ln") + text(1, "Grü", "ße 😀") + tool_use(2, "t1", "LS", "", '{"a":', "1}")
)
STREAM = message_start() + BLOCKS + message_delta("tool_use") + MESSAGE_STOP
SAID = 'hmGrüße 😀LS{"a":1}'


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_bytes_pass_as_they_came(newline):
    stream = STREAM.replace(b"\n", newline)
    assert anthropic_faults(stream, passed=True) == []
    for pieces in ([stream], by_byte(stream)):
        tee = relay()
        assert feed(tee, *pieces) == stream
        assert text_of(tee) == SAID
        assert tee.usage == FULL
        assert tee.done
        assert tee.error is None


def test_the_start_tells_of_the_prompt_only():
    tee = relay()
    tee.receive(message_start())
    assert tee.usage == PROMPT
    tee.receive(message_delta(None, output_tokens=3, input_tokens=6))
    assert tee.usage == Usage(prompt_tokens=11, cache_read_tokens=3, cache_write_tokens=2, completion_tokens=3)


def test_message_stop_is_added_where_it_is_missing():
    stream = message_start() + BLOCKS + message_delta("tool_use")
    for pieces in ([stream], by_byte(stream)):
        tee = relay()
        out = feed(tee, *pieces)
        assert out == stream + ADDED
        assert anthropic_faults(out, passed=True) == []
        assert tee.done


def test_a_last_event_without_its_blank_line_counts():
    assert feed(relay(), STREAM.rstrip()) == STREAM
    start = message_start() + message_delta()
    assert feed(relay(), start.rstrip()) == start + ADDED


@pytest.mark.parametrize("half", [b'data: {"type": "mess', b"event: message_stop\n", b": comm", b"data: \xff"])
def test_half_an_event_at_the_end_is_left_out(half):
    stream = message_start() + message_delta()
    assert feed(relay(), stream + half) == stream + ADDED


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b": comment\n\n",
        message_start(),
        message_start() + text(0, "a"),
        message_start() + text(0, "a") + message_delta(None),
        message_start() + text(0, "a") + message_delta()[:-20],
        b"data: nonsense\n\n",
        b"<html>oops</html>",
    ],
)
def test_an_unfinished_stream_is_broken(stream):
    with pytest.raises(UpstreamBroken) as caught:
        feed(relay(), *([stream] if stream else []))
    assert caught.value.error_type == "IncompleteStream"


def test_an_error_is_passed_and_remembered():
    tee = relay()
    stream = message_start() + text(0, "a") + error()
    assert feed(tee, stream) == stream
    assert anthropic_faults(stream, passed=True) == []
    assert tee.error == "Overloaded"
    assert tee.done


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"type": "error"}', "the upstream reported an error"),
        (b'{"type": "error", "error": "words"}', "words"),
        (b'{"error": {"type": "api_error"}}', "api_error"),
    ],
)
def test_shapes_of_errors(data, message):
    tee = relay()
    feed(tee, b"event: error\ndata: " + data + b"\n\n")
    assert tee.error == message


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", PING, b": hello\n\n"])
def test_an_error_in_the_place_of_an_answer_is_a_refusal(start, newline):
    stream = (start + error("Overloaded")).replace(b"\n", newline)
    for pieces in ([stream], by_byte(stream)):
        tee = relay()
        feed(tee, *pieces)
        assert json.loads(tee.refusal)["error"] == {"type": "overloaded_error", "message": "Overloaded"}
        assert tee.error == "Overloaded"


def test_an_error_in_an_answer_is_none():
    for begun in (message_start(), text(0, "a")):
        tee = relay()
        feed(tee, begun + error())
        assert (tee.error, tee.refusal) == ("Overloaded", None)


def test_a_null_error_is_none():
    tee = relay()
    feed(tee, event({"error": None}), event({"error": {}}), STREAM)
    assert tee.error is None


def test_an_oversized_event_is_refused():
    with pytest.raises(DialectError):
        relay(max_event_bytes=50).receive(b"data: " + b"x" * 60)


def test_everything_that_the_model_wrote_is_counted():
    blocks = [
        block_start(0, "text", text="a"),
        block_delta(0, "text_delta", text="b"),
        block_delta(0, "citations_delta", citation={"cited_text": "not written by the model"}),
        block_stop(0),
        block_start(1, "thinking", thinking="c"),
        block_delta(1, "thinking_delta", thinking="d"),
        block_delta(1, "signature_delta", signature="no text"),
        block_stop(1),
        block_start(2, "redacted_thinking", data="no text"),
        block_stop(2),
        block_start(3, "tool_use", id="t", name="e", input={"f": 1}),
        block_stop(3),
        block_start(4, "server_tool_use", id="s", name="g", input={}),
        block_delta(4, "input_json_delta", partial_json="h"),
        block_stop(4),
    ]
    tee = relay()
    feed(tee, message_start(), *blocks, message_delta(), MESSAGE_STOP)
    assert text_of(tee) == 'abcde{"f": 1}gh'


def test_garbage_passes_through():
    odd = [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b"data: \xff\xfe\n\n",
        b'data: {"type":"content_block_delta","delta":{"text":"\xff"}}\n\n',
        b'data: {"type":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n\n",
        event({"type": 5}),
        event({"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": "a"}}),
        event({"type": "content_block_delta", "delta": {"type": [], "text": ["b"]}}),
        event({"type": "content_block_delta"}),
        event({"type": "content_block_start", "content_block": {"type": "tool_use", "name": 5, "input": "b"}}),
        event({"type": "content_block_start", "content_block": []}),
        event({"type": "message_start", "message": None}),
        event({"type": "message_start", "message": {"content": "text", "usage": 5}}),
        event({"type": "message_delta", "delta": [], "usage": {"output_tokens": -1}}),
        event({"type": "a_new_event", "error": {"message": "no"}}),
    ]
    stream = [message_start(), *odd, message_delta(), MESSAGE_STOP]
    tee = relay(max_event_bytes=1_000_000)
    assert feed(tee, *stream) == b"".join(stream)
    assert text_of(tee) == 'a"b"'
    assert tee.usage == FULL
    assert tee.error is None


names = [
    "type",
    "index",
    "delta",
    "message",
    "content_block",
    "usage",
    "error",
    "text",
    "input",
    "stop_reason",
    "content",
]
words = ["message_start", "content_block_start", "content_block_delta", "message_delta", "text_delta", "tool_use"]
json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from(words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=5),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(names), json_values), max_size=4), st.booleans())
def test_whatever_json_comes(values, ends):
    """It passes up to an error, or the stream is broken."""
    stream = b"".join(map(event, values)) + (message_delta() if ends else b"")
    tee = relay()
    try:
        out = feed(tee, *([stream] if stream else []))
    except UpstreamBroken:
        return
    assert out in (stream, stream + ADDED) or (tee.error is not None and stream.startswith(out))


@given(st.data())
def test_any_cutting_of_a_stream_gives_the_same(data):
    newline = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    end = data.draw(st.sampled_from([MESSAGE_STOP, b"", MESSAGE_STOP[:-1], MESSAGE_STOP + error(), b"data: {"]))
    stream = (b": hi\n\n" + STREAM.removesuffix(MESSAGE_STOP) + end).replace(b"\n", newline)
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=15)))
    pieces = [stream[start:stop] for start, stop in zip([0, *at], [*at, len(stream)], strict=True) if start < stop]
    tee = relay()
    out = feed(tee, *pieces)
    shortest = (b": hi\n\n" + STREAM.removesuffix(MESSAGE_STOP)).replace(b"\n", newline)
    assert out.startswith(shortest)
    assert b"message_stop" in out[len(shortest) :]
    assert tee.usage == FULL
    assert text_of(tee) == SAID
    assert tee.done


# --- the model's name

START = (
    b'event: message_start\ndata: {"type": "message_start", "of": 1e2, "message":{ "id":"m\\u00fc",'
    b' "model" : "%s", "usage": { "input_tokens":5} } }\n\n'
)
NAMED = (
    b'event: message_start\ndata: {"type":"message_start","of":1e2,"message":{"id":"m\\u00fc",'
    b'"model":"%s","usage":{ "input_tokens":5}}}\n\n'
)
AROUND = (b": hello\n\n" + PING, text(0, 'message_start "model": "m"') + message_delta() + MESSAGE_STOP)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_the_model_is_named_as_it_was_asked_for(newline):
    before, after = AROUND
    stream, wanted = ((before + start + after).replace(b"\n", newline) for start in (START % b"m", NAMED % b"asked"))
    for pieces in ([stream], by_byte(stream)):
        assert feed(relay(model="asked"), *pieces) == wanted


def test_the_last_event_too():
    assert (
        feed(relay(model="asked"), message_delta() + (START % b"m").rstrip())
        == message_delta() + NAMED % b"asked" + ADDED
    )


@pytest.mark.parametrize(
    "start",
    [
        START % b"asked",
        event({"type": "message_start"}),
        event({"type": "message_start", "message": None}),
        event({"type": "message_start", "message": {"usage": {}}}),
        event({"type": "message_start", "message": ["model"]}),
        event({"type": "message_start", "model": "m", "message": {}}),
        b'data: {"type": "message_start", "message": {"model": \n\n',
        b"data: message_start \xff\n\n",
    ],
)
def test_where_there_is_no_other_name_nothing_changes(start):
    before, after = AROUND
    stream = before + start + after
    assert feed(relay(model="asked"), stream) == stream


# --- whole answers

CONTENT = [
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "text", "text": "hello"},
    {"type": "tool_use", "id": "t", "name": "LS", "input": {"path": "/"}},
    {"type": "tool_use", "id": "u", "name": "Now", "input": {}},
]


def body(**changes) -> bytes:
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 7}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": CONTENT}
    return json.dumps({**message, "stop_reason": "tool_use", "usage": usage, **changes}).encode()


def body_relay(model=None) -> BodyRelay:
    return BodyRelay(max_response_bytes=10_000, model=model)


@pytest.mark.parametrize("pieces", [[body()], by_byte(body())], ids=["whole", "bytes"])
def test_a_body_passes_unchanged(pieces):
    tee = body_relay()
    assert feed(tee, *pieces) == body()
    assert text_of(tee) == 'hmhelloLS{"path": "/"}Now'
    assert tee.usage == FULL
    assert tee.done


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"content": []}, ""),
        ({"usage": {"input_tokens": "5"}}, 'hmhelloLS{"path": "/"}Now'),
        ({"content": [5, None, {"type": 5, "text": "hello"}]}, "hello"),
        ({"content": [{"type": "text", "text": ["parts"]}]}, ""),
        ({"usage": None, "type": None, "error": None}, 'hmhelloLS{"path": "/"}Now'),
    ],
)
def test_a_body_with_odd_types_passes(odd, said):
    tee = body_relay()
    assert feed(tee, body(**odd)) == body(**odd)
    assert text_of(tee) == said


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "not a message"),
        (b"<html>", "not a message"),
        (b"[]", "not a message"),
        (body()[:-5], "not a message"),
        (b'"\xff"', "not a message"),
        (b"{}", "holds no content"),
        (body(content="text"), "holds no content"),
        (b'{"type": "error", "error": {"type": "api_error", "message": "quota"}}', "quota"),
        (b'{"error": {"message": "quota"}}', "quota"),
    ],
)
def test_a_body_that_is_no_message(answer, message):
    with pytest.raises(UpstreamBroken, match=message):
        feed(body_relay(), *([answer] if answer else []))


def test_a_body_names_the_model_as_it_was_asked_for():
    sent = b'{"model": "m", "content": [ ], "usage": {"output_tokens":7}}'
    assert feed(body_relay(model="asked"), sent) == b'{"model":"asked","content":[ ],"usage":{"output_tokens":7}}'
    assert feed(body_relay(model="m"), sent) == sent


def test_an_oversized_body_is_refused():
    with pytest.raises(DialectError, match="max_response_bytes"):
        body_relay().receive(b"x" * 10_001)
