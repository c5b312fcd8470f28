import json

import pytest
import trio
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import (
    COMPLETION,
    FIN,
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

from shared.config import Model
from shared.records import Tokens

SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
DONE = "data: [DONE]\n\n"
HELLO = openai_chunk({"content": "hello world"})
STOP = openai_chunk({}, "stop")
ERROR_429 = {"error": {"message": "slow down", "type": "rate_limit_error"}}


@pytest.fixture
async def second():
    async with serve_upstream() as upstream:
        yield upstream


def events(body):
    """The JSON of each event of a well-formed SSE body, and whether `[DONE]` ends it."""
    assert body.endswith(b"\n\n")
    found = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event and not event.startswith(b":")]
    done = found[-1:] == [b"[DONE]"]
    return [json.loads(event) for event in (found[:-1] if done else found)], done


def assert_ends_with_one_error(body, type="upstream_error"):
    found, done = events(body)
    errors = [event for event in found if "error" in event]
    assert errors == found[-1:]
    assert errors[0]["error"]["type"] == type
    assert not done


# --- whole answers


async def test_a_stream(gateway, upstream):
    upstream.script(*openai_stream("hello", " world", usage=(7, 2)))
    answer, body = await gateway.chat(x_session_id="s1", x_request_id="t1")
    assert answer.status == 200
    for name, value in {
        "content-type": "text/event-stream",
        "cache-control": "no-cache, no-store, must-revalidate, max-age=0",
        "x-accel-buffering": "no",
        "pragma": "no-cache",
        "expires": "0",
        "x-content-type-options": "nosniff",
        "connection": "keep-alive",
    }.items():
        assert answer.headers[name] == value
    found, done = events(body)
    assert done
    assert [event["choices"][0]["delta"].get("content") for event in found] == ["", "hello", " world", None]
    record = await gateway.wait_record()
    assert (record.status, record.error_type, record.http_status, record.retries) == ("completed", None, 200, 0)
    assert (record.provider, record.upstream_model, record.start.model) == ("one", "m", "m")
    assert (record.start.session, record.start.trace, record.start.streaming) == ("s1", "t1", True)
    assert (record.prompt, record.completion) == (Tokens(7, "provider"), Tokens(2, "provider"))
    assert record.counted_completion == 2
    assert record.cancel_latency is None
    assert 0 < record.first_byte <= record.duration
    assert upstream.requests[0].json["stream_options"] == {"include_usage": True}


async def test_a_client_that_asks_for_usage_gets_it(gateway, upstream):
    upstream.script(*openai_stream("hello", usage=(7, 1)))
    _, body = await gateway.chat({"stream_options": {"include_usage": True}})
    assert events(body)[0][-1]["usage"]["prompt_tokens"] == 7


async def test_no_stream(gateway, upstream):
    answer, body = await gateway.chat(stream=False)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(body) == COMPLETION
    record = await gateway.wait_record()
    assert (record.status, record.http_status, record.start.streaming) == ("completed", 200, False)
    assert (record.prompt, record.completion) == (Tokens(5, "provider"), Tokens(1, "provider"))


async def test_one_upstream_write_is_sent_on_before_the_next_comes(gateway, upstream):
    steps = [trio.Event() for _ in range(3)]
    upstream.script(
        SSE,
        chunk(HELLO),
        steps[0],
        chunk(HELLO[:20]),
        steps[1],
        chunk(HELLO[20:] + STOP),
        steps[2],
        chunk(DONE),
        LAST_CHUNK,
    )
    client = await gateway.connect()
    await client.ask()
    await client.head()
    assert await client.piece() == HELLO.encode()
    steps[0].set()
    steps[1].set()
    assert await client.piece() == (HELLO + STOP).encode()
    steps[2].set()
    assert await client.piece() == DONE.encode()
    assert await client.piece() == b""


async def test_the_stream_ends_at_done_though_the_upstream_stays(gateway, upstream):
    upstream.script(SSE, chunk(HELLO + STOP + DONE), HANG)
    _, body = await gateway.chat()
    assert body == (HELLO + STOP + DONE).encode()
    assert (await gateway.wait_record()).status == "completed"
    await upstream.wait_open(0)


