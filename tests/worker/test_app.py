import json
import re
import socket

import pytest
import trio
from fakes.gateway import CHAT, MESSAGES, chat_bytes, make_config, message_bytes, request_bytes, serve_gateway
from fakes.upstream import COMPLETION, HANG, chunk, head, json_response, openai_chunk, openai_stream

from shared import VERSION
from shared.config import Auth, Config, Cors, Model

SITE = "https://chat.example"


def error_of(head, body):
    assert head.headers["content-type"] == "application/json"
    assert "x-request-id" in head.headers
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def anthropic_error_of(head, body):
    """The error in Anthropic's shape, which its type and message are all of."""
    assert head.headers["content-type"] == "application/json"
    assert head.headers["request-id"] == head.headers["x-request-id"]
    told = json.loads(body)
    assert set(told) == {"type", "error", "request_id"}
    assert (told["type"], told["request_id"]) == ("error", head.headers["request-id"])
    assert set(told["error"]) == {"type", "message"}
    return told["error"]


@pytest.mark.parametrize("path", ["/nope", "/v1/chat/completions/", "/v1", "//v1/models", "/%00"])
async def test_404(gateway, path):
    client = await gateway.connect()
    head, body = await client.get(path)
    assert head.status == 404
    assert error_of(head, body)["type"] == "not_found_error"
    assert head.headers["x-should-retry"] == "false"
    head, _ = await client.get("/health")
    assert head.status == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/messages/batches", {}),
        ("/messages/", {}),
        ("/v1/complete", {"anthropic_version": "2023-06-01"}),
        ("/nope", {"anthropic_version": "2023-06-01"}),
    ],
)
async def test_404_for_a_client_of_the_other_dialect(gateway, path, headers):
    client = await gateway.connect()
    head, body = await client.get(path, **headers)
    assert head.status == 404
    assert anthropic_error_of(head, body)["type"] == "not_found_error"
    assert head.headers["x-should-retry"] == "false"


async def test_whether_anybody_is_here(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        await client.request("HEAD", "/")
        head = await client.head()
        assert head.status == 200
        assert (await client.get("/health"))[0].status == 200
        head, body = await client.get("/", "POST")
        assert (head.status, head.headers["allow"]) == (405, "GET, HEAD")
        error_of(head, body)


async def test_405_names_the_methods(gateway):
    client = await gateway.connect()
    head, body = await client.get(CHAT)
    assert head.status == 405
    assert head.headers["allow"] == "POST"
    assert "POST" in error_of(head, body)["message"]
    head, _ = await client.get("/v1/models", "DELETE")
    assert (head.status, head.headers["allow"]) == (405, "GET, HEAD")
    for path in (MESSAGES, "/messages", "/v1/messages/count_tokens", "/messages/count_tokens?beta=true"):
        head, body = await client.get(path)
        assert (head.status, head.headers["allow"]) == (405, "POST")
        assert anthropic_error_of(head, body)["type"] == "invalid_request_error"
    head, body = await client.get(CHAT, anthropic_version="2023-06-01")
    assert "POST" in error_of(head, body)["message"]  # the route's dialect counts, not the caller's


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not a JSON object"),
        (b"nonsense", 400, "not a JSON object"),
        (b'{"model": "\xff", "messages": []}', 400, "not a JSON object"),
        (b"[" * 100_000, 400, "not a JSON object"),
        (b'{"model": "m"}', 400, "`messages` is required"),
        (b'{"model": "who", "messages": []}', 404, "the model 'who' does not exist here; there are: m"),
        (b'{"model": "one/%s", "messages": []}' % (b"x" * 600), 400, "`model`: a name has at most 512 characters"),
    ],
)
async def test_bad_requests(gateway, body, status, message):
    client = await gateway.connect()
    await client.request("POST", CHAT, body)
    head, answer = await client.answer()
    assert head.status == status
    assert message in error_of(head, answer)["message"]
    assert head.headers["x-should-retry"] == "false"
    assert gateway.started == []


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not a JSON object"),
        (b"nonsense", 400, "not a JSON object"),
        (b'{"model": "\xff", "messages": []}', 400, "not a JSON object"),
        (b"[" * 100_000, 400, "not a JSON object"),
        (b'{"messages": []}', 400, "`model` is required"),
        (b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "video"}]}]}', 400, "messages[0]"),
        (b'{"model": "who", "messages": []}', 404, "model: who does not exist here; there are: m"),
    ],
)
async def test_bad_messages(gateway, body, status, message):
    client = await gateway.connect()
    for path in (MESSAGES, "/messages?beta=true"):
        await client.request("POST", path, body)
        head, answer = await client.answer()
        assert head.status == status
        error = anthropic_error_of(head, answer)
        assert message in error["message"]
        assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
        assert head.headers["x-should-retry"] == "false"


