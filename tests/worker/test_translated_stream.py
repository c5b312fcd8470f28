import json
import re
from pathlib import Path

import pytest
from fakes.dialect_streams import DONE, USAGE, blocks_of, by_byte, call, chunk, cut_at, event, read_message
from fakes.grammar import anthropic_faults
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.errors import error_event
from worker.dialects.anthropic.stream_encoder import AnthropicStreamEncoder
from worker.dialects.codec import Reply
from worker.dialects.neutral import Usage
from worker.dialects.normalise import NormalisedStream
from worker.dialects.openai.stream_decoder import OpenAIStreamDecoder
from worker.dialects.relay import TranslatedStream

GOLDEN = Path(__file__).parents[1] / "golden" / "openai_to_anthropic"
CASES = sorted(path.name.removesuffix(".in.sse") for path in GOLDEN.glob("*.in.sse"))
RULES = {"think_tags": ("think",), "kimi_markers": ("tool_calls",)}
"""Of the cases that need them."""


def relay(rules=(), shows_thinking=True) -> TranslatedStream:
    decoder = OpenAIStreamDecoder(100_000)
    reply = Reply(id="0" * 32, model="claude-x", created=1, prompt_tokens=11, shows_thinking=shows_thinking)
    return TranslatedStream(NormalisedStream(decoder, rules) if rules else decoder, AnthropicStreamEncoder(reply))


def feed(relay, *pieces) -> bytes:
    """What the pump would send: it stops at `done`."""
    out = b""
    for piece in pieces:
        out += relay.receive(piece)
        if relay.done:
            return out
    return out + relay.receive_eof()


def feed_broken(relay, *pieces) -> tuple[bytes, type[Exception] | None]:
    """What a client gets, whatever happens, and what did."""
    out = b""
    try:
        for piece in pieces:
            out += relay.receive(piece)
            if relay.done:
                return out, None
        return out + relay.receive_eof(), None
    except (DialectError, UpstreamBroken) as error:
        return out + error_event(str(error), type="api_error"), type(error)


def golden(case) -> tuple[bytes, bytes]:
    return (GOLDEN / f"{case}.in.sse").read_bytes(), (GOLDEN / f"{case}.out.sse").read_bytes()


# --- what is known to the byte


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    stream, expected = golden(case)
    assert anthropic_faults(expected) == []
    for pieces in ([stream], by_byte(stream), re.split(rb"(?<=\n\n)", stream)):
        assert feed(relay(RULES.get(case, ())), *pieces).decode() == expected.decode()


@pytest.mark.parametrize("case", CASES)
def test_golden_with_trailing_data(case):
    stream, expected = golden(case)
    if case in ("no_done", "error"):
        stream = stream.rstrip() + b"\n\n" + (DONE if case == "no_done" else b"")
    late = chunk({"content": "late"}) + b"data: {broken\n\n" + DONE
    assert feed(relay(RULES.get(case, ())), stream + late) == expected
    assert feed(relay(RULES.get(case, ())), stream, late) == expected


