"""The official Anthropic SDK through the gateway, in front of upstreams of both dialects."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from fakes.anthropic_upstream import SIGNATURE
from fakes.load import MESSAGES, Client, message
from fakes.openai_upstream import marker
from fakes.script import CACHED_TOKENS, CITIES, FINAL, PROMPT_TOKENS, THOUGHTS, WRITTEN_TOKENS, text_of
from fakes.service import wait_until

pytestmark = pytest.mark.integration
T = TypeVar("T")
CONFIG = """
[models."claude-small"]
provider = "fake"
model = "text-3"
[models."text-large"]
provider = "claude"
model = "text-30"
"""
TOOLS: Any = [
    {
        "name": "get_weather",
        "description": "The weather",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
THINKS: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}
TEXT = "".join(text_of(16))


@pytest.fixture
def service(shared):
    return shared.service


@pytest.fixture
def port(shared):
    return shared.port


@pytest.fixture(params=["fake", "claude"])
def provider(request):
    """One that speaks OpenAI's dialect, and one that speaks Anthropic's."""
    return request.param


@pytest.fixture
def upstream(shared, provider):
    return shared.upstream(provider)


@pytest.fixture
def mark():
    """The text of the test's message, and its request id."""
    return marker("anthropic-sdk")


@pytest.fixture
def run(port, mark):
    """Run a function with an SDK client, in a thread."""

    async def run(use: Callable[[anthropic.Anthropic], T], **options: Any) -> T:
        def in_thread() -> T:
            settings = {"max_retries": 0, "default_headers": {"x-request-id": mark}, **options}
            with anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key="any", **settings) as client:
                return use(client)

        return await trio.to_thread.run_sync(in_thread)

    return run


@pytest.fixture
def ask(run, provider, mark):
    """Ask for one message of a behaviour, streamed or whole."""

    async def ask(behaviour: str, *, stream: bool = True, options: Any = None, **more: Any) -> anthropic.types.Message:
        body: Any = {"model": f"{provider}/{behaviour}", "max_tokens": 1024, "messages": turns(mark), **more}

        def use(client: anthropic.Anthropic) -> anthropic.types.Message:
            if not stream:
                return client.messages.create(**body)
            with client.messages.stream(**body) as events:
                return events.get_final_message()

        return await run(use, **(options or {}))

    return ask


both = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def turns(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def said(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def kinds(message: anthropic.types.Message) -> list[str]:
    return [block.type for block in message.content]


def back(message: anthropic.types.Message) -> dict[str, Any]:
    """The answer as clients send it back."""
    fields = {"type", "text", "thinking", "signature", "id", "name", "input"}
    return {"role": "assistant", "content": [block.model_dump(include=fields) for block in message.content]}


def results(message: anthropic.types.Message) -> dict[str, Any]:
    """What the tools said."""
    calls = [block.id for block in message.content if block.type == "tool_use"]
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "sunny"} for id in calls]}


@both
async def test_a_text(service, provider, upstream, ask, mark, stream):
    answer = await ask("text", stream=stream)
    assert (said(answer), answer.stop_reason, answer.role, answer.type) == (TEXT, "end_turn", "assistant", "message")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (PROMPT_TOKENS, 16)
    assert answer.id.startswith("msg_")
    [row] = upstream.rows(mark)
    assert row.model == "text"
    record = await service.record(mark)
    assert (record["dialect"], record["provider"], record["status"]) == ("anthropic", provider, "completed")
    assert (record["streaming"], record["http_status"]) == (int(stream), 200)
    assert (record["prompt_tokens"], record["prompt_source"]) == (PROMPT_TOKENS, "provider")
    assert (record["completion_tokens"], record["completion_source"]) == (16, "provider")
    assert record["counted_completion"] > 0


@pytest.mark.parametrize(
    "manner",
    ["crlf", "comments", "split-utf8", "no-done", "no-role", "no-space", "pack", "usage-inline", "slow-200"],
)
async def test_a_stream_however_it_is_written(ask, manner):
    answer = await ask(f"text+{manner}")
    assert (said(answer), answer.stop_reason, answer.usage.output_tokens) == (TEXT, "end_turn", 16)


