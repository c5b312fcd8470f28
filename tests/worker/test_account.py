"""What the record of a stream says about cached tokens and costs, whichever dialects client and provider speak."""

import pytest
from fakes.anthropic_events import MESSAGE_STOP, message_delta, message_start, text
from fakes.gateway import make_config, serve_gateway
from fakes.upstream import (
    COMPLETION,
    FIN,
    HANG,
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

from shared.config import Model, Price
from shared.records import Tokens

PRICE = Price(input=2.0, output=10.0, cache_read=0.5, cache_write=4.0)
# 10 of the prompt, of which 3 were read from a cache and 2 written to it; 7 of the completion.
COST = (5 * 2.0 + 3 * 0.5 + 2 * 4.0 + 7 * 10.0) / 1e6
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 3},
}
MESSAGE_USAGE = {
    "input_tokens": 5,
    "cache_creation_input_tokens": 2,
    "cache_read_input_tokens": 3,
    "output_tokens": 7,
}


def config(*upstreams, dialect="openai", price=PRICE, **fields):
    priced = Model(name="priced", provider="one", model="up", price=price, **fields)
    return make_config(*upstreams, models=(priced,), provider={"dialect": dialect})


def openai_answer(stream):
    if not stream:
        return [json_response({**COMPLETION, "usage": USAGE})]
    told = openai_chunk({}, "stop", usage=USAGE)
    return sse_response([openai_chunk({"content": "hello"}), told, "data: [DONE]\n\n"])


def anthropic_answer(stream):
    if not stream:
        content = [{"type": "text", "text": "hello"}]
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content}
        return [json_response({**message, "stop_reason": "end_turn", "usage": MESSAGE_USAGE})]
    return sse_response([message_start(), text(0, "hello"), message_delta(), MESSAGE_STOP])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", ["chat", "message"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_cached_tokens_and_what_they_cost(upstream, dialect, client, stream):
    upstream.script(*(openai_answer if dialect == "openai" else anthropic_answer)(stream))
    async with serve_gateway(config(upstream, dialect=dialect)) as gateway:
        await getattr(gateway, client)({"model": "priced"}, stream=stream)
        record = await gateway.wait_record()
    assert record.status == "completed"
    assert (record.prompt, record.completion) == (Tokens(10, "provider"), Tokens(7, "provider"))
    if dialect == "anthropic":
        assert (record.cache_read, record.cache_write) == (3, 2)
        assert record.cost == pytest.approx(COST)
    else:  # OpenAI's dialect does not tell what was written
        assert (record.cache_read, record.cache_write) == (3, None)
        assert record.cost == pytest.approx((7 * 2.0 + 3 * 0.5 + 7 * 10.0) / 1e6)


async def test_a_provider_that_tells_of_no_cache(upstream):
    upstream.script(*openai_stream("hello", usage=(10, 7)))
    async with serve_gateway(config(upstream)) as gateway:
        await gateway.chat({"model": "priced"})
        record = await gateway.wait_record()
    assert (record.cache_read, record.cache_write) == (None, None)
    assert record.cost == pytest.approx((10 * 2.0 + 7 * 10.0) / 1e6)


async def test_without_a_price_there_is_no_cost(upstream):
    upstream.script(*openai_answer(True))
    async with serve_gateway(config(upstream)) as gateway:
        await gateway.chat({"model": "one/another"})
        record = await gateway.wait_record()
    assert (record.cache_read, record.cost) == (3, None)


def told_cost(record):
    return (record.prompt.count * PRICE.input + record.completion.count * PRICE.output) / 1e6


async def test_our_own_counts_cost_too(upstream):
    upstream.script(*openai_stream("hello ", "there"))
    async with serve_gateway(config(upstream)) as gateway:
        await gateway.chat({"model": "priced"})
        record = await gateway.wait_record()
    assert (record.prompt.source, record.completion.source) == ("counted", "counted")
    assert record.completion.count == 2
    assert 0 < record.cost == pytest.approx(told_cost(record))


