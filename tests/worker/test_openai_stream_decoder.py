import pytest
from fakes.dialect_streams import DONE, USAGE, by_byte, call, chunk, cut_at, event
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.neutral import (
    Begin,
    Failed,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
)
from worker.dialects.openai.stream_decoder import OpenAIStreamDecoder
from worker.dialects.sse import payloads


def decode(*pieces: bytes) -> list:
    """All events; the body ends behind the pieces."""
    decoder = OpenAIStreamDecoder(100_000)
    events = []
    for piece in pieces:
        events += decoder.receive(piece)
    events += decoder.receive_eof()
    assert decoder.done
    return events


def finished(*deltas, finish="stop", **more) -> list:
    """The events of a whole answer, without those that stand in each."""
    events = decode(*(chunk(delta) for delta in deltas), chunk({}, finish, **more), DONE)
    assert events[0] == Begin()
    return events[1:]


STREAM = (
    chunk({"role": "assistant", "content": ""})
    + chunk({"reasoning_content": "hm"})
    + chunk({"content": "Grüße 😀"})
    + chunk(call(0, "call_1", "get_weather", ""))
    + chunk(call(0, arguments='{"city": '))
    + chunk(call(0, arguments='"Oslo"}'))
    + chunk({}, "tool_calls")
    + chunk(usage=USAGE)
    + DONE
)
EVENTS = [
    Begin(),
    ThinkingDelta("hm"),
    TextDelta("Grüße 😀"),
    ToolStart(0, "call_1", "get_weather"),
    ToolDelta(0, '{"city": '),
    ToolDelta(0, '"Oslo"}'),
    UsageTold(Usage(prompt_tokens=25, completion_tokens=7)),
    Stop("tools"),
]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_whole_byte_by_byte_and_with_trailing_data(newline):
    stream = b": hello\n\n".replace(b"\n", newline) + STREAM.replace(b"\n", newline)
    assert decode(stream) == EVENTS
    assert decode(*by_byte(stream)) == EVENTS
    assert decode(stream + chunk({"content": "late"}) + b"data: {broken\n\n") == EVENTS
    assert decode(stream, b"data: {broken\n\n") == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_chunking(places):
    assert decode(*cut_at(STREAM, places)) == EVENTS


def test_nothing_is_held_back():
    decoder = OpenAIStreamDecoder(100_000)
    assert decoder.receive(chunk({"content": "a"})) == [Begin(), TextDelta("a")]
    assert decoder.receive(chunk({"content": "b"})) == [TextDelta("b")]
    assert decoder.receive(chunk(call(0, "x", "f", "{"))) == [ToolStart(0, "x", "f"), ToolDelta(0, "{")]
    assert decoder.receive(chunk(call(0, arguments="}"))) == [ToolDelta(0, "}")]
    assert decoder.receive(chunk({}, "tool_calls")) == []
    assert not decoder.done
    assert decoder.receive(DONE) == [Stop("tools")]
    assert decoder.done
    assert decoder.receive(chunk({"content": "late"})) == []
    assert decoder.receive_eof() == []


# --- whole, and not whole


def test_the_end_of_the_body_will_do_instead_of_done():
    assert decode(chunk({"content": "a"}), chunk({}, "stop"))[-1] == Stop("end")


def test_a_last_event_may_lack_its_blank_line():
    assert decode(chunk({"content": "a"}), chunk({}, "stop"), b"data: [DONE]")[-1] == Stop("end")
    assert decode(chunk({"content": "a"}), chunk({}, "stop").rstrip())[-1] == Stop("end")
    assert decode(chunk({"content": "a"}), chunk({}, "stop"), b'data: {"usa')[-1] == Stop("end")


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b": hello\n\n"],
        [DONE],
        [chunk({"role": "assistant"})],
        [chunk({"content": "a"})],
        [chunk({"content": "a"}), DONE],
        [chunk({"content": "a"}, ""), DONE],
        [chunk({"content": "a"}), b'data: {"choices": [{"delta": {}, "finish_reason": "stop"'],
        [chunk({"content": "a"}), chunk({}, "error"), DONE],
        [chunk({"content": "a"}), chunk({}, "error"), chunk({}, "stop"), DONE],
        [chunk({}, "stop", choice={"index": 1}), DONE],
    ],
)
def test_a_lost_upstream_is_never_an_end(pieces):
    for cuts in (pieces, [b"".join(pieces)], by_byte(b"".join(pieces))):
        with pytest.raises(UpstreamBroken) as caught:
            decode(*cuts)
        assert caught.value.error_type == "IncompleteStream"


