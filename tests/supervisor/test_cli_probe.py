"""The request of one token: what it says of every way in which it can fail, and what it asks."""

import json
import socket
from functools import partial

import pytest
import trio
from fakes.anthropic_upstream import serve_anthropic
from fakes.certificate import self_signed, server_context
from fakes.openai_upstream import serve_openai
from fakes.service import free_port
from fakes.upstream import FIN, HANG, RESET, head, json_response, serve_upstream, whole

from shared.config import parse_config
from supervisor.cli.launcher.explain import explain_answer
from supervisor.cli.launcher.probe import probe

KEY = "sk-0123456789abcdef"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def provider_at(url=None, name="fake", **more):
    values = {**({"base_url": url} if url else {}), **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key != "headers"]
    lines += [f'headers = {{ "{key}" = "{value}" }}' for key, value in values.get("headers", {}).items()]
    return parse_config("\n".join([f"[providers.{name}]", *lines])).config.providers[name]


async def probed(provider, model="text", *, key=KEY, timeout=5.0):
    return await trio.to_thread.run_sync(partial(probe, provider, key, model, timeout))


@pytest.mark.parametrize(("serve", "dialect"), [(serve_openai, "openai"), (serve_anthropic, "anthropic")])
async def test_all_is_well(serve, dialect):
    async with serve() as upstream:
        found = await probed(provider_at(upstream.base_url, dialect=dialect, headers={"x-team": "blue"}))
    assert found.ok
    assert (found.problem, found.fix, found.kind, found.status) == (None, None, None, 200)
    assert found.passed == ("TCP", "HTTP")
    assert found.seconds > 0
    [row] = upstream.log
    assert row.body["max_tokens"] == 1
    assert not row.body.get("stream")
    assert row.headers["x-team"] == "blue"
    sent = row.headers["x-api-key"] if dialect == "anthropic" else row.headers["authorization"]
    assert sent == (KEY if dialect == "anthropic" else f"Bearer {KEY}")


async def test_openai_itself_has_another_word_for_the_limit():
    async with serve_openai() as upstream:
        provider = provider_at(upstream.base_url, "openai")
        assert (await probed(provider, key=None)).ok
    [row] = upstream.log
    assert row.body["max_completion_tokens"] == 1
    assert "authorization" not in row.headers


def test_echo_needs_no_network():
    assert probe(provider_at(name="echo"), None, "echo").ok


@pytest.mark.parametrize(
    ("status", "kind", "says", "fix"),
    [
        (401, "key", "does not know this key (401: upstream says 401)", "set-key fake"),
        (402, "quota", "no credit left", "add credit"),
        (403, "key", "does not let this key", "set-key fake"),
        (404, "address", "has nothing at http://127.0.0.1:", "correct base_url"),
        (429, "quota", "enough requests", "wait 7 s"),
        (500, "server", "trouble of its own", "another provider"),
        (503, "server", "trouble of its own", "another provider"),
        (418, "request", "refuses the request (418", "see what it says"),
    ],
)
@pytest.mark.parametrize(("serve", "dialect"), [(serve_openai, "openai"), (serve_anthropic, "anthropic")])
async def test_what_the_status_means(serve, dialect, status, kind, says, fix):
    async with serve() as upstream:
        found = await probed(provider_at(upstream.base_url, dialect=dialect), f"status-{status}")
    assert (found.ok, found.kind, found.status) == (False, kind, status)
    assert says in found.problem
    assert fix in found.fix


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}, "key"),  # Gemini
        (400, [{"error": {"code": 400, "message": "API key expired. Please renew the API key."}}], "key"),
        (400, {"error": {"message": "some/model is not a valid model ID", "code": 400}}, "model"),  # OpenRouter
        (400, {"object": "error", "message": "Invalid model: nonsense", "code": "1500"}, "model"),  # Mistral
        (404, {"error": {"message": "Not found the model k9 or Permission denied"}}, "model"),  # Moonshot
        (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: claude-9"}}, "model"),
        (404, {"detail": "Not Found"}, "address"),
        (400, {"error": {"message": "Your credit balance is too low to access the Anthropic API."}}, "quota"),
        (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, "quota"),
        (429, {"error": {"message": "slow", "type": "rate_limit"}}, "quota"),
        (400, {"error": {"message": "Could not finish the message because max_tokens was reached."}}, None),  # OpenAI
        (400, {"error": {"message": "messages: expected something else"}}, "request"),
        (200, {"choices": []}, None),
        (200, {"hello": "world"}, "address"),
        (301, {}, "address"),
    ],
)
def test_what_providers_say_in_other_words(status, body, kind):
    provider = provider_at("http://127.0.0.1:1/v1")
    verdict = explain_answer(provider, KEY, "k9", status, {"location": "https://x/"}, json.dumps(body).encode())
    assert verdict.kind == kind
    assert (verdict.problem is None) == (verdict.fix is None) == (kind is None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b"[]", b'"text"', b'{"error": 3}'])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_any_body_will_do(body, status):
    verdict = explain_answer(provider_at("http://127.0.0.1:1/v1"), None, "m", status, {}, body)
    assert verdict.problem
    assert "\n" not in verdict.problem