async def test_a_cancelled_stream_costs_what_arrived(upstream):
    upstream.script(head(200, chunked=True), chunk(openai_chunk({"content": "one two three"})), HANG)
    async with serve_gateway(config(upstream)) as gateway:
        client = await gateway.connect()
        await client.ask({"model": "priced"})
        await client.head()
        await client.until(b"three")
        client.close()
        record = await gateway.wait_record()
    assert (record.status, record.completion) == ("cancelled", Tokens(3, "partial"))
    assert 0 < record.cost == pytest.approx(told_cost(record))


async def test_a_broken_stream_costs_what_arrived_and_what_was_cached(upstream):
    upstream.script(head(200, chunked=True), chunk(message_start() + text(0, "one two three")), RESET)
    async with serve_gateway(config(upstream, dialect="anthropic")) as gateway:
        await gateway.message({"model": "priced"})
        record = await gateway.wait_record()
    assert (record.status, record.prompt, record.completion) == ("failed", Tokens(10, "provider"), Tokens(3, "partial"))
    assert (record.cache_read, record.cache_write) == (3, 2)
    assert record.cost == pytest.approx((5 * 2.0 + 3 * 0.5 + 2 * 4.0 + 3 * 10.0) / 1e6)


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_what_a_provider_refuses_costs_nothing(upstream, status):
    upstream.default = [json_response({"error": {"message": "no"}}, status)]
    async with serve_gateway(config(upstream)) as gateway:
        await gateway.chat({"model": "priced"})
        await gateway.chat({"model": "one/unpriced"})
        record, unpriced = await gateway.wait_record(1), await gateway.wait_record(2)
    assert (record.error_type, record.cost) == ("HTTPStatusError", 0.0)
    assert unpriced.cost is None


async def test_what_never_reached_a_provider_costs_nothing():
    async with serve_upstream() as gone:
        found = config(gone, fallbacks=())
    async with serve_gateway(found) as gateway:
        head_, _ = await gateway.chat({"model": "priced"})
        record = await gateway.wait_record()
    assert head_.status == 502
    assert (record.prompt, record.completion, record.cost) == (None, None, 0.0)


async def test_a_fallback_that_answers_has_its_own_price(upstream):
    async with serve_upstream() as other:
        upstream.script(whole(500, b"{}"))
        upstream.default = [whole(500, b"{}")]
        other.script(*openai_answer(True))
        cheap = Model(name="cheap", provider="two", model="small", price=Price(input=1.0, output=1.0))
        found = make_config(
            upstream,
            other,
            models=(Model(name="priced", provider="one", price=PRICE, fallbacks=("cheap",)), cheap),
            provider={"max_retries": 0},
        )
        async with serve_gateway(found) as gateway:
            await gateway.chat({"model": "priced"})
            record = await gateway.wait_record()
    assert (record.provider, record.upstream_model) == ("two", "small")
    assert record.cost == pytest.approx(17 / 1e6)


async def test_a_reload_leaves_a_running_stream_its_price(upstream):
    upstream.script(head(200, chunked=True), chunk(openai_chunk({"content": "hi"})), HANG)
    async with serve_gateway(config(upstream)) as gateway:
        client = await gateway.connect()
        await client.ask({"model": "priced"})
        await client.head()
        await client.until(b"hi")
        gateway.gateway.configure(config(upstream, price=Price(input=1000.0, output=1000.0)), {})
        client.close()
        record = await gateway.wait_record()
    assert record.cost == pytest.approx(told_cost(record))


async def test_the_context_s_size_and_the_price_are_told_at_the_start(upstream):
    upstream.script(*openai_stream("a"))
    upstream.script(*openai_stream("a"))
    async with serve_gateway(config(upstream, max_context_size=131_072)) as gateway:
        await gateway.chat({"model": "priced"})
        await gateway.chat({"model": "one/else"})
        first, second = await gateway.wait_started(1), await gateway.wait_started(2)
    assert (first.context_size, second.context_size) == (131_072, None)
    assert (first.output_price, second.output_price) == (PRICE.output, None)


async def test_an_answer_cut_short_before_its_usage(upstream):
    upstream.script(head(200, chunked=True), chunk(openai_chunk({"content": "one two"})), FIN)
    async with serve_gateway(config(upstream)) as gateway:
        await gateway.chat({"model": "priced"})
        record = await gateway.wait_record()
    assert (record.status, record.completion) == ("failed", Tokens(2, "partial"))
    assert 0 < record.cost == pytest.approx(told_cost(record))
