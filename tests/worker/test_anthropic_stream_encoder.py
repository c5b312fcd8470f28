import json
import re

import pytest
from fakes.dialect_streams import blocks_of, read_message
from fakes.grammar import anthropic_faults
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.anthropic.errors import error_event
from worker.dialects.anthropic.stream_encoder import AnthropicStreamEncoder
from worker.dialects.codec import Reply
from worker.dialects.neutral import (
    Begin,
    Event,
    Failed,
    Redacted,
    SignatureDelta,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
)

REPLY = Reply(id="0" * 31 + "1", model="claude-x", created=1, prompt_tokens=11)


def encoder(**more) -> AnthropicStreamEncoder:
    reply = {"id": REPLY.id, "model": REPLY.model, "created": 1, "prompt_tokens": 11}
    return AnthropicStreamEncoder(Reply(**{**reply, **more}))


def encode(*events: Event, **more) -> bytes:
    """A whole stream, which obeys the grammar."""
    encoding = encoder(**more)
    out = b"".join(map(encoding.send, events)) + encoding.finish()
    assert anthropic_faults(out) == []
    return out


def blocks(*events: Event, stop: Stop | None = None, **more) -> list[tuple[str, ...]]:
    return blocks_of(encode(*events, stop or Stop("end"), **more))


A, B = '{"a": 1}', '{"b": [2, "}"]}'


def test_the_bytes_of_a_short_answer():
    usage = Usage(prompt_tokens=30, completion_tokens=2, cache_read_tokens=10, cache_write_tokens=5)
    assert encode(Begin(), TextDelta("Hé\n"), TextDelta("!"), UsageTold(usage), Stop("end")).decode() == (
        "event: message_start\n"
        'data: {"type":"message_start","message":{"id":"msg_00000000000000000000000000000001","type":"message",'
        '"role":"assistant","model":"claude-x","content":[],"stop_reason":null,"stop_sequence":null,"usage":'
        '{"input_tokens":11,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}\n\n'
        "event: content_block_start\n"
        'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hé\\n"}}\n\n'
        "event: content_block_delta\n"
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"!"}}\n\n'
        "event: content_block_stop\n"
        'data: {"type":"content_block_stop","index":0}\n\n'
        "event: message_delta\n"
        'data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":'
        '{"input_tokens":15,"cache_creation_input_tokens":5,"cache_read_input_tokens":10,"output_tokens":2}}\n\n'
        "event: message_stop\n"
        'data: {"type":"message_stop"}\n\n'
    )


# --- the message


def test_the_message_starts_with_whatever_comes_first():
    for event in (Begin(), TextDelta("a"), ThinkingDelta("a"), ToolStart(0, "x", "f"), UsageTold(Usage()), Stop("end")):
        assert encoder().send(event).startswith(b"event: message_start\n")
    assert encode(Stop("end")).count(b"event:") == 3


def test_what_is_known_of_the_prompt_at_the_start():
    begun = read_message(encoder().send(Begin(Usage(prompt_tokens=9, cache_read_tokens=4, completion_tokens=1))))
    assert begun["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 0,
    }


@pytest.mark.parametrize(
    ("told", "prompt", "completion"),
    [
        ([], 11, 2),
        ([Usage(prompt_tokens=20)], 20, 2),
        ([Usage(completion_tokens=0)], 11, 0),
        ([Usage(prompt_tokens=20), Usage(prompt_tokens=21, completion_tokens=9)], 21, 9),
    ],
)
def test_usage_is_told_or_estimated(told, prompt, completion):
    events = [Begin(Usage(completion_tokens=1)), TextDelta("1234"), ToolStart(0, "x", "f"), ToolDelta(0, "{}")]
    usage = read_message(encode(*events, *map(UsageTold, told), Stop("end")))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (prompt, completion)


@pytest.mark.parametrize(
    ("stop", "word", "sequence"),
    [
        (Stop("end"), "end_turn", None),
        (Stop("length"), "max_tokens", None),
        (Stop("tools"), "end_turn", None),
        (Stop("sequence", "END"), "stop_sequence", "END"),
        (Stop("sequence"), "stop_sequence", None),
        (Stop("refusal", "x"), "refusal", None),
        (Stop("pause"), "pause_turn", None),
        (Stop("context"), "model_context_window_exceeded", None),
    ],
)
def test_stops(stop, word, sequence):
    message = read_message(encode(TextDelta("a"), stop))
    assert (message["stop_reason"], message["stop_sequence"]) == (word, sequence)


