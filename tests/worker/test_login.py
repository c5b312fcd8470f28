"""Logging in to the dashboard: a key gives a cookie, which opens the dashboard's routes and nothing else."""

import json
import re
from contextlib import asynccontextmanager

import pytest
from fakes import ws
from fakes.gateway import CHAT, Client, make_config, serve_gateway
from msgspec import structs
from structlog.testing import capture_logs

from shared import config as types
from shared.clientkeys import fingerprint, hashed
from shared.config import Auth, Cors
from shared.messages import LogIn
from worker.auth import Authenticator
from worker.login import MAX_AGE, Logins

KEY = "a-long-and-secret-key"
PAGE = "http://127.0.0.1:8000"
HOST = "127.0.0.1:8000"
AUTH = Auth(
    keys=(KEY,),
    clients=(
        types.Client(name="night", key=hashed("night-key")),
        types.Client(name="robot", key=hashed("robot-key"), dashboard=False),
    ),
)


def known(authenticator: Authenticator, key: str = KEY):
    found = authenticator.known(fingerprint(key))
    assert found is not None
    return found


def test_a_cookie_is_good_for_a_week_and_for_its_key():
    authenticator = Authenticator(AUTH)
    logins = Logins(b"s" * 32)
    value = logins.cookie(known(authenticator), 1000.0)
    headers = [f"theme=dark; {logins.name}={value}"]
    assert KEY not in value
    assert logins.identify(headers, authenticator, 1000.0 + MAX_AGE - 1) == fingerprint(KEY)
    assert Logins(b"s" * 32).identify(headers, authenticator, 1000.0) == fingerprint(KEY)  # another worker
    assert logins.identify(headers, authenticator, 1000.0 + MAX_AGE) is None
    assert logins.identify(headers, Authenticator(Auth(("another",))), 1000.0) is None
    assert Logins(b"t" * 32).identify(headers, authenticator, 1000.0) is None
    name = Logins(b"t" * 32).name
    assert Logins(b"t" * 32).identify([f"{name}={value}"], authenticator, 1000.0) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda who, expiry, seal: f"{fingerprint('night-key')}.{expiry}.{seal}",
        lambda who, expiry, seal: f"{who}.{int(expiry) + 1}.{seal}",
        lambda who, expiry, seal: f"{who}.{expiry}.{seal[:-1]}",
        lambda who, expiry, seal: f"{who}.{expiry}.",
        lambda who, expiry, seal: f"{who}.{expiry}.é",
        lambda who, expiry, seal: f"{who}.{expiry}",
        lambda who, expiry, seal: f"{who}.{expiry}.{seal}.{seal}",
        lambda who, expiry, seal: f"{who}.{'9' * 5000}.{seal}",
        lambda who, expiry, seal: f"{who}.-1.{seal}",
        lambda who, expiry, seal: f".{expiry}.{seal}",
        lambda who, expiry, seal: "",
    ],
)
def test_a_forged_cookie(change):
    authenticator, logins = Authenticator(AUTH), Logins(b"s" * 32)
    value = change(*logins.cookie(known(authenticator), 0.0).split("."))
    assert logins.identify([f"{logins.name}={value}"], authenticator, 1.0) is None


@asynccontextmanager
async def served(upstream, **sections):
    """A gateway whose supervisor lets everybody try to log in."""
    async with serve_gateway(make_config(upstream, **{"auth": AUTH, **sections})) as gateway:
        gateway.answer = lambda question: (200, b"{}")
        yield gateway


async def log_in(client: Client, key: str = KEY, **headers: str):
    body = json.dumps({"key": key}).encode()
    await client.request("POST", "/api/login", body, **{"host": HOST, "origin": PAGE, **headers})
    head, told = await client.answer()
    return head, json.loads(told)


async def cookie_of(gateway, key: str = KEY) -> str:
    head, _ = await log_in(await gateway.connect(), key)
    return head.headers["set-cookie"].partition(";")[0]


async def status(gateway, method: str, path: str, **headers: str) -> int:
    client = await gateway.connect()
    await client.request(method, path, b"{}" if method == "POST" else None, **{"host": HOST, **headers})
    return (await client.answer())[0].status


