"""What a client with a name may do: models, limits and the dashboard of its own, until its key is revoked."""

import json

import pytest
from fakes.gateway import CHAT, MESSAGES, Client, make_config, serve_gateway
from fakes.upstream import HANG, head, json_response
from msgspec import structs

from shared import config as types
from shared.clientkeys import fingerprint, hashed
from shared.config import Auth, Model, RateLimit
from shared.messages import Admit
from worker.auth import Authenticator, may_ask

MODELS = (
    Model(name="kimi-k2", provider="one"),
    Model(name="kimi-k3", provider="one"),
    Model(name="gpt", provider="one"),
)
EVERYTHING = ("/metrics", "/api/status", "/api/sessions/active", "/api/streams", "/api/streams/x", "/api/stats")
EVERYTHING += ("/api/providers", "/api/export", "/ws")


def a_client(name: str = "ci", **more) -> types.Client:
    return types.Client(name=name, key=hashed(f"key of {name}".replace(" ", "-")), **more)


def key_of(name: str = "ci") -> dict[str, str]:
    return {"authorization": f"Bearer key-of-{name}"}


def auth(*clients: types.Client, keys: tuple[str, ...] = ("plain",)) -> Auth:
    return Auth(keys=keys, clients=clients)


async def get(client: Client, path: str, method: str = "GET", **headers: str):
    head, body = await client.get(path, method, **headers)
    return head, json.loads(body) if body else None


def test_a_thousand_clients_are_told_apart():
    clients = [a_client(f"c{number}") for number in range(1000)]
    authenticator = Authenticator(auth(*clients))
    for client in clients[::100]:
        found = authenticator.identify(key_of(client.name)["authorization"], None)
        assert found == client.fingerprint
        assert authenticator.client(found) is client
    assert authenticator.identify("Bearer plain", None) == fingerprint("plain")
    assert authenticator.client(fingerprint("plain")) is None
    assert authenticator.identify_key("key-of-c1000") is None
    assert authenticator.identify_key(clients[0].key) is None  # whoever has read the file has no key
    assert not authenticator.is_revoked(None)
    assert not authenticator.is_revoked(clients[0].fingerprint)
    assert authenticator.is_revoked("0" * 12)


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        ((), "anything", True),
        (("claude-*",), "claude-x", True),
        (("claude-*",), "Claude-x", False),
        (("claude-*", "fake/*"), "fake/a/b", True),
        (("claude-*",), "fake/claude-x", False),
        (("gpt-[45]",), "gpt-5", True),
        (("gpt",), "gpt-5", False),
    ],
)
def test_patterns(patterns, model, may):
    assert may_ask(a_client(models=patterns), model) is may
    assert may_ask(None, model)


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/messages/count_tokens"])
async def test_only_its_models(upstream, path):
    async with serve_gateway(
        make_config(upstream, models=MODELS, auth=auth(a_client(models=("kimi-*", "one/a"))))
    ) as gateway:
        client = await gateway.connect()
        for model in ("gpt", "one/b", "nobody-has-it"):
            body = json.dumps({"model": model, "messages": [], "max_tokens": 1})
            answer, told = await post(client, path, body, **key_of())
            assert answer.status == 403
            error = told["error"]
            assert error["type"] == "permission_error"
            assert model in error["message"]
            assert "client ci" in error["message"]
            assert "kimi-*, one/a" in error["message"]
            assert answer.headers["x-should-retry"] == "false"
        assert gateway.started == []


async def post(client: Client, path: str, body: str, **headers: str):
    await client.request("POST", path, body.encode(), **headers)
    answer, data = await client.answer()
    return answer, json.loads(data)


async def test_an_allowed_model_is_answered_and_its_fallbacks_are_too(upstream):
    upstream.script(json_response(500, {}))
    models = (Model(name="kimi-k2", provider="one", fallbacks=("gpt",)), *MODELS[1:])
    config = make_config(upstream, models=models, auth=auth(a_client(models=("kimi-*",))), provider={"max_retries": 0})
    async with serve_gateway(config) as gateway:
        answer, _ = await gateway.chat({"model": "kimi-k2", "messages": []}, stream=False, **key_of())
        assert answer.status == 200
        record = await gateway.wait_record()
        assert record.upstream_model == "gpt"
        assert record.start.client == fingerprint("key-of-ci")