@given(st.sampled_from(CASES), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_golden_in_any_chunking(case, places):
    stream, expected = golden(case)
    assert feed(relay(RULES.get(case, ())), *cut_at(stream, places)) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_cut_anywhere_is_an_error(case):
    """Never a quiet end: of what came before the reason, nothing says that it was all."""
    stream, expected = golden(case)
    ends = [found.end() for found in re.finditer(rb"\r?\n\r?\n|\Z", stream)]
    finish = max(stream.find(b'"finish_reason": "' + word) for word in (b"stop", b"length", b"tool", b"content_"))
    for end in {*ends, *(end - 3 for end in ends), *range(0, len(stream), 97)}:
        out, error = feed_broken(relay(RULES.get(case, ())), stream[:end])
        assert anthropic_faults(out) == []
        if error is None:
            assert case == "error" or end > finish >= 0
            assert out == expected or b'"stop_reason":"' in out
        else:
            assert error is UpstreamBroken
            assert b"message_delta" not in out


# --- what is read along


def test_text_and_usage_are_read():
    tee = relay()
    out = feed(tee, *re.split(rb"(?<=\n\n)", golden("thought_and_tools")[0]))
    assert "".join(tee.meter.take()) == "Let me think.I look.get_weather" + '{"city": "Oslo 🎉", "days": [1, 2]}'
    assert tee.usage == Usage(prompt_tokens=25, completion_tokens=9)
    assert tee.error is None
    assert read_message(out)["usage"]["output_tokens"] == 9


def test_the_upstreams_error_is_told():
    tee = relay()
    out = feed(tee, golden("error")[0])
    assert tee.error == "fake error in mid-stream"
    assert tee.done
    assert out.endswith(error_event("fake error in mid-stream", type="overloaded_error", request_id="0" * 32))


def test_an_error_in_the_place_of_an_answer_is_a_refusal():
    stream = b": hello\n\n" + event({"error": {"message": "no", "code": 429}})
    for rules in ((), ("think",)):
        for pieces in ([stream], by_byte(stream)):
            tee = relay(rules)
            feed(tee, *pieces)
            assert (tee.error, tee.refusal) == ("no", b'{"error": {"message": "no", "code": 429}}')
    tee = relay()
    feed(tee, chunk({"role": "assistant"}) + stream)
    assert (tee.error, tee.refusal) == ("no", None)


def test_hidden_thought_is_metered():
    tee = relay(shows_thinking=False)
    out = feed(tee, chunk({"reasoning_content": "hm"}) + chunk({"content": "a"}, "stop"))
    assert blocks_of(out) == [("text", "a")]
    assert tee.meter.take() == ["hm", "a"]


def test_a_large_delta():
    text = "é" * 40_000
    assert blocks_of(feed(relay(), chunk({"content": text}) + chunk({}, "stop") + DONE)) == [("text", text)]


@pytest.mark.parametrize("before", [b"", chunk({"content": "a"}), chunk(call(0, "x", "f", '{"a'))])
@pytest.mark.parametrize("bad", [b'data: {"choices": [{"del\n\n', b"data: nonsense\n\n", b"data: [1]\n\n"])
def test_what_is_no_chunk_breaks_the_stream(before, bad):
    stream = before + bad + chunk({"content": "b"}, "stop") + DONE
    outs = {feed_broken(relay(), *pieces) for pieces in ([stream], by_byte(stream))}
    [(out, error)] = outs
    assert error is DialectError
    assert anthropic_faults(out) == []


def test_arguments_that_are_no_object_break_the_stream():
    out, error = feed_broken(relay(), chunk(call(0, "x", "f", '{"a": ')) + chunk({}, "tool_calls") + DONE)
    assert error is DialectError
    assert anthropic_faults(out) == []
    out, error = feed_broken(relay(), chunk(call(0, "x", "f", '{"a": ')) + chunk({}, "length") + DONE)
    assert error is None
    assert blocks_of(out) == [("tool_use", "x", "f", '{"a": ')]


# --- whatever an upstream sends

words = st.sampled_from(
    ["", " ", "a", "é😀", "{", "}", '{"a":1}', '"', "null", "f", "<think>", "</think>"]
    + [f"<|tool_call_{name}|>" for name in ("begin", "argument_begin", "end")]
)
odd = st.none() | st.booleans() | st.integers(-1, 2) | words | st.lists(words, max_size=2)
odd |= st.dictionaries(st.sampled_from(["text", "thinking", "type", "a"]), words, max_size=2)


def mostly(usual, unusual=odd, times=20):
    """Once in so many times something else."""
    return st.integers(1, times).flatmap(lambda dice: unusual if dice == times else usual)


def some(**fields):
    """An object with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


functions = some(name=mostly(st.sampled_from(["f", "g", ""])), arguments=mostly(words))
fragments = some(
    index=mostly(st.integers(0, 2)), id=mostly(st.sampled_from(["x", "y", ""])), function=mostly(functions)
)
fragments |= st.builds(
    lambda index, arguments: call(index, f"id{index}", f"tool{index}", arguments)["tool_calls"][0],
    st.integers(0, 2),
    st.sampled_from(["", "{}", '{"a":1}', '{"a"', ":1}"]),
)
deltas = some(
    role=st.just("assistant"),
    content=mostly(words),
    reasoning_content=mostly(words),
    reasoning=mostly(words),
    refusal=mostly(st.none()),
    tool_calls=mostly(st.lists(fragments, max_size=3)),
)
finishes = mostly(st.none(), st.sampled_from(["", "stop", "length", "tool_calls", "content_filter", "error", 3]), 4)
usages = some(prompt_tokens=mostly(st.integers(0, 99)), completion_tokens=mostly(st.integers(0, 99)))
choices = some(index=mostly(st.just(0)), delta=mostly(deltas), finish_reason=finishes, usage=mostly(usages)) | some(
    message=deltas, finish_reason=finishes, stop_reason=odd
)
chunks = some(choices=mostly(st.lists(choices, max_size=2)), usage=mostly(usages), x_groq=odd)
failures = st.sampled_from(['{"error": {"message": "no", "code": 429}}', '{"error": "no"}', '{"error": null}'])
payloads = mostly(
    chunks.map(json.dumps), failures | odd.map(json.dumps) | st.sampled_from(["[DONE]", "", "{", "nonsense"]), 30
)
frames = st.builds(
    lambda lead, payload, end: (lead + payload + end).encode(),
    st.sampled_from(["data: ", "data:", ": comment\n\ndata: ", "event: x\ndata: "]),
    payloads,
    st.sampled_from(["\n\n", "\r\n\r\n"]),
)
endings = st.sampled_from([b"", DONE, chunk({}, "stop") + DONE, chunk({}, "length"), chunk(usage=USAGE) + DONE])


@given(
    st.lists(frames, max_size=20),
    endings,
    st.lists(st.integers(0, 1 << 20), max_size=6),
    st.sampled_from([(), ("think",), ("tool_calls",), ("think", "tool_calls")]),
    st.booleans(),
)
def test_whatever_an_upstream_sends_the_grammar_holds(sent, ending, places, rules, shows_thinking):
    stream = b"".join(sent) + ending
    out, error = feed_broken(relay(rules, shows_thinking), *cut_at(stream, places))
    assert anthropic_faults(out) == []
    if error is not None:
        assert b"message_delta" not in out
    whole, same = feed_broken(relay(rules, shows_thinking), stream)
    assert (error is None) == (same is None)
    if error is None and not rules:
        assert out == whole


def test_the_fuzz_does_not_only_break():
    """Streams as the one above makes them can be whole."""
    stream = event({"choices": [{"delta": {"content": "a", "tool_calls": [{"index": 0, "function": {"name": "f"}}]}}]})
    out, error = feed_broken(relay(), stream + chunk({}, "stop") + DONE)
    assert error is None
    assert blocks_of(out) == [("text", "a"), ("tool_use", f"toolu_{'0' * 32}_0", "f", "{}")]