async def test_done_is_added(gateway, upstream):
    upstream.script(*sse_response([HELLO, STOP]))
    assert (await gateway.chat())[1] == (HELLO + STOP + DONE).encode()
    assert (await gateway.wait_record()).status == "completed"


async def test_a_client_that_half_closes_has_left(gateway, upstream):
    upstream.script(SSE, chunk(HELLO), HANG)
    client = await gateway.connect()
    await client.ask()
    await client.head()
    await client.stream.send_eof()
    assert (await gateway.wait_record()).error_type == "client_disconnect"


# --- before the first byte: again, elsewhere, or an error


async def test_5xx_then_success_is_one_record(gateway, upstream):
    upstream.script(json_response({"error": {"message": "busy"}}, 503))
    upstream.script(whole(500, b""))
    upstream.script(*openai_stream("hello"))
    answer, body = await gateway.chat()
    assert (answer.status, events(body)[1]) == (200, True)
    record = await gateway.wait_record()
    assert (record.status, record.retries) == ("completed", 2)
    assert record.completion == Tokens(1, "counted")
    assert len(upstream.requests) == 3
    assert len(gateway.started) == len(gateway.records) == 1


@pytest.mark.parametrize(
    ("steps", "error_type"),
    [
        ([FIN], "RemoteProtocolError"),
        ([RESET], "ReadError"),
        ([SSE, FIN], None),
        ([SSE, chunk(HELLO[:10]), RESET], "ReadError"),
        ([SSE, LAST_CHUNK], "IncompleteStream"),
        ([SSE, chunk(": hi"), LAST_CHUNK], "IncompleteStream"),
        ([whole(200, b"<html>", {"content-type": "text/html; charset=utf-8"})], "RemoteProtocolError"),
        ([json_response(COMPLETION)], "RemoteProtocolError"),
        ([b"garbage\r\n\r\n", FIN], "RemoteProtocolError"),
    ],
)  # fmt: skip
async def test_a_failure_before_the_first_byte_is_retried_then_502(upstream, steps, error_type):
    async with serve_gateway(make_config(upstream, provider={"max_retries": 1})) as gateway:
        upstream.script(*steps)
        upstream.script(*openai_stream("hello"))
        answer, _ = await gateway.chat()
        assert answer.status == 200
        assert (await gateway.wait_record()).retries == 1
        upstream.default = steps
        answer, body = await gateway.chat()
        assert answer.status == 502
        assert json.loads(body)["error"]["type"] == "upstream_error"
        record = await gateway.wait_record(2)
        assert (record.status, record.http_status, record.retries) == ("failed", 502, 1)
        assert error_type is None or record.error_type == error_type
        assert record.cancel_latency is None
        await gateway.wait_settled()


async def test_an_error_in_one_body_where_a_stream_was_asked_for(gateway, upstream):
    upstream.default = [json_response({"error": {"message": "slow down", "code": 429}})]
    answer, body = await gateway.chat()
    assert answer.status == 429
    assert json.loads(body)["error"]["message"] == "slow down"
    assert len(upstream.requests) == 1


async def test_nobody_listens(upstream):
    async with serve_upstream() as gone:
        config = make_config(gone, provider={"max_retries": 0})
    async with serve_gateway(config) as gateway:
        answer, body = await gateway.chat()
        assert answer.status == 502
        assert json.loads(body)["error"]["code"] == "ConnectError"
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("failed", "ConnectError")
        assert (record.prompt, record.completion, record.first_byte) == (None, None, None)


async def test_a_fallback_answers(upstream, second):
    async with serve_gateway(make_config(upstream, second, provider={"max_retries": 1})) as gateway:
        upstream.script(whole(500, b"oops"))
        upstream.script(whole(500, b"oops"))
        second.script(*openai_stream("hello"))
        answer, _ = await gateway.chat()
        assert answer.status == 200
        record = await gateway.wait_record()
        assert (record.provider, record.start.provider) == ("two", "one")
        assert (record.status, record.retries) == ("completed", 2)


