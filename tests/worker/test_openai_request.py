import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.openai.errors import error_body, error_event, error_type
from worker.dialects.openai.request import parse_request, prompt_texts, upstream_body
from worker.dialects.openai.wire import error_message

MESSAGES = [{"role": "user", "content": "hi"}]


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def test_a_plain_request():
    request = parse()
    assert (request.model, request.stream, request.wants_usage, request.session) == ("m", False, False, None)


@pytest.mark.parametrize(
    ("options", "wants"),
    [(None, False), ({}, False), ({"include_usage": True}, True), ({"include_usage": False}, False)],
)
def test_who_wants_usage(options, wants):
    request = parse(stream=True, stream_options=options)
    assert request.wants_usage is wants
    sent = json.loads(upstream_body(request, "m", ask_usage=True))
    assert sent["stream_options"] == {"include_usage": True}


def test_usage_is_asked_for_beside_other_options():
    request = parse(stream=True, stream_options={"include_obfuscation": False})
    sent = json.loads(upstream_body(request, "m", ask_usage=True))
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_usage_is_not_asked_for():
    assert "stream_options" not in json.loads(upstream_body(parse(stream=True), "m", ask_usage=False))
    assert "stream_options" not in json.loads(upstream_body(parse(), "m", ask_usage=True))


def test_the_rest_goes_upstream_byte_for_byte():
    body = (
        b'{"z": 1.50, "model": "m", "messages": [ {"role":"user","content":"\\u00fc"} ], "seed": 10000000000000000000}'
    )
    sent = upstream_body(parse_request(body), "n", ask_usage=True)
    assert sent == (
        b'{"z":1.50,"model":"n","messages":[ {"role":"user","content":"\\u00fc"} ],"seed":10000000000000000000}'
    )


def test_our_own_field_stays_here():
    request = parse(session_id="s-1")
    assert request.session == "s-1"
    assert "session_id" not in json.loads(upstream_body(request, "m", ask_usage=True))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b'{"\xff": 1}', "not a JSON object"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a JSON object"),
        (b'{"messages": []}', "`model` is required"),
        (b'{"model": "", "messages": []}', "`model` is empty"),
        (b'{"model": null, "messages": []}', "`model` is required"),
        (b'{"model": 5, "messages": []}', "`model`: a string is needed, not a number"),
        (b'{"model": "\xff", "messages": []}', "not a JSON object"),
        (b'{"model": "m"}', "`messages` is required"),
        (b'{"model": "m", "messages": {}}', "`messages`: a list is needed, not an object"),
        (b'{"model": "m", "messages": [], "stream": "yes"}', "`stream`: true or false is needed, not a string"),
        (b'{"model": "m", "messages": [], "stream_options": []}', "`stream_options`: an object is needed, not a list"),
        (b'{"model": "m", "messages": [], "session_id": 7}', "`session_id`: a string is needed"),
    ],
)
def test_bad_requests(body, message):
    with pytest.raises(DialectError, match=message):
        parse_request(body)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_request_or_a_dialect_error(body):
    try:
        request = parse_request(body)
    except DialectError:
        return
    assert request.model


def test_prompt_texts_leave_out_what_is_no_text():
    messages = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:"}}],
        },
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "LS", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "a.txt"},
    ]
    texts = prompt_texts(parse(messages=messages, tools=[{"type": "function"}]))
    joined = " ".join(texts)
    for word in ("be brief", "look", "LS", "a.txt", '"function"'):
        assert word in joined
    assert "data:" not in joined
    assert "c1" not in joined


@pytest.mark.parametrize(
    "messages",
    [
        b'["\xff"]',
        b"[1e999]",
        b"[" * 900 + b'"deep"' + b"]" * 900,
        b'[{"content": null}]',
        b"[[], {}, 1, true]",
    ],
)
def test_prompt_texts_never_raise(messages):
    """They are asked for when the stream has ended: its record must not be lost for a message that nobody read."""
    request = parse_request(b'{"model": "m", "messages": ' + messages + b"}")
    assert all(isinstance(text, str) for text in prompt_texts(request))


@pytest.mark.parametrize(
    ("status", "type"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (418, "invalid_request_error"),
     (429, "rate_limit_error"), (500, "server_error"), (504, "timeout_error"), (529, "overloaded_error")],
)  # fmt: skip
def test_error_types(status, type):
    assert error_type(status) == type


def test_an_error_body():
    assert json.loads(error_body(404, "no 'x'", code="model_not_found", param="model")) == {
        "error": {"message": "no 'x'", "type": "not_found_error", "param": "model", "code": "model_not_found"}
    }


def test_an_error_event_is_one_event():
    event = error_event("line one\nline two")
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert error_message(event[6:]) == "line one\nline two"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"<html>", b'{"error": null}', b'{"error": 5}', b'{"error": "\xff"}']
)
def test_what_is_no_error_body(body):
    assert error_message(body) is None


@given(st.binary(max_size=60))
def test_error_message_never_raises(body):
    error_message(body)
