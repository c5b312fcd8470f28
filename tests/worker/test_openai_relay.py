import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.neutral import Usage
from worker.dialects.openai.relay import DONE, BodyRelay, StreamRelay


def event(value) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def says(text, index=0, finish=None, **more) -> bytes:
    return event({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}], **more})


def stop(index=0, **more) -> bytes:
    return event({"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}], **more})


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
COUNTS = Usage(prompt_tokens=5, completion_tokens=7)
USAGE_CHUNK = event({"choices": [], "usage": USAGE})


def relay(hide_usage=False, max_event_bytes=100_000, model=None) -> StreamRelay:
    return StreamRelay(hide_usage=hide_usage, max_event_bytes=max_event_bytes, model=model)


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


STREAM = says("Grü") + says("ße 😀") + stop() + USAGE_CHUNK + DONE


@pytest.mark.parametrize("pieces", [[STREAM], by_byte(STREAM), [STREAM + says("late")]], ids=["whole", "bytes", "more"])
def test_bytes_pass_as_they_came(pieces):
    tee = relay()
    assert feed(tee, *pieces).startswith(STREAM)
    assert text_of(tee).startswith("Grüße 😀")
    assert tee.usage == COUNTS
    assert tee.done
    assert tee.error is None


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_the_extra_usage_chunk_is_hidden(newline):
    def styled(data):
        return data.replace(b"\n", newline)

    for pieces in ([styled(STREAM)], by_byte(styled(STREAM))):
        tee = relay(hide_usage=True)
        assert feed(tee, *pieces) == styled(says("Grü") + says("ße 😀") + stop() + DONE)
        assert tee.usage == COUNTS


def test_a_comment_beside_the_hidden_chunk_stays():
    tee = relay(hide_usage=True)
    assert feed(tee, b": hello\n\n" + stop() + USAGE_CHUNK + b": bye\n\n" + DONE) == (
        b": hello\n\n" + stop() + b": bye\n\n" + DONE
    )


KIMI = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]})
GROQ = stop(x_groq={"id": "r", "usage": USAGE})


@pytest.mark.parametrize("last", [stop(usage=USAGE), KIMI, GROQ], ids=["beside", "kimi", "groq"])
def test_usage_in_the_last_choice_chunk_is_read_and_never_hidden(last):
    tee = relay(hide_usage=True)
    assert feed(tee, says("a"), last, DONE) == says("a") + last + DONE
    assert tee.usage == COUNTS


def test_details_of_the_usage():
    details = {"prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2}}
    tee = relay()
    feed(tee, stop(), event({"choices": [], "usage": {**USAGE, **details}}), event({"x_groq": {"id": "r"}}), DONE)
    assert tee.usage == Usage(prompt_tokens=5, completion_tokens=7, cache_read_tokens=3, reasoning_tokens=2)


def test_done_is_appended_when_missing():
    assert feed(relay(), says("a"), stop()) == says("a") + stop() + DONE


def test_a_last_event_without_its_blank_line_counts():
    tee = relay()
    assert feed(tee, says("a") + stop().rstrip()) == says("a") + stop() + DONE
    tee = relay()
    assert feed(tee, says("a") + stop() + b"data: [DONE]\n") == says("a") + stop() + b"data: [DONE]\n\n\n"


def test_half_an_event_at_the_end_is_left_out():
    assert feed(relay(), says("a") + stop() + b'data: {"choi') == says("a") + stop() + DONE
    assert feed(relay(), says("a") + stop() + b": comm") == says("a") + stop() + DONE


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b": comment\n\n",
        says("a"),
        says("a")[:-1],
        says("a") + stop()[:-10],
        says("a", 0) + says("b", 1) + stop(0),
        USAGE_CHUNK,
        b"data: nonsense\n\n",
        b"<html>oops</html>",
        event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": ""}]}),
    ],
)
def test_an_unfinished_stream_is_broken(stream):
    tee = relay()
    with pytest.raises(UpstreamBroken) as caught:
        feed(tee, *([stream] if stream else []))
    assert caught.value.error_type == "IncompleteStream"


def test_every_choice_must_finish():
    tee = relay()
    stream = [says("a", 0), says("b", 1), stop(1), says("c", 0), stop(0)]
    assert feed(tee, *stream) == b"".join(stream) + DONE
    assert text_of(tee) == "abc"


def test_an_inline_error_is_passed_and_remembered():
    error = event({"error": {"message": "overloaded", "type": "server_error", "code": 503}})
    tee = relay()
    assert feed(tee, says("a"), error) == says("a") + error
    assert tee.error == "overloaded"
    assert tee.done


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"error": "plain words"}, "plain words"),
        ({"error": {"type": "odd"}}, "odd"),
        ({"error": {"message": ["not", "text"]}}, "['not', 'text']"),
        ({"error": 500}, "the upstream reported an error"),
        ({"error": {"message": "with usage"}, "usage": USAGE}, "with usage"),
    ],
)
def test_shapes_of_inline_errors(value, message):
    tee = relay(hide_usage=True)
    assert feed(tee, event(value)) == event(value)
    assert tee.error == message


