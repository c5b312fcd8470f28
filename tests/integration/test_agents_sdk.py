"""The OpenAI Agents SDK through the gateway: `Runner.run_streamed` with its chat-completions model.

The SDK runs its own tools; tracing, which would go to OpenAI, is off.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import trio
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool, set_tracing_disabled
from fakes.openai_upstream import marker
from fakes.script import FINAL, text_of
from openai import AsyncOpenAI

pytestmark = pytest.mark.integration
set_tracing_disabled(True)


class Told:
    """What a run has told, and what its tool was called with."""

    def __init__(self) -> None:
        self.cities: list[str] = []
        self.deltas: list[str] = []
        self.items: list[str] = []
        self.outputs: list[str] = []
        self.final: Any = None

    def hear(self, event: Any) -> None:
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            self.deltas.append(event.data.delta)
        elif event.type == "run_item_stream_event":
            self.items.append(event.name)
            if event.name == "tool_output":
                self.outputs.append(event.item.output)


@pytest.fixture
def mark():
    return marker("agents")


@pytest.fixture
def run(shared, mark):
    """Have an agent answer with a model, in an asyncio of its own."""

    async def in_asyncio(use: Callable[[Any], Coroutine[Any, Any, Told]], model: str, told: Told) -> Told:
        @function_tool
        def get_weather(city: str) -> str:
            """The weather in a city."""
            told.cities.append(city)
            return f"sunny in {city}"

        base_url, headers = f"http://127.0.0.1:{shared.port}/v1", {"x-request-id": mark}
        async with AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0, default_headers=headers) as client:
            agent = Agent(
                name="tester",
                instructions="Answer.",
                tools=[get_weather],
                model=OpenAIChatCompletionsModel(model=model, openai_client=client),
            )
            return await use(Runner.run_streamed(agent, mark, run_config=RunConfig(tracing_disabled=True)))

    async def run(model: str, use: Callable[[Any, Told], Coroutine[Any, Any, None]] = to_its_end) -> Told:
        told = Told()

        async def use_it(result: Any) -> Told:
            await use(result, told)
            return told

        return await trio.to_thread.run_sync(lambda: asyncio.run(in_asyncio(use_it, model, told)))

    return run


async def to_its_end(result: Any, told: Told) -> None:
    async for event in result.stream_events():
        told.hear(event)
    told.final = result.final_output


@pytest.mark.parametrize("provider", ["fake", "claude"])
async def test_text(run, shared, mark, provider):
    told = await run(f"{provider}/text-12")
    assert told.deltas == text_of(12)
    assert told.final == "".join(text_of(12))
    assert told.items == ["message_output_created"]
    assert (await shared.service.record(mark))["status"] == "completed"


@pytest.mark.parametrize(
    ("model", "cities"),
    [
        ("fake/tools", ["Oslo 🎉"]),
        ("fake/tools-whole", ["Oslo 🎉"]),
        ("fake/tools-parallel", ["Oslo 🎉", "Bergen"]),
        ("fake/tools-interleaved", ["Oslo 🎉", "Bergen"]),
        ("fake/reasoning-tools", ["Oslo 🎉"]),
        ("claude/tools", ["Oslo 🎉"]),
        ("claude/tools-parallel", ["Oslo 🎉", "Bergen"]),
        ("claude/reasoning-tools", ["Oslo 🎉"]),
    ],
)
async def test_tool_calls(run, shared, mark, model, cities):
    told = await run(model)
    assert sorted(told.cities) == sorted(cities)
    assert told.outputs == [f"sunny in {city}" for city in cities]
    assert [item for item in told.items if item.startswith("tool_")] == ["tool_called"] * len(cities) + [
        "tool_output"
    ] * len(cities)
    assert told.final == "".join(FINAL)
    assert "".join(told.deltas) == told.final
    provider, name = model.split("/")
    rows = shared.upstream(provider).rows_with(mark)
    assert [row.model for row in rows] == [name, name]
    said = str(rows[1].body["messages"])
    assert all(f"sunny in {city}" in said for city in cities)


async def test_a_run_that_is_given_up(run, shared, mark):
    async def give_up(result: Any, told: Told) -> None:
        async for event in result.stream_events():
            told.hear(event)
            if told.deltas:
                result.cancel()
                break

    told = await run("fake/slow-50+text-1000", give_up)
    assert told.deltas[0] == text_of(1)[0]
    record = await shared.service.record(mark)
    assert (record["status"], record["error_type"]) == ("cancelled", "client_disconnect")
    [row] = shared.upstream("fake").rows(mark)
    assert row.outcome == "client_closed"
    assert row.chunks < 1000
