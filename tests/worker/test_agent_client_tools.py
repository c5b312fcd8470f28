"""`execute_client_tools`: our tools run here, told of in a text block; all others go back to the client."""

import json

import pytest
from fakes.gateway import serve_gateway
from fakes.grammar import anthropic_faults
from fakes.run import Memory, agent_config, tool_call, tool_calls
from fakes.upstream import HANG, RESET, chunk, head, json_response, openai_chunk, openai_stream, sse_response

from shared.config import Progress, Provider

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
READ = {
    "name": "Read",
    "description": "theirs",
    "input_schema": {"type": "object"},
    "cache_control": {"type": "ephemeral"},
}
LS = {"name": "LS", "input_schema": {"type": "object"}}
FLY = {
    "name": "fly",
    "description": "Flies.",
    "input_schema": {"type": "object", "properties": {"to": {"type": "string"}}},
}
TOOLS = [READ, LS, FLY]
USER = {"role": "user", "content": "hi"}


def client_config(tmp_path, *upstreams, **agent):
    return agent_config(tmp_path, *upstreams, agent={"execute_client_tools": True, **agent})


@pytest.fixture
async def gateway(upstream, tmp_path):
    (tmp_path / "a").write_text("the file says hello\n")
    async with serve_gateway(client_config(tmp_path, upstream)) as gateway:
        gateway.answer = Memory()
        yield gateway


def events(body):
    """The JSON of each event; the grammar is checked."""
    assert anthropic_faults(body) == []
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


def blocks(body):
    """The message's blocks: the text of each, or the call."""
    found = {}
    for event in events(body):
        match event["type"]:
            case "content_block_start":
                found[event["index"]] = {**event["content_block"], "json": ""}
            case "content_block_delta":
                delta, block = event["delta"], found[event["index"]]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "input_json_delta":
                        block["json"] += delta["partial_json"]
    told = []
    for block in found.values():
        match block["type"]:
            case "text" | "thinking":
                told.append(block[block["type"]])
            case "tool_use":
                told.append((block["id"], block["name"], json.loads(block["json"])))
    return told


async def ask(gateway, *messages, tools=TOOLS, **fields):
    return await gateway.message({"messages": list(messages) or [USER], "tools": tools, **fields})


async def test_our_tools_run_here(gateway, upstream):
    upstream.script(*tool_calls(("Read", {"file_path": "a"}), ("LS", {"path": "."})))
    upstream.script(*openai_stream("It says ", "hello.", usage=(20, 2)))
    head_, body = await ask(gateway)
    assert head_.status == 200
    progress = "Executing Read, LS…\nRead (1/2)…\nLS (2/2)…\nThinking (step 2)…\n"
    assert blocks(body) == [progress, "It says hello."]
    [told] = [event for event in events(body) if event["type"] == "message_delta"]
    assert told["delta"]["stop_reason"] == "end_turn"
    assert told["usage"]["input_tokens"] == 20
    assert told["usage"]["output_tokens"] > 2
    first, second = (await upstream.wait_request(1)).json, (await upstream.wait_request(2)).json
    assert [tool["function"]["name"] for tool in first["tools"]] == ["Read", "LS", "fly"]
    assert first["tools"][0]["function"]["description"] != "theirs"
    assert first["tools"][2]["function"]["parameters"] == FLY["input_schema"]
    assert first["tools"] == second["tools"]
    assert [m["role"] for m in second["messages"]] == ["user", "assistant", "tool", "tool"]
    assert "the file says hello" in second["messages"][2]["content"]
    record = await gateway.wait_record()
    assert (record.status, record.start.dialect, len(gateway.records)) == ("completed", "anthropic", 1)


async def test_without_calls_it_is_an_answer_as_ever(gateway, upstream):
    upstream.script(*openai_stream("hello"))
    _, body = await ask(gateway)
    assert blocks(body) == ["hello"]


async def test_what_is_said_before_a_call_stands_before_it(gateway, upstream):
    upstream.script(*tool_calls(("LS", {"path": "."}), text="Let me look."))
    upstream.script(*openai_stream("done"))
    _, body = await ask(gateway)
    assert blocks(body) == ["Let me look.", "Executing LS…\nLS (1/1)…\nThinking (step 2)…\n", "done"]


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(thinking="", executing="", tool=""), None),
        (Progress(thinking="", executing="Now {tools}", tool=""), "Now LS\n"),
        (Progress(thinking="({step})", executing="{nothing}", tool="{tool}"), "{nothing}\nLS\n(2)\n"),
    ],
)
async def test_wordings(upstream, tmp_path, progress, text):
    async with serve_gateway(client_config(tmp_path, upstream, progress=progress)) as gateway:
        upstream.script(*tool_call("LS", path="."))
        upstream.script(*openai_stream("done"))
        _, body = await ask(gateway)
        assert blocks(body) == ([text, "done"] if text else ["done"])


