import json

import pytest
from fakes.grammar import ends_in_error, openai_faults, parse_events
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.codec import Reply
from worker.dialects.neutral import (
    Begin,
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
from worker.dialects.openai.errors import error_event
from worker.dialects.openai.relay import DONE
from worker.dialects.openai.stream_encoder import OpenAIStreamEncoder

ID = "0123456789abcdef0123456789abcdef"


def encoder(**changes) -> OpenAIStreamEncoder:
    return OpenAIStreamEncoder(Reply(**{"id": ID, "model": "kimi/k2", "created": 1_700_000_000, **changes}))


def encode(*events, **changes) -> bytes:
    """A whole stream, which must be well formed."""
    target = encoder(**changes)
    out = b"".join(map(target.send, events)) + target.finish()
    assert openai_faults(out) == []
    return out


def chunks(stream: bytes):
    return [json.loads(data) for _, data in parse_events(stream) if data != "[DONE]"]


def choices(stream: bytes):
    return [choice for chunk in chunks(stream) for choice in chunk["choices"]]


def deltas(stream: bytes):
    """What the deltas say, behind the first one that has the role."""
    first, *others = [choice["delta"] for choice in choices(stream)]
    assert first == {"role": "assistant", "content": ""}
    assert others.pop() == {}
    return others


def calls(stream: bytes):
    """id, name and arguments of each tool call, as a client puts them together."""
    found = []
    for delta in deltas(stream):
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(found):
                found.append([call["id"], call["function"]["name"], ""])
            found[call["index"]][2] += call["function"]["arguments"]
    return [tuple(call) for call in found]


def test_each_byte_of_a_stream():
    target = encoder()
    constant = f'"id":"chatcmpl-{ID}","object":"chat.completion.chunk","created":1700000000,"model":"kimi/k2"'
    head = f'data: {{{constant},"choices":['
    tail = '],"usage":null}\n\n'
    more = '"logprobs":null,"finish_reason":null}'

    def chunk(delta: str) -> bytes:
        return f'{head}{{"index":0,"delta":{delta},{more}{tail}'.encode()

    assert target.send(Begin()) == chunk('{"role":"assistant","content":""}')
    assert target.send(ThinkingDelta("h\n")) == chunk('{"reasoning_content":"h\\n"}')
    assert target.send(TextDelta("ß")) == chunk('{"content":"ß"}')
    start = '{"index":0,"id":"t","type":"function","function":{"name":"LS","arguments":""}}'
    assert target.send(ToolStart(0, "t", "LS")) == chunk(f'{{"tool_calls":[{start}]}}')
    more_arguments = '{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}'
    assert target.send(ToolDelta(0, "{}")) == chunk(more_arguments)
    assert target.send(Stop("tools")) == b""
    assert target.send(UsageTold(Usage(prompt_tokens=5, completion_tokens=7))) == b""
    usage = '{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}'
    finish = f'{head}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"tool_calls"}}{tail}'
    assert target.finish() == f'{finish}{head}],"usage":{usage}}}\n\ndata: [DONE]\n\n'.encode()


def test_an_empty_answer():
    assert [choice["finish_reason"] for choice in choices(encode(Stop("end")))] == [None, "stop"]


def test_the_role_comes_first_whatever_is_said():
    for first in (TextDelta("a"), ThinkingDelta("a"), ToolStart(0, "t", "LS")):
        assert choices(encode(first, Stop("end")))[0]["delta"] == {"role": "assistant", "content": ""}


def test_what_says_nothing_is_not_sent():
    target = encoder()
    for event in (TextDelta(""), ThinkingDelta(""), SignatureDelta("s"), Redacted("d"), UsageTold(Usage())):
        assert target.send(event) == b""


def test_hidden_thought():
    assert deltas(encode(ThinkingDelta("a"), TextDelta("b"), Stop("end"), shows_thinking=False)) == [{"content": "b"}]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("end", "stop"),
        ("sequence", "stop"),
        ("pause", "stop"),
        ("tools", "stop"),
        ("length", "length"),
        ("context", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_why_it_stopped(reason, word):
    assert choices(encode(TextDelta("a"), Stop(reason)))[-1]["finish_reason"] == word


@pytest.mark.parametrize("reason", ["end", "tools", "sequence", "pause"])
def test_tool_calls_are_told_at_the_end(reason):
    stream = encode(ToolStart(0, "t", "LS"), ToolDelta(0, "{}"), Stop(reason))
    assert choices(stream)[-1]["finish_reason"] == "tool_calls"


# --- usage


def test_usage_only_where_it_is_wanted():
    stream = encode(TextDelta("a"), Stop("end"), UsageTold(Usage(prompt_tokens=5)), wants_usage=False)
    assert all("usage" not in chunk for chunk in chunks(stream))
    *before, last = chunks(encode(TextDelta("a"), Stop("end")))
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []


def test_usage_as_it_was_told():
    begin = Usage(prompt_tokens=5, cache_read_tokens=3)
    told = Usage(completion_tokens=7, reasoning_tokens=2)
    written = Usage(prompt_tokens=9, cache_read_tokens=3, cache_write_tokens=4)
    details = chunks(encode(UsageTold(written), Stop("end")))[-1]["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 3, "cache_write_tokens": 4}
    stream = encode(Begin(begin), UsageTold(begin), Stop("end"), UsageTold(told), prompt_tokens=99)
    assert chunks(stream)[-1]["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_usage_that_was_not_told_is_estimated():
    said = [TextDelta("12345"), ThinkingDelta("678"), ToolStart(0, "t", "LS"), ToolDelta(0, '{"a":1}')]
    usage = chunks(encode(*said, Stop("tools"), prompt_tokens=99))[-1]["usage"]
    assert usage == {"prompt_tokens": 99, "completion_tokens": 5, "total_tokens": 104}


# --- tool calls


def test_mixed_fragments_pass_at_once():
    target = encoder()
    events = [ToolStart(0, "a", "A"), ToolStart(1, "b", "B"), ToolDelta(1, '{"b"'), ToolDelta(0, '{"a"')]
    events += [ToolDelta(1, ":2}"), ToolDelta(0, ":1}")]
    sent = [target.send(event) for event in events]
    assert all(sent)
    out = b"".join(sent) + target.send(Stop("tools")) + target.finish()
    assert openai_faults(out) == []
    assert calls(out) == [("a", "A", '{"a":1}'), ("b", "B", '{"b":2}')]


def test_missing_and_repeated_ids_are_made_up():
    starts = [ToolStart(0, "", "A"), ToolStart(1, "same", "B"), ToolStart(2, "same", "C"), ToolStart(5, "", "D")]
    ids = [id for id, _, _ in calls(encode(*starts, Stop("tools")))]
    assert ids == [f"call_{ID}_0", "same", f"call_{ID}_2", f"call_{ID}_3"]


@pytest.mark.parametrize(
    ("parts", "arguments"),
    [
        ([], "{}"),
        ([""], "{}"),
        ([" ", "\n"], "{}"),
        (["nu", "ll"], "{}"),
        (['""'], "{}"),
        (['"{\\"a\\"', ':1}"'], '{"a":1}'),
        ([" ", ' {"a"', ": 1}\n"], '  {"a": 1}\n'),
        (["{}", ""], "{}"),
    ],
)
def test_shapes_of_arguments(parts, arguments):
    said = [ToolDelta(0, part) for part in parts]
    assert calls(encode(ToolStart(0, "t", "LS"), *said, Stop("tools"))) == [("t", "LS", arguments)]


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "5", '"text"', "{} {}", "{'a': 1}"])
def test_arguments_that_are_no_object(arguments):
    target = encoder()
    for event in (ToolStart(0, "t", "LS"), ToolDelta(0, arguments), Stop("tools")):
        target.send(event)
    with pytest.raises(DialectError, match="'LS' are no JSON object"):
        target.finish()


@pytest.mark.parametrize("reason", ["length", "context"])
@pytest.mark.parametrize(
    ("written", "arguments"), [('{"a":', '{"a":'), ("nul", "nul"), ("null", "{}"), ("", ""), (" ", ""), ("{}", "{}")]
)
def test_arguments_that_were_cut_short(reason, written, arguments):
    stream = encode(ToolStart(0, "t", "LS"), ToolDelta(0, written), Stop(reason))
    assert calls(stream) == [("t", "LS", arguments)]


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([ToolDelta(0, "{}")], "has not begun"),
        ([ToolStart(0, "a", "A"), ToolDelta(1, "{}")], "has not begun"),
        ([ToolStart(0, "a", "A"), ToolStart(0, "b", "B")], "began twice"),
        ([ToolStart(0, "a", "")], "has no name"),
    ],
)
def test_calls_that_make_no_sense(events, says):
    target = encoder()
    with pytest.raises(DialectError, match=says):
        [target.send(event) for event in events]