async def test_a_quota_falls_back_a_bad_request_does_not(upstream, second):
    async with serve_gateway(make_config(upstream, second)) as gateway:
        upstream.script(json_response(ERROR_429, 429))
        assert (await gateway.chat(stream=False))[0].status == 200
        assert (await gateway.wait_record()).provider == "two"
        upstream.script(json_response({"error": {"message": "no"}}, 400))
        assert (await gateway.chat(stream=False))[0].status == 400
        assert len(second.requests) == 1


async def test_the_last_targets_error_is_told(upstream, second):
    async with serve_gateway(make_config(upstream, second, provider={"max_retries": 0})) as gateway:
        upstream.script(whole(500, b""))
        second.script(json_response(ERROR_429, 429, {"retry-after": "9"}))
        answer, body = await gateway.chat()
        assert (answer.status, answer.headers["retry-after"]) == (429, "9")
        assert json.loads(body) == ERROR_429
        record = await gateway.wait_record()
        assert (record.provider, record.error_type, record.http_status) == ("two", "HTTPStatusError", 429)


async def test_an_upstreams_4xx_passes_unchanged(gateway, upstream):
    said = b'{ "error": {"message": "prompt is too long: \\u00fc", "weird": 1} }'
    sent = {"content-type": "application/json", "retry-after": "7", "x-ratelimit-reset": "1", "set-cookie": "a=b"}
    upstream.script(whole(400, said, sent))
    answer, body = await gateway.chat()
    assert (answer.status, body) == (400, said)
    assert (answer.headers["retry-after"], answer.headers["x-ratelimit-reset"]) == ("7", "1")
    assert answer.headers["x-should-retry"] == "false"
    assert "set-cookie" not in answer.headers
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html><h1>403 Forbidden</h1></html>", b"{}", b'{"error": "\xff"}', b"null"])
async def test_other_error_bodies_are_mapped(gateway, upstream, body):
    upstream.script(whole(403, body, {"content-type": "text/html"}))
    answer, told = await gateway.chat()
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(told)["error"] == {
        "message": "provider one answered with status 403",
        "type": "permission_error",
        "param": None,
        "code": None,
    }


async def test_a_redirect_is_no_answer(gateway, upstream):
    upstream.script(whole(302, b"", {"location": "http://elsewhere.example/"}))
    answer, body = await gateway.chat()
    assert answer.status == 502
    assert "base_url" in json.loads(body)["error"]["message"]


async def test_retry_after_longer_than_the_backoff_is_the_clients(gateway, upstream):
    upstream.script(json_response({"error": {"message": "later"}}, 503, {"retry-after": "30"}))
    answer, _ = await gateway.chat()
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert len(upstream.requests) == 1


async def test_an_endless_error_body_is_cut(gateway, upstream):
    upstream.default = [whole(400, b"x" * 1_100_000)]
    assert (await gateway.chat())[0].status == 502
    await gateway.wait_settled()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [[HANG], [SSE, HANG]])
async def test_no_first_byte(upstream, steps, stream):
    async with serve_gateway(make_config(upstream, provider={"first_byte_timeout": 0.1})) as gateway:
        upstream.script(*steps)
        answer, body = await gateway.chat(stream=stream)
        assert answer.status == 504
        assert json.loads(body)["error"]["type"] == "timeout_error"
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.retries) == ("failed", "ReadTimeout", 0)
        assert record.prompt.source == "counted"
        assert record.completion == Tokens(0, "partial")
        await upstream.requests[0].closed.wait()


async def test_a_connect_timeout(upstream):
    with trio.socket.socket() as full:
        await full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with trio.socket.socket() as first, trio.socket.socket() as second:
            await first.connect(("127.0.0.1", port))
            with trio.move_on_after(0.05):
                await second.connect(("127.0.0.1", port))
            config = make_config(upstream, provider={"connect_timeout": 0.1, "max_retries": 0})
            provider = config.providers["one"]
            config.providers["one"] = type(provider)(
                **{
                    **{f: getattr(provider, f) for f in provider.__struct_fields__},
                    "base_url": f"http://127.0.0.1:{port}",
                }
            )
            async with serve_gateway(config) as gateway:
                assert (await gateway.chat())[0].status == 504
                record = await gateway.wait_record()
                assert (record.error_type, record.prompt) == ("ConnectTimeout", None)


