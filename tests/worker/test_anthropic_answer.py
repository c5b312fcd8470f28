import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.answer import decode_answer, encode_answer
from worker.dialects.codec import Reply
from worker.dialects.neutral import Answer, Image, RedactedThinking, Text, Thinking, ToolCall, Usage

REPLY = Reply(id="0f" * 16, model="claude-x", created=0)


def decode(*content, **fields):
    return decode_answer(json.dumps({"type": "message", "role": "assistant", "content": content, **fields}).encode())


def encode(*parts, stop="end", reply=REPLY, **fields):
    return json.loads(encode_answer(Answer(parts=parts, stop=stop, **fields), reply))


def test_a_whole_message():
    answer = decode(
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "yes", "citations": []},
        {"type": "tool_use", "id": "t", "name": "LS", "input": {"a": 1.50}},
        stop_reason="tool_use",
        usage={
            "input_tokens": 5,
            "output_tokens": 7,
            "cache_read_input_tokens": 2,
            "cache_creation_input_tokens": 1,
            "service_tier": "standard",
        },
    )
    assert answer == Answer(
        parts=(Thinking("hm", "sig"), RedactedThinking("x"), Text("yes"), ToolCall("t", "LS", '{"a": 1.5}')),
        stop="tools",
        usage=Usage(prompt_tokens=8, completion_tokens=7, cache_read_tokens=2, cache_write_tokens=1),
    )


def test_a_tool_s_input_keeps_its_bytes():
    body = b'{"content":[{"type":"tool_use","id":"t","name":"n","input": {"b" : 1.50, "n":1e2} }]}'
    assert decode_answer(body).parts == (ToolCall("t", "n", '{"b" : 1.50, "n":1e2}'),)


def test_blocks_that_are_new_to_us_are_left_out():
    answer = decode(
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        {"type": "text", "text": "found"},
        {"type": None},
        {},
    )
    assert answer.parts == (Text("found"),)


@pytest.mark.parametrize(
    ("content", "word", "stop"),
    [
        ([], "end_turn", "end"),
        ([], "max_tokens", "length"),
        ([], "refusal", "refusal"),
        ([], "pause_turn", "pause"),
        ([], "model_context_window_exceeded", "context"),
        ([], "tool_use", "end"),
        ([], None, "end"),
        ([], "new_word", "end"),
        ([], 5, "end"),
        ([{"type": "tool_use", "id": "t", "name": "n"}], "end_turn", "tools"),
        ([{"type": "tool_use", "id": "t", "name": "n"}], "max_tokens", "length"),
    ],
)
def test_stops(content, word, stop):
    assert decode(*content, stop_reason=word).stop == stop


def test_a_stop_sequence():
    answer = decode(stop_reason="stop_sequence", stop_sequence="END")
    assert (answer.stop, answer.stop_sequence) == ("sequence", "END")


def test_what_merely_surprises_counts_as_absent():
    answer = decode(
        {"type": "text", "text": 5},
        {"type": "thinking", "thinking": None, "signature": 5},
        {"type": "tool_use", "id": 5, "name": "n", "input": None},
        7,
        stop_sequence=5,
        usage={"input_tokens": "many", "output_tokens": 3},
    )
    assert answer.parts == (Thinking(""), ToolCall("", "n", "{}"))
    assert (answer.stop_sequence, answer.usage) == (None, Usage(completion_tokens=3))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a message"),
        (b"<html>", "not a message"),
        (b"[]", "not a message"),
        (b'{"content": "\xff"}', "not a message"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a message"),
        (b"{}", "no content"),
        (b'{"content": null}', "no content"),
        (b'{"content": "text"}', "no content"),
        (b'{"error": {"message": "Invalid key"}}', "^Invalid key$"),
        (b'{"detail": "Forbidden"}', "^Forbidden$"),
        (b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}', "^Overloaded$"),
        (b'{"content": [{"type": "tool_use", "id": "t", "input": {}}]}', "without naming it"),
        (b'{"content": [{"type": "tool_use", "id": "t", "name": 5}]}', "without naming it"),
    ],
)
def test_what_is_no_answer(body, message):
    with pytest.raises(UpstreamBroken, match=message):
        decode_answer(body)


def test_an_answer_for_a_client():
    parts = (Thinking("hm"), RedactedThinking("x"), Text("yes"), ToolCall("t:0", "LS", '{"a": 1}'))
    usage = Usage(prompt_tokens=8, completion_tokens=7, cache_read_tokens=2)
    assert encode(*parts, stop="tools", usage=usage) == {
        "id": "msg_" + "0f" * 16,
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "yes"},
            {"type": "tool_use", "id": "t:0", "name": "LS", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
            "output_tokens": 7,
        },
    }


