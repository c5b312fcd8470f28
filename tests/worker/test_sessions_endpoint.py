"""`/metrics`, `/api/status` and `/api/sessions/…` of one worker; the supervisor's answers are the test's."""

import json

import pytest
from fakes.gateway import make_config, serve_gateway

from shared.config import Auth, Config
from shared.messages import ActiveSessions, CancelSession, CancelStale, Metrics, Overview
from worker.admission import session_name

TEXT = b"# HELP a A.\n# TYPE a gauge\na 1\n"


@pytest.fixture
async def asked():
    async with serve_gateway(Config()) as gateway:
        gateway.answer = lambda question: (200, TEXT if question == Metrics() else b'{"sessions":[]}')
        yield gateway


async def test_metrics(asked):
    client = await asked.connect()
    head, body = await client.get("/metrics")
    assert (head.status, body) == (200, TEXT)
    assert head.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert asked.asked == [Metrics()]
    await client.request("HEAD", "/metrics")
    assert (await client.head()).headers["content-length"] == str(len(TEXT))


@pytest.mark.parametrize(
    ("method", "path", "question"),
    [
        ("GET", "/api/sessions/active", ActiveSessions()),
        ("GET", "/api/status", Overview()),
        ("DELETE", "/api/sessions/4f2a", CancelSession("4f2a")),
        ("DELETE", "/api/sessions/my%20key/%E2%9C%93", CancelSession("my key/✓")),
        ("DELETE", f"/api/sessions/{'long' * 100}", CancelSession(session_name("long" * 100))),
        ("DELETE", "/api/sessions/stale", CancelStale(60.0)),
        ("DELETE", "/api/sessions/stale?idle=2.5", CancelStale(2.5)),
    ],
)
async def test_what_is_asked(asked, method, path, question):
    client = await asked.connect()
    head, body = await client.get(path, method)
    assert (head.status, body) == (200, b'{"sessions":[]}')
    assert head.headers["content-type"] == "application/json"
    assert asked.asked == [question]


@pytest.mark.parametrize("idle", ["soon", "-1", "nan", "inf"])
async def test_a_wrong_duration(asked, idle):
    client = await asked.connect()
    head, body = await client.get(f"/api/sessions/stale?idle={idle}", "DELETE")
    assert head.status == 400
    assert "`idle`" in json.loads(body)["error"]["message"]
    assert asked.asked == []


@pytest.mark.parametrize(("path", "allowed"), [("/api/sessions/x", "DELETE"), ("/api/sessions/active", "GET, HEAD")])
async def test_other_methods(asked, path, allowed):
    client = await asked.connect()
    head, _ = await client.get(path, "POST")
    assert (head.status, head.headers["allow"]) == (405, allowed)


async def test_a_refusal_is_said_in_the_caller_s_dialect(asked):
    asked.answer = lambda question: (404, b'{"message":"there is none"}')
    client = await asked.connect()
    head, body = await client.get("/api/sessions/x", "DELETE")
    assert head.status == 404
    assert json.loads(body)["error"]["message"] == "there is none"
    head, body = await client.get("/api/sessions/x", "DELETE", anthropic_version="2023-06-01")
    assert head.status == 404
    assert json.loads(body)["error"] == {"type": "not_found_error", "message": "there is none"}


async def test_a_supervisor_that_does_not_answer(asked):
    asked.answer = lambda question: None
    client = await asked.connect()
    await client.request("GET", "/metrics", anthropic_version="2023-06-01")
    await asked.wait(lambda: asked.asked)
    asked.gateway.questions.supervisor_gone()
    head, body = await client.answer()
    assert (head.status, head.headers["retry-after"]) == (503, "1")
    assert json.loads(body)["error"]["type"] == "api_error"


async def test_a_client_that_does_not_wait_for_the_answer(asked):
    asked.answer = lambda question: None
    client = await asked.connect()
    await client.request("GET", "/metrics")
    await asked.wait(lambda: asked.asked)
    client.close()
    asked.answer = lambda question: (200, TEXT)
    other = await asked.connect()
    head, _ = await other.get("/metrics")
    assert head.status == 200
    asked.gateway.questions.supervisor_gone()  # the test ends without waiting for the timeout


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/metrics"), ("GET", "/api/status"), ("GET", "/api/sessions/active"), ("DELETE", "/api/sessions/x")],
)
async def test_a_key_is_needed_where_keys_are(method, path):
    async with serve_gateway(make_config(auth=Auth(("secret",)))) as gateway:
        gateway.answer = lambda question: (200, b"{}")
        client = await gateway.connect()
        head, _ = await client.get(path, method)
        assert (head.status, gateway.asked) == (401, [])
        head, _ = await client.get(path, method, authorization="Bearer secret")
        assert head.status == 200