async def test_in_one_body(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("done", usage=(9, 1)))
    client = await gateway.connect()
    await client.ask_message({"messages": [USER], "tools": TOOLS}, stream=False)
    head_, body = await client.answer()
    answer = json.loads(body)
    assert (head_.status, answer["type"], answer["stop_reason"]) == (200, "message", "end_turn")
    assert [block["text"] for block in answer["content"]] == ["Executing LS…\nLS (1/1)…\nThinking (step 2)…\n", "done"]
    assert answer["usage"]["input_tokens"] == 9


async def test_other_tools_go_back(gateway, upstream):
    upstream.script(*tool_call("fly", to="Oslo"))
    _, body = await ask(gateway)
    assert blocks(body) == [("call_0", "fly", {"to": "Oslo"})]
    assert events(body)[-2]["delta"]["stop_reason"] == "tool_use"
    assert len(upstream.requests) == 1


async def test_a_call_that_is_no_json_is_an_error(gateway, upstream):
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "fly", "arguments": '{"to": '}}
    events_ = [openai_chunk({"tool_calls": [call]}), openai_chunk({}, "tool_calls"), "data: [DONE]\n\n"]
    upstream.script(*sse_response(events_))
    _, body = await ask(gateway)
    assert b"event: error" in body
    assert (await gateway.wait_record()).error_type == "DialectError"


async def test_a_client_goes_on_from_turns_that_it_has_not_seen(gateway, upstream):
    upstream.script(*tool_call("Read", file_path="a"))
    upstream.script(*tool_calls(("LS", {"path": "."}), ("fly", {"to": "Oslo"}), text="Now I fly."))
    _, body = await ask(gateway)
    *said, (id, name, arguments) = blocks(body)
    assert (name, arguments) == ("fly", {"to": "Oslo"})
    assert said[1] == "Now I fly."
    record = await gateway.wait_record()
    assert record.status == "completed"
    call = {"type": "tool_use", "id": id, "name": name, "input": arguments}
    content = [*({"type": "text", "text": text} for text in said), call]
    landed = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "landed"}]}
    upstream.script(*openai_stream("I am in Oslo"))
    await ask(gateway, USER, {"role": "assistant", "content": content}, landed)
    asked = (await upstream.wait_request(3)).json["messages"]
    assert [m["role"] for m in asked] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert "the file says hello" in asked[2]["content"]
    assert asked[3]["content"] == "Now I fly."
    ids = [called["id"] for called in asked[3]["tool_calls"]]
    assert [m["tool_call_id"] for m in asked[4:]] == ids
    assert asked[5]["content"] == "landed"
    gateway.answer = Memory()  # it has forgotten
    upstream.script(*openai_stream("I am in Oslo"))
    await ask(gateway, USER, {"role": "assistant", "content": content}, landed)
    asked = (await upstream.wait_request(4)).json["messages"]
    assert [m["role"] for m in asked] == ["user", "assistant", "tool"]


async def test_an_unseen_turn_too_long_is_not_kept(upstream, tmp_path):
    config = client_config(tmp_path, upstream, max_conversation_bytes=100)
    async with serve_gateway(config) as gateway:
        gateway.answer = memory = Memory()
        upstream.script(*tool_call("LS", path="."))
        upstream.script(*tool_call("fly", to="Oslo"))
        _, body = await ask(gateway)
        assert blocks(body)[-1][1] == "fly"
        assert memory.kept == {}


async def test_a_forced_tool_is_forced_once(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("done"))
    await ask(gateway, tool_choice={"type": "tool", "name": "LS"})
    assert "tool_choice" in (await upstream.wait_request(1)).json
    assert "tool_choice" not in (await upstream.wait_request(2)).json


@pytest.mark.parametrize("chars", [10, 100_000])
async def test_a_long_request_is_read_too(gateway, upstream, chars):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("done"))
    _, body = await ask(gateway, messages=[{"role": "user", "content": "x" * chars}])
    assert blocks(body)[-1] == "done"
    assert (await upstream.wait_request(2)).json["messages"][0]["content"] == "x" * chars


@pytest.mark.parametrize("tools", [[], [FLY]])
async def test_requests_without_our_tools_pass_as_ever(gateway, upstream, tools):
    upstream.script(*openai_stream("hello"))
    _, body = await ask(gateway, tools=tools)
    assert blocks(body) == ["hello"]
    assert (await upstream.wait_request()).json.get("tools", []) == [
        {"type": "function", "function": {"name": "fly", "description": "Flies.", "parameters": FLY["input_schema"]}}
    ][: len(tools)]


