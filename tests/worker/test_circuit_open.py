"""Endpoints and the health of providers, as the supervisor told it."""

import json

import pytest
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import json_response, openai_stream, serve_upstream

from shared.config import HealthRules
from shared.messages import Health


@pytest.fixture
async def second():
    async with serve_upstream() as upstream:
        yield upstream


async def test_a_degraded_provider_is_asked_last(upstream, second):
    second.script(*openai_stream("from the second"))
    async with serve_gateway(make_config(upstream, second)) as gateway:
        gateway.gateway.health.take(Health(degraded=("one",)))
        answer, body = await gateway.chat()
        assert answer.status == 200
        assert b"from the second" in body
        record = await gateway.wait_record()
        assert (record.start.provider, record.provider, record.retries) == ("two", "two", 0)
    assert upstream.requests == []


async def test_it_is_still_asked_when_the_others_fail(upstream, second):
    second.script(json_response({"error": {"message": "no"}}, 429))
    upstream.script(*openai_stream("from the first"))
    async with serve_gateway(make_config(upstream, second)) as gateway:
        gateway.gateway.health.take(Health(degraded=("one",)))
        _, body = await gateway.chat()
        assert b"from the first" in body
        assert (await gateway.wait_record()).provider == "one"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("early_ping", [True, False])
async def test_a_client_is_told_when_nobody_may_be_asked(upstream, stream, early_ping):
    config = make_config(upstream, health=HealthRules(open_time=20.0), streaming={"early_ping": early_ping})
    async with serve_gateway(config) as gateway:
        gateway.gateway.health.take(Health(open=("one",)))
        for ask, kind in ((gateway.chat, "service_unavailable_error"), (gateway.message, "api_error")):
            answer, body = await ask(stream=stream)
            assert answer.status == 503
            assert answer.headers["retry-after"] == "20"
            assert "x-should-retry" not in answer.headers
            error = json.loads(body)["error"]
            assert error["type"] == kind
            assert "one" in error["message"]
        for number in (1, 2):
            record = await gateway.wait_record(number)
            assert (record.status, record.error_type, record.http_status) == ("failed", "CircuitOpen", 503)
            assert (record.provider, record.prompt, record.completion) == ("one", None, None)
        gateway.gateway.health.take(Health())
        upstream.script(*openai_stream("again"))
        assert (await gateway.chat())[0].status == 200
    assert len(upstream.requests) == 1


async def test_a_half_open_circuit_lets_one_stream_through(upstream):
    upstream.script(*openai_stream("a trial"))
    async with serve_gateway(make_config(upstream)) as gateway:
        gateway.gateway.health.take(Health(half_open=("one",)))
        assert (await gateway.chat())[0].status == 200
        answer, _ = await gateway.chat()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    assert len(upstream.requests) == 1