# --- an error in the place of a stream: as if it were the response


def streamed_error(**error):
    return sse_response([f"data: {json.dumps({'error': error})}\n\n"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "busy", "code": 503}, 503),
        ({"message": "overloaded", "type": "overloaded_error"}, 529),
        ({"message": "oops", "type": "server_error"}, 502),
    ],
)
async def test_a_streamed_error_is_asked_again(upstream, error, status):
    async with serve_gateway(make_config(upstream, provider={"max_retries": 1})) as gateway:
        upstream.script(*streamed_error(**error))
        upstream.script(*openai_stream("hello"))
        answer, body = await gateway.chat()
        assert (answer.status, events(body)[1]) == (200, True)
        record = await gateway.wait_record()
        assert (record.status, record.retries) == ("completed", 1)
        upstream.default = streamed_error(**error)
        answer, body = await gateway.chat()
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
        assert json.loads(body) == {"error": error}
        record = await gateway.wait_record(2)
        assert (record.status, record.error_type, record.http_status) == ("failed", "UpstreamError", status)
        assert record.retries == 1
        await gateway.wait_settled()


async def test_a_streamed_error_that_is_the_clients_is_not(upstream, second):
    async with serve_gateway(make_config(upstream, second)) as gateway:
        upstream.script(*streamed_error(message="bad", type="invalid_request_error"))
        answer, body = await gateway.chat()
        assert (answer.status, answer.headers["x-should-retry"]) == (400, "false")
        assert json.loads(body)["error"]["message"] == "bad"
        assert (await gateway.wait_record()).retries == 0
        assert (len(upstream.requests), len(second.requests)) == (1, 0)


async def test_a_streamed_quota_falls_back(upstream, second):
    async with serve_gateway(make_config(upstream, second)) as gateway:
        upstream.script(*streamed_error(message="slow down", code="rate_limit_exceeded"))
        second.script(*openai_stream("hello"))
        assert (await gateway.chat())[0].status == 200
        record = await gateway.wait_record()
        assert (record.provider, record.retries, len(upstream.requests)) == ("two", 1, 1)


async def test_a_streamed_error_after_a_ping_is_an_event(upstream):
    async with serve_gateway(make_config(upstream, streaming={"ping_interval": 0.1})) as gateway:
        go = trio.Event()
        head, error, last = streamed_error(message="busy", code=503)
        upstream.script(head, go, error, last)
        client = await gateway.connect()
        await client.ask()
        assert (await client.head()).status == 200
        data = await client.until(b": ping\n\n")
        go.set()
        found, done = events(data + await client.body())
        assert (found, done) == ([{"error": {"message": "busy", "code": 503}}], False)
        assert (await gateway.wait_record()).error_type == "UpstreamError"
        assert len(upstream.requests) == 1


# --- after the first byte: the stream ends with one error event


@pytest.mark.parametrize(
    ("steps", "error_type"),
    [
        ([RESET], "ReadError"),
        ([FIN], "RemoteProtocolError"),
        ([chunk(HELLO[:30]), RESET], "ReadError"),
        ([LAST_CHUNK], "IncompleteStream"),
        ([chunk(HELLO[:30]), LAST_CHUNK], "IncompleteStream"),
        ([b"zz\r\n", HANG], "RemoteProtocolError"),
        ([HANG], "ReadTimeout"),
        ([chunk(": hi"), HANG], "ReadTimeout"),
        ([chunk("data: " + "x" * 5000), HANG], "DialectError"),
    ],
)
async def test_a_failure_after_the_first_byte(upstream, steps, error_type):
    config = make_config(upstream, provider={"chunk_timeout": 0.1}, streaming={"max_event_bytes": 2000})
    async with serve_gateway(config) as gateway:
        go = trio.Event()
        upstream.script(SSE, chunk(HELLO), go, *steps)
        client = await gateway.connect()
        await client.ask()
        answer = await client.head()
        first = await client.piece()
        assert (answer.status, first) == (200, HELLO.encode())
        go.set()
        assert_ends_with_one_error(first + await client.body())
        record = await gateway.wait_record()
        assert (record.status, record.http_status, record.retries) == ("failed", 200, 0)
        assert record.error_type == error_type
        assert record.completion == Tokens(2, "partial")
        assert record.prompt.source == "counted"
        assert len(upstream.requests) == 1
        await gateway.wait_settled()
        head_again, _ = await client.get("/health")
        assert head_again.status == 200


