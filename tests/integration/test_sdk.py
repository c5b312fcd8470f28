"""The official OpenAI SDK through the gateway: what it sees is what it would see without one."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import pytest
import trio
from fakes.load import Client, chat
from fakes.openai_upstream import PROMPT_TOKENS, marker, text_of

pytestmark = pytest.mark.integration
T = TypeVar("T")


@pytest.fixture
def service(shared):
    return shared.service


@pytest.fixture
def upstream(shared):
    return shared.openai


@pytest.fixture
def port(shared):
    return shared.port


@pytest.fixture
def mark():
    """The text of the test's message, and its request id."""
    return marker("sdk")


@pytest.fixture
def ask(port, mark):
    """Run a function with an SDK client, in a thread."""

    async def ask(use: Callable[[openai.OpenAI], T]) -> T:
        def run() -> T:
            base_url, headers = f"http://127.0.0.1:{port}/v1", {"x-request-id": mark}
            with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, default_headers=headers) as client:
                return use(client)

        return await trio.to_thread.run_sync(run)

    return ask


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_a_stream(service, ask, mark):
    def use(client: openai.OpenAI) -> list[Any]:
        with client.chat.completions.create(model="fake/text-12", messages=messages(mark), stream=True) as stream:
            return list(stream)

    chunks = await ask(use)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(text_of(12))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    record = await service.record(mark)
    assert (record["status"], record["streaming"], record["http_status"]) == ("completed", 1, 200)
    assert (record["prompt_tokens"], record["prompt_source"]) == (PROMPT_TOKENS, "provider")
    assert (record["completion_tokens"], record["completion_source"]) == (12, "provider")
    assert record["counted_completion"] > 0
    assert 0 < record["first_byte"] <= record["duration"]


async def test_a_stream_with_its_usage(ask, mark):
    def use(client: openai.OpenAI) -> list[Any]:
        options: Any = {"include_usage": True}
        with client.chat.completions.create(
            model="fake/text-5", messages=messages(mark), stream=True, stream_options=options
        ) as stream:
            return list(stream)

    chunks = await ask(use)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5


async def test_a_stream_whose_provider_gives_no_usage(service, ask, mark):
    def use(client: openai.OpenAI) -> None:
        with client.chat.completions.create(
            model="fake/text-12+usage-none", messages=messages(mark), stream=True
        ) as stream:
            for _ in stream:
                pass

    await ask(use)
    record = await service.record(mark)
    assert (record["prompt_source"], record["completion_source"]) == ("counted", "counted")
    assert record["completion_tokens"] >= 12
    assert record["prompt_tokens"] > 0


async def test_one_answer(service, ask, upstream, mark):
    answer = await ask(lambda client: client.chat.completions.create(model="fake/text-7", messages=messages(mark)))
    assert answer.choices[0].message.content == "".join(text_of(7))
    assert answer.usage.completion_tokens == 7
    [row] = upstream.rows(mark)
    assert row.model == "text-7"
    record = await service.record(mark)
    assert (record["streaming"], record["status"], record["completion_tokens"]) == (0, "completed", 7)


async def test_tools_pass_both_ways(ask, upstream, mark):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]

    def use(client: openai.OpenAI) -> tuple[str, Any]:
        create = client.chat.completions.create
        with create(model="fake/tools", messages=messages(mark), tools=tools, stream=True) as stream:
            calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
        whole = create(model="fake/tools", messages=messages(mark), tools=tools, tool_choice="auto")
        return "".join(call.function.arguments for call in calls), whole.choices[0].message.tool_calls[0]

    streamed, call = await ask(use)
    assert json.loads(streamed) == json.loads(call.function.arguments) == {"city": "Oslo 🎉"}
    assert call.function.name == "get_weather"
    first, second = upstream.rows(mark)
    assert first.body["tools"] == second.body["tools"] == tools
    assert second.body["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("model", "error", "text", "attempts"),
    [
        ("fake/status-400", openai.BadRequestError, "upstream says 400", 1),
        ("fake/status-401", openai.AuthenticationError, "upstream says 401", 1),
        ("fake/status-429", openai.RateLimitError, "upstream says 429", 1),
        ("fake/status-500", openai.InternalServerError, "upstream says 500", 3),
        ("nobody/has-this", openai.NotFoundError, "does not exist", 0),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_errors_keep_their_status_and_words(ask, upstream, mark, model, error, text, attempts, stream):
    with pytest.raises(error) as caught:
        await ask(lambda client: client.chat.completions.create(model=model, messages=messages(mark), stream=stream))
    assert text in caught.value.body["message"]
    assert caught.value.request_id == mark
    assert caught.value.response.headers.get("retry-after") == ("7" if model == "fake/status-429" else None)
    assert len(upstream.rows(mark)) == attempts


@pytest.mark.parametrize(
    ("model", "error_type"),
    [
        ("fake/reset-after-4", "ReadError"),
        ("fake/cut-after-4", "RemoteProtocolError"),
        ("fake/eof-after-4", "IncompleteStream"),
        ("fake/inline-error", "UpstreamError"),
    ],
)
async def test_a_stream_that_breaks_raises_in_the_sdk(service, ask, mark, model, error_type):
    text = ""

    def use(client: openai.OpenAI) -> None:
        nonlocal text
        with client.chat.completions.create(model=model, messages=messages(mark), stream=True) as stream:
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError):
        await ask(use)
    assert text == "".join(text_of(0 if model == "fake/inline-error" else 3))
    record = await service.record(mark)
    assert (record["status"], record["error_type"], record["http_status"]) == ("failed", error_type, 200)
    assert record["completion_source"] == "partial"


async def test_models(ask):
    # `fake/…` models need no declaration, and nothing else is declared.
    assert await ask(lambda client: list(client.models.list())) == []
    model = await ask(lambda client: client.models.retrieve("fake/text"))
    assert model.id == "fake/text"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behaviour", ["text-20", "tools", "text-3+big-300", "inline-error"])
async def test_the_bytes_are_those_of_the_upstream(upstream, port, behaviour, stream):
    async def bytes_from(port: int, model: str) -> bytes:
        async with Client(port) as client:
            # Usage is asked for, as it is hidden from those who don't.
            options: Any = {"stream_options": {"include_usage": True}} if stream else {}
            response = await client.post(chat(model, stream=stream, **options))
            assert response.status == 200
            return await response.read()

    direct = await bytes_from(upstream.server.port, behaviour)
    assert await bytes_from(port, f"fake/{behaviour}") == direct
