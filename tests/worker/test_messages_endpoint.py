"""What `/v1/messages` does with a request before the pump has it: paths, headers, names of models, sessions."""

import json

import pytest
from fakes.dialect_streams import DONE, chunk, event
from fakes.gateway import CHAT, MESSAGES, make_config, message_bytes, serve_gateway
from fakes.upstream import COMPLETION, json_response, openai_stream, sse_response, whole

from shared.config import Model
from worker.admission import session_name

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Hi."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
CLAUDE_CODE = "11111111-2222-3333-4444-555555555555"
OLD_USER_ID = f"user_abc_account_def_session_{CLAUDE_CODE}"


@pytest.fixture
async def native(upstream):
    """A gateway whose provider speaks Anthropic's dialect."""
    async with serve_gateway(make_config(upstream, provider={"dialect": "anthropic"})) as gateway:
        yield gateway


@pytest.mark.parametrize("path", [MESSAGES, "/messages", f"{MESSAGES}?beta=true", "/messages?beta=true&x=%20"])
async def test_the_routes(gateway, upstream, path):
    upstream.script(json_response(COMPLETION))
    head, body = await gateway.message(stream=False, path=path)
    assert head.status == 200
    assert head.headers["request-id"] == head.headers["x-request-id"]
    told = json.loads(body)
    assert (told["type"], told["model"]) == ("message", "m")
    assert told["id"] == f"msg_{gateway.started[0].id}"
    assert upstream.requests[0].path == "/v1/chat/completions"  # the query is Anthropic's


async def test_a_stream_has_its_ids(gateway, upstream):
    upstream.script(*openai_stream("Hello"))
    head, body = await gateway.message(x_request_id="trace-7")
    assert (head.headers["request-id"], head.headers["x-request-id"]) == ("trace-7", "trace-7")
    start = await gateway.wait_started()
    assert (start.trace, start.dialect, start.streaming) == ("trace-7", "anthropic", True)
    assert f'"msg_{start.id}"'.encode() in body


async def test_errors_of_a_stream_name_the_request(gateway, upstream):
    upstream.script(json_response({"error": {"message": "no such model"}}, 404))
    head, body = await gateway.message(x_request_id="trace-8")
    assert head.status == 404
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such model"},
        "request_id": "trace-8",
    }


async def test_errors_in_a_stream_name_the_request(gateway, upstream):
    upstream.script(*sse_response([chunk({"content": "a"}), event({"error": {"message": "no"}})]))
    head, body = await gateway.message(x_request_id="trace-9")
    assert head.headers["request-id"] == "trace-9"
    assert body.endswith(
        b'data: {"type":"error","error":{"type":"api_error","message":"no"},"request_id":"trace-9"}\n\n'
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_s_id_never_comes_again(gateway, upstream, stream):
    """Some hosts count Kimi's calls from 0 in each answer; Claude Code drops the second `functions.LS:0`."""
    called = {"id": "functions.LS:0", "index": 0, "type": "function", "function": {"name": "LS", "arguments": "{}"}}
    delta = {"role": "assistant", "content": None, "tool_calls": [called]}
    if stream:
        upstream.script(*sse_response([chunk(delta), chunk({}, "tool_calls"), DONE]))
    else:
        upstream.script(json_response({"choices": [{"message": delta, "finish_reason": "tool_calls"}]}))
    use = {"type": "tool_use", "id": "functions.LS:0", "name": "LS", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "functions.LS:0", "content": "a.txt"}
    conversation = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    _, body = await gateway.message({"messages": conversation}, stream=stream)
    (start,) = gateway.started
    assert f'"toolu_{start.id}_0"'.encode() in body
    assert b"functions.LS:0" not in body
    (asked,) = upstream.requests
    assert asked.json["messages"][1]["tool_call_id"] == "functions.LS:0"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_long_name_of_a_tool_is_told_short(gateway, upstream, stream):
    name = "mcp__plugin_" + "x" * 64 + "__search"

    async def answer(request, connection):
        call = {"id": "c", "index": 0, "function": {"name": request.json["tools"][0]["function"]["name"]}}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
        steps = [json_response({"choices": [{"message": delta, "finish_reason": "tool_calls"}]})]
        for step in sse_response([chunk(delta), chunk({}, "tool_calls"), DONE]) if stream else steps:
            await connection.send(step)

    upstream.script(answer)
    use = {"type": "tool_use", "id": "c0", "name": name, "input": {}}
    body = {
        "messages": [{"role": "assistant", "content": [use]}, {"role": "user", "content": "go on"}],
        "tools": [{"name": name, "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": name},
    }
    head, told = await gateway.message(body, stream=stream)
    assert head.status == 200
    assert f'"name":"{name}"'.encode() in told
    (asked,) = upstream.requests
    short = asked.json["tool_choice"]["function"]["name"]
    assert len(short) == 64
    assert asked.json["tools"][0]["function"]["name"] == short
    assert asked.json["messages"][0]["tool_calls"][0]["function"]["name"] == short


async def test_half_a_character_is_asked_as_none(gateway, native, upstream):
    body = b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"cut \\ud83d"}]}'
    for asking, answer, path in (
        (gateway, COMPLETION, MESSAGES),
        (gateway, COMPLETION, CHAT),
        (native, MESSAGE, MESSAGES),
        (native, MESSAGE, f"{MESSAGES}/count_tokens"),
    ):
        upstream.script(json_response(answer))
        client = await asking.connect()
        await client.request("POST", path, body)
        head, _ = await client.answer()
        assert head.status == 200
    assert [request.json["messages"][0]["content"] for request in upstream.requests] == ["cut \ufffd"] * 3


