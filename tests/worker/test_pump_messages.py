"""The pump with an Anthropic client: translated, passed on, and from one kind of provider to the other."""

import base64
import json

import pytest
import trio
from fakes.gateway import serve_gateway
from fakes.grammar import anthropic_faults
from fakes.upstream import (
    COMPLETION,
    HANG,
    LAST_CHUNK,
    RESET,
    chunk,
    head,
    json_response,
    openai_chunk,
    openai_stream,
    serve_upstream,
    sse_response,
    whole,
)

from shared.config import Config, Model, Provider, Streaming
from shared.records import Tokens
from worker.streaming import asking

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
USER = [{"role": "user", "content": "say hello"}]


@pytest.fixture
async def anthropic():
    async with serve_upstream() as upstream:
        yield upstream


@pytest.fixture
def config(upstream, anthropic):
    quick = {"backoff_base": 0.0, "max_backoff": 0.0, "max_retries": 0}
    providers = {
        "one": Provider(name="one", base_url=upstream.base_url, **quick),
        "two": Provider(name="two", base_url=anthropic.base_url, dialect="anthropic", **quick),
        "three": Provider(name="three", base_url=anthropic.base_url, dialect="anthropic", normalise=("model",)),
        "four": Provider(name="four", base_url=upstream.base_url, normalise=("model",)),
    }
    models = (
        Model(name="m", provider="one"),
        Model(name="native", provider="two", model="claude-x"),
        Model(name="named", provider="three", model="claude-x"),
        Model(name="named-too", provider="four", model="x"),
        Model(name="both", provider="one", fallbacks=("two/claude-x",)),
    )
    return Config(providers=providers, models=models, streaming=Streaming(ping_interval=0.05))


@pytest.fixture
async def gateway(config):
    async with serve_gateway(config) as gateway:
        yield gateway


async def ask(gateway, path="/v1/messages", headers=None, **body):
    """Send a request for a message; the client, whose answer is still to be read."""
    client = await gateway.connect()
    value = {"model": "m", "max_tokens": 100, "messages": USER, "stream": True, **body}
    await client.request("POST", path, json.dumps(value).encode(), **(headers or {}))
    return client


async def answer(gateway, path="/v1/messages", headers=None, **body):
    return await (await ask(gateway, path, headers, **body)).answer()


def events(body):
    """The JSON of each event; the grammar is checked."""
    assert anthropic_faults(body) == []
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


def text(body):
    return "".join(event["delta"].get("text", "") for event in events(body) if event["type"] == "content_block_delta")


def message_events(*words):
    """An Anthropic stream, as bytes."""
    usage = {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": []}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    found = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in found]


async def test_a_translated_stream(gateway, upstream):
    upstream.script(*openai_stream("hello", " world", usage=(7, 2)))
    head, body = await answer(gateway, path="/v1/messages?beta=true", headers={"x_request_id": "t1"})
    assert head.status == 200
    assert head.headers["content-type"] == "text/event-stream"
    assert text(body) == "hello world"
    delta = events(body)[-2]
    assert delta["delta"]["stop_reason"] == "end_turn"
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (7, 2)
    [request] = upstream.requests
    assert (request.path, request.json["model"]) == ("/v1/chat/completions", "m")
    assert request.json["stream_options"] == {"include_usage": True}
    record = await gateway.wait_record()
    assert (record.status, record.start.dialect, record.provider) == ("completed", "anthropic", "one")
    assert (record.prompt, record.completion) == (Tokens(7, "provider"), Tokens(2, "provider"))
    assert record.counted_completion == 2


async def test_a_translated_answer(gateway, upstream):
    head, body = await answer(gateway, stream=False)
    assert head.status == 200
    message = json.loads(body)
    assert message["content"] == [{"type": "text", "text": "hello"}]
    assert (message["role"], message["stop_reason"], message["model"]) == ("assistant", "end_turn", "m")
    record = await gateway.wait_record()
    assert (record.prompt, record.completion) == (Tokens(5, "provider"), Tokens(1, "provider"))


async def test_the_bytes_of_an_anthropic_upstream(gateway, anthropic):
    sent = message_events("hello", " world")
    anthropic.script(*sse_response(sent))
    headers = {"anthropic_version": "2023-06-01", "anthropic_beta": "a-1,b-2"}
    _, body = await answer(gateway, "/v1/messages?beta=true", headers, model="native", novel={"of": ["tomorrow"]})
    assert body == b"".join(sent)
    [request] = anthropic.requests
    assert request.path == "/v1/messages?beta=true"
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert request.headers["anthropic-beta"] == "a-1,b-2"
    assert request.json["model"] == "claude-x"
    assert request.json["novel"] == {"of": ["tomorrow"]}
    record = await gateway.wait_record()
    assert (record.prompt, record.completion) == (Tokens(8, "provider"), Tokens(2, "provider"))


async def test_the_model_s_name_in_bytes_that_pass(gateway, upstream, anthropic):
    start, *more = message_events("hello", " world")
    anthropic.script(*sse_response([start, *more]))
    _, body = await answer(gateway, model="named")
    named, rest = body[: -len(b"".join(more))], body[-len(b"".join(more)) :]
    assert rest == b"".join(more)
    [begun] = [json.loads(line[6:]) for line in named.split(b"\n") if line.startswith(b"data: ")]
    [sent] = [json.loads(line[6:]) for line in start.split(b"\n") if line.startswith(b"data: ")]
    assert begun == {**sent, "message": {**sent["message"], "model": "named"}}
    assert anthropic.requests[0].json["model"] == "claude-x"
    message = {"type": "message", "model": "claude-x", "content": [{"type": "text", "text": "hi"}]}
    anthropic.script(json_response(message))
    _, body = await answer(gateway, model="named", stream=False)
    assert json.loads(body) == {**message, "model": "named"}
    upstream.script(*openai_stream("hello", usage=(7, 1)))
    _, body = await gateway.chat({"model": "named-too", "stream_options": {"include_usage": True}})
    chunks = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    assert len(chunks) == 4
    assert {chunk["model"] for chunk in chunks} == {"named-too"}
    _, body = await gateway.chat({"model": "named-too"}, stream=False)
    assert json.loads(body) == {**COMPLETION, "model": "named-too"}


async def test_an_openai_client_of_an_anthropic_upstream(gateway, anthropic):
    anthropic.script(*sse_response(message_events("hello", " world")))
    head, body = await gateway.chat({"model": "native", "stream_options": {"include_usage": True}})
    assert head.status == 200
    chunks = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks[:-1]) == "hello world"
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert body.endswith(b"data: [DONE]\n\n")
    assert anthropic.requests[0].headers["anthropic-version"] == "2023-06-01"


