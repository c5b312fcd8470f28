"""The official OpenAI SDK through the gateway in front of an upstream that speaks Anthropic's dialect."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import pytest
import trio
from fakes.openai_upstream import marker
from fakes.script import CACHED_TOKENS, CITIES, FINAL, PROMPT_TOKENS, THOUGHTS, text_of

pytestmark = pytest.mark.integration
T = TypeVar("T")
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
TEXT = "".join(text_of(16))
both = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@pytest.fixture
def service(shared):
    return shared.service


@pytest.fixture
def upstream(shared):
    return shared.anthropic


@pytest.fixture
def mark():
    """The text of the test's message, and its request id."""
    return marker("openai-sdk")


@pytest.fixture
def run(shared, mark):
    """Run a function with an SDK client, in a thread."""

    async def run(use: Callable[[openai.OpenAI], T]) -> T:
        def in_thread() -> T:
            base_url, headers = f"http://127.0.0.1:{shared.port}/v1", {"x-request-id": mark}
            with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, default_headers=headers) as client:
                return use(client)

        return await trio.to_thread.run_sync(in_thread)

    return run


class Said:
    """An answer, however it came."""

    def __init__(self) -> None:
        self.text = self.thought = ""
        self.calls: dict[int, dict[str, str]] = {}
        self.finish: str | None = None
        self.usage: Any = None

    def add(self, answer: Any) -> None:
        """A whole completion, or one chunk."""
        self.usage = answer.usage or self.usage
        for choice in answer.choices:
            told = choice.message if hasattr(choice, "message") else choice.delta
            self.text += told.content or ""
            self.thought += getattr(told, "reasoning_content", None) or ""
            self.finish = choice.finish_reason or self.finish
            for index, part in enumerate(told.tool_calls or ()):
                call = self.calls.setdefault(getattr(part, "index", index), {"id": "", "name": "", "arguments": ""})
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""

    def back(self) -> dict[str, Any]:
        """The answer as clients send it back."""
        calls = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in self.calls.values()
        ]
        thought = {"reasoning_content": self.thought} if self.thought else {}
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls, **thought}

    def results(self) -> list[dict[str, Any]]:
        """What the tools said."""
        return [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in self.calls.values()]


@pytest.fixture
def ask(run, mark):
    """Ask for one completion of a behaviour, streamed or whole."""

    async def ask(behaviour: str, *, stream: bool, **more: Any) -> Said:
        body: Any = {"model": f"claude/{behaviour}", "messages": turns(mark), "stream": stream, **more}
        said = Said()

        def use(client: openai.OpenAI) -> None:
            if not stream:
                said.add(client.chat.completions.create(**body))
                return
            with client.chat.completions.create(**{"stream_options": {"include_usage": True}, **body}) as chunks:
                for chunk in chunks:
                    said.add(chunk)

        await run(use)
        return said

    return ask