async def test_other_refusals_in_anthropic_s_dialect(upstream):
    server = {"max_body_bytes": 1000, "body_timeout": 0.1}
    async with serve_gateway(make_config(upstream, server=server, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        await client.ask_message()
        head, body = await client.answer()
        assert (head.status, anthropic_error_of(head, body)["type"]) == (401, "authentication_error")
        for path in (MESSAGES, "/v1/messages/count_tokens"):
            large = await gateway.connect()
            await large.request("POST", path, b"x" * 1001, x_api_key="secret")
            head, body = await large.answer()
            assert (head.status, anthropic_error_of(head, body)["type"]) == (413, "request_too_large")
            slow = await gateway.connect()
            await slow.send(message_bytes(path=path, x_api_key="secret")[:-1])
            head, body = await slow.answer()
            assert (head.status, anthropic_error_of(head, body)["type"]) == (408, "timeout_error")
    async with serve_gateway(make_config(upstream)) as gateway:
        client = await gateway.connect()
        await client.ask_message(host="rebound.example")
        head, body = await client.answer()
        assert (head.status, anthropic_error_of(head, body)["type"]) == (403, "permission_error")


async def test_bodies_over_the_limit(upstream):
    async with serve_gateway(make_config(upstream, server={"max_body_bytes": 1000})) as gateway:
        client = await gateway.connect()
        await client.request("POST", CHAT, b"x" * 1001)
        head, body = await client.answer()
        assert (head.status, head.headers["connection"]) == (413, "close")
        assert error_of(head, body)["code"] == "request_too_large"
        await client.wait_eof()
        announced = await gateway.connect()
        await announced.send(request_bytes("POST", CHAT, None, content_length="100000000000"))
        assert (await announced.head()).status == 413
        chunked = await gateway.connect()
        await chunked.send(request_bytes("POST", CHAT, None, transfer_encoding="chunked") + chunk(b"x" * 600) * 2)
        assert (await chunked.head()).status == 413


async def test_a_slow_body(upstream):
    async with serve_gateway(make_config(upstream, server={"body_timeout": 0.1})) as gateway:
        client = await gateway.connect()
        await client.send(chat_bytes()[:-1])
        head, body = await client.answer()
        assert (head.status, head.headers["connection"]) == (408, "close")
        assert error_of(head, body)["type"] == "timeout_error"


async def test_a_slow_head(upstream):
    async with serve_gateway(make_config(upstream, server={"keep_alive_timeout": 0.2})) as gateway:
        client = await gateway.connect()
        await client.send(b"POST / HTTP/1.1\r\nho")
        await client.wait_eof()
        await gateway.wait(lambda: not gateway.server.connections)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"POST /health HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 100_000, 431),
    ],
)
async def test_what_is_no_http(gateway, data, status):
    client = await gateway.connect()
    await client.send(data)
    head, body = await client.answer()
    assert head.status == status
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert head.headers["connection"] == "close"
    assert head.headers["x-request-id"]


async def test_cleartext_http_2_is_answered_in_http_1(gateway):
    client = await gateway.connect()
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    head, body = await client.answer()
    assert head.status in (404, 405)
    assert "error" in json.loads(body)


