"""`POST /api/chatkit/session`, with a stand-in for OpenAI."""

import json

import pytest
import trio
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import FIN, HANG, RESET, head, json_response, serve_upstream, whole

from shared.config import Auth, ChatKit, Cors
from shared.keys import CHATKIT

ROUTE = "/api/chatkit/session"
KEY = "sk-of-the-gateway"
SESSION = {"id": "cksess_1", "object": "chatkit.session", "client_secret": "ek_1", "expires_at": 1, "status": "active"}


@pytest.fixture
async def chatkit(upstream):
    """A gateway that offers ChatKit; `ask` is one session, `upstream` stands for OpenAI."""
    upstream.default = [json_response(SESSION)]
    async with serve_chatkit(upstream) as gateway:
        yield gateway


def serve_chatkit(upstream, keys=None, *, base_url=None, workflow="wf_1", timeout=5.0, **sections):
    settings = ChatKit(workflow=workflow, base_url=base_url or upstream.base_url, timeout=timeout)
    return serve_gateway(make_config(upstream, chatkit=settings, **sections), {CHATKIT: KEY} if keys is None else keys)


async def ask(gateway, body=b"{}", **headers):
    client = await gateway.connect()
    await client.request("POST", ROUTE, body, **headers)
    answered, answer = await client.answer()
    return answered, json.loads(answer)


async def test_a_session(chatkit, upstream):
    answered, answer = await ask(chatkit, b'{"user": "ada", "workflow": {"id": "wf_other"}}')
    assert answered.status == 200
    assert answer == {"client_secret": "ek_1"}
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["cache-control"] == "no-store"
    [request] = upstream.requests
    assert (request.method, request.path) == ("POST", "/v1/chatkit/sessions")
    assert request.headers["openai-beta"] == "chatkit_beta=v1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.json == {"workflow": {"id": "wf_1"}, "user": "ada"}
    await upstream.wait_open(0)


async def test_somebody_new(chatkit, upstream):
    for body in (b"", b"{}", b'{"user": null}', b' {"user": ""} ', None):
        answered, answer = await ask(chatkit, body)
        assert (answered.status, answer) == (200, {"client_secret": "ek_1"})
    users = {request.json["user"] for request in upstream.requests}
    assert len(users) == 5
    assert all(user.startswith("user_") for user in users)


async def test_the_callers_key_is_somebody(upstream):
    upstream.default = [json_response(SESSION)]
    async with serve_chatkit(upstream, auth=Auth(keys=("secret-key",))) as gateway:
        assert (await ask(gateway))[0].status == 401
        for _ in range(2):
            assert (await ask(gateway, authorization="Bearer secret-key"))[0].status == 200
    users = {request.json["user"] for request in upstream.requests}
    assert len(users) == 1
    assert "secret-key" not in users


async def test_without_a_key_none_is_sent(upstream):
    upstream.default = [json_response(SESSION)]
    async with serve_chatkit(upstream, {}) as gateway:
        assert (await ask(gateway))[0].status == 200
    assert "authorization" not in upstream.requests[0].headers


async def test_not_configured(upstream):
    async with serve_chatkit(upstream, workflow=None) as gateway:
        answered, answer = await ask(gateway)
    assert answered.status == 404
    assert "[chatkit] workflow" in answer["error"]["message"]
    assert answer["error"]["code"] == "chatkit_not_configured"
    assert upstream.requests == []


@pytest.mark.parametrize("body", [b"[]", b"user", b'{"user": 1}', b"{", b"\xff", b'{"user": "' + b"a" * 513 + b'"}'])
async def test_bad_bodies(chatkit, upstream, body):
    answered, answer = await ask(chatkit, body)
    assert answered.status == 400
    assert "user" in answer["error"]["message"]
    assert upstream.requests == []


async def test_large_bodies(chatkit, upstream):
    assert (await ask(chatkit, b" " * 70_000))[0].status == 413
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("steps", "status", "why"),
    [
        ([json_response({"error": {"message": f"Wrong key: {KEY}"}}, 401)], 502, "refuses the gateway's"),
        ([json_response({"error": {"message": "no"}}, 403)], 502, "refuses the gateway's key (403)"),
        ([json_response({"error": {"message": "Workflow not found"}}, 404)], 502, "check [chatkit] workflow: Workflow"),
        ([json_response({"error": {"message": "bad field"}}, 400)], 502, "refuses the session (400): bad field"),
        ([json_response({"error": {"message": "overloaded"}}, 500)], 502, "failed (500): overloaded"),
        ([whole(503, b"<html>", {"content-type": "text/html"})], 502, "failed (503): status 503"),
        ([whole(302, b"", {"location": "http://127.0.0.1:9/"})], 502, "refuses the session (302)"),
        ([json_response({"id": "cksess_1"})], 502, "no client_secret"),
        ([json_response({"client_secret": None})], 502, "no client_secret"),
        ([whole(200, b"nonsense")], 502, "no client_secret"),
        ([whole(200, b" " * 2_000_000)], 502, "larger than"),
        ([RESET], 502, "could not be asked"),
        ([FIN], 502, "could not be asked"),
        ([head(200, {"content-length": "99"}), b"{", FIN], 502, "could not be asked"),
        ([b"no http\r\n\r\n"], 502, "could not be asked"),
    ],
)  # fmt: skip
async def test_failures(chatkit, upstream, steps, status, why):
    upstream.script(*steps)
    answered, answer = await ask(chatkit)
    assert answered.status == status
    assert why in answer["error"]["message"]
    assert KEY not in json.dumps(answer)
    await upstream.wait_open(0)


async def test_asked_too_often(chatkit, upstream):
    upstream.script(json_response({"error": {"message": "slow down"}}, 429, {"retry-after": "7"}))
    answered, answer = await ask(chatkit)
    assert answered.status == 429
    assert answered.headers["retry-after"] == "7"
    assert "slow down" in answer["error"]["message"]


async def test_nobody_there(upstream):
    async with serve_upstream() as gone:
        base_url = gone.base_url
    async with serve_chatkit(upstream, base_url=base_url) as gateway:
        answered, answer = await ask(gateway)
    assert answered.status == 502
    assert "could not be asked" in answer["error"]["message"]


@pytest.mark.parametrize("steps", [[HANG], [head(200, {"content-length": "99"}), b"{", HANG]])
async def test_silence(upstream, steps):
    upstream.script(*steps)
    async with serve_chatkit(upstream, timeout=0.1) as gateway:
        answered, answer = await ask(gateway)
    assert answered.status == 504
    assert "within 0.1 s" in answer["error"]["message"]
    await upstream.wait_open(0)


@pytest.mark.parametrize("leave", ["close", "reset"])
async def test_a_client_that_leaves(chatkit, upstream, leave):
    upstream.script(HANG)
    client = await chatkit.connect()
    await client.request("POST", ROUTE, b"{}")
    request = await upstream.wait_request()
    getattr(client, leave)()
    with trio.fail_after(1):
        await request.closed.wait()


async def test_pages_of_elsewhere(upstream):
    upstream.default = [json_response(SESSION)]
    async with serve_chatkit(upstream, cors=Cors(origins=("https://mine.test",))) as gateway:
        answered, answer = await ask(gateway, origin="https://evil.test", content_type="text/plain")
        assert answered.status == 403
        assert answer["error"]["code"] == "bad_origin"
        assert upstream.requests == []
        assert (await ask(gateway, origin="https://mine.test"))[0].status == 200


async def test_other_methods(chatkit):
    client = await chatkit.connect()
    assert (await client.get(ROUTE))[0].status == 405