def test_calls_are_the_reason_where_there_are_any():
    for stop in (Stop("end"), Stop("tools")):
        assert read_message(encode(ToolStart(0, "x", "f"), stop))["stop_reason"] == "tool_use"


def test_an_answer_without_a_stop_is_none():
    encoding = encoder()
    encoding.send(TextDelta("a"))
    with pytest.raises(DialectError):
        encoding.finish()


def test_a_failure_is_the_last_event():
    for first in ([], [TextDelta("a")], [ToolStart(0, "x", "f"), ToolDelta(0, '{"a'), TextDelta("b")]):
        encoding = encoder()
        out = b"".join(map(encoding.send, [*first, Failed("too much", "overloaded_error")]))
        assert out.endswith(error_event("too much", type="overloaded_error", request_id=REPLY.id))
        assert anthropic_faults(out) == []
        assert encoding.send(TextDelta("b")) == encoding.send(Stop("end")) == encoding.finish() == b""
    assert b'"api_error"' in encoder().send(Failed("no"))


def test_nothing_follows_the_end():
    encoding = encoder()
    encoding.send(TextDelta("a"))
    encoding.send(Stop("end"))
    assert encoding.finish().endswith(b'{"type":"message_stop"}\n\n')
    assert encoding.send(TextDelta("b")) == encoding.send(Failed("x")) == encoding.finish() == b""


# --- text and thought


def test_blocks_follow_the_order_of_what_is_said():
    events = [
        ThinkingDelta("a"),
        ThinkingDelta("b"),
        TextDelta("c"),
        TextDelta("d"),
        ThinkingDelta("e"),
        TextDelta("f"),
    ]
    assert blocks(*events) == [("thinking", "ab"), ("text", "cd"), ("thinking", "e"), ("text", "f")]


def test_empty_deltas_are_dropped():
    empty = [TextDelta(""), ThinkingDelta(""), SignatureDelta(""), Redacted("")]
    assert blocks(*empty, ToolStart(0, "x", "f"), ToolDelta(0, ""), *empty, ToolDelta(0, A), *empty) == [
        ("tool_use", "x", "f", A)
    ]
    assert blocks(TextDelta("a"), TextDelta(""), TextDelta("b")) == [("text", "ab")]


def test_signed_and_redacted_thought():
    events = [
        ThinkingDelta("a"),
        SignatureDelta("s"),
        ThinkingDelta("b"),
        Redacted("r"),
        SignatureDelta("t"),
        TextDelta("c"),
    ]
    out = encode(*events, Stop("end"))
    assert [(block["type"], block.get("signature")) for block in read_message(out)["content"]] == [
        ("thinking", "s"),
        ("thinking", ""),
        ("redacted_thinking", None),
        ("thinking", "t"),
        ("text", None),
    ]


def test_a_thought_without_a_signature_gets_none():
    assert b"signature_delta" not in encode(ThinkingDelta("a"), SignatureDelta(""), ThinkingDelta("b"), Stop("end"))


def test_thought_that_is_not_shown_is_counted():
    hidden = [ThinkingDelta("1234"), SignatureDelta("s"), Redacted("r")]
    out = encode(*hidden, TextDelta("a"), *hidden, TextDelta("b"), Stop("end"), shows_thinking=False)
    assert blocks_of(out) == [("text", "ab")]
    assert read_message(out)["usage"]["output_tokens"] == 3


# --- tool calls


def test_arguments_stream_as_they_come():
    encoding = encoder()
    assert b"tool_use" in encoding.send(ToolStart(0, "x", "f"))
    assert encoding.send(ToolDelta(0, " \n")) == b""
    assert b'"partial_json":" \\n{\\"a"' in encoding.send(ToolDelta(0, '{"a'))
    assert b'"partial_json":"\\": 1}"' in encoding.send(ToolDelta(0, '": 1}'))