async def test_the_list_has_only_its_models(upstream):
    config = make_config(upstream, models=MODELS, auth=auth(a_client(models=("kimi-*",)), a_client("all")))
    async with serve_gateway(config) as gateway:
        client = await gateway.connect()
        _, told = await get(client, "/v1/models", **key_of())
        assert [model["id"] for model in told["data"]] == ["kimi-k2", "kimi-k3"]
        _, told = await get(client, "/v1/models", anthropic_version="2023-06-01", **key_of())
        assert [model["id"] for model in told["data"]] == ["kimi-k2", "kimi-k3"]
        _, told = await get(client, "/v1/models", **key_of("all"))
        assert [model["id"] for model in told["data"]][1:4] == ["kimi-k2", "kimi-k3", "gpt"]
        assert (await get(client, "/v1/models/kimi-k2", **key_of()))[0].status == 200
        answer, told = await get(client, "/v1/models/gpt", **key_of())
        assert (answer.status, told["error"]["code"]) == (403, "model_not_allowed")


async def test_no_dashboard(upstream):
    config = make_config(upstream, auth=auth(a_client(dashboard=False), a_client("all")))
    async with serve_gateway(config) as gateway:
        gateway.answer = lambda question: (200, b"{}")
        client = await gateway.connect()
        for path in EVERYTHING:
            answer, told = await get(client, path, **key_of())
            assert (path, answer.status, told["error"]["code"]) == (path, 403, "dashboard_not_allowed")
        for path in ("/api/sessions/x", "/api/sessions/stale"):
            assert (await get(client, path, "DELETE", **key_of()))[0].status == 403
            assert (await get(client, path, "DELETE", **key_of("all")))[0].status == 200
        for path in ("/metrics", "/api/status"):
            await client.request("GET", path, **key_of("all"))
            assert (await client.answer())[0].status == 200
        for path in ("/", "/health", "/v1/models"):
            await client.request("GET", path, **key_of())
            assert (await client.answer())[0].status == 200
        # A client's own needs: off here, but not forbidden.
        for path, code in (
            ("/api/stream/message", "agent_disabled"),
            ("/api/chatkit/session", "chatkit_not_configured"),
        ):
            answer, told = await post(client, path, "{}", **key_of())
            assert (answer.status, told["error"]["code"]) == (404, code)
            client = await gateway.connect()


@pytest.mark.parametrize("own", [{"rate_limit": RateLimit(requests_per_minute=1, burst_size=1)}, {"max_concurrent": 1}])
async def test_only_those_with_limits_ask_the_supervisor(upstream, own):
    async with serve_gateway(make_config(upstream, auth=auth(a_client(**own), a_client("all")))) as gateway:
        for name in ("all", "ci"):
            answer, _ = await gateway.chat(stream=False, **key_of(name))
            assert answer.status == 200
        assert [said.client for said in gateway.heard if isinstance(said, Admit)] == [fingerprint("key-of-ci")]


async def test_a_revoked_key_opens_nothing_and_its_streams_end(upstream):
    for _ in range(2):
        upstream.script(head(200, chunked=True), HANG)
    config = make_config(upstream, auth=auth(a_client(), a_client("all")))
    async with serve_gateway(config) as gateway:
        clients = {name: await gateway.connect() for name in ("ci", "all")}
        for name, client in clients.items():
            await client.ask(None, **key_of(name))
        await upstream.wait_request(2)
        late = await gateway.connect()  # whose body is still coming
        body = b'{"model": "m", "messages": []}'
        await late.send(
            b"POST %s HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key-of-ci\r\ncontent-length: %d\r\n\r\n{"
            % (CHAT.encode(), len(body))
        )
        await gateway.wait(lambda: len(gateway.server.connections) == 3)
        gateway.gateway.configure(structs.replace(config, auth=auth(a_client("all"))), {})
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.start.client) == (
            "cancelled",
            "admin",
            fingerprint("key-of-ci"),
        )
        await late.send(body[1:])
        answer, told = await late.answer()
        assert (answer.status, json.loads(told)["error"]["code"]) == (401, "invalid_api_key")
        answer, _ = await gateway.chat(stream=False, **key_of())
        assert answer.status == 401
        assert len(gateway.gateway.sessions) == 1  # the other one's
        assert len(gateway.started) == 2