def test_the_key_is_never_repeated():
    for told in (KEY, KEY[:10] + "****", f"'{KEY[5:]}'"):
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {told}.\x1b[31m Sorry"}}).encode()
        verdict = explain_answer(provider_at("http://127.0.0.1:1/v1"), KEY, "m", 401, {}, body)
        assert "Incorrect API key provided: …" in verdict.problem
        assert "Sorry" in verdict.problem
        assert "\x1b" not in verdict.problem


def test_kimi_has_three_kinds_of_keys():
    verdict = explain_answer(provider_at(name="kimi"), KEY, "m", 401, {}, b"{}")
    assert "kimi-proxy setup --provider kimi-code" in verdict.fix
    assert "https://api.moonshot.cn/v1" in verdict.fix
    elsewhere = provider_at("https://api.kimi.com/coding/v1", "kimi")
    assert "moonshot.cn" not in explain_answer(elsewhere, KEY, "m", 401, {}, b"{}").fix


async def test_without_a_key_it_says_that_one_is_wanted():
    async with serve_openai() as upstream:
        found = await probed(provider_at(upstream.base_url), "status-401", key=None)
    assert "wants a key, and none is set" in found.problem


async def test_nothing_listens():
    port = free_port()
    found = await probed(provider_at(f"http://127.0.0.1:{port}/v1"))
    assert (found.kind, found.status, found.passed) == ("connect", None, ())
    assert found.problem == f"127.0.0.1:{port} refuses the connection: nothing listens there"
    assert "base_url" in found.fix


@pytest.mark.parametrize(
    ("number", "says"),
    [(socket.EAI_NONAME, "there is no host nowhere.invalid"), (socket.EAI_AGAIN, "there is no network")],
)
async def test_no_such_name_or_no_network(monkeypatch, number, says):
    def fail(*_arguments, **_keywords):
        raise socket.gaierror(number, "Something about names")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    found = await probed(provider_at("https://nowhere.invalid/v1"))
    assert found.kind == "dns"
    assert says in found.problem
    assert "/etc/resolv.conf" in found.fix


async def test_no_route(monkeypatch):
    async def fail(*_arguments, **_keywords):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    found = await probed(provider_at("http://127.0.0.1:1/v1"))
    assert (found.kind, found.fix) == ("connect", "connect this machine to the network")


async def test_a_certificate_that_nobody_vouches_for(tmp_path):
    async with serve_upstream(server_context(self_signed(tmp_path))) as upstream:
        found = await probed(provider_at(upstream.base_url))
    assert (found.kind, found.passed) == ("tls", ("TCP",))
    assert "certificate" in found.problem
    assert "SSL_CERT_FILE" in found.fix


async def test_http_where_https_was_meant():
    async def serve(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        found = await probed(provider_at(f"https://127.0.0.1:{listener.socket.getsockname()[1]}/v1"))
        nursery.cancel_scope.cancel()
    assert found.kind == "tls"
    assert "is it https where http belongs?" in found.fix


async def test_a_trusted_certificate(tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with serve_upstream(server_context(certificate)) as upstream:
        found = await probed(provider_at(upstream.base_url))
    assert (found.ok, found.passed) == (True, ("TCP", "TLS", "HTTP"))


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ([HANG], "timeout", "did not answer within 0.3 s"),
        ([head(200, {"content-length": "99"}), b"{", HANG], "timeout", "answered only in part within 0.3 s"),
        ([RESET], "broken", "broke off"),
        ([FIN], "broken", "broke off"),
        ([b"SSH-2.0-OpenSSH\r\n\r\n", FIN], "broken", "broke off"),
        ([head(200, {"content-length": "99"}), b"{", FIN], "broken", "broke off"),
        ([whole(200, b"<html>", {"content-type": "text/html"})], "address", "not as a model does (200, text/html)"),
        ([whole(308, b"", {"location": "https://else.where/"})], "address", "leads to https://else.where/"),
    ],
)
async def test_strange_answers(script, kind, says):
    async with serve_upstream() as upstream:
        upstream.script(*script)
        found = await probed(provider_at(upstream.base_url), timeout=0.3 if kind == "timeout" else 5.0)
    assert (found.ok, found.kind) == (False, kind)
    assert says in found.problem
    assert found.fix


async def test_a_proxy_of_the_environment_is_taken(monkeypatch):
    async with serve_upstream() as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        provider = provider_at("http://api.example.invalid/v1")
        assert (await probed(provider)).ok
        request = await proxy.wait_request()
        assert request.raw_head.startswith(b"POST http://api.example.invalid/v1/chat/completions ")
        monkeypatch.setenv("no_proxy", "example.invalid")
        assert (await probed(provider)).kind == "dns"


async def test_a_proxy_that_fails(monkeypatch):
    provider = provider_at("https://api.example.invalid/v1")
    async with serve_upstream() as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        proxy.script(json_response({}, 407), FIN)
        found = await probed(provider)
        assert found.kind == "proxy"
        assert f"the proxy 127.0.0.1:{proxy.port} refuses: 407" in found.problem
    found = await probed(provider)
    assert found.kind == "connect"
    assert f"the proxy 127.0.0.1:{proxy.port} refuses the connection" in found.problem
    assert "HTTPS_PROXY" in found.fix
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    assert (await probed(provider)).kind == "proxy"