@pytest.mark.parametrize("provider", ["fake"], indirect=True)
async def test_a_stream_without_usage_tells_an_estimate(service, ask, mark):
    answer = await ask("text+usage-none")
    assert said(answer) == TEXT
    assert answer.usage.output_tokens > 0
    record = await service.record(mark)
    assert (record["prompt_source"], record["completion_source"]) == ("counted", "counted")


@both
async def test_tokens_from_and_into_the_cache(service, provider, ask, mark, stream):
    usage = (await ask("text+cached", stream=stream)).usage
    # OpenAI's dialect has no word for what is put into a cache.
    written = WRITTEN_TOKENS if provider == "claude" else 0
    told = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
    assert told == (PROMPT_TOKENS - CACHED_TOKENS - written, CACHED_TOKENS, written)
    assert (await service.record(mark))["prompt_tokens"] == PROMPT_TOKENS


@both
@pytest.mark.parametrize(
    ("behaviour", "stop"), [("length", "max_tokens"), ("content-filter", "refusal"), ("text", "end_turn")]
)
async def test_stop_reasons(ask, behaviour, stop, stream):
    assert (await ask(behaviour, stream=stream)).stop_reason == stop


async def test_the_events_as_the_sdk_reads_them(run, provider, mark):
    def use(client: anthropic.Anthropic) -> tuple[str, list[str]]:
        body: Any = {"model": f"{provider}/reasoning", "messages": turns(mark), **THINKS}
        with client.messages.stream(**body) as events:
            return "".join(event.text for event in events if event.type == "text"), kinds(events.get_final_message())

    assert await run(use) == (TEXT, ["thinking", "text"])