def turns(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@both
async def test_a_text(service, upstream, ask, mark, stream):
    said = await ask("text+cached", stream=stream)
    assert (said.text, said.finish) == (TEXT, "stop")
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (PROMPT_TOKENS, 16)
    assert said.usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    [row] = upstream.rows(mark)
    assert (row.path, row.model) == ("/v1/messages", "text+cached")
    assert row.headers["anthropic-version"]
    record = await service.record(mark)
    assert (record["dialect"], record["provider"], record["status"]) == ("openai", "claude", "completed")
    assert (record["prompt_tokens"], record["prompt_source"]) == (PROMPT_TOKENS, "provider")
    assert (record["completion_tokens"], record["completion_source"]) == (16, "provider")


@pytest.mark.parametrize("manner", ["crlf", "comments", "split-utf8", "no-done", "no-space", "pack", "usage-inline"])
async def test_a_stream_however_it_is_written(ask, manner):
    said = await ask(f"text+{manner}", stream=True)
    assert (said.text, said.finish, said.usage.completion_tokens) == (TEXT, "stop", 16)


async def test_usage_that_was_not_asked_for_is_not_told(ask):
    assert (await ask("text", stream=True, stream_options=openai.omit)).usage is None


@both
@pytest.mark.parametrize(
    ("behaviour", "finish"),
    [("length", "length"), ("content-filter", "content_filter"), ("stop-sequence", "stop"), ("tools", "tool_calls")],
)
async def test_finish_reasons(ask, behaviour, finish, stream):
    assert (await ask(behaviour, stream=stream)).finish == finish


@both
@pytest.mark.parametrize(("behaviour", "count"), [("tools", 1), ("tools-whole", 1), ("tools-parallel", 2)])
async def test_tool_calls_and_their_results(upstream, ask, mark, behaviour, count, stream):
    said = await ask(behaviour, stream=stream, tools=TOOLS)
    calls = list(said.calls.values())
    assert [json.loads(call["arguments"]) for call in calls] == CITIES[:count]
    assert [(call["name"], call["id"]) for call in calls] == [
        ("get_weather", f"toolu_{number + 1}") for number in range(count)
    ]
    messages = [*turns(mark), said.back(), *said.results()]
    final = await ask(behaviour, stream=stream, tools=TOOLS, messages=messages)
    assert (final.text, final.finish) == ("".join(FINAL), "stop")
    body = upstream.log[-1].body
    assert body["tools"] == [{"name": "get_weather", "input_schema": PARAMETERS}]
    assert [part["input"] for part in body["messages"][1]["content"]] == CITIES[:count]
    results = body["messages"][2]["content"]
    assert [part["tool_use_id"] for part in results] == [call["id"] for call in calls]


@both
async def test_thought_is_shown_and_may_come_back(upstream, ask, mark, stream):
    said = await ask("reasoning-tools", stream=stream, tools=TOOLS, reasoning_effort="high")
    assert said.thought == "".join(THOUGHTS)
    assert upstream.rows(mark)[0].body["thinking"]["type"] == "enabled"
    messages = [*turns(mark), said.back(), *said.results()]
    assert (await ask("reasoning-tools", stream=stream, tools=TOOLS, messages=messages)).text == "".join(FINAL)


async def test_what_only_openai_s_dialect_says(upstream, ask, mark):
    messages = [{"role": "system", "content": "be brief"}, *turns(mark)]
    said = await ask("text", stream=True, messages=messages, temperature=1.5, stop="END", user="u", seed=7)
    assert said.text == TEXT
    [row] = upstream.rows(mark)
    assert row.body["system"] in ("be brief", [{"type": "text", "text": "be brief"}])
    assert (row.body["temperature"], row.body["stop_sequences"]) == (1, ["END"])
    assert row.body["metadata"] == {"user_id": "u"}
    assert "seed" not in row.body


@both
@pytest.mark.parametrize(
    ("behaviour", "error", "status", "attempts"),
    [
        ("status-400", openai.BadRequestError, 400, 1),
        ("status-401", openai.AuthenticationError, 401, 1),
        ("status-429", openai.RateLimitError, 429, 1),
        ("status-529", openai.InternalServerError, 529, 3),
        ("html-502", openai.InternalServerError, 502, 3),
    ],
)
async def test_errors(upstream, ask, mark, behaviour, error, status, attempts, stream):
    with pytest.raises(error) as caught:
        await ask(behaviour, stream=stream)
    assert caught.value.status_code == status
    assert set(caught.value.body) >= {"message", "type", "param", "code"}
    assert f"{status}" in caught.value.body["message"]
    assert caught.value.request_id == mark
    assert caught.value.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert len(upstream.rows(mark)) == attempts


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
async def test_a_stream_that_breaks_raises(service, ask, mark, what, how, error_type):
    with pytest.raises(openai.APIError):
        await ask(f"{what}+{how}", stream=True, tools=TOOLS)
    record = await service.record(mark)
    assert (record["status"], record["error_type"], record["http_status"]) == ("failed", error_type, 200)
    assert record["completion_tokens"] > 0
    assert record["completion_source"] == "partial"
