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
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.anthropic.stream_decoder import AnthropicStreamDecoder
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
from worker.dialects.sse import payloads

PROMPT = Usage(prompt_tokens=10, cache_read_tokens=3, cache_write_tokens=2)
FULL = Usage(prompt_tokens=10, cache_read_tokens=3, cache_write_tokens=2, completion_tokens=7)
BEGINNING = [Begin(PROMPT), UsageTold(PROMPT)]
END = message_delta() + MESSAGE_STOP


def decode(*pieces, max_event_bytes=100_000):
    """All events of a stream, as the pump reads it: it stops at `done`."""
    decoder = AnthropicStreamDecoder(max_event_bytes)
    events = []
    for piece in pieces:
        events += decoder.receive(piece)
        if decoder.done:
            return events
    return events + decoder.receive_eof()


def by_byte(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def said(*blocks: bytes, stop: str = "end_turn"):
    """What is between the beginning and the end of a message."""
    events = decode(message_start(), *blocks, message_delta(stop), MESSAGE_STOP)
    assert events[:2] == BEGINNING
    assert isinstance(events[-2], Stop)
    assert events[-1] == UsageTold(FULL)
    return events[2:-2]


STREAM = (
    message_start()
    + PING
    + thinking(0, "Hm", "m…", signature="c2ln")
    + block_start(1, "redacted_thinking", data="c2VjcmV0")
    + block_stop(1)
    + text(2, "Grü", "ße 😀\u2028")
    + tool_use(3, "toolu_1", "LS", "", '{"path"', ': "/"}')
    + tool_use(4, "toolu_2", "Now")
    + message_delta("tool_use")
    + MESSAGE_STOP
)
EVENTS = [
    *BEGINNING,
    ThinkingDelta("Hm"),
    ThinkingDelta("m…"),
    SignatureDelta("c2ln"),
    Redacted("c2VjcmV0"),
    TextDelta("Grü"),
    TextDelta("ße 😀\u2028"),
    ToolStart(0, "toolu_1", "LS"),
    ToolDelta(0, '{"path"'),
    ToolDelta(0, ': "/"}'),
    ToolStart(1, "toolu_2", "Now"),
    ToolDelta(1, "{}"),
    Stop("tools"),
    UsageTold(FULL),
]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_everything_that_can_be_said(newline):
    stream = STREAM.replace(b"\n", newline)
    assert decode(stream) == EVENTS
    assert decode(*by_byte(stream)) == EVENTS
    assert decode(stream + text(9, "late") + error()) == EVENTS


@given(st.data())
def test_any_cutting_gives_the_same(data):
    tail = data.draw(st.sampled_from([b"", b": bye\n\n", text(5, "late"), b"data: {"]))
    stream = b": hello\n\n" + STREAM + tail
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=15)))
    pieces = [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True) if start < end]
    assert decode(*pieces) == EVENTS


@pytest.mark.parametrize(
    ("word", "sequence", "stop"),
    [
        ("end_turn", None, Stop("end")),
        ("max_tokens", None, Stop("length")),
        ("stop_sequence", "###", Stop("sequence", "###")),
        ("refusal", None, Stop("refusal")),
        ("pause_turn", None, Stop("pause")),
        ("model_context_window_exceeded", None, Stop("context")),
        ("a_new_word", None, Stop("end")),
        ("tool_use", None, Stop("end")),
    ],
)
def test_why_it_stopped(word, sequence, stop):
    assert stop in decode(message_start(), message_delta(word, sequence), MESSAGE_STOP)


def test_an_answer_with_tool_calls_stops_for_them():
    assert Stop("tools") in decode(message_start(), tool_use(0, "t", "LS", "{}"), END)


# --- usage


