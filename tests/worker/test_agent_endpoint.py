"""`POST /api/stream/message`: what it takes, what it refuses, and that its answer is a stream like any other."""

import json

import pytest
import trio
from fakes.gateway import make_config, serve_gateway
from fakes.run import PATH, Memory, agent_config, events_in, message, payloads, run, text_of, tool_call, tool_calls
from fakes.upstream import HANG, chunk, head, openai_chunk, openai_stream

from shared.config import Auth, Cors
from worker.streaming.downstream import STREAM_HEADERS

JSON = {"content_type": "application/json"}
HELLO = [
    {"type": "status", "status": "thinking"},
    {"type": "delta", "content": "Hello "},
    {"type": "delta", "content": "there."},
    {"type": "done"},
]


@pytest.fixture
async def gateway(upstream, tmp_path):
    async with serve_gateway(agent_config(tmp_path, upstream)) as gateway:
        gateway.answer = Memory()
        yield gateway


async def post(gateway, body, path=PATH, **headers):
    client = await gateway.connect()
    await client.request("POST", path, body, **headers)
    return await client.answer()


async def test_a_run_without_tools(gateway, upstream):
    upstream.script(*openai_stream("Hello ", "there."))
    head_, body = await post(gateway, message("hi"), **JSON)
    assert head_.status == 200
    assert events_in(body) == HELLO
    wanted = {name.decode(): value.decode() for name, value in STREAM_HEADERS}
    assert {name: head_.headers[name] for name in wanted} == wanted
    assert head_.headers["connection"] == "keep-alive"
    assert head_.headers["x-request-id"]
    record = await gateway.wait_record()
    assert (record.status, record.start.model, record.start.streaming) == ("completed", "m", True)
    asked = (await upstream.wait_request()).json
    assert asked["messages"][-1] == {"role": "user", "content": "hi"}
    assert "Read" in [tool["function"]["name"] for tool in asked["tools"]]


async def test_a_run_with_a_tool(gateway, upstream, tmp_path):
    (tmp_path / "a").write_text("the file says hello\n")
    upstream.script(*tool_calls(("Read", {"file_path": "a"}), text="Let me look."))
    upstream.script(*openai_stream("It says ", "hello."))
    events = await run(gateway, "What does a say?")
    [took] = [event.pop("ms") for event in events if event.get("state") == "end"]
    assert took >= 0
    assert events == [
        {"type": "status", "status": "thinking"},
        {"type": "delta", "content": "Let me look."},
        {"type": "status", "status": "executing", "tools": ["Read"]},
        {"type": "tool", "name": "Read", "state": "start", "index": 1, "of": 1, "ms": None},
        {"type": "tool", "name": "Read", "state": "end", "index": 1, "of": 1},
        {"type": "status", "status": "thinking"},
        {"type": "delta", "content": "It says "},
        {"type": "delta", "content": "hello."},
        {"type": "done"},
    ]
    second = (await upstream.wait_request(2)).json
    assert "the file says hello" in json.dumps(second["messages"][-1])


@pytest.mark.parametrize("format", ["token", "t"])
async def test_tokens(gateway, upstream, format):
    upstream.script(*openai_stream("Hello ", "there."))
    _, body = await post(gateway, message("hi"), f"{PATH}?format={format}")
    assert body.startswith(b": ")
    assert [json.loads(payload) for payload in payloads(body)] == [
        {format: "Hello "},
        {format: "there."},
        {format: "", "type": "done"},
    ]


async def test_chat_completion_chunks(gateway, upstream):
    upstream.script(*tool_call("LS", path="."))
    upstream.script(*openai_stream("Hello ", "there."))
    _, body = await post(gateway, message("hi"), f"{PATH}?format=openai")
    *chunks, last = payloads(body)
    assert last == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [choice["delta"].get("content") for choice in choices] == ["", "Hello ", "there.", None]
    assert choices[-1]["finish_reason"] == "stop"
    assert b"tool_calls" not in body


@pytest.mark.parametrize("format", ["json", "openai", "token", "t"])
async def test_the_first_word_comes_before_the_model_s(gateway, upstream, format):
    upstream.script(HANG)
    client = await gateway.connect()
    await client.request("POST", f"{PATH}?format={format}", message("hi"))
    assert (await client.head()).status == 200
    assert await client.piece()
    client.close()
    record = await gateway.wait_record()
    assert (record.status, record.error_type) == ("cancelled", "client_disconnect")