# --- the end


def test_an_answer_that_never_stopped():
    target = encoder()
    target.send(TextDelta("a"))
    with pytest.raises(DialectError, match="without telling why"):
        target.finish()


@pytest.mark.parametrize(
    ("failed", "error"),
    [
        (Failed("Overloaded", "overloaded_error"), {"message": "Overloaded", "type": "overloaded_error"}),
        (Failed(""), {"message": "the upstream reported an error", "type": "upstream_error"}),
    ],
)
def test_a_failure_is_the_last_that_is_said(failed, error):
    target = encoder()
    out = target.send(TextDelta("a")) + target.send(Stop("end")) + target.send(failed)
    assert chunks(out)[-1]["error"] == {**error, "param": None, "code": None}
    assert openai_faults(out) == []
    assert ends_in_error(out)
    assert target.send(TextDelta("late")) == target.finish() == b""


def test_nothing_follows_the_end():
    target = encoder()
    target.send(Stop("end"))
    assert target.finish().endswith(DONE)
    assert target.send(TextDelta("late")) == target.send(Failed("late")) == target.finish() == b""


some_text = st.text(max_size=6)
indices = st.integers(0, 3)
arguments = st.sampled_from(["", " ", "{", "}", '{"a":', "1}", "{}", "null", '"', '"{}"', "x"])
counts = st.builds(
    Usage,
    prompt_tokens=st.none() | st.integers(0, 9),
    completion_tokens=st.none() | st.integers(0, 9),
    cache_read_tokens=st.none() | st.integers(0, 9),
)
events = st.one_of(
    st.builds(Begin, st.none() | counts),
    st.builds(TextDelta, some_text),
    st.builds(ThinkingDelta, some_text),
    st.builds(SignatureDelta, some_text),
    st.builds(Redacted, some_text),
    st.builds(ToolStart, indices, st.sampled_from(["", "t", "u"]), st.sampled_from(["LS", "LS", "Bash", ""])),
    st.builds(ToolDelta, indices, arguments),
    st.builds(UsageTold, counts),
    st.builds(Stop, st.sampled_from(["end", "length", "tools", "sequence", "refusal", "pause", "context"])),
    st.builds(Failed, some_text, st.none() | some_text),
)


@given(st.lists(events, max_size=15), st.booleans(), st.booleans())
def test_whatever_comes_the_stream_is_well_formed(said, wants_usage, shows_thinking):
    """It ends whole, or in one error: the upstream's, or the one that the pump makes of a `DialectError`."""
    target = encoder(wants_usage=wants_usage, shows_thinking=shows_thinking)
    out = b""
    try:
        for event in said:
            out += target.send(event)
        out += target.finish()
    except DialectError as error:
        out += error_event(str(error))
    assert openai_faults(out) == []
    failed = any(isinstance(event, Failed) for event in said)
    assert out.endswith(DONE) or ends_in_error(out)
    assert not (failed and out.endswith(DONE))
