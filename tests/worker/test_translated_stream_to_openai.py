import itertools
import json
from pathlib import Path

import pytest
from fakes.anthropic_events import (
    MESSAGE_STOP,
    PING,
    error,
    event,
    message_delta,
    message_start,
    text,
    thinking,
    tool_use,
)
from fakes.grammar import anthropic_faults, ends_in_error, openai_faults, parse_events
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.stream_decoder import AnthropicStreamDecoder
from worker.dialects.codec import Reply
from worker.dialects.neutral import Usage
from worker.dialects.openai.errors import error_event
from worker.dialects.openai.relay import DONE
from worker.dialects.openai.stream_encoder import OpenAIStreamEncoder
from worker.dialects.relay import TranslatedStream

GOLDEN = Path(__file__).parents[1] / "golden" / "anthropic_to_openai"
CASES = sorted(path.name.removesuffix(".in.sse") for path in GOLDEN.glob("*.in.sse"))


def relay(wants_usage=True) -> TranslatedStream:
    reply = Reply(id="0" * 32, model="claude", created=1_700_000_000, prompt_tokens=99, wants_usage=wants_usage)
    return TranslatedStream(AnthropicStreamDecoder(100_000), OpenAIStreamEncoder(reply))


def feed(relay, *pieces) -> bytes:
    """What the pump would send: it stops at `done`."""
    out = b""
    for piece in pieces:
        out += relay.receive(piece)
        if relay.done:
            return out
    return out + relay.receive_eof()


def cut(stream: bytes, at) -> list[bytes]:
    return [stream[start:end] for start, end in itertools.pairwise([0, *sorted(at), len(stream)]) if start < end]


def golden(case: str) -> tuple[bytes, bytes]:
    return (GOLDEN / f"{case}.in.sse").read_bytes(), (GOLDEN / f"{case}.out.sse").read_bytes()


@pytest.mark.parametrize("case", CASES)
def test_golden_streams(case):
    stream, expected = golden(case)
    assert feed(relay(), stream) == expected
    assert feed(relay(), *cut(stream, range(len(stream)))) == expected
    assert openai_faults(expected) == []


@pytest.mark.parametrize("case", ["text", "error_midstream"])
def test_trailing_data_says_nothing(case):
    stream, expected = golden(case)
    assert feed(relay(), stream + text(0, "late") + error("late")) == expected


@given(st.sampled_from(CASES), st.data())
def test_any_cutting_gives_the_same(case, data):
    stream, expected = golden(case)
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=15))
    assert feed(relay(), *cut(stream, at)) == expected


def test_usage_and_text_are_read():
    tee = relay()
    stream = thinking(0, "hm") + text(1, "ja") + tool_use(2, "t", "LS", '{"a":', "1}") + message_delta() + MESSAGE_STOP
    feed(tee, message_start() + stream)
    assert "".join(tee.meter.take()) == 'hmjaLS{"a":1}'
    assert tee.usage == Usage(prompt_tokens=10, cache_read_tokens=3, cache_write_tokens=2, completion_tokens=7)


def test_a_broken_stream_is_never_finished():
    for stream in (message_start() + text(0, "a"), message_start() + tool_use(0, "t", "LS", "{")):
        with pytest.raises(UpstreamBroken):
            feed(relay(), stream)
    half_a_call = tool_use(0, "t", "LS", "{") + message_delta("tool_use") + MESSAGE_STOP
    with pytest.raises(DialectError):
        feed(relay(), message_start() + half_a_call)


def test_an_error_is_passed_on():
    tee = relay()
    out = feed(tee, message_start() + text(0, "a") + error("Overloaded"))
    assert tee.error == "Overloaded"
    assert ends_in_error(out)


def test_an_error_in_the_place_of_an_answer_is_a_refusal():
    stream = PING + error("no", "rate_limit_error")
    for pieces in ([stream], cut(stream, range(len(stream)))):
        tee = relay()
        feed(tee, *pieces)
        assert tee.error == "no"
        assert json.loads(tee.refusal)["error"]["type"] == "rate_limit_error"
    tee = relay()
    feed(tee, message_start() + stream)
    assert (tee.error, tee.refusal) == ("no", None)


# --- generated messages

words = st.text(min_size=1, max_size=8)
some_json = st.dictionaries(words, words | st.integers() | st.none(), max_size=3).map(json.dumps)


@st.composite
def pieces_of(draw, whole: str) -> list[str]:
    at = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[start:end] for start, end in itertools.pairwise([0, *at, len(whole)])]


