"""WebFetch and WebSearch in whole runs of the agent."""

from typing import Any

import pytest
from fakes.gateway import serve_gateway
from fakes.run import agent_config, run, text_of, tool_call
from fakes.upstream import json_response, openai_chunk, openai_stream, serve_upstream, sse_response

from shared.config import Translation
from shared.config.presets import PRESETS

ARGUMENTS = '{"search_result":{"search_id":"x"},  "usage":{"total_tokens": 13046}}'
HOSTILE = [
    "http://127.0.0.1:8000/health",
    "http://[::1]/",
    "http://169.254.169.254/latest",
    "http://localhost:1234/",
    "http://2130706433/",
    "file:///etc/passwd",
]


def result_in(request: Any) -> str:
    """What the last tool said, as the model was told it."""
    message = request.json["messages"][-1]
    assert message["role"] == "tool"
    return message["content"]


def builtin_call(arguments: str) -> list[bytes]:
    """Kimi's model wants to search; its arguments come in pieces."""
    call = {"index": 0, "id": "$web_search:0", "type": "builtin_function"}
    events = [openai_chunk({"tool_calls": [{**call, "function": {"name": "$web_search", "arguments": ""}}]})]
    for at in range(0, len(arguments), 9):
        function = {"arguments": arguments[at : at + 9]}
        events.append(openai_chunk({"tool_calls": [{"index": 0, "function": function}]}))
    return sse_response([*events, openai_chunk({}, "tool_calls"), "data: [DONE]\n\n"])


async def test_kimis_own_search(upstream, tmp_path):
    config = agent_config(tmp_path, upstream, provider={"translation": PRESETS["kimi"].translation})
    upstream.script(*tool_call("WebSearch", query="trio 0.35"))
    upstream.script(*builtin_call(ARGUMENTS))
    upstream.script(*openai_stream("Released: ", "https://trio.test/", usage=(13046, 7)))
    upstream.script(*openai_stream("It is ", "out."))
    async with serve_gateway(config) as gateway:
        events = await run(gateway, "Is trio 0.35 out?")
        record = await gateway.wait_record()
    assert text_of(events) == "It is out."
    assert events[-1] == {"type": "done"}
    first, search, found, last = upstream.requests
    assert "$web_search" not in str(first.json["tools"])
    assert search.json["tools"] == [{"type": "builtin_function", "function": {"name": "$web_search"}}]
    assert search.json["thinking"] == {"type": "disabled"}
    assert search.json["messages"][-1] == {"role": "user", "content": "trio 0.35"}
    assert result_in(found) == ARGUMENTS
    assert result_in(last) == "Released: https://trio.test/"
    assert record.status == "completed"
    assert record.prompt.count > 13046


async def test_a_search_that_fails_is_for_the_model_to_read(upstream, tmp_path):
    translation = Translation(web_search="plugin")
    config = agent_config(tmp_path, upstream, provider={"translation": translation, "max_retries": 0})
    upstream.script(*tool_call("WebSearch", query="x"))
    upstream.script(json_response({"error": {"message": "no credit for plug-ins"}}, 402))
    upstream.script(*openai_stream("I can't search."))
    async with serve_gateway(config) as gateway:
        events = await run(gateway, "search")
        record = await gateway.wait_record()
    assert text_of(events) == "I can't search."
    assert upstream.requests[1].json["plugins"] == [{"id": "web"}]
    assert "the search of provider one failed" in result_in(upstream.requests[2])
    assert record.status == "completed"


async def test_the_endpoint_of_the_settings(upstream, tmp_path):
    async with serve_upstream() as engine:
        engine.script(json_response({"results": [{"title": "T", "url": "https://t.test/", "content": "c"}]}))
        config = agent_config(tmp_path, upstream, agent={"search_url": f"{engine.origin}/?q={{query}}"})
        upstream.script(*tool_call("WebSearch", query="a b"))
        upstream.script(*openai_stream("Found."))
        async with serve_gateway(config) as gateway:
            await run(gateway, "search")
        assert engine.requests[0].path == "/?q=a%20b"
    assert result_in(upstream.requests[1]) == "T\nhttps://t.test/\nc"


async def test_no_search_at_all(upstream, tmp_path):
    upstream.script(*tool_call("WebSearch", query="x"))
    upstream.script(*openai_stream("I can't."))
    async with serve_gateway(agent_config(tmp_path, upstream)) as gateway:
        await run(gateway, "search")
    assert "no search_url is set in [agent]" in result_in(upstream.requests[1])


@pytest.mark.parametrize("url", HOSTILE)
async def test_what_is_not_public_is_not_fetched(upstream, tmp_path, url):
    upstream.script(*tool_call("WebFetch", url=url, prompt="what is there?"))
    upstream.script(*openai_stream("Refused."))
    async with serve_gateway(agent_config(tmp_path, upstream)) as gateway:
        events = await run(gateway, "fetch")
    assert text_of(events) == "Refused."
    told = result_in(upstream.requests[1])
    assert "public web" in told or "only http:// and https://" in told