def test_what_is_no_json_breaks_the_stream():
    for payload in (b'{"choices": [', b"null", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(DialectError):
            OpenAIStreamDecoder(1_000_000).receive(b"data: " + payload + b"\n\n")


def test_an_exception_waits_for_what_came_before_it():
    decoder = OpenAIStreamDecoder(100_000)
    assert decoder.receive(chunk({"content": "a"}) + b"data: {broken\n\n" + DONE) == [Begin(), TextDelta("a")]
    for attempt in (lambda: decoder.receive(chunk({"content": "b"})), decoder.receive_eof):
        with pytest.raises(DialectError):
            attempt()
    assert not decoder.done


def test_an_exception_does_not_wait_for_a_mere_beginning():
    """Nothing has to reach the client yet: another attempt may do better."""
    with pytest.raises(DialectError):
        OpenAIStreamDecoder(100_000).receive(chunk({"role": "assistant"}) + b"data: {broken\n\n")


def test_an_endless_event_is_refused():
    with pytest.raises(DialectError, match="max_event_bytes"):
        OpenAIStreamDecoder(10).receive(b"data: 0123456789")


def test_empty_data_says_nothing():
    assert decode(b"data:\n\n", chunk({"content": "a"}), b"data: \n\n", chunk({}, "stop"))[1:] == [
        TextDelta("a"),
        Stop("end"),
    ]


def test_content_behind_the_finish_reason_comes_before_the_stop():
    events = decode(chunk({"content": "a"}, "stop"), chunk({"content": "b"}), DONE)
    assert events == [Begin(), TextDelta("a"), TextDelta("b"), Stop("end")]


# --- what is said


@pytest.mark.parametrize(
    ("delta", "events"),
    [
        ({"reasoning": "hm"}, [ThinkingDelta("hm")]),
        ({"reasoning": "hm", "reasoning_content": "hm"}, [ThinkingDelta("hm")]),
        ({"reasoning": "hm", "reasoning_content": "", "content": ""}, [ThinkingDelta("hm")]),
        ({"content": "a", "reasoning_content": "hm"}, [ThinkingDelta("hm"), TextDelta("a")]),
        ({"content": [{"type": "text", "text": "a"}, "b", {"type": "text", "text": ""}, 3, {"type": "reference"}]},
         [TextDelta("a"), TextDelta("b")]),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}, 1]}]}, [ThinkingDelta("hm")]),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, [ThinkingDelta("hm")]),
        ({"content": 5, "reasoning": {"a": 1}, "refusal": [], "tool_calls": "x"}, []),
    ],
)  # fmt: skip
def test_deltas(delta, events):
    assert finished(delta) == [*events, Stop("end")]


def test_a_refusal_is_text_and_the_reason():
    assert finished({"refusal": "I "}, {"refusal": "won't"}) == [TextDelta("I "), TextDelta("won't"), Stop("refusal")]


