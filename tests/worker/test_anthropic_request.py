import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError
from worker.dialects.anthropic.request import group, parse_request, prompt_texts, upstream_body

MESSAGES = [{"role": "user", "content": "hi"}]
UUID = "1f0c8a2e-7d3b-4e55-9a67-0c1d2e3f4a5b"


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def test_a_plain_request():
    request = parse()
    assert (request.model, request.stream, request.session, request.shows_thinking) == ("m", False, None, True)


def test_what_a_request_says():
    request = parse(stream=True, session_id="s-1")
    assert (request.stream, request.session) == (True, "s-1")


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, True),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive"}, True),
        ({"type": "disabled"}, False),
        ("nonsense", True),
        ({"type": 5}, True),
    ],
)
def test_who_sees_thought(thinking, shows):
    assert parse(thinking=thinking).shows_thinking is shows


BODY = b'{"z": 1.50, "model": "m", "messages": [ {"role":"user","content":"\\u00fc"} ], "k": 10000000000000000000}'


def test_the_very_bytes_go_upstream():
    assert upstream_body(parse_request(BODY), "m") is BODY


def test_another_model_s_name_changes_nothing_else():
    assert upstream_body(parse_request(BODY), "n") == (
        b'{"z":1.50,"model":"n","messages":[ {"role":"user","content":"\\u00fc"} ],"k":10000000000000000000}'
    )


def test_our_own_field_stays_here():
    sent = json.loads(upstream_body(parse(session_id="s-1"), "m"))
    assert sent == {"model": "m", "messages": MESSAGES}


@pytest.mark.parametrize(
    ("metadata", "session"),
    [
        (None, None),
        ({}, None),
        ({"user_id": None}, None),
        ({"user_id": "a person"}, None),
        ({"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": UUID})}, UUID),
        ({"user_id": json.dumps({"session_id": ""})}, None),
        ({"user_id": json.dumps({"session_id": 7})}, None),
        ({"user_id": f"user_0a1b_account_{UUID}_session_{UUID}"}, UUID),
        ({"user_id": f"user_0a1b_account__session_{UUID}"}, UUID),
        ({"user_id": 7}, None),
        ([], None),
    ],
)
def test_claude_code_s_session(metadata, session):
    assert group(parse(metadata=metadata)) == session


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"\xff": 1}', "not a JSON object"),
        (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a JSON object"),
        (b'{"messages": []}', "`model` is required"),
        (b'{"model": "", "messages": []}', "`model` is empty"),
        (b'{"model": 5, "messages": []}', "`model`: a string is needed, not a number"),
        (b'{"model": "m"}', "`messages` is required"),
        (b'{"model": "m", "messages": {}}', "`messages`: a list is needed, not an object"),
        (b'{"model": "m", "messages": [], "stream": "yes"}', "`stream`: true or false is needed, not a string"),
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


def test_prompt_texts_are_what_a_model_reads():
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QkFTRTY0"}},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                {
                    "type": "document",
                    "title": "Minutes",
                    "context": "of May",
                    "source": {"type": "text", "media_type": "text/plain", "data": "agreed"},
                },
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "UERGREFUQQ"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hmm", "signature": "c2lnbmVk"},
                {"type": "redacted_thinking", "data": "aGlkZGVu"},
                {"type": "tool_use", "id": "toolu_1", "name": "Grep", "input": {"type": "py", "url": "x", "id": "i7"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.txt"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "b.txt"}]},
            ],
        },
    ]
    tools = [{"name": "Grep", "description": "finds", "input_schema": {"type": "object"}}]
    texts = prompt_texts(parse(system=[{"type": "text", "text": "be brief"}], messages=messages, tools=tools))
    assert texts[:-1] == [
        "be brief",
        "look",
        "Minutes",
        "of May",
        "agreed",
        "hmm",
        "Grep",
        *("type", "py", "url", "x", "id", "i7"),
        "a.txt",
        "b.txt",
    ]
    assert json.loads(texts[-1]) == tools


def test_a_system_prompt_may_be_a_string():
    assert prompt_texts(parse(system="be brief")) == ["be brief", "hi"]


@pytest.mark.parametrize(
    "messages",
    [
        b'["\xff"]',
        b"[1e999]",
        b"[" * 900 + b'"deep"' + b"]" * 900,
        b'[{"content": null}]',
        b"[[], {}, 1, true]",
        b'[{"type": ["base64"], "content": {"type": {}}}]',
    ],
)
def test_prompt_texts_never_raise(messages):
    """They are asked for when the stream has ended: its record must not be lost for a message that nobody read."""
    request = parse_request(b'{"model": "m", "system": {"a": [null]}, "messages": ' + messages + b"}")
    assert all(isinstance(text, str) for text in prompt_texts(request))