@pytest.mark.parametrize(
    ("steps", "status", "type"),
    [
        (json_response({"error": {"message": "slow"}}, 429, {"retry-after": "7"}), 429, "rate_limit_error"),
        (json_response({"error": {"message": "no credit"}}, 402), 402, "billing_error"),
        (whole(502, b"<html>", {"content-type": "text/html"}), 502, "api_error"),
        (json_response({"error": {"message": "busy"}}, 529), 529, "overloaded_error"),
    ],
)
async def test_errors_are_translated(gateway, upstream, steps, status, type):
    upstream.default = [steps]
    head, body = await answer(gateway, headers={"x_request_id": "t1"})
    assert head.status == status
    error = json.loads(body)
    assert (error["type"], error["error"]["type"]) == ("error", type)
    assert head.headers["request-id"] == head.headers["x-request-id"] == "t1"
    assert head.headers.get("retry-after") == ("7" if status == 429 else None)


def anthropic_error(type):
    return f'event: error\ndata: {{"type": "error", "error": {{"type": "{type}", "message": "no"}}}}\n\n'


@pytest.mark.parametrize(
    ("code", "status", "type"),
    [
        ('"context_length_exceeded", "type": "invalid_request_error"', 400, "invalid_request_error"),
        ("429", 429, "rate_limit_error"),
        ("503", 503, "api_error"),
        ('"odd"', 502, "api_error"),
    ],
)
async def test_an_openai_upstreams_streamed_error_is_a_response(gateway, upstream, code, status, type):
    upstream.default = sse_response([f'data: {{"error": {{"message": "the reason", "code": {code}}}}}\n\n'])
    head, body = await answer(gateway, headers={"x_request_id": "t1"})
    assert (head.status, head.headers["content-type"]) == (status, "application/json")
    told = json.loads(body)
    assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", type, "t1")
    said = "prompt is too long; the upstream said: the reason" if status == 400 else "the reason"
    assert told["error"]["message"] == said
    record = await gateway.wait_record()
    assert (record.status, record.error_type, record.http_status) == ("failed", "UpstreamError", status)


@pytest.mark.parametrize(
    ("told", "status", "openai_s"),
    [
        ("overloaded_error", 529, "overloaded_error"),
        ("authentication_error", 401, "authentication_error"),
        ("api_error", 502, "upstream_error"),
    ],
)
async def test_an_anthropic_upstreams_streamed_error_is_a_response(gateway, anthropic, told, status, openai_s):
    anthropic.default = sse_response([anthropic_error(told)])
    head, body = await answer(gateway, model="native")
    assert head.status == status
    assert json.loads(body) == {"type": "error", "error": {"type": told, "message": "no"}}
    head, body = await gateway.chat({"model": "native"})
    assert head.status == status
    error = json.loads(body)["error"]
    assert (error["type"], error["message"]) == (openai_s, "no")