def test_a_whole_answer_in_one_chunk():
    message = {"role": "assistant", "content": "a", "tool_calls": call(None, "x", "f", "{}")["tool_calls"]}
    whole = event({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert decode(whole) == [Begin(), TextDelta("a"), ToolStart(0, "x", "f"), ToolDelta(0, "{}"), Stop("tools")]


def test_a_whole_answer_behind_its_deltas_is_not_said_twice():
    whole = event({"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]})
    assert decode(chunk({"content": "a"}), chunk({"content": "b"}), whole, DONE) == [
        Begin(),
        TextDelta("a"),
        TextDelta("b"),
        Stop("end"),
    ]


def test_other_choices_are_left_out():
    events = decode(
        chunk({"content": "a"}), chunk({"content": "other"}, "length", choice={"index": 1}), chunk({}, "stop")
    )
    assert events == [Begin(), TextDelta("a"), Stop("end")]


@pytest.mark.parametrize(
    ("finish", "more", "stop"),
    [
        ("stop", {}, Stop("end")),
        ("length", {}, Stop("length")),
        ("content_filter", {}, Stop("refusal")),
        ("tool_calls", {}, Stop("end")),
        ("stop", {"stop_reason": "END"}, Stop("sequence", "END")),
        ("stop", {"stop_reason": 128001}, Stop("end")),
        ("length", {"stop_reason": "END"}, Stop("length")),
        (7, {}, Stop("end")),
    ],
)
def test_stops(finish, more, stop):
    assert decode(chunk({"content": "a"}), chunk({}, finish, choice=more), DONE)[-1] == stop


@pytest.mark.parametrize(
    "last",
    [
        chunk({}, "stop", usage=USAGE),
        chunk({}, "stop", choice={"usage": USAGE}),
        chunk({}, "stop", x_groq={"usage": USAGE}),
        chunk({}, "stop") + chunk(usage=USAGE),
    ],
)
def test_usage_wherever_it_stands(last):
    events = decode(chunk({"content": "a"}, usage=None) + last + DONE)
    assert UsageTold(Usage(prompt_tokens=25, completion_tokens=7)) in events
    assert events[-1] == Stop("end")


def test_usage_that_is_none():
    assert finished({"content": "a"}, usage={"prompt_tokens": -1, "completion_tokens": "x"}) == [
        TextDelta("a"),
        UsageTold(Usage()),
        Stop("end"),
    ]
    assert finished({"content": "a"}, usage=7, x_groq={"id": "x"}) == [TextDelta("a"), Stop("end")]


# --- errors in the stream


@pytest.mark.parametrize(
    ("error", "message", "word"),
    [
        ({"message": "no", "type": "server_error", "code": "overloaded"}, "no", "overloaded_error"),
        ({"message": "no", "code": 429}, "no", "rate_limit_error"),
        ({"message": "no", "code": "503"}, "no", "overloaded_error"),
        ({"message": "no", "type": "rate_limit_reached_error"}, "no", "rate_limit_error"),
        ({"message": "no", "status": "RESOURCE_EXHAUSTED", "code": 500}, "no", "rate_limit_error"),
        ({"message": "no", "type": "insufficient_quota"}, "no", "billing_error"),
        ({"message": "no", "type": "authentication_error"}, "no", "authentication_error"),
        ({"type": "server_error"}, "server_error", "api_error"),
        ("just words", "just words", "api_error"),
        ([1], "the upstream reported an error", "api_error"),
    ],
)
def test_an_error_ends_the_stream(error, message, word):
    told = event({"error": error})
    stream = chunk({"content": "a"}) + told + chunk({"content": "b"})
    for pieces in ([stream], by_byte(stream)):
        assert decode(*pieces) == [Begin(), TextDelta("a"), Failed(message, word, *payloads(told))]


def test_an_error_first_is_all():
    assert decode(event({"error": {"message": "no"}})) == [Failed("no", "api_error", b'{"error": {"message": "no"}}')]


def test_an_error_beside_its_finish_reason():
    [*_, last] = decode(chunk({"content": ""}, "error", error={"message": "lost", "code": 502}))
    assert (last.message, last.type) == ("lost", "api_error")


FLAT = {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}


def test_an_error_of_vllm_or_sglang():
    told = event(FLAT)
    failure = Failed("too long", "invalid_request_error", *payloads(told))
    assert decode(told + DONE) == [failure]
    assert decode(chunk({"content": "a"}), told, DONE) == [Begin(), TextDelta("a"), failure]


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        (event({"detail": "Not authenticated"}), "Not authenticated"),
        (b"event: error\n" + event({"message": "boom"}), "boom"),
        (event({"code": "1302", "msg": "too fast"}), "too fast"),
        (event({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}), "login fail"),
        (event([{"error": {"code": 503, "message": "try later"}}]), "try later"),
        (event({"type": "ping"}), "before the answer was finished"),
        (event({}), "before the answer was finished"),
    ],
)
def test_what_may_be_why_no_answer_comes(stray, message):
    for stream in (stray + DONE, chunk({"content": "a"}) + stray, chunk({"content": "a"}) + stray + DONE):
        with pytest.raises((UpstreamBroken, DialectError), match=message):
            decode(*by_byte(stream))


def test_signs_of_life_are_none_of_the_answer():
    alive = event({"type": "ping"}) + event({"message": "still thinking"})
    assert decode(alive, chunk({"content": "a"}), alive, chunk({}, "stop"), DONE) == [
        Begin(),
        TextDelta("a"),
        Stop("end"),
    ]


def test_a_done_with_white_space():
    assert finished({"content": "a"}) == decode(chunk({"content": "a"}), chunk({}, "stop"), b"data: [DONE] \n\n")[1:]


def test_half_a_character_at_the_end_of_a_chunk():
    halves = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
    assert decode(halves, chunk({}, "stop")) == [Begin(), TextDelta("a\ufffd"), Stop("end")]


@pytest.mark.parametrize(
    ("told", "stop"),
    [
        ({"stop_reason": "END"}, Stop("sequence", "END")),
        ({"stop_reason": None, "matched_stop": "END"}, Stop("sequence", "END")),
        ({"matched_stop": 151645}, Stop("end")),
    ],
)
def test_the_stop_sequence_that_was_met(told, stop):
    assert decode(chunk({"content": "a"}), chunk({}, "stop", choice=told))[-1] == stop


def test_words_of_gemini_s_for_why_it_stopped():
    assert finished({"content": "a"}, finish="content_filter: RECITATION")[-1] == Stop("refusal")
    for word in ("function_call_filter: MALFORMED_FUNCTION_CALL", "MALFORMED_FUNCTION_CALL"):
        with pytest.raises(UpstreamBroken, match="gave up its answer"):
            finished({"content": ""}, finish=word)


@pytest.mark.parametrize(
    ("usage", "read", "written"),
    [
        ({"cached_tokens": 4}, 4, None),
        ({"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 20}, 5, None),
        ({"prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 7}, "cached_tokens": 1}, 6, 7),
    ],
)
def test_words_for_what_a_cache_held(usage, read, written):
    told = UsageTold(Usage(prompt_tokens=25, completion_tokens=7, cache_read_tokens=read, cache_write_tokens=written))
    assert told in finished({"content": "a"}, usage={**USAGE, **usage})


def test_an_empty_error_in_every_chunk_is_none():
    assert decode(chunk({"content": "a"}, error=None), chunk({}, "stop", error={})) == [
        Begin(),
        TextDelta("a"),
        Stop("end"),
    ]