@pytest.mark.parametrize("start", [b"", b": hello\n\n"])
@pytest.mark.parametrize("more", [{}, {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]}])
def test_an_error_in_the_place_of_an_answer_is_a_refusal(start, more):
    value = {"error": {"message": "no", "code": 429}, **more}
    for pieces in ([start + event(value)], by_byte(start + event(value))):
        tee = relay()
        feed(tee, *pieces)
        assert json.loads(tee.refusal) == value
        assert tee.error == "no"


@pytest.mark.parametrize("code", [400, 503])
def test_an_error_without_an_error_around_it(code):
    flat = event({"object": "error", "message": "too long", "type": "BadRequestError", "code": code})
    tee = relay()
    assert feed(tee, flat) == flat
    assert (tee.error, tee.refusal) == ("too long", flat[6:-2])
    tee = relay()
    assert feed(tee, says("hello") + flat, DONE) == says("hello") + flat
    assert (tee.error, tee.refusal) == ("too long", None)


def test_done_with_white_space_behind_it():
    tee = relay()
    end = b"data: [DONE] \n\n"
    assert feed(tee, says("hello") + stop() + end) == says("hello") + stop() + end
    assert tee.done


def test_an_error_in_an_answer_is_none():
    role = event({"choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    tee = relay()
    feed(tee, role + event({"error": {"message": "no"}}))
    assert (tee.error, tee.refusal) == ("no", None)


def test_a_null_error_is_none():
    tee = relay()
    assert feed(tee, says("a", error=None), stop(error=None), DONE).endswith(DONE)
    assert tee.error is None


def test_an_oversized_event_is_refused():
    tee = relay(max_event_bytes=50)
    with pytest.raises(DialectError):
        tee.receive(b"data: " + b"x" * 60)


def test_everything_that_the_model_wrote_is_counted():
    call = {"index": 0, "id": "c1", "function": {"name": "LS", "arguments": '{"path"'}}
    more = {"index": 0, "function": {"arguments": ': "/"}'}}
    tee = relay()
    for delta in (
        {"reasoning_content": "hm"},
        {"reasoning": "ah"},
        {"reasoning": "same", "reasoning_content": "same"},
        {"refusal": "no"},
        {"content": "yes", "tool_calls": [call]},
        {"content": None, "tool_calls": [more]},
    ):
        tee.receive(event({"choices": [{"index": 0, "delta": delta}]}))
    assert text_of(tee) == 'hmahsamenoyesLS{"path": "/"}'


def test_garbage_passes_through():
    garbage = [
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b"data: \xff\xfe\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    ]
    deep = b'data: {"choices":' + b"[" * 50_000 + b"]" * 50_000 + b"}\n\n"
    stream = [says("a"), *garbage, deep, stop(), DONE]
    tee = relay(max_event_bytes=1_000_000)
    assert feed(tee, *stream) == b"".join(stream)
    assert tee.done


@pytest.mark.parametrize(
    "odd",
    [
        {"usage": {"prompt_tokens": 5.5, "completion_tokens": 7}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 7}},
        {"usage": {"prompt_tokens": 10**30, "completion_tokens": 7}},
        {"usage": "none"},
        {"usage": []},
        {"x_groq": 1},
        {"error": ""},
        {"id": 7, "created": "now"},
    ],
)
def test_odd_types_beside_the_choices(odd):
    tee = relay()
    assert feed(tee, says("a", **odd), stop(**odd), DONE) == says("a", **odd) + stop(**odd) + DONE
    assert text_of(tee) == "a"
    if isinstance(odd.get("usage"), dict):
        assert tee.usage == Usage(completion_tokens=7)


@pytest.mark.parametrize(
    "choice",
    [
        {"index": "0", "delta": {"content": "a"}},
        {"index": 0, "delta": {"content": "a", "tool_calls": {}}},
        {"index": 0, "delta": {"content": "a", "tool_calls": [None, 1, {"function": "f"}, {"function": {"name": 5}}]}},
        {"index": 0, "delta": {"content": "a", "refusal": {}, "reasoning": 3}},
        {"index": 0, "delta": {"content": "a"}, "message": []},
    ],
)
def test_odd_types_in_a_choice(choice):
    """A finished answer isn't taken for a broken one because of a field that nobody needs."""
    tee = relay()
    odd = event({"choices": [None, {**choice, "finish_reason": "stop"}]})
    assert feed(tee, odd) == odd + DONE
    assert text_of(tee) == "a"


@pytest.mark.parametrize("delta", [None, [], "text", 5, {"content": ["a"]}, {"content": 5}])
def test_odd_deltas_never_raise(delta):
    tee = relay()
    odd = event({"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]})
    assert feed(tee, odd) == odd + DONE


CHUNK = b'data: {"id": "caf\\u00e9", "model": "%s", "choices": [ {"delta": {"content": "a"}} ], "n": 1e2}\n\n'
NAMED = b'data: {"id":"caf\\u00e9","model":"%s","choices":[ {"delta": {"content": "a"}} ],"n":1e2}\n\n'
NAMELESS = b": hello\n\n" + stop() + event({"model": None, "choices": []}).replace(b"null", b'"asked"')


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_each_chunk_names_the_model_as_it_was_asked_for(newline):
    def streamed(chunk):
        return (chunk + NAMELESS + chunk + DONE).replace(b"\n", newline)

    for pieces in ([streamed(CHUNK % b"m")], by_byte(streamed(CHUNK % b"m"))):
        tee = relay(model="asked")
        assert feed(tee, *pieces) == streamed(NAMED % b"asked")
        assert text_of(tee) == "aa"


def test_a_hidden_chunk_needs_no_name():
    tee = relay(model="asked", hide_usage=True)
    usage = event({"model": "m", "choices": [], "usage": USAGE})
    assert feed(tee, CHUNK % b"m", stop(), usage, DONE) == NAMED % b"asked" + stop() + DONE
    assert tee.usage == COUNTS


def test_where_there_is_no_other_name_nothing_changes():
    stream = [
        CHUNK % b"asked",
        *(event(value) for value in ([{"model": "m"}], "model", {"choices": [], "error": None})),
        b'data: {"model": \n\n',
        b"data: \xff\n\n",
        stop(),
        DONE,
    ]
    assert feed(relay(model="asked"), *stream) == b"".join(stream)


def test_data_on_several_lines_becomes_one():
    stream = b'id: 7\ndata: {"choices": [],\ndata: "model": "m"}\nretry: 1\n\n'
    wanted = b'id: 7\ndata: {"choices":[],"model":"asked"}\nretry: 1\n\n'
    assert feed(relay(model="asked"), stream, DONE) == wanted + DONE


def test_a_byte_order_mark_hides_no_name():
    assert feed(relay(model="asked"), b"\xef\xbb\xbf" + CHUNK % b"m", DONE) == NAMED % b"asked" + DONE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "usage",
                    "error",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "index",
                    "finish_reason",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4), st.booleans())
def test_whatever_json_comes(values, hide):
    """A valid stream, or our own protocol error."""
    tee = relay(hide_usage=hide)
    stream = b"".join(map(event, values))
    try:
        out = feed(tee, *([stream] if stream else []))
    except UpstreamBroken:
        return
    assert out.replace(DONE, b"") in stream or hide


@given(st.data())
def test_any_cutting_of_a_stream_gives_the_same(data):
    newline = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    parts = [b": hi\n\n", says("Grüße"), says("😀", 1), stop(1), stop(0), USAGE_CHUNK]
    ends = data.draw(st.sampled_from([[DONE], [], [DONE[:-1]], [b"data: {"]]))
    stream = b"".join([*parts, *ends]).replace(b"\n", newline)
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=15)))
    pieces = [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True) if start < end]
    hide = data.draw(st.booleans())
    whole, cut = relay(hide_usage=hide), relay(hide_usage=hide)
    assert feed(cut, *pieces) == feed(whole, stream)
    assert cut.usage == whole.usage == COUNTS
    assert text_of(cut) == text_of(whole) == "Grüße😀"


