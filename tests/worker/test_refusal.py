import json

import httpx
import pytest

from shared.config import Provider, Streaming
from shared.errors import UpstreamBroken, UpstreamConnectError, UpstreamTimeout
from worker.asgi import JSON
from worker.dialects.anthropic.exchange import AnthropicExchange
from worker.dialects.openai.exchange import OpenAIExchange
from worker.streaming.refusal import (
    StreamedRejection,
    UntranslatableRequest,
    UpstreamRejection,
    of_upstream_error,
    plain,
    sentence,
)

BODY = b'{"model": "m", "messages": [], "max_tokens": 1}'
OPENAI = Provider(name="up", dialect="openai")
ANTHROPIC = Provider(name="up", dialect="anthropic")
LONG = "This model's maximum context length is 100 tokens. However, your messages resulted in 120 tokens."


def openai():
    return OpenAIExchange(BODY, Streaming(), id="0" * 32, now=1)


def anthropic():
    return AnthropicExchange(BODY, Streaming(), id="0" * 32, now=1, request_id="req_7")


EXCHANGES = pytest.mark.parametrize("make", [openai, anthropic])


def rejection(status, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return UpstreamRejection(status, httpx.Headers(named), body, "up")


def in_openai_s(message, **more):
    return json.dumps({"error": {"message": message, **more}}).encode()


def in_anthropic_s(message, type="invalid_request_error"):
    return json.dumps({"type": "error", "error": {"type": type, "message": message}}).encode()


def error_in(exchange, body):
    told = json.loads(body)
    if exchange.dialect == "anthropic":
        assert (told["type"], told["request_id"]) == ("error", "req_7")
    return told["error"]


@pytest.mark.parametrize(
    ("make", "provider", "body"),
    [(openai, OPENAI, in_openai_s("no", extra=1)), (anthropic, ANTHROPIC, in_anthropic_s("no"))],
)
@pytest.mark.parametrize("status", [400, 402, 413, 429, 500, 529])
def test_bytes_pass_where_dialects_match(make, provider, body, status):
    assert of_upstream_error(make(), provider, rejection(status, body))[:2] == (status, body)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504, 529])
def test_messages_pass_where_dialects_differ(status):
    for exchange, provider, body in (
        (openai(), ANTHROPIC, in_anthropic_s("the reason")),
        (anthropic(), OPENAI, in_openai_s("the reason")),
    ):
        told_status, told, headers = of_upstream_error(exchange, provider, rejection(status, body))
        assert told_status == status
        assert error_in(exchange, told)["message"] == "the reason"
        final = status in (400, 401, 402, 403, 404, 413)
        assert ((b"x-should-retry", b"false") in headers) == final
        assert JSON in headers


@EXCHANGES
@pytest.mark.parametrize("provider", [OPENAI, ANTHROPIC], ids=lambda provider: provider.dialect)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Bad gateway</html>", "provider up answered with status 403"),
        (b"", "provider up answered with status 403"),
        (b'{"detail": "Forbidden"}', "Forbidden"),
        (b'[{"error": {"message": "API key not valid"}}]', "API key not valid"),
    ],
)
def test_bodies_of_neither_dialect(make, provider, body, message):
    exchange = make()
    status, told, _ = of_upstream_error(exchange, provider, rejection(403, body))
    assert (status, error_in(exchange, told)["message"]) == (403, message)


def test_a_provider_that_says_its_errors_in_the_other_dialect():
    exchange = anthropic()
    _, told, _ = of_upstream_error(exchange, ANTHROPIC, rejection(404, in_openai_s("no such model")))
    assert error_in(exchange, told) == {"type": "not_found_error", "message": "no such model"}


def test_headers():
    error = rejection(
        429,
        in_openai_s("slow down"),
        retry_after="7",
        retry_after_ms="6500",
        x_should_retry="true",
        x_ratelimit_remaining_requests="0",
        anthropic_ratelimit_tokens_reset="soon",
        set_cookie="a=b",
        request_id="theirs",
    )
    for exchange in (openai(), anthropic()):
        headers = of_upstream_error(exchange, OPENAI, error)[2]
        assert sorted(name for name, _ in headers) == [
            b"anthropic-ratelimit-tokens-reset",
            b"content-type",
            b"retry-after",
            b"retry-after-ms",
            b"x-ratelimit-remaining-requests",
            b"x-should-retry",
        ]
        assert dict(headers)[b"x-should-retry"] == b"true"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_too_long(status):
    exchange = anthropic()
    told_status, told, headers = of_upstream_error(exchange, OPENAI, rejection(status, in_openai_s(LONG)))
    assert (told_status, dict(headers)[b"x-should-retry"]) == (400, b"false")
    error = error_in(exchange, told)
    assert error["type"] == "invalid_request_error"
    assert error["message"] == f"prompt is too long: 120 tokens > 100 maximum; the upstream said: {LONG}"

    exchange = openai()
    body = in_anthropic_s("prompt is too long: 120 tokens > 100 maximum")
    told_status, told, _ = of_upstream_error(exchange, ANTHROPIC, rejection(status, body))
    error = error_in(exchange, told)
    assert (told_status, error["code"]) == (400, "context_length_exceeded")
    assert error["message"] == "prompt is too long: 120 tokens > 100 maximum"


def test_a_prompt_that_is_too_long_passes_where_dialects_match():
    for exchange, provider, body in (
        (openai(), OPENAI, in_openai_s(LONG)),
        (anthropic(), ANTHROPIC, in_anthropic_s(LONG)),
    ):
        assert of_upstream_error(exchange, provider, rejection(413, body))[:2] == (413, body)


@EXCHANGES
@pytest.mark.parametrize(
    ("error", "status", "is_final"),
    [
        (UpstreamTimeout("silent", "ReadTimeout"), 504, False),
        (UpstreamConnectError("refused"), 502, False),
        (UpstreamBroken("cut"), 502, False),
        (UntranslatableRequest("`messages[0]`: no"), 400, True),
    ],
)
def test_failures_without_an_answer(make, error, status, is_final):
    exchange = make()
    told_status, told, headers = of_upstream_error(exchange, OPENAI, error)
    assert (told_status, error_in(exchange, told)["message"]) == (status, str(error))
    assert ((b"x-should-retry", b"false") in headers) == is_final


@EXCHANGES
def test_redirects_are_no_answer(make):
    exchange = make()
    status, told, _ = of_upstream_error(exchange, OPENAI, rejection(301, b"", location="http://elsewhere"))
    assert status == 502
    assert "redirects are not followed" in error_in(exchange, told)["message"]


@EXCHANGES
def test_an_error_of_our_own(make):
    exchange = make()
    status, told, headers = plain(exchange, 503, "leaving", "service_unavailable_error")
    assert (status, headers) == (503, [JSON])
    assert error_in(exchange, told)["message"] == "leaving"


@pytest.mark.parametrize("body", [in_openai_s("no"), in_anthropic_s("no"), b'{"detail": "no"}'])
def test_a_sentence_quotes_the_provider_in_any_dialect(body):
    assert sentence(rejection(402, body)) == "provider up answered with status 402: no"


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}"])
def test_a_sentence_of_one_who_says_nothing(body):
    assert sentence(rejection(502, body)) == "provider up answered with status 502"


def test_a_sentence_says_it_once():
    error = StreamedRejection(httpx.Headers(), in_openai_s("no"), "up", "no")
    assert sentence(error) == "no"
    assert sentence(UpstreamTimeout("silent", "ReadTimeout")) == "silent"
    assert len(sentence(rejection(400, in_openai_s("x" * 9000)))) < 2100
