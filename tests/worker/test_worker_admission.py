"""Streams that ask the supervisor before they ask a provider, and what they say of failures."""

import hashlib
import json

import pytest
import trio
import trio.testing
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import COMPLETION, HANG, chunk, head, json_response, openai_chunk, openai_stream, serve_upstream

from shared.config import Auth, RateLimit, RateLimiting, Sessions
from shared.messages import Admit, Leave, LimitState, Trouble, Verdict
from worker.admission import MAX_SESSION_CHARS, session_name

LIMIT = RateLimit(requests_per_minute=600, burst_size=10)
LIMITED = {"rate_limit": LIMIT}
ROOM = LimitState("provider one", limit=600, remaining=9, reset_after=0.1)
FULL = LimitState("provider one", limit=600, remaining=0, reset_after=1.0, retry_after=0.05)
SSE = head(200, {"content-type": "text/event-stream"}, chunked=True)
RATE_HEADERS = {
    "x-ratelimit-limit-requests": "600",
    "x-ratelimit-remaining-requests": "9",
    "x-ratelimit-reset-requests": "100ms",
}


@pytest.fixture
async def second():
    async with serve_upstream() as upstream:
        yield upstream


def let_in(admit):
    return Verdict(admit.id, admit.provider, admitted=True, limit=ROOM)


def refuse(admit):
    return Verdict(admit.id, admit.provider, admitted=False, limit=FULL)


def refuse_one(admit):
    return refuse(admit) if admit.provider == "one" else let_in(admit)


def say_nothing(_admit):
    return None


def heard(gateway, kind):
    return [message for message in gateway.heard if isinstance(message, kind)]


def begun(capfd):
    # Which of the two it is, is the process's affair: the logger may have been configured before.
    return "".join(capfd.readouterr()).count("stream_start")


# --- who asks


async def test_who_has_neither_key_nor_limit_does_not_ask(gateway):
    await gateway.chat(stream=False)
    await gateway.message({"metadata": {"user_id": "group"}}, x_claude_code_session_id="group", stream=False)
    await gateway.wait_record(2)
    assert gateway.heard == []


async def test_a_session_key_asks(gateway):
    await gateway.chat(stream=False, x_session_id="s1")
    [admit] = gateway.heard
    assert admit == Admit(gateway.started[0].id, "one", session="s1", client=None)


def test_long_names_of_sessions_are_shortened_and_stay_different():
    longest = "é" * MAX_SESSION_CHARS
    assert session_name(longest) == longest
    names = {session_name(longest + end) for end in ("", "1", "2")}
    assert len(names) == 3
    assert {len(name) for name in names} == {MAX_SESSION_CHARS}


async def test_a_session_key_that_supersedes_nobody_does_not_ask(upstream):
    async with serve_gateway(make_config(upstream, sessions=Sessions("allow"))) as gateway:
        await gateway.chat(stream=False, x_session_id="s1")
        assert gateway.heard == []


@pytest.mark.parametrize("limit", [LIMITED, {"max_concurrent": 3}])
async def test_a_limit_of_the_provider_asks(upstream, limit):
    async with serve_gateway(make_config(upstream, provider=limit)) as gateway:
        await gateway.chat(stream=False)
        assert heard(gateway, Admit) == [Admit(gateway.started[0].id, "one")]


@pytest.mark.parametrize("limits", [RateLimiting(per_key=LIMIT), RateLimiting(max_concurrent_per_key=3)])
async def test_a_limit_of_keys_asks_with_the_client_s_fingerprint(upstream, limits):
    config = make_config(upstream, auth=Auth(keys=("secret",)), rate_limiting=limits)
    fingerprint = hashlib.sha256(b"secret").hexdigest()[:12]
    async with serve_gateway(config) as gateway:
        await gateway.chat(stream=False, authorization="Bearer secret")
        assert heard(gateway, Admit) == [Admit(gateway.started[0].id, "one", client=fingerprint)]
        assert gateway.started[0].client == fingerprint
    async with serve_gateway(make_config(upstream, rate_limiting=limits)) as gateway:
        await gateway.chat(stream=False, authorization="Bearer secret")
        assert gateway.heard == []
        assert gateway.started[0].client is None


# --- what follows


async def test_nothing_goes_upstream_and_nothing_has_begun_before_the_verdict(upstream, capfd):
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = say_nothing
        client = await gateway.connect()
        await client.ask(stream=False)
        await gateway.wait(lambda: gateway.heard)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert upstream.requests == []
        assert begun(capfd) == 0
        gateway.gateway.admissions.take(let_in(gateway.heard[0]))
        answer, _ = await client.answer()
        assert answer.status == 200
        assert begun(capfd) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_tells_what_is_left(upstream, stream):
    upstream.script(*(openai_stream("hello") if stream else [json_response(COMPLETION)]))
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = let_in
        answer, _ = await gateway.chat(stream=stream)
        assert answer.headers.items() >= RATE_HEADERS.items()