async def test_deltas_come_as_the_model_says_them(gateway, upstream):
    more = trio.Event()
    upstream.script(
        head(200, {"content-type": "text/event-stream"}, chunked=True),
        chunk(openai_chunk({"content": "early"})),
        more,
        *openai_stream("late")[1:],
    )
    client = await gateway.connect()
    await client.request("POST", PATH, message("hi"))
    await client.head()
    await client.until(b"early")
    more.set()
    assert text_of(events_in(await client.body())) == "late"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"hello", None),
        (b"[]", None),
        (b"{}", "message"),
        (b'{"message": 7}', "message"),
        (b'{"message": "  "}', "message"),
        (b'{"message": "hi", "session_id": 7}', "session_id"),
        (b'{"message": "hi", "model": ["m"]}', "model"),
        (json.dumps({"message": "hi", "model": "m" * 600}).encode(), "model"),
    ],
)
async def test_a_bad_body_is_named(gateway, body, param):
    head_, answer = await post(gateway, body, **JSON)
    error = json.loads(answer)["error"]
    assert (head_.status, error["param"]) == (400, param)
    assert param is None or param in error["message"]
    assert head_.headers["x-should-retry"] == "false"


async def test_other_refusals(gateway):
    head_, answer = await post(gateway, message("hi"), f"{PATH}?format=xml")
    assert (head_.status, json.loads(answer)["error"]["param"]) == (400, "format")
    assert "json, openai, token, t" in json.loads(answer)["error"]["message"]
    head_, answer = await post(gateway, message("hi", model="nobody/nothing"))
    assert (head_.status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
    head_, _ = await (await gateway.connect()).get(PATH)
    assert (head_.status, head_.headers["allow"]) == (405, "POST")


async def test_health_tells_that_it_is_on(gateway):
    _, body = await (await gateway.connect()).get("/health")
    assert "agent" in json.loads(body)["features"]


async def test_it_is_off_unless_it_is_configured(upstream):
    async with serve_gateway(make_config(upstream)) as gateway:
        _, body = await (await gateway.connect()).get("/health")
        assert "agent" not in json.loads(body)["features"]
        head_, answer = await post(gateway, message("hi"))
        error = json.loads(answer)["error"]
        assert (head_.status, error["code"]) == (404, "agent_disabled")
        assert "[agent] enabled = true" in error["message"]


@pytest.mark.parametrize(("header", "body"), [("of-header", None), (None, "of-body"), ("of-header", "of-body")])
async def test_sessions(gateway, upstream, header, body):
    upstream.script(*openai_stream("Hello."))
    fields = {"session_id": body} if body else {}
    await post(gateway, message("hi", **fields), **({"x_session_id": header} if header else {}))
    assert (await gateway.wait_record()).start.session == (header or body)


async def test_the_model_of_the_request_goes_before_the_configured_one(gateway, upstream):
    upstream.script(*openai_stream("Hello."))
    await run(gateway, "hi", model="one/special")
    assert (await upstream.wait_request()).json["model"] == "special"
    assert (await gateway.wait_record()).start.model == "one/special"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.example", 403), ("null", 403), ("http://localhost", 200), ("http://page.example", 200), (None, 200)],
)
async def test_pages_of_elsewhere_may_not_ask(upstream, tmp_path, origin, status):
    config = agent_config(tmp_path, upstream, cors=Cors(origins=("http://page.example",)))
    async with serve_gateway(config) as gateway:
        upstream.script(*openai_stream("Hello."))
        headers = {"origin": origin} if origin else {}
        head_, body = await post(gateway, message("hi"), content_type="text/plain", **headers)
        assert head_.status == status, body
        if status == 403:
            assert json.loads(body)["error"]["code"] == "bad_origin"
            assert not gateway.started


@pytest.mark.parametrize(("tool", "status"), [("Bash", 403), ("theirs", 200)])
async def test_pages_of_elsewhere_may_not_have_tools_run_by_v1_messages(upstream, tmp_path, tool, status):
    async with serve_gateway(agent_config(tmp_path, upstream, agent={"execute_client_tools": True})) as gateway:
        upstream.script(*openai_stream("Hello."))
        client = await gateway.connect()
        value = {"tools": [{"name": tool, "input_schema": {"type": "object"}}]}
        await client.ask_message(value, origin="http://evil.example", content_type="text/plain")
        head_, _ = await client.answer()
        assert head_.status == status
        assert len(gateway.started) == (status == 200)


async def test_a_key_is_needed_where_there_are_keys(upstream, tmp_path):
    async with serve_gateway(agent_config(tmp_path, upstream, auth=Auth(keys=("secret-key",)))) as gateway:
        assert (await post(gateway, message("hi")))[0].status == 401
        upstream.script(*openai_stream("Hello ", "there."))
        _, body = await post(gateway, message("hi"), authorization="Bearer secret-key")
        assert events_in(body) == HELLO
        assert (await gateway.wait_record()).start.client


async def test_pings_are_comments(upstream, tmp_path):
    config = agent_config(tmp_path, upstream, streaming={"ping_interval": 0.05})
    async with serve_gateway(config) as gateway:
        upstream.script(HANG)
        client = await gateway.connect()
        await client.request("POST", PATH, message("hi"))
        await client.head()
        await client.until(b": ping\n\n")


async def test_a_failed_upstream_ends_the_run(gateway, upstream):
    for _ in range(5):
        upstream.script(head(400, {"content-length": "0"}))
    *_, last = await run(gateway, "hi")
    assert last["type"] == "done"
    assert "400" in last["error"]
    assert (await gateway.wait_record()).status == "failed"