def test_the_end_tells_all_counts_anew():
    last = {"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 20, "output_tokens": 9}
    events = decode(message_start(), message_delta("end_turn", None, **last), MESSAGE_STOP)
    told = Usage(prompt_tokens=26, cache_write_tokens=0, cache_read_tokens=20, completion_tokens=9)
    assert events[-1] == UsageTold(told)


def test_a_count_of_the_prompt_at_the_end_leaves_the_cached_ones_in():
    events = decode(message_start(), message_delta("end_turn", None, input_tokens=6, output_tokens=9), MESSAGE_STOP)
    assert events[-1] == UsageTold(
        Usage(prompt_tokens=11, cache_write_tokens=2, cache_read_tokens=3, completion_tokens=9)
    )


def test_usage_may_be_missing_or_odd():
    start = message_start(usage=None)
    end = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert decode(start, end, MESSAGE_STOP) == [Begin(None), Stop("end")]
    odd = message_start(usage={"input_tokens": "5", "cache_read_input_tokens": -1, "output_tokens": 1})
    assert decode(odd, end, MESSAGE_STOP) == [Begin(Usage()), UsageTold(Usage()), Stop("end")]


def test_several_message_deltas():
    early = message_delta(None, output_tokens=3)
    again = message_delta("max_tokens", output_tokens=8)
    events = decode(message_start(), early, message_delta("end_turn", output_tokens=7), again, MESSAGE_STOP)
    counts = [event.usage.completion_tokens for event in events if isinstance(event, UsageTold)]
    assert counts == [None, 3, 7, 8]
    assert [event for event in events if isinstance(event, Stop)] == [Stop("end")]


# --- blocks as some hosts send them


def test_a_whole_input_in_the_start_of_a_call():
    start = block_start(0, "tool_use", id="t", name="LS", input={"path": "/", "n": 1.0})
    whole = [ToolStart(0, "t", "LS"), ToolDelta(0, '{"path": "/", "n": 1.0}')]
    assert said(start, block_stop(0), stop="tool_use") == whole
    assert said(start, stop="tool_use") == whole  # the block never stops
    more = block_delta(0, "input_json_delta", partial_json='{"a": 1}')
    assert said(start, more, block_stop(0)) == [ToolStart(0, "t", "LS"), ToolDelta(0, '{"a": 1}')]


@pytest.mark.parametrize("nothing", [{}, None, ""])
def test_a_call_without_input(nothing):
    start = block_start(0, "tool_use", id="t", name="LS", input=nothing)
    assert said(start, block_stop(0), stop="tool_use") == [ToolStart(0, "t", "LS"), ToolDelta(0, "{}")]


@pytest.mark.parametrize("id", [None, 7, ""])
def test_a_call_without_an_id(id):
    assert said(tool_use(0, id, "LS", "{}")) == [ToolStart(0, "", "LS"), ToolDelta(0, "{}")]


def test_text_and_thought_in_the_start_of_a_block():
    blocks = [
        block_start(0, "thinking", thinking="hm", signature="s"),
        block_delta(0, "thinking_delta", thinking="m"),
        block_stop(0),
        block_start(1, "text", text="a"),
        block_delta(1, "text_delta", text="b"),
        block_stop(1),
    ]
    assert said(*blocks) == [
        ThinkingDelta("hm"),
        ThinkingDelta("m"),
        SignatureDelta("s"),
        TextDelta("a"),
        TextDelta("b"),
    ]


def test_a_signature_is_said_once():
    signed = block_delta(0, "signature_delta", signature="new")
    start = block_start(0, "thinking", thinking="hm", signature="old")
    assert said(start, signed, block_stop(0)) == [ThinkingDelta("hm"), SignatureDelta("new")]


def test_mixed_calls_keep_apart():
    blocks = [
        block_start(0, "tool_use", id="a", name="A"),
        block_start(1, "tool_use", id="b", name="B"),
        block_delta(1, "input_json_delta", partial_json='{"b":'),
        block_delta(0, "input_json_delta", partial_json='{"a":'),
        block_delta(1, "input_json_delta", partial_json="2}"),
        block_delta(0, "input_json_delta", partial_json="1}"),
        block_stop(0),
        block_stop(1),
    ]
    assert said(*blocks, stop="tool_use") == [
        ToolStart(0, "a", "A"),
        ToolStart(1, "b", "B"),
        ToolDelta(1, '{"b":'),
        ToolDelta(0, '{"a":'),
        ToolDelta(1, "2}"),
        ToolDelta(0, "1}"),
    ]


def test_what_the_provider_runs_itself_is_not_said():
    search = block_start(0, "server_tool_use", id="s", name="web_search", input={})
    blocks = [
        search,
        block_delta(0, "input_json_delta", partial_json='{"query": "x"}'),
        block_stop(0),
        block_start(1, "web_search_tool_result", tool_use_id="s", content=[{"type": "web_search_result"}]),
        block_stop(1),
        block_start(2, "text", text="", citations=[]),
        block_delta(2, "citations_delta", citation={"type": "web_search_result_location", "cited_text": "no"}),
        block_delta(2, "text_delta", text="found"),
        block_stop(2),
        tool_use(3, "t", "LS", "{}"),
    ]
    assert said(*blocks) == [TextDelta("found"), ToolStart(0, "t", "LS"), ToolDelta(0, "{}")]


def test_empty_deltas_say_nothing():
    empty = [
        block_start(0, "thinking"),
        block_delta(0, "thinking_delta", thinking=""),
        block_delta(0, "signature_delta", signature=""),
        block_stop(0),
        block_start(1, "redacted_thinking", data=""),
        block_stop(1),
        block_start(2, "text"),
        block_delta(2, "text_delta", text=None),
        block_stop(2),
    ]
    assert said(*empty) == []


def test_deltas_without_their_block_where_nothing_is_in_doubt():
    assert decode(block_delta(0, "text_delta", text="a"), END)[:2] == [Begin(None), TextDelta("a")]
    assert said(block_delta(0, "thinking_delta", thinking="a"), block_stop(0)) == [ThinkingDelta("a")]


def test_a_late_or_second_message_start():
    events = decode(text(0, "a"), message_start(), END)
    assert events[:3] == [Begin(None), TextDelta("a"), UsageTold(PROMPT)]
    assert decode(message_start(), message_start(), END)[:3] == [*BEGINNING, UsageTold(PROMPT)]
    assert decode(END)[:2] == [Begin(None), Stop("end")]


def test_what_is_new_or_nobody_needs():
    blocks = [
        event({"type": "a_new_event", "index": 0, "delta": {"text": "no"}}),
        event({}),
        PING,
        block_start(0, "text"),
        block_delta(0, "a_new_delta", text="no"),
        block_delta(0, "text_delta", text="yes", more=[1]),
        block_stop(0),
        block_stop(7),
        b"event: message_stop\n\n",
        b"data: [DONE]\n\n",
    ]
    assert said(*blocks) == [TextDelta("yes")]


# --- errors


@pytest.mark.parametrize(
    ("told", "message", "word"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "Overloaded", "overloaded_error"),
        ({"type": "api_error"}, "api_error", "api_error"),
        ({"message": ["a", "list"], "type": 5}, "['a', 'list']", None),
        ("plain words", "plain words", None),
        (None, "the upstream reported an error", None),
    ],
)
def test_an_error_ends_the_stream(told, message, word):
    failure = event({"type": "error", "error": told})
    stream = [message_start(), failure + text(0, "late")]
    assert decode(*stream) == [*BEGINNING, Failed(message, word, *payloads(failure))]