def body(**changes) -> bytes:
    message = {"role": "assistant", "content": "hello"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"choices": choices, "usage": USAGE, **changes}).encode()


def body_relay(model=None) -> BodyRelay:
    return BodyRelay(max_response_bytes=10_000, model=model)


@pytest.mark.parametrize("pieces", [[body()], by_byte(body())], ids=["whole", "bytes"])
def test_a_body_passes_unchanged(pieces):
    tee = body_relay()
    assert feed(tee, *pieces) == body()
    assert text_of(tee) == "hello"
    assert tee.usage == COUNTS
    assert tee.done


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"usage": {"prompt_tokens": "5"}}, "hello"),
        ({"choices": [{"index": "a", "message": {"content": "hello", "tool_calls": {}}}]}, "hello"),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "parts"}]}}]}, ""),
        ({"choices": [{"message": None}]}, ""),
    ],
)
def test_a_body_with_odd_types_passes(odd, said):
    tee = body_relay()
    assert feed(tee, body(**odd)) == body(**odd)
    assert text_of(tee) == said


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "not a chat completion"),
        (b"<html>", "not a chat completion"),
        (body()[:-5], "not a chat completion"),
        (b'"\xff"', "not a chat completion"),
        (b"{}", "holds no choices"),
        (body(choices=[]), "holds no choices"),
        (b'{"error": {"message": "quota"}}', "quota"),
        (b'{"object": "error", "message": "too long"}', "too long"),
    ],
)
def test_a_body_that_is_no_completion(answer, message):
    with pytest.raises(UpstreamBroken, match=message):
        feed(body_relay(), *([answer] if answer else []))


def test_a_body_names_the_model_as_it_was_asked_for():
    sent = b'{"model": "m", "choices": [ {"message": {"content": "a"}}]}'
    assert feed(body_relay(model="asked"), sent) == b'{"model":"asked","choices":[ {"message": {"content": "a"}}]}'
    assert feed(body_relay(model="m"), sent) == sent
    assert feed(body_relay(model="asked"), body()) == body()


def test_an_oversized_body_is_refused():
    with pytest.raises(DialectError, match="max_response_bytes"):
        body_relay().receive(b"x" * 10_001)