async def test_log_in_and_out(upstream):
    async with served(upstream) as gateway:
        client = await gateway.connect()
        head, told = await log_in(client, f" {KEY} ")
        assert (head.status, head.headers["cache-control"]) == (200, "no-store")
        assert told == {"required": True, "logged_in": True, "client": None, "fingerprint": fingerprint(KEY)}
        cookie = head.headers["set-cookie"]
        assert re.fullmatch(
            r"kimi_proxy_[0-9a-f]{8}=[0-9a-f.]+; Max-Age=604800; Path=/; HttpOnly; SameSite=Strict", cookie
        )
        assert KEY not in cookie
        name, _, value = cookie.partition(";")[0].partition("=")
        await client.request("GET", "/api/login", cookie=f"{name}={value}", host=HOST)
        assert json.loads((await client.answer())[1])["logged_in"]
        await client.request("POST", "/api/logout", b"", cookie=f"{name}={value}", host=HOST, origin=PAGE)
        head = await client.head()
        assert head.status == 204
        assert head.headers["set-cookie"] == f"{name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"
        await client.request("GET", "/api/login", host=HOST)
        told = json.loads((await client.answer())[1])
        assert told == {"required": True, "logged_in": False, "client": None, "fingerprint": None}
        assert gateway.asked == [LogIn("127.0.0.1", failed=False)]


async def test_the_cookie_is_for_https_only_where_that_is_spoken(upstream):
    async with served(upstream) as gateway:
        head, _ = await log_in(await gateway.connect(), x_forwarded_proto="https, http")
        assert head.headers["set-cookie"].endswith("; SameSite=Strict; Secure")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"key": "wrong"}', 401, "invalid_api_key"),
        (b'{"key": "sch\\u00f6n"}', 401, "invalid_api_key"),
        (b'{"key": "\\ud800"}', 400, None),
        (b'{"key": "robot-key"}', 403, "dashboard_not_allowed"),
        (b'{"key": 3}', 400, None),
        (b"{}", 400, None),
        (b"", 400, None),
        (b"key=x", 400, None),
        (b'{"key": "%s"}' % (b"x" * 20_000), 413, "request_too_large"),
    ],
)
async def test_no_good_key(upstream, body, status, code):
    async with served(upstream) as gateway:
        client = await gateway.connect()
        await client.request("POST", "/api/login", body, host=HOST, origin=PAGE)
        head, told = await client.answer()
        assert (head.status, json.loads(told)["error"]["code"]) == (status, code)
        assert "set-cookie" not in head.headers
        assert gateway.asked == ([LogIn("127.0.0.1", failed=status == 401)] if status in (401, 403) else [])


async def test_too_many(upstream):
    async with served(upstream) as gateway:
        gateway.answer = lambda question: (429, b'{"message": "too many logins have failed", "retry_after": 6}')
        for key in ("wrong", KEY):
            head, told = await log_in(await gateway.connect(), key)
            assert (head.status, head.headers["retry-after"]) == (429, "6")
            assert told["error"]["code"] == "too_many_logins"
            assert "set-cookie" not in head.headers


async def test_what_a_cookie_opens(upstream):
    async with served(upstream) as gateway:
        cookie = await cookie_of(gateway)
        for path in ("/metrics", "/api/status", "/api/sessions/active"):
            assert await status(gateway, "GET", path, cookie=cookie) == 200
            assert await status(gateway, "GET", path) == 401
        for path in (CHAT, "/v1/messages", "/v1/messages/count_tokens", "/api/stream/message", "/api/chatkit/session"):
            assert await status(gateway, "POST", path, cookie=cookie, origin=PAGE) == 401
        assert await status(gateway, "GET", "/v1/models", cookie=cookie) == 401
        assert await status(gateway, "GET", "/ws/stream", cookie=cookie) == 401