@st.composite
def messages(draw):
    """A stream, and what it says: text, thought, and the calls' names and arguments."""
    said: dict = {"content": "", "reasoning_content": "", "calls": []}
    stream = message_start()
    for index in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["text", "thinking", "tool_use"]))
        whole = draw(some_json if kind == "tool_use" else words)
        parts = draw(pieces_of(whole))
        match kind:
            case "text":
                said["content"] += whole
                stream += text(index, *parts)
            case "thinking":
                said["reasoning_content"] += whole
                stream += thinking(index, *parts, signature=draw(words))
            case _:
                name = draw(st.sampled_from(["LS", "Bash"]))
                said["calls"].append([name, whole])
                stream += tool_use(index, f"toolu_{index}", name, *parts)
        stream += draw(st.sampled_from([b"", PING, b": hi\n\n"]))
    stop = "tool_use" if said["calls"] else draw(st.sampled_from(["end_turn", "max_tokens", "refusal"]))
    return stream + message_delta(stop) + MESSAGE_STOP, said


@given(messages(), st.booleans(), st.data())
def test_nothing_that_can_be_said_is_lost(message, wants_usage, data):
    stream, said = message
    assert anthropic_faults(stream, passed=True) == []
    out = feed(relay(wants_usage), *cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=8))))
    assert openai_faults(out) == []
    assert out.endswith(DONE)
    heard: dict = {"content": "", "reasoning_content": "", "calls": []}
    for _, chunk in parse_events(out):
        for choice in json.loads(chunk)["choices"] if chunk != "[DONE]" else ():
            delta = choice["delta"]
            heard["content"] += delta.get("content", "")
            heard["reasoning_content"] += delta.get("reasoning_content", "")
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(heard["calls"]):
                    heard["calls"].append([call["function"]["name"], ""])
                heard["calls"][call["index"]][1] += call["function"]["arguments"]
    assert heard == said


# --- whatever an upstream sends

leaves = st.none() | st.integers(-1, 3) | st.text(max_size=4) | st.sampled_from(["{", "}", '{"a":1}', "null"])
block_types = st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "new"])
delta_types = st.sampled_from(["text_delta", "thinking_delta", "signature_delta", "input_json_delta", "new"])
block_values = st.fixed_dictionaries(
    {"type": block_types},
    optional={
        "id": leaves,
        "name": leaves | st.sampled_from(["LS", "Bash"]),
        "text": leaves,
        "thinking": leaves,
        "signature": leaves,
        "data": leaves,
        "input": leaves | st.dictionaries(words, leaves, max_size=2),
    },
)
delta_values = st.fixed_dictionaries(
    {"type": delta_types},
    optional={"text": leaves, "thinking": leaves, "signature": leaves, "partial_json": leaves},
)
usages = st.dictionaries(st.sampled_from(["input_tokens", "cache_read_input_tokens", "output_tokens"]), leaves)
stop_words = st.sampled_from(["end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal", "new", None, 5])
indices = st.integers(0, 2) | st.none()
wire_events = st.one_of(
    st.builds(lambda usage: message_start(usage=usage), usages | leaves),
    st.builds(
        lambda index, block: event({"type": "content_block_start", "index": index, "content_block": block}),
        indices,
        block_values | leaves,
    ),
    st.builds(
        lambda index, delta: event({"type": "content_block_delta", "index": index, "delta": delta}),
        indices,
        delta_values | leaves,
    ),
    st.builds(lambda index: event({"type": "content_block_stop", "index": index}), indices),
    st.builds(
        lambda word, usage: event({"type": "message_delta", "delta": {"stop_reason": word}, "usage": usage}),
        stop_words,
        usages | leaves,
    ),
    st.sampled_from([MESSAGE_STOP, PING, error(), b"data: [DONE]\n\n", b": hi\n\n"]),
    st.builds(lambda value: event({"type": "error", "error": value}), leaves),
    st.builds(event, st.dictionaries(st.sampled_from(["type", "delta", "error", "message"]), leaves)),
)


@given(st.lists(wire_events, max_size=12), st.booleans())
def test_whatever_comes_the_stream_is_well_formed(pieces, wants_usage):
    """It ends whole, or in one error: the upstream's, or the one that the pump makes of ours."""
    out = b""
    tee = relay(wants_usage)
    try:
        for piece in pieces:
            out += tee.receive(piece)
            if tee.done:
                break
        else:
            out += tee.receive_eof()
    except (DialectError, UpstreamBroken) as broken:
        out += error_event(str(broken))
    assert openai_faults(out) == []
    assert out.endswith(DONE) != ends_in_error(out)