@pytest.mark.parametrize("end", [[LAST_CHUNK], [FIN], [RESET], [HANG], [chunk(HELLO), HANG]])
async def test_an_upstreams_own_error_event_is_the_only_one(upstream, end):
    async with serve_gateway(make_config(upstream, provider={"chunk_timeout": 0.1})) as gateway:
        upstream.script(
            SSE, chunk(HELLO), chunk('data: {"error": {"message": "gone", "type": "upstream_error"}}\n\n'), *end
        )
        _, body = await gateway.chat()
        assert b"gone" in body
        assert_ends_with_one_error(body.removesuffix(HELLO.encode()) if end[-1] is HANG else body)
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("failed", "UpstreamError")


async def test_a_body_that_stops(upstream):
    async with serve_gateway(make_config(upstream, provider={"chunk_timeout": 0.1, "max_retries": 0})) as gateway:
        upstream.script(head(200, {"content-length": "100", "content-type": "application/json"}) + b'{"a', HANG)
        answer, _ = await gateway.chat(stream=False)
        assert answer.status == 504
        assert (await gateway.wait_record()).error_type == "ReadTimeout"


async def test_a_body_over_the_bound(upstream):
    config = make_config(upstream, provider={"max_retries": 0}, streaming={"max_response_bytes": 1000})
    async with serve_gateway(config) as gateway:
        upstream.script(whole(200, b"x" * 5000, {"content-type": "application/json"}))
        answer, body = await gateway.chat(stream=False)
        assert answer.status == 502
        assert "max_response_bytes" in json.loads(body)["error"]["message"]


async def test_a_crash_in_a_stream_is_told_and_recorded(gateway, upstream, monkeypatch):
    def fail(*_args):
        raise RuntimeError("boom")

    monkeypatch.setattr("worker.dialects.openai.relay.StreamRelay.receive", fail)
    upstream.script(SSE, chunk(HELLO), HANG)
    answer, body = await gateway.chat()
    assert answer.status == 502
    assert b"boom" not in body
    record = await gateway.wait_record()
    assert (record.status, record.error_type) == ("failed", "InternalError")


async def test_hostile_messages_do_not_cost_the_record(gateway, upstream):
    client = await gateway.connect()
    body = b'{"model": "m", "messages": ["\xff", 1e999, ' + b"[" * 800 + b"]" * 800 + b"]}"
    upstream.script(whole(400, b""))
    await client.request("POST", "/v1/chat/completions", body)
    assert (await client.answer())[0].status == 400
    assert (await gateway.wait_record()).prompt.source == "counted"


async def test_a_providers_absurd_usage_does_not_cost_the_record(gateway, upstream):
    upstream.script(*openai_stream("hello", usage=(10**30, -5)))
    assert (await gateway.chat())[0].status == 200
    record = await gateway.wait_record()
    assert record.prompt.source == "counted"
    assert record.completion == Tokens(1, "counted")


# --- pings


async def test_a_ping_after_silence_never_inside_an_event(upstream):
    async with serve_gateway(make_config(upstream, streaming={"ping_interval": 0.1})) as gateway:
        go = trio.Event()
        upstream.script(SSE, chunk(HELLO), chunk(HELLO[:25]), go, chunk(HELLO[25:] + STOP + DONE), LAST_CHUNK)
        client = await gateway.connect()
        await client.ask()
        await client.head()
        before = await client.until(b": ping\n\n: ping\n\n")
        go.set()
        body = before + await client.body()
        assert body.startswith(HELLO.encode() + b": ping\n\n")
        assert body.replace(b": ping\n\n", b"") == (HELLO + HELLO + STOP + DONE).encode()
        assert (await gateway.wait_record()).status == "completed"