async def test_a_malformed_body(gateway):
    client = await gateway.connect()
    await client.send(request_bytes("POST", CHAT, None, transfer_encoding="chunked") + b"zz\r\n")
    head, body = await client.answer()
    assert head.status == 400
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/nope", "/v1/models", CHAT])
@pytest.mark.parametrize("size", [80_000, 1_000_000])
async def test_an_early_answer_reaches_a_client_that_is_still_sending(upstream, path, size):
    """Closing a socket with unread bytes resets it, which may destroy the answer on its way."""
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        await client.send(request_bytes("POST", path, b"x" * size))
        head, body = await client.answer()
        assert head.status in (401, 404, 405)
        error_of(head, body)
        assert (await client.get("/health"))[0].status == 200


async def test_request_ids(gateway):
    client = await gateway.connect()
    head, _ = await client.get("/health", x_request_id="abc-123")
    assert head.headers["x-request-id"] == "abc-123"
    ids = set()
    for bad in ("", "with space", "x" * 129, "semi;colon", "ümlaut"):
        head, _ = await client.get("/health", x_request_id=bad)
        assert re.fullmatch(r"req_[0-9a-f]{32}", head.headers["x-request-id"])
        ids.add(head.headers["x-request-id"])
    assert len(ids) == 5


async def test_a_request_id_is_the_trace_of_its_record(gateway, upstream):
    head, _ = await gateway.chat(x_request_id="trace-7")
    assert head.headers["x-request-id"] == "trace-7"
    assert (await gateway.wait_record()).start.trace == "trace-7"


async def test_health(gateway):
    client = await gateway.connect()
    for path in ("/health", "/health/live", "/health/ready"):
        head, body = await client.get(path)
        assert head.status == 200
        told = json.loads(body)
        assert (told["status"], told["service"], told["version"]) == ("ok", "kimi-proxy", VERSION)
        assert {"streaming", "sessions", "rate_limits", "metrics", "history"} <= set(told["features"])
    await client.request("HEAD", "/health")
    head = await client.head()
    assert head.status == 200
    assert int(head.headers["content-length"]) > 0
    client._left = 0
    head, _ = await client.get("/health")
    assert head.status == 200


async def test_not_ready_without_providers():
    async with serve_gateway(Config()) as gateway:
        client = await gateway.connect()
        assert (await client.get("/health/ready"))[0].status == 503
        assert (await client.get("/health/live"))[0].status == 200
        await client.ask()
        head, body = await client.answer()
        assert head.status == 404
        assert error_of(head, body)["code"] == "model_not_found"


async def test_draining(gateway):
    client = await gateway.connect()
    assert (await client.get("/health/ready"))[0].status == 200
    gateway.gateway.draining = True
    head, body = await client.get("/health/ready")
    assert (head.status, head.headers["connection"]) == (503, "close")
    assert json.loads(body)["status"] == "draining"
    await client.wait_eof()


async def test_a_drained_stream_says_close_once(gateway, upstream):
    upstream.script(*openai_stream("hi"))
    gateway.gateway.draining = True
    client = await gateway.connect()
    await client.ask()
    head, body = await client.answer()
    assert (head.status, head.headers["connection"]) == (200, "close")
    assert body.endswith(b"[DONE]\n\n")
    await client.wait_eof()


async def test_a_foreign_host_name_is_refused(gateway):
    client = await gateway.connect()
    head, body = await client.get("/v1/models", host="rebound.example:8000")
    assert head.status == 403
    assert error_of(head, body)["code"] == "bad_host"
    assert (await client.get("/health", host="evil.example"))[0].status == 403
    assert (await client.get("/v1/models", host="127.0.0.1:8000"))[0].status == 200


