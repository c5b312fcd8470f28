"""`worker.agent.search`: a provider's own search, as its wire has it."""

import json

import pytest
from msgspec import structs

from shared.config import Provider, Translation
from shared.config.presets import PRESETS
from shared.errors import UpstreamBroken
from worker.agent.errors import ToolError
from worker.agent.search import MAX_TURNS, can_search, search
from worker.dialects.exchange import UPSTREAMS
from worker.dialects.neutral import Answer, Text, Thinking, ToolCall

ARGUMENTS = '{"search_result":{"search_id":"x"},  "usage":{"total_tokens": 13046}}'
"""As Kimi writes them: not to be changed, not even in their blanks."""


def provider(name):
    preset = PRESETS[name]
    return Provider(name=name, dialect=preset.dialect, base_url="http://h", translation=preset.translation)


def said(*parts):
    return Answer(parts=parts, stop="tools" if isinstance(parts[-1], ToolCall) else "end")


class Model:
    """Answers in turn; `bodies` are what it was sent."""

    def __init__(self, provider, *answers):
        self.provider = provider
        self.answers = list(answers)
        self.bodies = []

    async def ask(self, request):
        encoded = UPSTREAMS[self.provider.dialect].encode_request(request, self.provider, "m")
        self.bodies.append(json.loads(encoded))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def search(self, query="what is new?"):
        return await search(self.ask, self.provider, query)


async def test_kimi():
    calls = ToolCall("$web_search:0", "$web_search", ARGUMENTS), ToolCall("$web_search:1", "$web_search", "{}")
    model = Model(provider("kimi"), said(Text("I look."), *calls), said(Text("A page https://a.test/ says so.\n")))
    assert await model.search() == "A page https://a.test/ says so."
    first, second = model.bodies
    tool = {"type": "builtin_function", "function": {"name": "$web_search"}}
    for body in (first, second):
        assert body["tools"] == [tool]
        assert body["thinking"] == {"type": "disabled"}  # it can't search while it thinks
        assert body["stream"] is True
        assert "tool_choice" not in body
    assert first["messages"][-1] == {"role": "user", "content": "what is new?"}
    answer, *results = second["messages"][2:]
    assert answer["tool_calls"][0] == {
        "id": "$web_search:0",
        "type": "builtin_function",
        "function": {"name": "$web_search", "arguments": ARGUMENTS},
    }
    assert results == [
        {"role": "tool", "tool_call_id": "$web_search:0", "content": ARGUMENTS},
        {"role": "tool", "tool_call_id": "$web_search:1", "content": "{}"},
    ]


async def test_openrouter():
    model = Model(provider("openrouter"), said(Text("found")))
    assert await model.search() == "found"
    [body] = model.bodies
    assert body["plugins"] == [{"id": "web"}]
    assert "tools" not in body


async def test_anthropic():
    model = Model(provider("anthropic"), said(Thinking("hm"), Text("found "), Text("it")))
    assert await model.search() == "found it"
    [body] = model.bodies
    assert body["tools"] == [{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]


async def test_a_model_that_only_searches():
    model = Model(provider("kimi"), *[said(ToolCall("1", "$web_search", "{}"))] * MAX_TURNS)
    with pytest.raises(ToolError, match=f"still searching after {MAX_TURNS} turns"):
        await model.search()


async def test_failures_are_for_the_model_to_read():
    with pytest.raises(ToolError, match="the search of provider kimi failed: it broke"):
        await Model(provider("kimi"), UpstreamBroken("it broke")).search()
    with pytest.raises(ToolError, match="found nothing"):
        await Model(provider("kimi"), said(Text(" \n"))).search()


def test_who_can():
    can = {name for name in PRESETS if can_search(provider(name))}
    assert can == {"kimi", "moonshot", "openrouter", "anthropic"}
    assert not can_search(structs.replace(provider("kimi"), translation=Translation()))
