"""WebSearch as a model calls it: the provider's own search, the endpoint of the settings, or neither."""

import json

import pytest
from fakes.tools import serve_tools
from fakes.upstream import json_response, whole

from worker.agent.errors import ToolError

RESULT = {"title": "A  title", "url": "https://a.test/", "content": "what\nit says"}
TOLD = "A title\nhttps://a.test/\nwhat it says"


@pytest.fixture
async def tools(tmp_path, upstream):
    async with serve_tools(tmp_path, search_url=f"{upstream.origin}/search?format=json&q={{query}}") as tools:
        yield tools


async def test_the_provider_comes_first(tools, upstream):
    async def search(query):
        return f"found for {query}"

    tools.context.search = search
    assert await tools.call("WebSearch", query=" trio\n nursery ") == "found for trio nursery"
    assert upstream.requests == []


async def test_neither(tmp_path):
    async with serve_tools(tmp_path) as tools:
        with pytest.raises(ToolError, match=r"no search_url is set in \[agent\]"):
            await tools.call("WebSearch", query="x")


async def test_the_endpoint(tools, upstream):
    upstream.script(json_response({"query": "x", "results": [RESULT, {"title": "no url"}, RESULT]}))
    assert (
        await tools.call("WebSearch", query="a & b=c/d?", allowed_domains=["x.test", "y.test"]) == f"{TOLD}\n\n{TOLD}"
    )
    path = upstream.requests[0].path
    assert path == "/search?format=json&q=a%20%26%20b%3Dc%2Fd%3F%20%28site%3Ax.test%20OR%20site%3Ay.test%29"


@pytest.mark.parametrize(
    ("domains", "query"),
    [
        ({"allowed_domains": ["x.test"]}, "q site:x.test"),
        ({"blocked_domains": ["x.test", " "]}, "q -site:x.test"),
        ({"allowed_domains": ["a b"], "blocked_domains": ["c"]}, "q site:ab -site:c"),
        ({"allowed_domains": [], "blocked_domains": []}, "q"),
    ],
)
async def test_domains(tools, domains, query):
    async def search(query):
        return query

    tools.context.search = search
    assert await tools.call("WebSearch", query="q", **domains) == query


@pytest.mark.parametrize(
    "answer",
    [
        [RESULT],
        {"results": [RESULT]},
        {"web": {"results": [RESULT]}},
        {"organic": [{"title": "A title", "link": "https://a.test/", "snippet": "what it says"}]},
        {"webPages": {"value": [{"name": "A title", "url": "https://a.test/", "snippet": "what it says"}]}},
    ],
)
async def test_answers_of_several_engines(tools, upstream, answer):
    upstream.script(json_response(answer))
    assert await tools.call("WebSearch", query="x") == TOLD


async def test_nothing_found(tools, upstream):
    upstream.script(json_response({"results": []}))
    assert await tools.call("WebSearch", query="x") == "Nothing was found."
    upstream.script(whole(200, b"", {"content-type": "text/html"}))
    assert await tools.call("WebSearch", query="x") == "Nothing was found."


async def test_what_is_no_list_is_passed_on(tools, upstream):
    upstream.script(json_response({"answer": 42}))
    assert json.loads(await tools.call("WebSearch", query="x")) == {"answer": 42}
    upstream.script(whole(200, b"<li><a href='https://a.test/'>A title</a>", {"content-type": "text/html"}))
    assert await tools.call("WebSearch", query="x") == "- [A title](https://a.test/)"
    upstream.script(whole(200, b"{broken", {"content-type": "application/json"}))
    assert await tools.call("WebSearch", query="x") == "{broken"


@pytest.mark.parametrize(("query", "why"), [("", "empty"), (" \n", "empty"), ("x" * 1001, "longer than 1000")])
async def test_bad_queries(tools, query, why):
    with pytest.raises(ToolError, match=why):
        await tools.call("WebSearch", query=query)


async def test_an_endpoint_that_fails(tools, upstream):
    upstream.script(json_response({"error": "no"}, 503))
    with pytest.raises(ToolError, match="answered 503 Service Unavailable"):
        await tools.call("WebSearch", query="secret")