async def test_keys(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",)))) as gateway:
        client = await gateway.connect()
        head, body = await client.get("/v1/models")
        assert (head.status, head.headers["www-authenticate"]) == (401, "Bearer")
        assert error_of(head, body)["code"] == "invalid_api_key"
        assert (await client.get("/v1/models", x_api_key="secret"))[0].status == 200
        assert (await client.get("/v1/models", authorization="Bearer secret", host="any.example"))[0].status == 200
        assert (await client.get("/health"))[0].status == 200
        await client.ask(authorization="Bearer wrong")
        assert (await client.head()).status == 401
        assert upstream.requests == []


async def test_our_key_stays_here(upstream):
    async with serve_gateway(make_config(upstream, auth=Auth(("secret",))), {"one": "sk-up"}) as gateway:
        await gateway.chat(stream=False, authorization="Bearer secret", x_api_key="secret")
        assert upstream.requests[0].headers["authorization"] == "Bearer sk-up"
        assert b"secret" not in upstream.requests[0].raw_head


async def test_cors(upstream):
    async with serve_gateway(make_config(upstream, cors=Cors(origins=(SITE,)))) as gateway:
        client = await gateway.connect()
        head, body = await client.get(
            CHAT, "OPTIONS", origin=SITE, access_control_request_method="POST", access_control_request_headers="x-a"
        )
        assert (head.status, body) == (204, b"")
        assert head.headers["access-control-allow-origin"] == SITE
        assert head.headers["access-control-allow-headers"] == "x-a"
        assert head.headers["allow"] == "OPTIONS, POST"
        head, _ = await client.get(CHAT, "OPTIONS", origin="https://evil.example")
        assert "access-control-allow-origin" not in head.headers
        head, _ = await client.get("/nope", origin=SITE)
        assert head.headers["access-control-allow-origin"] == SITE
        head, _ = await client.get("/v1/models")
        assert "access-control-allow-origin" not in head.headers
        assert head.headers["vary"] == "origin"


async def test_a_connection_carries_many_requests(gateway, upstream):
    client = await gateway.connect()
    for number in range(5):
        upstream.script(*openai_stream(f"word{number}"))
        await client.ask()
        head, body = await client.answer()
        assert (head.status, head.headers["connection"]) == (200, "keep-alive")
        assert f"word{number}".encode() in body
        await client.ask(stream=False)
        head, body = await client.answer()
        assert json.loads(body) == COMPLETION
    assert len(gateway.server.connections) == 1
    assert upstream.connections == 1


async def test_pipelined_requests_are_answered_in_order(gateway, upstream):
    go = trio.Event()
    upstream.script(go, json_response({**COMPLETION, "id": "first"}))
    upstream.script(json_response({**COMPLETION, "id": "second"}))
    client = await gateway.connect()
    await client.send(chat_bytes(stream=False) + chat_bytes(stream=False) + request_bytes("GET", "/health"))
    await upstream.wait_request()
    assert len(upstream.requests) == 1
    go.set()
    ids = [json.loads((await client.answer())[1])["id"] for _ in range(2)]
    assert ids == ["first", "second"]
    assert (await client.answer())[0].status == 200


async def test_a_client_that_pipelines_and_leaves_is_noticed(gateway, upstream):
    """Nobody reads the socket of a client whose next request waits already."""
    upstream.script(
        head(headers={"content-type": "text/event-stream"}, chunked=True), chunk(openai_chunk({"content": "a"})), HANG
    )
    client = await gateway.connect()
    await client.send(chat_bytes() + chat_bytes())
    await client.head()
    client.close()
    record = await gateway.wait_record()
    assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
    await upstream.requests[0].closed.wait()


async def test_a_chunked_request(gateway, upstream):
    client = await gateway.connect()
    body = json.dumps({"model": "m", "messages": []}).encode()
    pieces = b"".join(chunk(bytes([byte])) for byte in body)
    await client.send(request_bytes("POST", CHAT, None, transfer_encoding="chunked") + pieces + b"0\r\n\r\n")
    assert (await client.answer())[0].status == 200
    assert upstream.requests[0].json == {"model": "m", "messages": []}


async def test_a_client_that_waits_for_100_continue(gateway, upstream):
    client = await gateway.connect()
    head, _, body = chat_bytes(stream=False, expect="100-continue").partition(b"\r\n\r\n")
    await client.send(head + b"\r\n\r\n")
    assert (await client._until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    await client.send(body)
    assert (await client.answer())[0].status == 200


async def test_http_1_0(gateway, upstream):
    upstream.script(*openai_stream("hi"))
    client = await gateway.connect()
    await client.send(chat_bytes(version="1.0"))
    head, body = await client.answer()
    assert head.status == 200
    assert "transfer-encoding" not in head.headers
    assert head.headers.get("connection", "close") == "close"
    assert body.endswith(b"data: [DONE]\n\n")
    old = await gateway.connect()
    await old.send(b"GET /health HTTP/1.0\r\n\r\n")
    assert (await old.answer())[0].status == 200


async def test_models(upstream):
    models = (Model(name="claude-*", provider="one", model="k2"), Model(name="org/slash", provider="one"))
    async with serve_gateway(make_config(upstream, models=models)) as gateway:
        client = await gateway.connect()
        _, body = await client.get("/v1/models?limit=1000")
        listed = json.loads(body)
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["m", "org/slash", "one/k2"]
        assert listed["data"][0] == {"id": "m", "object": "model", "created": 0, "owned_by": "one"}
        for name in ("m", "org/slash", "one/whatever", "claude-5", "org%2Fslash"):
            head, body = await client.get(f"/v1/models/{name}")
            assert head.status == 200
            assert json.loads(body)["id"] == name.replace("%2F", "/")
        head, body = await client.get("/v1/models/nobody")
        assert head.status == 404
        assert error_of(head, body)["code"] == "model_not_found"


async def test_models_in_anthropic_s_shape(upstream):
    models = (
        Model(name="claude-*", provider="one", model="k2"),
        Model(name="claude-kimi", provider="one", model="k2", display_name="Kimi K2"),
        Model(name="org/slash", provider="one"),
    )
    version = {"anthropic_version": "2023-06-01"}
    async with serve_gateway(make_config(upstream, models=models)) as gateway:
        client = await gateway.connect()

        async def page(query):
            head, body = await client.get(f"/v1/models{query}", **version)
            assert head.status == 200
            assert "location" not in head.headers
            listed = json.loads(body)
            ids = [model["id"] for model in listed["data"]]
            assert (listed["first_id"], listed["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
            return ids, listed["has_more"]

        head, body = await client.get("/v1/models?limit=1000", **version)
        assert head.headers["request-id"] == head.headers["x-request-id"]
        listed = json.loads(body)
        assert listed["data"][1] == {
            "type": "model",
            "id": "claude-kimi",
            "display_name": "Kimi K2",
            "created_at": "1970-01-01T00:00:00Z",
        }
        everything = ["m", "claude-kimi", "org/slash", "one/k2"]
        assert await page("") == (everything, False)
        assert await page("?limit=2") == (everything[:2], True)
        assert await page("?limit=2&after_id=claude-kimi") == (everything[2:], False)
        assert await page("?limit=1&after_id=org%2Fslash") == (everything[3:], False)
        assert await page("?after_id=one/k2") == ([], False)
        assert await page("?limit=2&before_id=one/k2") == (everything[1:3], True)
        assert await page("?limit=9&before_id=org/slash") == (everything[:2], False)
        for query in ("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=%C2%B2", "after_id=who", "before_id=who"):
            head, body = await client.get(f"/v1/models?{query}", **version)
            assert head.status == 400
            assert query.partition("=")[0] in anthropic_error_of(head, body)["message"]
        for name, shown in (("claude-kimi", "Kimi K2"), ("claude-5", "claude-5"), ("org%2Fslash", "org/slash")):
            head, body = await client.get(f"/v1/models/{name}", **version)
            assert (head.status, json.loads(body)["display_name"]) == (200, shown)
        head, body = await client.get("/v1/models/nobody", **version)
        assert head.status == 404
        assert anthropic_error_of(head, body)["message"].startswith("model: nobody")


async def test_a_unix_socket(upstream, tmp_path):
    path = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        async with serve_gateway(make_config(upstream), listener=listener):
            stream = await trio.open_unix_socket(path)
            async with stream:
                await stream.send_all(request_bytes("GET", "/v1/models", host="any.example"))
                assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200")


async def test_congestion_admits_nothing_new(gateway, monkeypatch):
    monkeypatch.setattr(gateway.gateway.link.up, "pending_bytes", 1 << 30)
    client = await gateway.connect()
    await client.ask()
    head, _ = await client.answer()
    assert (head.status, head.headers["retry-after"]) == (503, "1")
    await client.ask_message()
    head, body = await client.answer()
    assert (head.status, head.headers["retry-after"]) == (503, "1")
    assert anthropic_error_of(head, body)["type"] == "api_error"
    monkeypatch.setattr(gateway.gateway.link.up, "pending_bytes", 0)


async def test_a_client_that_leaves_inside_its_request(gateway, upstream):
    client = await gateway.connect()
    await client.send(chat_bytes()[:-5])
    client.close()
    await gateway.wait(lambda: not gateway.server.connections)
    assert gateway.started == []
    assert upstream.requests == []


async def test_a_crash_is_a_500(gateway, monkeypatch):
    def fail(*_args):
        raise RuntimeError("boom")

    monkeypatch.setattr("worker.addressing.resolve", fail)
    client = await gateway.connect()
    await client.ask()
    head, body = await client.answer()
    assert head.status == 500
    assert "boom" not in error_of(head, body)["message"]
    await client.ask_message()
    head, body = await client.answer()
    assert head.status == 500
    assert "boom" not in anthropic_error_of(head, body)["message"]
    assert (await client.get("/health"))[0].status == 200


async def test_too_many_connections_cost_the_one_that_idled_longest(gateway, monkeypatch):
    monkeypatch.setattr(gateway.server, "_max_connections", 2)
    oldest, second = await gateway.connect(), await gateway.connect()
    for client in (oldest, second):
        await client.get("/health")
    third = await gateway.connect()
    await oldest.wait_eof()
    for client in (second, third):
        assert (await client.get("/health"))[0].status == 200


async def test_busy_connections_are_never_given_up(gateway, upstream, monkeypatch):
    monkeypatch.setattr(gateway.server, "_max_connections", 1)
    go = trio.Event()
    upstream.script(go, *openai_stream("hello"))
    client = await gateway.connect()
    await client.ask()
    await upstream.wait_request()
    assert (await (await gateway.connect()).get("/health"))[0].status == 200
    go.set()
    assert (await client.answer())[1].endswith(b"[DONE]\n\n")


async def test_a_client_that_asks_for_small_things_and_reads_none(upstream):
    models = tuple(Model(name=f"model-{number}", provider="one") for number in range(200))
    config = make_config(upstream, models=models, server={"send_timeout": 0.1})
    async with serve_gateway(config) as gateway:
        client = await gateway.connect(receive_buffer_bytes=4096)
        await client.send(request_bytes("GET", "/v1/models") * 400)
        await gateway.wait(lambda: any(c.sending_since is not None for c in gateway.server.connections))
        await gateway.wait(lambda: not gateway.server.connections)
        await client.wait_reset()


async def test_a_list_header_that_is_no_ascii_is_no_handshake(gateway):
    client = await gateway.connect()
    await client.send(
        b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgr\x87de\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head, body = await client.answer()
    assert head.status == 426
    error_of(head, body)


async def test_a_client_that_left_is_sent_no_500(gateway, upstream):
    """Behind a pipelined request Hypercorn does not read, so that it does not see him leave."""
    upstream.script(HANG)
    client = await gateway.connect()
    await client.send(chat_bytes() + chat_bytes())
    await upstream.wait_request()
    await client.stream.send_eof()
    assert await client.wait_reset() == b""


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "GZIP"])
async def test_a_body_that_is_compressed(gateway, encoding):
    client = await gateway.connect()
    await client.send(chat_bytes(content_encoding=encoding))
    head, body = await client.answer()
    assert (head.status, head.headers["accept-encoding"]) == (415, "identity")
    assert encoding in error_of(head, body)["message"]