async def test_answers_of_the_other_dialect_have_one_request_id(gateway, upstream):
    upstream.script(json_response(COMPLETION))
    head, _ = await gateway.chat(stream=False)
    assert "request-id" not in head.headers


async def test_query_and_headers_reach_an_upstream_of_the_same_dialect(native, upstream):
    upstream.script(json_response(MESSAGE))
    client = await native.connect()
    request = message_bytes(stream=False, path=f"{MESSAGES}?beta=true&a=%C3%A4", anthropic_version="2026-10-21")
    betas = b"anthropic-beta: one,two\r\nAnthropic-Beta: three\r\nx-stainless-os: Linux\r\n"
    await client.send(request.replace(b"\r\n", b"\r\n" + betas, 1))
    head, body = await client.answer()
    assert (head.status, json.loads(body)) == (200, MESSAGE)
    (asked,) = upstream.requests
    assert asked.path == "/v1/messages?beta=true&a=%C3%A4"
    assert asked.headers["anthropic-version"] == "2026-10-21"
    assert asked.headers["anthropic-beta"] == "one,two,three"
    assert "x-stainless-os" not in asked.headers


async def test_an_absent_version_is_filled_in(native, upstream):
    upstream.script(json_response(MESSAGE))
    await native.message(stream=False)
    assert upstream.requests[0].headers["anthropic-version"] == "2023-06-01"
    assert "anthropic-beta" not in upstream.requests[0].headers


async def test_our_key_stays_here_and_theirs_is_sent(upstream):
    config = make_config(upstream, provider={"dialect": "anthropic"})
    async with serve_gateway(config, {"one": "sk-up"}) as gateway:
        upstream.script(json_response(MESSAGE))
        await gateway.message(stream=False, authorization="Bearer mine", x_api_key="mine")
        assert upstream.requests[0].headers["x-api-key"] == "sk-up"
        assert b"mine" not in upstream.requests[0].raw_head


async def test_an_error_of_the_same_dialect_passes_to_the_letter(native, upstream):
    body = b'{ "type":"error", "error":{"type":"overloaded_error","message":"Overloaded"}, "request_id":"req_theirs"}'
    upstream.default = [whole(529, body, {"content-type": "application/json", "retry-after": "0"})]
    head, told = await native.message()
    assert (head.status, told) == (529, body)
    assert head.headers["retry-after"] == "0"


async def test_names_of_models(upstream):
    models = (
        Model(name="claude-*", provider="one", model="kimi-k2"),
        Model(name="claude-*haiku*", provider="one", model="small"),
        Model(name="claude-kimi", provider="one", model="kimi-k3"),
        Model(name="default", provider="one"),
    )
    async with serve_gateway(make_config(upstream, models=models)) as gateway:
        for asked, meant in (
            ("claude-opus-9", "kimi-k2"),
            ("claude-9-haiku-2", "small"),
            ("claude-kimi", "kimi-k3"),
            ("one/any/thing", "any/thing"),
            ("else", "else"),
        ):
            upstream.script(json_response(COMPLETION))
            head, body = await gateway.message({"model": asked}, stream=False)
            assert (head.status, json.loads(body)["model"]) == (200, asked)
            assert upstream.requests[-1].json["model"] == meant


@pytest.mark.parametrize(
    ("headers", "body", "session", "groups_only"),
    [
        ({}, {}, None, False),
        ({"x_session_id": "mine"}, {"session_id": "other"}, "mine", False),
        ({}, {"session_id": "mine"}, "mine", False),
        ({"x_claude_code_session_id": CLAUDE_CODE}, {}, CLAUDE_CODE, True),
        ({"x_claude_code_session_id": CLAUDE_CODE}, {"session_id": "mine"}, "mine", False),
        ({"x_claude_code_session_id": CLAUDE_CODE, "x_session_id": "mine"}, {}, "mine", False),
        ({}, {"metadata": {"user_id": json.dumps({"session_id": CLAUDE_CODE})}}, CLAUDE_CODE, True),
        ({}, {"metadata": {"user_id": OLD_USER_ID}}, CLAUDE_CODE, True),
        ({}, {"metadata": {"user_id": "somebody"}}, None, False),
        ({"x_session_id": "x" * 256}, {}, "x" * 256, False),
        ({"x_session_id": "x" * 999}, {}, session_name("x" * 999), False),
    ],
)
async def test_sessions(gateway, upstream, headers, body, session, groups_only):
    upstream.script(json_response(COMPLETION))
    await gateway.message(body, stream=False, **headers)
    start = (await gateway.wait_record()).start
    assert (start.session, start.groups_only) == (session, groups_only)


async def test_a_session_of_claude_code_means_nothing_in_the_other_dialect(gateway, upstream):
    upstream.script(json_response(COMPLETION))
    await gateway.chat(stream=False, x_claude_code_session_id=CLAUDE_CODE)
    start = (await gateway.wait_record()).start
    assert (start.session, start.groups_only) == (None, False)


async def test_a_chat_completion_by_a_provider_of_the_other_dialect(native, upstream):
    upstream.script(json_response(MESSAGE))
    client = await native.connect()
    await client.request("POST", f"{CHAT}?beta=true", b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
    head, body = await client.answer()
    assert (head.status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "Hi.")
    assert upstream.requests[0].path == "/v1/messages"
    assert upstream.requests[0].json["model"] == "m"