async def test_where_streams_at_once_are_limited_an_answer_tells_nothing(upstream):
    async with serve_gateway(make_config(upstream, provider={"max_concurrent": 3})) as gateway:
        gateway.verdict = lambda admit: Verdict(admit.id, "one", True, LimitState("p", 3, 2, 0.0, concurrent=True))
        answer, _ = await gateway.chat(stream=False)
        assert not [name for name in answer.headers if "ratelimit" in name]


async def test_a_refused_one_gets_429_and_a_record(upstream, capfd):
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = refuse
        answer, body = await gateway.chat()
        assert answer.status == 429
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "50")
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert "x-should-retry" not in answer.headers
        assert "600 requests a minute for provider one" in json.loads(body)["error"]["message"]
        record = await gateway.wait_record()
        assert (record.status, record.error_type, record.http_status) == ("failed", "LimitExceeded", 429)
        assert (record.prompt, record.completion, record.retries) == (None, None, 0)
        assert upstream.requests == []
        assert begun(capfd) == 0
        assert not heard(gateway, Leave)
        assert not heard(gateway, Trouble)


async def test_anthropic_s_clients_are_refused_in_their_words(upstream):
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = refuse
        answer, body = await gateway.message()
        assert answer.status == 429
        assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert json.loads(body)["error"]["type"] == "rate_limit_error"


async def test_a_refused_one_goes_to_the_fallback(upstream, second):
    second.script(*openai_stream("hello"))
    async with serve_gateway(make_config(upstream, second, provider=LIMITED)) as gateway:
        gateway.verdict = refuse_one
        answer, _ = await gateway.chat()
        assert answer.status == 200
        record = await gateway.wait_record()
        assert (record.provider, record.retries) == ("two", 0)
        assert [admit.provider for admit in heard(gateway, Admit)] == ["one", "two"]
        assert heard(gateway, Leave) == [Leave(record.start.id, "two")]
        assert upstream.requests == []


async def test_a_fallback_leaves_the_former_provider_first(upstream, second):
    upstream.script(json_response({"error": {"message": "no"}}, 429))
    second.script(*openai_stream("hello"))
    async with serve_gateway(make_config(upstream, second, provider=LIMITED)) as gateway:
        gateway.verdict = let_in
        await gateway.chat()
        id = (await gateway.wait_record()).start.id
        said = [message for message in gateway.heard if not isinstance(message, Trouble)]
        assert said == [Admit(id, "one"), Leave(id, "one"), Admit(id, "two"), Leave(id, "two")]


async def test_what_never_got_to_the_provider_gives_back_unused(upstream):
    async with serve_gateway(make_config(upstream, provider={**LIMITED, "dialect": "anthropic"})) as gateway:
        gateway.verdict = let_in
        answer, _ = await gateway.chat({"messages": [{"role": "user", "content": [{"type": "no such thing"}]}]})
        assert answer.status == 400
        record = await gateway.wait_record()
        assert record.error_type == "UntranslatableRequest"
        assert heard(gateway, Leave) == [Leave(record.start.id, "one", unused=True)]


async def test_attempts_at_one_provider_ask_once(upstream):
    upstream.script(json_response({"error": {"message": "no"}}, 500))
    upstream.script(json_response({"error": {"message": "no"}}, 500))
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = let_in
        answer, _ = await gateway.chat(stream=False)
        assert answer.status == 200
        assert len(heard(gateway, Admit)) == 1


# --- cancelled while waiting


@pytest.mark.parametrize("on_disconnect", ["cancel", "drain"])
async def test_a_client_that_leaves_gives_its_place_back(upstream, on_disconnect):
    config = make_config(upstream, provider={**LIMITED, "on_disconnect": on_disconnect})
    async with serve_gateway(config) as gateway:
        gateway.verdict = say_nothing
        client = await gateway.connect()
        await client.ask()
        await gateway.wait(lambda: gateway.heard)
        client.close()
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", "client_disconnect")
        assert heard(gateway, Leave) == [Leave(record.start.id, "one", unused=True)]
        assert len(gateway.gateway.admissions) == 0
        gateway.gateway.admissions.take(let_in(gateway.heard[0]))
        assert upstream.requests == []