def test_what_may_be_why_no_message_comes():
    for told in ({"message": "boom"}, {"detail": "boom"}):
        for begun in (b"", message_start()):
            with pytest.raises(UpstreamBroken, match="boom"):
                decode(begun, event(told))


def test_an_error_without_its_type():
    told = b'{"error": {"message": "no"}}'
    assert decode(b"event: error\ndata: " + told + b"\n\n") == [Failed("no", None, told)]


# --- the end


def test_message_stop_may_be_missing():
    assert decode(message_start(), text(0, "a"), message_delta())[-2:] == [Stop("end"), UsageTold(FULL)]
    assert decode(message_start() + message_delta().rstrip()) == [*BEGINNING, Stop("end"), UsageTold(FULL)]
    assert decode(message_start(), message_delta() + b'data: {"type": "mess') == [
        *BEGINNING,
        Stop("end"),
        UsageTold(FULL),
    ]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b": comment\n\n",
        message_start(),
        message_start() + text(0, "a"),
        message_start() + text(0, "a") + message_delta(None),
        message_start() + text(0, "a") + message_delta("end_turn")[:-20],
        b"<html>oops</html>",
    ],
)
def test_an_unfinished_message_is_broken(stream):
    with pytest.raises(UpstreamBroken) as caught:
        decode(*([stream] if stream else []))
    assert caught.value.error_type == "IncompleteStream"


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([b"data: {not json\n\n"], "no JSON object"),
        ([b"data: [1]\n\n"], "no JSON object"),
        ([b"data: \xff\n\n"], "no JSON object"),
        ([b'data: {"type":' + b"[" * 50_000 + b"\n\n"], "no JSON object"),
        ([message_start(), MESSAGE_STOP], "without a stop_reason"),
        ([message_start(), message_delta(), text(0, "late")], "goes on"),
        ([block_delta(0, "input_json_delta", partial_json="{}")], "outside of a tool call"),
        ([text(0, "a"), block_delta(0, "input_json_delta", partial_json="{}")], "outside of a tool call"),
        ([block_start(0, "text"), block_delta(0, "input_json_delta", partial_json="{}")], "block of type text"),
        ([block_start(0, "thinking"), block_delta(0, "text_delta", text="a")], "block of type thinking"),
        ([block_start(0, "tool_use", id="t", name="LS"), block_delta(0, "text_delta", text="a")], "type tool_use"),
        ([block_start(0, "tool_use", id="t", name="")], "without naming it"),
        ([block_start(0, "tool_use", id="t", name=["LS"])], "name that is no text"),
        ([block_start(0, "text"), block_delta(0, "text_delta", text=["a"])], "text_delta that is no text"),
        ([event({"type": "content_block_start", "index": 0})], "without telling which"),
        ([event({"type": "content_block_delta", "index": 0, "delta": "a"})], "without its delta"),
        ([b"data: " + b"x" * 100_001], "max_event_bytes"),
    ],
)
def test_what_makes_no_sense(pieces, says):
    with pytest.raises(DialectError, match=says):
        decode(*pieces)


def test_an_exception_waits_for_what_came_before_it():
    decoder = AnthropicStreamDecoder(100_000)
    block = message_start() + text(0, "a") + b"data: {broken\n\n" + END
    assert decoder.receive(block) == [*BEGINNING, TextDelta("a")]
    for attempt in (lambda: decoder.receive(text(1, "b")), decoder.receive_eof):
        with pytest.raises(DialectError, match="no JSON object"):
            attempt()
    assert not decoder.done


def test_an_exception_does_not_wait_for_a_mere_beginning():
    """Nothing has to reach the client yet: another attempt may do better."""
    with pytest.raises(DialectError, match="no JSON object"):
        AnthropicStreamDecoder(100_000).receive(message_start() + b"data: {broken\n\n")