@pytest.mark.parametrize(
    ("fragments", "sent"),
    [
        ([A], A),
        (["{", "}"], "{}"),
        ([], "{}"),
        (["", " "], "{}"),
        (["nu", "ll"], "{}"),
        (['""'], "{}"),
        ([json.dumps(A)[:4], json.dumps(A)[4:]], A),
        ([" ", A, "\n"], f" {A}\n"),
    ],
)
def test_arguments_are_put_right(fragments, sent):
    assert blocks(ToolStart(0, "x", "f"), *(ToolDelta(0, text) for text in fragments)) == [("tool_use", "x", "f", sent)]


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "5", '{"a": 1}}', "{}{}", '"{\\"a\\""', "{a: 1}"])
def test_arguments_that_are_no_object_break_a_whole_answer(text):
    encoding = encoder()
    out = b"".join(map(encoding.send, [ToolStart(0, "x", "f"), ToolDelta(0, text), Stop("tools")]))
    with pytest.raises(DialectError, match="'f' are not a JSON object"):
        encoding.finish()
    assert anthropic_faults(out + error_event("x", type="api_error")) == []


@pytest.mark.parametrize("reason", ["length", "context"])
def test_an_answer_that_was_cut_short_may_hold_half_an_object(reason):
    events = [ToolStart(0, "x", "f"), ToolStart(1, "y", "g"), ToolDelta(1, '"{\\"b'), ToolDelta(0, '{"a": ')]
    assert blocks(*events, stop=Stop(reason)) == [("tool_use", "x", "f", '{"a": '), ("tool_use", "y", "g", "")]


@pytest.mark.parametrize("id", ["", "x"])
def test_ids_are_made_up_where_they_are_missing_or_come_again(id):
    assert blocks(ToolStart(0, "x", "f"), ToolStart(1, id, "g")) == [
        ("tool_use", "x", "f", "{}"),
        ("tool_use", f"toolu_{REPLY.id}_1", "g", "{}"),
    ]


def test_mixed_calls_become_blocks_one_after_another():
    encoding = encoder()
    encoding.send(ToolStart(0, "x", "f"))
    assert encoding.send(ToolStart(1, "y", "g")) == b""
    assert (
        A[:4] in json.loads(re.findall(rb"data: (.*)", encoding.send(ToolDelta(0, A[:4])))[0])["delta"]["partial_json"]
    )
    assert encoding.send(ToolDelta(1, B[:4])) == b""
    assert encoding.send(ToolDelta(0, A[4:])) != b""
    # The first is whole: the second has its turn, with what was held.
    out = encoding.send(ToolDelta(1, B[4:6]))
    assert re.findall(rb"event: (\w+)", out) == [b"content_block_stop", b"content_block_start", b"content_block_delta"]
    assert json.dumps(B[:6]).encode() in out
    assert encoding.send(ToolDelta(0, " \n")) == b""
    with pytest.raises(DialectError, match="which were whole"):
        encoding.send(ToolDelta(0, "x"))


def test_calls_have_their_turns_in_the_order_of_their_starts():
    starts = [ToolStart(index, f"id{index}", "f") for index in range(4)]
    fed = [ToolDelta(3, A), ToolDelta(1, B), ToolDelta(0, A), ToolDelta(2, "{"), ToolDelta(2, "}")]
    assert blocks(*starts, *fed) == [
        ("tool_use", f"id{index}", "f", text) for index, text in enumerate([A, B, "{}", A])
    ]


def test_nonsense_about_calls_is_refused():
    for events in ([ToolDelta(0, "{}")], [ToolStart(0, "x", "f"), ToolStart(0, "y", "g")]):
        encoding = encoder()
        with pytest.raises(DialectError):
            b"".join(map(encoding.send, events))


def test_text_behind_whole_calls_is_a_block_of_its_own():
    encoding = encoder()
    for event in (ToolStart(0, "x", "f"), ToolStart(1, "y", "g"), ToolDelta(1, B), ToolDelta(0, A)):
        encoding.send(event)
    assert encoding.send(TextDelta("\n")) == b""
    assert b'"text":"\\nso"' in encoding.send(TextDelta("so"))
    assert b'"text":"!"' in encoding.send(TextDelta("!"))
    assert blocks(ToolStart(0, "x", "f"), ToolDelta(0, A), TextDelta("a"), ToolStart(1, "y", "g"), ToolDelta(1, B)) == [
        ("tool_use", "x", "f", A),
        ("text", "a"),
        ("tool_use", "y", "g", B),
    ]