async def test_openai_clients_get_their_calls(gateway, upstream):
    upstream.script(*tool_call("Read", file_path="a"))
    tool = {"type": "function", "function": {"name": "Read", "parameters": {"type": "object"}}}
    _, body = await gateway.chat({"tools": [tool]})
    assert b'"name": "Read"' in body
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("agent", [{"enabled": False}, {"execute_client_tools": False}])
async def test_it_is_off_unless_it_is_configured(upstream, tmp_path, agent):
    async with serve_gateway(client_config(tmp_path, upstream, **agent)) as gateway:
        upstream.script(*tool_call("Read", file_path="a"))
        _, body = await ask(gateway)
        assert blocks(body) == [("call_0", "Read", {"file_path": "a"})]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_has_its_status(gateway, upstream, stream):
    upstream.script(json_response({"error": {"message": "too much", "type": "x"}}, 429, {"retry-after": "7"}))
    client = await gateway.connect()
    await client.ask_message({"tools": TOOLS}, stream=stream)
    head_, body = await client.answer()
    assert (head_.status, head_.headers["retry-after"]) == (429, "7")
    assert json.loads(body)["error"] == {"type": "rate_limit_error", "message": "too much"}
    assert (await gateway.wait_record()).http_status == 429


async def test_a_failure_in_a_later_turn_is_an_error_event(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(SSE, chunk(openai_chunk({"content": "half"})), RESET)
    _, body = await ask(gateway)
    assert events(body)[-1]["type"] == "error"
    assert (await gateway.wait_record()).status == "failed"


async def test_too_many_turns_are_told_in_words(upstream, tmp_path):
    async with serve_gateway(client_config(tmp_path, upstream, max_iterations=1)) as gateway:
        upstream.script(*tool_call("LS", path="."))
        _, body = await ask(gateway)
        assert "stopped after 1 turns" in blocks(body)[-1]
        assert events(body)[-1]["type"] == "message_stop"
        assert (await gateway.wait_record()).error_type == "MaxIterations"


@pytest.mark.parametrize(
    ("script", "status"), [((HANG,), 503), ((SSE, chunk(openai_chunk({"content": "x"})), HANG), 200)]
)
async def test_a_cancel(gateway, upstream, script, status):
    upstream.script(*script)
    client = await gateway.connect()
    await client.ask_message({"tools": TOOLS})
    if status == 200:
        await client.head()
        await client.until(b"text_delta")
    await upstream.wait_request()
    gateway.gateway.sessions.cancel((await gateway.wait_started()).id, "admin")
    if status == 200:
        assert b"event: error" in await client.body()
    else:
        assert (await client.head()).status == 503
    assert (await gateway.wait_record()).error_type == "admin"
    await upstream.wait_open(0)


@pytest.mark.parametrize(("stream", "status"), [(False, 504), (True, 504)])
async def test_a_run_s_time(upstream, tmp_path, stream, status):
    async with serve_gateway(client_config(tmp_path, upstream, response_timeout=0.1)) as gateway:
        upstream.script(HANG)
        client = await gateway.connect()
        await client.ask_message({"tools": TOOLS}, stream=stream)
        head_, body = await client.answer()
        assert head_.status == status
        assert "response_timeout" in json.loads(body)["error"]["message"]


async def test_an_anthropic_provider_gets_the_client_s_headers(upstream, tmp_path):
    config = client_config(tmp_path, upstream)
    config.providers["two"] = Provider(name="two", base_url=upstream.base_url, dialect="anthropic")
    async with serve_gateway(config) as gateway:
        started = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
        call = {"type": "tool_use", "id": "toolu_1", "name": "LS", "input": {}}
        usage = {"input_tokens": 5, "output_tokens": 1}
        told = [
            {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "usage": usage}},
            started,
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": call},
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ]
        upstream.script(*sse_response(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in told))
        upstream.script(HANG)
        client = await gateway.connect()
        await client.ask_message({"model": "two/claude-x", "tools": TOOLS}, anthropic_beta="new-1")
        asked = await upstream.wait_request(2)
        assert asked.headers["anthropic-beta"] == "new-1"
        thought, called = asked.json["messages"][1]["content"]
        assert thought == {"type": "thinking", "thinking": "hm", "signature": "sig"}
        assert called["id"] == asked.json["messages"][2]["content"][0]["tool_use_id"] == "toolu_1"
        assert asked.json["tools"][0]["cache_control"] == {"type": "ephemeral"}