def test_an_empty_answer():
    message = encode(Text(""))
    assert (message["content"], message["stop_reason"]) == ([], "end_turn")


def test_a_client_s_stop_sequence():
    message = encode(Text("a"), stop="sequence", stop_sequence="END")
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


def test_hidden_thought():
    reply = Reply(id="x", model="m", created=0, shows_thinking=False)
    assert encode(Thinking("hm"), RedactedThinking("x"), Text("a"), reply=reply)["content"] == [
        {"type": "text", "text": "a"}
    ]


def test_ids_of_earlier_calls_are_taken():
    reply = structs.replace(REPLY, taken_ids=frozenset({"functions.LS:0"}))
    calls = [ToolCall("functions.LS:0", "LS", "{}"), ToolCall("functions.LS:1", "LS", "{}")]
    told = encode(*calls, stop="tools", reply=reply)["content"]
    assert [block["id"] for block in told] == [f"toolu_{REPLY.id}_0", "functions.LS:1"]


def test_calls_without_an_id_of_their_own_get_one():
    calls = [ToolCall(id, "LS", "") for id in ("", "a", "a", "", "functions.LS:0")]
    ids = [block["id"] for block in encode(*calls)["content"]]
    made = "toolu_" + "0f" * 16
    assert ids == [f"{made}_0", "a", f"{made}_2", f"{made}_3", "functions.LS:0"]


@pytest.mark.parametrize(
    ("arguments", "input"),
    [("", {}), ("null", {}), ('""', {}), ('{"a": 1}', {"a": 1}), ('"{\\"a\\": 1}"', {"a": 1})],
)
def test_arguments_are_an_object(arguments, input):
    assert encode(ToolCall("t", "LS", arguments))["content"][0]["input"] == input


@pytest.mark.parametrize("arguments", ["[1]", "5", '{"a"', '{"a": 1} x'])
def test_arguments_that_are_no_object(arguments):
    with pytest.raises(DialectError, match="'LS'"):
        encode(ToolCall("t", "LS", arguments), stop="tools")
    for stop in ("length", "context"):
        assert encode(ToolCall("t", "LS", arguments), stop=stop)["content"][0]["input"] == {}


def test_parts_that_no_answer_holds_are_left_out():
    assert encode(Image(url="https://x"))["content"] == []


TEXTS = st.text(max_size=5)
PARTS = (
    st.builds(Text, st.text(min_size=1, max_size=5))
    | st.builds(Thinking, TEXTS, TEXTS)
    | st.builds(RedactedThinking, TEXTS)
)
COUNTS = st.integers(0, 2**50)


@given(
    st.lists(PARTS, max_size=4).map(tuple),
    st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2),
    st.sampled_from(["end", "length", "sequence", "refusal", "pause", "context"]),
    st.tuples(COUNTS, COUNTS, COUNTS, COUNTS),
)
def test_an_answer_survives_the_way_there_and_back(parts, inputs, stop, counts):
    calls = tuple(ToolCall(f"t{n}", "LS", json.dumps(input)) for n, input in enumerate(inputs))
    fresh, written, read, completion = counts
    usage = Usage(
        prompt_tokens=fresh + written + read,
        completion_tokens=completion,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )
    stop = "tools" if calls and stop == "end" else stop
    answer = Answer(parts=parts + calls, stop=stop, usage=usage)
    assert decode_answer(encode_answer(answer, REPLY)) == answer


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("text", "thinking", "signature", "data", "id", "name", "input")
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use"])},
    optional={name: JSON for name in FIELDS},
)


@given(
    JSON
    | st.fixed_dictionaries(
        {"content": st.lists(BLOCKS | JSON, max_size=3) | JSON},
        optional={name: JSON for name in ("type", "stop_reason", "stop_sequence", "usage", "error")},
    )
)
def test_any_json_is_an_answer_or_an_error_of_ours(value):
    try:
        answer = decode_answer(json.dumps(value).encode())
        message = json.loads(encode_answer(answer, REPLY))
    except (UpstreamBroken, DialectError):
        return
    assert message["type"] == "message"


@given(st.binary(max_size=40))
def test_any_bytes_are_an_answer_or_broken(body):
    try:
        decode_answer(body)
    except UpstreamBroken:
        return