async def test_a_ping_waits_for_the_upstreams_status(upstream):
    async with serve_gateway(make_config(upstream, streaming={"ping_interval": 0.1})) as gateway:
        go, late = trio.Event(), trio.Event()
        upstream.script(go, SSE, late, chunk(HELLO + STOP + DONE), LAST_CHUNK)
        client = await gateway.connect()
        await client.ask()
        with trio.move_on_after(0.35) as silence:
            await client.head()
        assert silence.cancelled_caught
        go.set()
        assert (await client.head()).status == 200
        assert await client.piece() == b": ping\n\n"
        late.set()
        assert (await client.body()).endswith((HELLO + STOP + DONE).encode())


async def test_early_pings_commit(upstream):
    streaming = {"ping_interval": 0.1, "early_ping": True}
    async with serve_gateway(make_config(upstream, streaming=streaming)) as gateway:
        go = trio.Event()
        upstream.script(go, json_response(ERROR_429, 429))
        client = await gateway.connect()
        await client.ask()
        assert (await client.head()).status == 200
        assert await client.piece() == b": ping\n\n"
        go.set()
        assert_ends_with_one_error(await client.body())
        record = await gateway.wait_record()
        assert (record.status, record.http_status, record.error_type) == ("failed", 200, "HTTPStatusError")


async def test_no_pings(upstream):
    async with serve_gateway(make_config(upstream, streaming={"ping_interval": 0})) as gateway:
        upstream.script(SSE, chunk(HELLO), HANG)
        client = await gateway.connect()
        await client.ask()
        await client.head()
        assert await client.piece() == HELLO.encode()
        with trio.move_on_after(0.3) as silence:
            await client.piece()
        assert silence.cancelled_caught


# --- accounting


async def test_counts_of_our_own(gateway, upstream):
    upstream.script(*openai_stream("hello", " world"))
    await gateway.chat({"messages": [{"role": "user", "content": "hello world"}]})
    record = await gateway.wait_record()
    assert record.prompt.source == "counted"
    assert 2 <= record.prompt.count <= 4
    assert record.completion == Tokens(2, "counted")
    assert record.counted_completion is None


async def test_big_texts_are_counted_in_a_thread(gateway, upstream, monkeypatch):
    hops = []
    original = trio.to_thread.run_sync

    async def run_sync(function, *args, **options):
        hops.append(function)
        return await original(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    text = "hello world " * 5000
    big = openai_chunk({"content": text})
    upstream.script(*sse_response([*[big] * 10, STOP, DONE]))
    await gateway.chat({"messages": [{"role": "user", "content": text}]})
    record = await gateway.wait_record()
    assert len(hops) >= 3  # the prompt, a fold on the way, the rest
    assert record.completion.source == "counted"
    assert abs(record.completion.count - 100_000) < 1000
    assert abs(record.prompt.count - 10_000) < 100


# --- configuration


async def test_a_running_stream_keeps_its_configuration(upstream, second):
    async with serve_gateway(make_config(upstream)) as gateway:
        go = trio.Event()
        upstream.script(SSE, chunk(HELLO), go, chunk(STOP + DONE), LAST_CHUNK)
        client = await gateway.connect()
        await client.ask()
        await client.head()
        await client.piece()
        other = make_config(second, models=(Model(name="new", provider="one"),))
        gateway.gateway.configure(other, {"one": "sk-new"})
        assert (await gateway.chat({"model": "new"}, stream=False))[0].status == 200
        assert second.requests[0].headers["authorization"] == "Bearer sk-new"
        go.set()
        assert await client.body() == (STOP + DONE).encode()
        assert {record.status for record in gateway.records} == {"completed"}
        await upstream.wait_open(0)


async def test_a_retry_after_a_reload_asks_the_provider_it_began_with(upstream, second):
    async with serve_gateway(make_config(upstream, provider={"backoff_base": 0.2, "max_backoff": 0.2})) as gateway:
        go = trio.Event()
        upstream.script(go, whole(500, b""))
        client = await gateway.connect()
        await client.ask(stream=False)
        await upstream.wait_request()
        gateway.gateway.configure(make_config(), {})
        go.set()
        assert (await client.answer())[0].status == 200
        assert len(upstream.requests) == 2
        gateway.gateway.configure(make_config(second), {})