@pytest.mark.parametrize(("reason", "status"), [("registry_new_stream", 409), ("admin", 503), ("shutdown", 503)])
async def test_whoever_waits_can_be_cancelled(upstream, reason, status):
    async with serve_gateway(make_config(upstream)) as gateway:
        gateway.verdict = say_nothing
        client = await gateway.connect()
        await client.ask(x_session_id="s")
        await gateway.wait(lambda: gateway.heard)
        gateway.gateway.sessions.cancel(gateway.started[0].id, reason)
        answer, _ = await client.answer()
        assert answer.status == status
        assert (answer.headers.get("x-should-retry") == "false") is (reason == "registry_new_stream")
        record = await gateway.wait_record()
        assert (record.status, record.error_type) == ("cancelled", reason)
        assert upstream.requests == []


async def test_a_cancel_together_with_the_verdict_sends_nothing(upstream):
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = say_nothing
        client = await gateway.connect()
        await client.ask()
        await gateway.wait(lambda: gateway.heard)
        gateway.gateway.admissions.take(let_in(gateway.heard[0]))
        gateway.gateway.sessions.cancel(gateway.started[0].id, "admin")
        answer, _ = await client.answer()
        assert answer.status == 503
        record = await gateway.wait_record()
        assert heard(gateway, Leave) == [Leave(record.start.id, "one", unused=True)]
        assert upstream.requests == []


async def test_without_a_supervisor_everybody_gets_in(upstream):
    async with serve_gateway(make_config(upstream, provider=LIMITED)) as gateway:
        gateway.verdict = say_nothing
        client = await gateway.connect()
        await client.ask(stream=False)
        await gateway.wait(lambda: gateway.heard)
        gateway.gateway.admissions.supervisor_gone()
        answer, _ = await client.answer()
        assert answer.status == 200
        answer, _ = await gateway.chat(stream=False)
        assert answer.status == 200
        assert len(heard(gateway, Admit)) == 1


async def test_a_verdict_that_nobody_waits_for_is_passed_over(gateway):
    gateway.gateway.admissions.take(Verdict("nobody", "one", admitted=False))


# --- what failed


async def test_each_failed_attempt_is_told(upstream, second):
    upstream.script(json_response({"error": {"message": "no"}}, 500))
    upstream.script(json_response({"error": {"message": "no"}}, 503))
    second.script(json_response({"error": {"message": "no"}}, 400))
    config = make_config(upstream, second, provider={"max_retries": 1})
    async with serve_gateway(config) as gateway:
        await gateway.chat()
        record = await gateway.wait_record()
        troubles = heard(gateway, Trouble)
        assert [
            (trouble.provider, trouble.http_status, trouble.retry_count, trouble.retried) for trouble in troubles
        ] == [
            ("one", 500, 0, True),
            ("one", 503, 1, True),
            ("two", 400, 2, False),
        ]
        for trouble in troubles:
            assert (trouble.id, trouble.error_type, trouble.tokens_received) == (record.start.id, "HTTPStatusError", 0)
            assert abs(trouble.at - record.start.started) < 60


async def test_a_failure_in_mid_stream_tells_what_had_come(upstream):
    upstream.script(SSE, chunk(openai_chunk({"content": "hello world " * 20})))
    async with serve_gateway(make_config(upstream, provider={"chunk_timeout": 0.2})) as gateway:
        client = await gateway.connect()
        await client.ask()
        await client.answer()
        record = await gateway.wait_record()
        [trouble] = heard(gateway, Trouble)
        assert (trouble.error_type, trouble.http_status, trouble.retried) == (record.error_type, None, False)
        assert trouble.tokens_received > 10
        assert trouble.message


async def test_an_upstreams_own_words_are_cut_and_keep_no_key(upstream):
    said = json.dumps({"error": {"message": "no such key: sk-0123456789abcdef " + "x" * 100_000}}).encode()
    upstream.script(SSE, chunk(b"data: " + said + b"\n\n"))
    async with serve_gateway(make_config(upstream, provider={"max_retries": 0})) as gateway:
        await gateway.chat()
        await gateway.wait_record()
        [trouble] = heard(gateway, Trouble)
        assert trouble.message.startswith("no such key: [redacted] xxx")
        assert len(trouble.message) < 3000


async def test_a_cancelled_stream_is_no_trouble(upstream):
    upstream.script(SSE, chunk(openai_chunk({"content": "hello"})), HANG)
    async with serve_gateway(make_config(upstream)) as gateway:
        client = await gateway.connect()
        await client.ask()
        await client.head()
        await client.until(b"hello")
        client.close()
        await gateway.wait_record()
        assert not heard(gateway, Trouble)