async def test_the_password_of_a_proxy_before_us_is_not_in_the_way(upstream):
    """A browser sends it with everything, and most proxies pass it on."""
    async with served(upstream) as gateway:
        cookie = await cookie_of(gateway)
        for authorization in ("Basic dXNlcjpwYXNzd29yZA==", "Bearer of-elsewhere"):
            assert await status(gateway, "GET", "/api/status", cookie=cookie, authorization=authorization) == 200
            assert await status(gateway, "GET", "/api/status", authorization=authorization) == 401
            assert await status(gateway, "GET", "/v1/models", cookie=cookie, authorization=authorization) == 401


@pytest.mark.parametrize(
    ("origin", "expected"),
    [(PAGE, 200), (None, 401), ("http://127.0.0.1:9999", 401), ("https://evil.example", 401), ("null", 401)],
)
async def test_what_does_something_must_come_from_our_page(upstream, origin, expected):
    """Though [cors] lets the page read answers: a cookie is not its to use."""
    async with served(upstream, cors=Cors(origins=("http://127.0.0.1:9999", "null"))) as gateway:
        headers = {"cookie": await cookie_of(gateway), **({"origin": origin} if origin else {})}
        assert await status(gateway, "DELETE", "/api/sessions/stale", **headers) == expected
        if origin is not None:
            assert await status(gateway, "GET", "/api/status", **headers) == expected


@pytest.mark.parametrize("path", ["/api/login", "/api/logout"])
async def test_only_our_page_logs_in_and_out(upstream, path):
    async with served(upstream, cors=Cors(origins=("*",))) as gateway:
        assert await status(gateway, "POST", path, origin="http://127.0.0.1:9999") == 403
        assert gateway.asked == []


async def test_no_answer_lets_a_page_of_elsewhere_use_the_cookie(upstream):
    async with served(upstream, cors=Cors(origins=("*",))) as gateway:
        client = await gateway.connect()
        for method, path in (("OPTIONS", "/api/status"), ("GET", "/api/login"), ("GET", "/api/status")):
            await client.request(method, path, host=HOST, origin="https://app.example")
            head, _ = await client.answer()
            assert head.headers["access-control-allow-origin"] == "https://app.example"
            assert "access-control-allow-credentials" not in head.headers


async def test_live_events_by_cookie(upstream):
    async with served(upstream, cors=Cors(origins=("http://127.0.0.1:9999",))) as gateway:
        cookie = await cookie_of(gateway)
        async with ws.listen(gateway.port, host=HOST, cookie=cookie, origin=PAGE) as listener:
            assert (await listener.event())["type"] == "hello"
        for headers in ({}, {"origin": "http://127.0.0.1:9999"}):
            with pytest.raises(ws.RefusedError) as caught:
                async with ws.listen(gateway.port, host=HOST, cookie=cookie, **headers):
                    pass
            assert caught.value.status == 401


async def test_revoking_the_key_ends_the_login(upstream):
    async with served(upstream) as gateway:
        cookie = await cookie_of(gateway, "night-key")
        assert await status(gateway, "GET", "/api/status", cookie=cookie) == 200
        config = gateway.gateway.config
        robot = structs.replace(AUTH.clients[0], dashboard=False)
        gateway.gateway.configure(structs.replace(config, auth=structs.replace(AUTH, clients=(robot,))), {})
        assert await status(gateway, "GET", "/api/status", cookie=cookie) == 403
        gateway.gateway.configure(structs.replace(config, auth=structs.replace(AUTH, clients=())), {})
        assert await status(gateway, "GET", "/api/status", cookie=cookie) == 401


async def test_without_keys_nobody_need_log_in(upstream):
    async with served(upstream, auth=Auth()) as gateway:
        head, told = await log_in(await gateway.connect())
        assert (head.status, told["required"], told["logged_in"]) == (200, False, False)
        assert "set-cookie" not in head.headers
        assert gateway.asked == []


async def test_a_failure_is_one_line_without_the_key(upstream):
    async with served(upstream) as gateway:
        with capture_logs() as logs:
            await log_in(await gateway.connect(), "not-the-key")
    [line] = [line for line in logs if line["event"] == "login_failed"]
    assert (line["log_level"], line["address"]) == ("warning", "127.0.0.1")
    assert "not-the-key" not in str(line)