@both
@pytest.mark.parametrize(
    ("behaviour", "count"),
    [("tools", 1), ("tools-whole", 1), ("tools-parallel", 2), ("tools-interleaved", 2), ("tools-noid", 1)],
)
async def test_tool_calls_and_their_results(provider, upstream, ask, mark, behaviour, count, stream):
    answer = await ask(behaviour, stream=stream, tools=TOOLS)
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert [call.input for call in calls] == CITIES[:count]
    assert {call.name for call in calls} == {"get_weather"}
    assert len({call.id for call in calls if call.id}) == count
    assert (kinds(answer), answer.stop_reason) == (["tool_use"] * count, "tool_use")
    final = await ask(behaviour, stream=stream, tools=TOOLS, messages=[*turns(mark), back(answer), results(answer)])
    assert (said(final), final.stop_reason) == ("".join(FINAL), "end_turn")
    body = upstream.log[-1].body
    if provider == "fake":
        called = body["messages"][1]["tool_calls"]
        assert [call["id"] for call in called] == [call.id for call in calls]
        assert [json.loads(call["function"]["arguments"]) for call in called] == CITIES[:count]
        assert body["messages"][2:] == [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        [tool] = body["tools"]
        assert tool["function"]["parameters"] == TOOLS[0]["input_schema"]
    else:
        assert body["tools"] == TOOLS


@both
async def test_thought_is_shown_and_replayed(provider, upstream, ask, mark, stream):
    # The upstream answers 400, as Kimi does, if the thought is missing in the second request.
    answer = await ask("reasoning-tools+demands-thought", stream=stream, tools=TOOLS, **THINKS)
    assert kinds(answer) == ["thinking", "tool_use"]
    thinking = answer.content[0]
    assert thinking.thinking == "".join(THOUGHTS)
    assert thinking.signature == (SIGNATURE if provider == "claude" else "")
    messages = [*turns(mark), back(answer), results(answer)]
    final = await ask("reasoning-tools+demands-thought", stream=stream, tools=TOOLS, messages=messages, **THINKS)
    assert said(final) == "".join(FINAL)
    sent = upstream.log[-1].body["messages"][1]
    if provider == "fake":
        assert sent["reasoning_content"] == "".join(THOUGHTS)
    else:
        assert sent["content"][0] == {"type": "thinking", "thinking": "".join(THOUGHTS), "signature": SIGNATURE}


@pytest.mark.parametrize("provider", ["fake"], indirect=True)
@both
async def test_thought_that_is_not_wanted_is_not_shown(ask, stream):
    answer = await ask("reasoning", stream=stream, thinking={"type": "disabled"})
    assert (kinds(answer), said(answer)) == (["text"], TEXT)


async def test_system_stop_sequences_and_the_rest_reach_the_upstream(provider, upstream, ask, mark):
    system: Any = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    options: Any = {"stop_sequences": ["END"], "metadata": {"user_id": "u"}, "extra_body": {"temperature": 0.5}}
    answer = await ask("text", system=system, **options)
    assert said(answer) == TEXT
    [row] = upstream.rows(mark)
    body = row.body
    if provider == "fake":
        assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": mark}]
        assert (body["stop"], body["user"], body["temperature"], body["max_tokens"]) == (["END"], "u", 0.5, 1024)
        assert body["stream_options"] == {"include_usage": True}
    else:
        assert body["system"] == system
        assert (body["stop_sequences"], body["metadata"], body["temperature"]) == (["END"], {"user_id": "u"}, 0.5)


async def test_betas_and_the_query_are_the_upstream_s_if_it_understands_them(run, provider, upstream, mark):
    def use(client: anthropic.Anthropic) -> Any:
        return client.beta.messages.create(
            model=f"{provider}/text-3",
            max_tokens=9,
            messages=turns(mark),
            betas=["one-2026-01-01", "two-2026-02-02"],
            extra_query={"beta": "true", "of": "the future"},
            extra_body={"a_field_of_the_future": [1, {"x": None}]},
        )

    assert said(await run(use)) == "".join(text_of(3))
    [row] = upstream.rows(mark)
    told = {name for name in row.headers if name.startswith("anthropic-")}
    if provider == "fake":
        assert (row.path, told) == ("/v1/chat/completions", set())
        assert "a_field_of_the_future" not in row.body
    else:
        assert (row.path, told) == ("/v1/messages?beta=true&of=the%20future", {"anthropic-beta", "anthropic-version"})
        assert row.headers["anthropic-beta"] == "one-2026-01-01,two-2026-02-02"
        assert row.body["a_field_of_the_future"] == [1, {"x": None}]


@both
@pytest.mark.parametrize(
    ("behaviour", "error", "status", "type", "attempts"),
    [
        ("status-400", anthropic.BadRequestError, 400, "invalid_request_error", 1),
        ("status-401", anthropic.AuthenticationError, 401, "authentication_error", 1),
        ("status-403", anthropic.PermissionDeniedError, 403, "permission_error", 1),
        ("status-404", anthropic.NotFoundError, 404, "not_found_error", 1),
        ("status-413", anthropic.RequestTooLargeError, 413, "request_too_large", 1),
        ("status-429", anthropic.RateLimitError, 429, "rate_limit_error", 1),
        ("status-500", anthropic.InternalServerError, 500, "api_error", 3),
        ("status-529", anthropic.OverloadedError, 529, "overloaded_error", 3),
        ("html-502", anthropic.InternalServerError, 502, "api_error", 3),
    ],
)
async def test_errors(service, upstream, ask, mark, behaviour, error, status, type, attempts, stream):
    with pytest.raises(error) as caught:
        await ask(behaviour, stream=stream)
    raised = caught.value
    assert raised.status_code == status
    assert (raised.body["type"], raised.body["error"]["type"]) == ("error", type)
    assert f"{status}" in raised.body["error"]["message"]
    assert raised.request_id == mark
    headers = raised.response.headers
    assert headers.get("retry-after") == ("7" if status == 429 else None)
    assert headers.get("x-should-retry") == ("false" if status in (400, 401, 403, 404, 413) else None)
    assert len(upstream.rows(mark)) == attempts
    record = await service.record(mark)
    assert (record["status"], record["error_type"], record["http_status"]) == ("failed", "HTTPStatusError", status)


async def test_errors_of_the_gateway(run, mark):
    def use(client: anthropic.Anthropic) -> None:
        client.messages.create(model="nobody/has-this", max_tokens=9, messages=turns(mark))

    with pytest.raises(anthropic.NotFoundError) as caught:
        await run(use)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.body["request_id"] == caught.value.request_id == mark


@both
async def test_an_upstream_that_fails_twice(service, upstream, ask, mark, stream):
    assert said(await ask("text+flaky-2", stream=stream)) == TEXT
    assert len(upstream.rows(mark)) == 3
    record = await service.record(mark)
    assert (record["status"], record["retries"], record["completion_tokens"]) == ("completed", 2, 16)


async def test_an_upstream_that_fails_more_often_than_the_gateway_asks(upstream, ask, mark):
    # Three attempts of the gateway's, then the SDK asks again.
    assert said(await ask("text+flaky-4", options={"max_retries": 1})) == TEXT
    assert len(upstream.rows(mark)) == 5


@pytest.mark.parametrize(
    ("how", "error_type"),
    [
        ("reset-after-5", "ReadError"),
        ("cut-after-5", "RemoteProtocolError"),
        ("eof-after-5", "IncompleteStream"),
        ("inline-error-5", "UpstreamError"),
    ],
)
@pytest.mark.parametrize("what", ["text", "tools", "reasoning"])
async def test_a_stream_that_breaks_raises(service, run, provider, mark, what, how, error_type):
    told: list[str] = []

    def use(client: anthropic.Anthropic) -> None:
        body: Any = {"model": f"{provider}/{what}+{how}", "messages": turns(mark), "max_tokens": 99, "tools": TOOLS}
        with client.messages.stream(**body) as events:
            told.extend(event.type for event in events)

    with pytest.raises(anthropic.APIStatusError) as caught:
        await run(use)
    assert caught.value.body["type"] == "error"
    assert "message_stop" not in told
    record = await service.record(mark)
    assert (record["status"], record["error_type"], record["http_status"]) == ("failed", error_type, 200)
    assert record["completion_source"] == "partial"
    assert record["completion_tokens"] > 0


async def test_count_tokens(run, provider):
    def use(client: anthropic.Anthropic) -> list[int]:
        count = client.messages.count_tokens
        model = f"{provider}/text"
        return [
            count(model=model, messages=turns("hi")).input_tokens,
            count(model=model, messages=turns("hi"), tools=TOOLS).input_tokens,
            count(model=model, messages=turns("hello world " * 500), tools=TOOLS).input_tokens,
        ]

    short, with_tools, long = await run(use)
    assert 0 < short < with_tools < with_tools + 900 < long < with_tools + 1100


async def test_models(run):
    listed = await run(lambda client: list(client.models.list(limit=1000)))
    assert [model.id for model in listed][:2] == ["claude-small", "text-large"]
    model = await run(lambda client: client.models.retrieve("claude-small"))
    assert (model.id, model.type) == ("claude-small", "model")


@pytest.mark.parametrize(("model", "words"), [("claude-small", 3), ("text-large", 30)])
async def test_public_names(run, mark, model, words):
    answer = await run(lambda client: client.messages.create(model=model, max_tokens=9, messages=turns(mark)))
    assert said(answer) == "".join(text_of(words))
    # The gateway says the name it was asked by, unless the bytes are the upstream's.
    assert answer.model == ("claude-small" if model == "claude-small" else "text-30")


@both
@pytest.mark.parametrize(
    "behaviour", ["text-20+cached", "reasoning-tools", "tools-parallel", "inline-error-3", "text-3+big-300", "crlf"]
)
async def test_the_bytes_are_those_of_the_upstream(shared, behaviour, stream):
    async def bytes_from(port: int, model: str) -> bytes:
        async with Client(port) as client:
            response = await client.post(message(model, stream=stream), MESSAGES)
            assert response.status == 200
            return await response.read()

    direct = await bytes_from(shared.anthropic.server.port, behaviour)
    assert await bytes_from(shared.port, f"claude/{behaviour}") == direct


async def test_the_sdk_s_close_cancels(service, run, provider, upstream, mark):
    def use(client: anthropic.Anthropic) -> None:
        body: Any = {"model": f"{provider}/slow-20+text-500", "messages": turns(mark), "max_tokens": 99}
        with client.messages.stream(**body) as events:
            next(iter(events.text_stream))

    await run(use)
    await wait_until(lambda: [row.outcome for row in upstream.rows(mark)] == ["client_closed"])
    record = await service.record(mark)
    assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