@pytest.mark.parametrize("ask_as", ["anthropic", "openai"])
@pytest.mark.parametrize("writes", ["one", "two"])
async def test_an_error_behind_the_start_of_a_message_is_an_event(gateway, anthropic, ask_as, writes):
    start, error = message_events()[0].decode(), anthropic_error("rate_limit_error")
    anthropic.default = sse_response([start + error] if writes == "one" else [start, error])
    if ask_as == "anthropic":
        head, body = await answer(gateway, model="native")
        assert body == (start + error).encode()
    else:
        head, body = await gateway.chat({"model": "native"})
        assert b"[DONE]" not in body
        assert b'"rate_limit_error"' in body
    assert head.status == 200
    assert len(anthropic.requests) == 1


async def test_a_break_ends_with_one_error(gateway, upstream):
    hello = chunk(openai_chunk({"content": "hello"}))
    go_on = trio.Event()
    upstream.script(SSE, hello, go_on, RESET)
    client = await ask(gateway)
    await client.head()
    data = await client.until(b"hello")
    go_on.set()
    data += await client.body()
    assert [event["type"] for event in events(data)][-1] == "error"
    assert (await gateway.wait_record()).completion == Tokens(1, "partial")


async def test_pings_are_events_of_the_dialect(gateway, upstream):
    upstream.script(SSE, HANG)
    client = await ask(gateway)
    assert (await client.head()).status == 200
    assert await client.piece() == PING
    client.close()
    assert (await gateway.wait_record()).error_type == "client_disconnect"


async def test_from_one_kind_of_provider_to_the_other(gateway, upstream, anthropic):
    upstream.default = [whole(401, b"{}")]
    anthropic.default = sse_response(message_events("hello"))
    _, body = await answer(gateway, model="both")
    assert body == b"".join(message_events("hello"))
    assert anthropic.requests[0].json["model"] == "claude-x"
    record = await gateway.wait_record()
    assert (record.provider, record.upstream_model, record.retries) == ("two", "claude-x", 1)


async def test_what_one_provider_can_not_be_asked_another_may(gateway, upstream, anthropic):
    search = {"type": "web_search_20250305", "name": "web_search"}
    forced = {"tools": [search], "tool_choice": {"type": "tool", "name": "web_search"}}
    anthropic.default = sse_response(message_events("found"))
    head, _ = await answer(gateway, model="both", **forced)
    assert head.status == 200
    assert upstream.requests == []
    head, body = await answer(gateway, **forced)
    assert head.status == 400
    assert head.headers["x-should-retry"] == "false"
    assert "web_search" in json.loads(body)["error"]["message"]
    record = await gateway.wait_record(2)
    assert (record.error_type, record.prompt) == ("UntranslatableRequest", None)


async def test_a_body_that_makes_no_sense_is_refused_in_the_dialect(gateway, upstream):
    head, body = await answer(gateway, messages=[{"role": "user", "content": [{"type": "hologram"}]}])
    assert head.status == 400
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error"
    assert "messages[0].content[0]" in error["message"]
    assert upstream.requests == []


async def test_a_large_request_is_translated_beside_the_loop(gateway, upstream, monkeypatch):
    threads = []
    run_sync = trio.to_thread.run_sync

    async def noting(function, *args, **more):
        threads.append(function)
        return await run_sync(function, *args, **more)

    monkeypatch.setattr(trio.to_thread, "run_sync", noting)
    picture = base64.b64encode(bytes(asking.INLINE_BYTES)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": picture}
    content = [{"type": "image", "source": source}]
    head, _ = await answer(gateway, stream=False, messages=[{"role": "user", "content": content}])
    assert head.status == 200
    assert upstream.requests[0].json["messages"][0]["content"][0]["image_url"]["url"].endswith(picture)
    assert any(getattr(function, "__name__", "") == "upstream_body" for function in threads)


async def test_an_answer_that_is_not_json_is_told_as_a_broken_upstream(gateway, upstream):
    upstream.default = [json_response({**COMPLETION, "choices": []})]
    head, body = await answer(gateway, stream=False)
    assert head.status == 502
    assert json.loads(body)["error"]["type"] == "api_error"


async def test_the_end_without_an_end_is_no_end_turn(gateway, upstream):
    upstream.default = [SSE, chunk(openai_chunk({"content": "hel"})), LAST_CHUNK]
    _, body = await answer(gateway)
    found = events(body)
    assert found[-1]["type"] == "error"
    assert all(event["type"] not in ("message_delta", "message_stop") for event in found)