def test_what_is_said_while_a_call_is_not_whole_waits():
    said = [ThinkingDelta("hm"), SignatureDelta("s"), TextDelta("a"), Redacted("r"), TextDelta("b")]
    events = [ToolStart(0, "x", "f"), ToolDelta(0, A[:4]), *said, ToolDelta(0, A[4:]), ToolStart(1, "y", "g")]
    assert blocks(*events) == [
        ("tool_use", "x", "f", A),
        ("tool_use", "y", "g", "{}"),
        ("thinking", "hm"),
        ("text", "a"),
        ("redacted_thinking", "r"),
        ("text", "b"),
    ]


def test_blanks_are_no_block_beside_others():
    assert blocks(TextDelta("\n"), ThinkingDelta("a"), TextDelta("\n"), TextDelta(" "), ToolStart(0, "x", "f")) == [
        ("thinking", "a"),
        ("tool_use", "x", "f", "{}"),
    ]
    assert blocks(ThinkingDelta("a"), TextDelta("\n"), TextDelta("\n"), TextDelta("b"), TextDelta("\n")) == [
        ("thinking", "a"),
        ("text", "\n\nb\n"),
    ]
    assert blocks(TextDelta("\n"), TextDelta(" ")) == [("text", "\n ")]


def test_blanks_between_calls_are_no_block():
    events = [TextDelta("a"), ToolStart(0, "x", "f"), ToolDelta(0, A), TextDelta("\n"), ToolStart(1, "y", "g")]
    assert blocks(*events, ToolDelta(1, B), TextDelta("\n\n")) == [
        ("text", "a"),
        ("tool_use", "x", "f", A),
        ("tool_use", "y", "g", B),
    ]


# --- whatever comes

texts = st.sampled_from(["", " ", "a", "{", "}", '{"a":1}', '"', "\\", "\n", "é😀", '"{}"', "null", "<think>"])
counts = st.none() | st.integers(0, 2**53)
usages = st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, cache_read_tokens=counts)
indices = st.integers(0, 2)
events = st.lists(
    st.one_of(
        st.builds(Begin, st.none() | usages),
        st.builds(TextDelta, texts),
        st.builds(ThinkingDelta, texts),
        st.builds(SignatureDelta, texts),
        st.builds(Redacted, texts),
        st.builds(ToolStart, indices, st.sampled_from(["", "x", "y"]), st.sampled_from(["f", "g"])),
        st.builds(ToolDelta, indices, texts),
        st.builds(UsageTold, usages),
    ),
    max_size=30,
)
stops = st.builds(Stop, st.sampled_from(["end", "length", "tools", "sequence", "refusal", "pause", "context"]))


@given(events, st.none() | stops | st.builds(Failed, texts.filter(str.strip)), st.booleans())
def test_whatever_comes_the_grammar_holds(said, last, shows_thinking):
    encoding = encoder(shows_thinking=shows_thinking)
    out = b""
    try:
        for event in said if last is None else [*said, last]:
            out += encoding.send(event)
        out += encoding.finish()
    except DialectError as error:
        out += error_event(str(error), type="api_error")
        assert b"message_delta" not in out
    assert anthropic_faults(out) == []


@given(st.lists(st.tuples(indices, st.integers(1, 9)), max_size=60), st.data())
def test_mixed_calls_lose_nothing(turns, data):
    inputs = [json.dumps({"i": index, "text": "{é}" * index * 5, "list": [[], {"a": '"'}]}) for index in range(3)]
    left = list(inputs)
    fed: list[Event] = [ToolStart(index, f"id{index}", "f") for index in range(3)]
    for index, size in turns:
        piece, left[index] = left[index][:size], left[index][size:]
        fed.append(ToolDelta(index, piece))
    fed += [ToolDelta(index, rest) for index, rest in enumerate(left)]
    for place in data.draw(st.lists(st.integers(0, len(fed)), max_size=3)):
        fed.insert(place, TextDelta("said "))
    told = blocks(*fed)
    assert [block[1:] for block in told if block[0] == "tool_use"] == [
        (f"id{index}", "f", text) for index, text in enumerate(inputs)
    ]
    assert (
        "".join(block[1] for block in told if block[0] == "text").strip()
        == "".join(event.text for event in fed if isinstance(event, TextDelta)).strip()
    )
