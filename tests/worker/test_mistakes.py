"""What clients get wrong most often, and what they are told: status, type, field and a sentence that helps.

Each mistake is made in OpenAI's dialect and, where it can be, in Anthropic's, to a provider of the other dialect: where
both speak the same, the provider judges what is in the messages.
"""

import json
from typing import Any

import pytest
from fakes.gateway import CHAT, MESSAGES, make_config, request_bytes, serve_gateway

from shared.config import Model, Provider

USER = {"role": "user", "content": "hi"}
DROP = object()
"""In the place of a value: the field is left out."""


def config(upstream):
    """Each model lies with a provider of the other dialect than its client's."""
    there = make_config(upstream)
    providers = {
        "openai": Provider(name="openai", base_url=upstream.base_url, backoff_base=0.0),
        "anthropic": Provider(name="anthropic", base_url=upstream.base_url, dialect="anthropic", backoff_base=0.0),
    }
    models = (Model(name="m", provider="anthropic"), Model(name="claude", provider="openai"))
    return type(there)(providers=providers, models=models)


def body(dialect: str, changes: dict[str, Any]) -> bytes:
    base = {"model": "m" if dialect == "openai" else "claude", "max_tokens": 9, "messages": [USER]}
    return json.dumps({name: value for name, value in {**base, **changes}.items() if value is not DROP}).encode()


def said(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [USER, {"role": role, "content": list(content)}]}


# What is changed in a request that is right; the field that is named; a part of what is said of it.
BOTH: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"model": DROP}, "model", "is required: name the model as a string"),
    "an empty model": ({"model": ""}, "model", "is empty"),
    "null for a model": ({"model": None}, "model", "is required"),
    "a number for a model": ({"model": 4}, "model", "a string is needed, not a number"),
    "a list for a model": ({"model": ["m"]}, "model", "a string is needed, not a list"),
    "a model of 600 letters": ({"model": "x" * 600}, "model", "at most 512 characters"),
    "no messages": ({"messages": DROP}, "messages", "is required: a list of messages"),
    "no message": ({"messages": []}, "messages", "at least one message"),
    "a string for messages": ({"messages": "hi"}, "messages", "a list is needed, not a string"),
    "an object for messages": ({"messages": USER}, "messages", "a list is needed, not an object"),
    "a string for a message": ({"messages": [USER, "hi"]}, "messages[1]", "an object is needed, not a string"),
    "a message without a role": ({"messages": [{"content": "hi"}]}, "messages[0].role", "is required"),
    "a role that there isn't": ({"messages": [USER, {**USER, "role": "bot"}]}, "messages[1].role", "there is no 'bot'"),
    "a number for a role": ({"messages": [{**USER, "role": 1}]}, "messages[0].role", "a string is needed"),
    "a message without content": ({"messages": [{"role": "user"}]}, "messages[0].content", "is required"),
    "misspelt content": ({"messages": [{"role": "user", "contnet": "x"}]}, "messages[0].content", "is required"),
    "a number for content": ({"messages": [{**USER, "content": 5}]}, "messages[0].content", "is needed, not a number"),
    "an object for content": (
        {"messages": [{**USER, "content": {}}]},
        "messages[0].content",
        "is needed, not an object",
    ),
    "a string for a part": (said("hi"), "messages[1].content[0]", "an object is needed, not a string"),
    "a part without a type": (said({"text": "hi"}), "messages[1].content[0].type", "is required"),
    "a text without text": (said({"type": "text"}), "messages[1].content[0].text", "is required"),
    "a number for a text": (said({"type": "text", "text": 5}), "messages[1].content[0].text", "a string is needed"),
    "max_tokens of 0": ({"max_tokens": 0}, "max_tokens", "has to be at least 1"),
    "max_tokens below 0": ({"max_tokens": -5}, "max_tokens", "has to be at least 1"),
    "a string for max_tokens": ({"max_tokens": "9"}, "max_tokens", "a whole number is needed, not a string"),
    "a fraction for max_tokens": ({"max_tokens": 1.5}, "max_tokens", "a whole number is needed, not a number with"),
    "a string for the temperature": ({"temperature": "hot"}, "temperature", "a number is needed, not a string"),
    "a string for stream": ({"stream": "yes"}, "stream", "true or false is needed, not a string"),
    "a number for stream": ({"stream": 1}, "stream", "true or false is needed, not a number"),
    "a number for the session": ({"session_id": 7}, "session_id", "a string is needed, not a number"),
    "an object for tools": ({"tools": {}}, "tools", "a list is needed, not an object"),
    "a string for a tool": ({"tools": ["LS"]}, "tools[0]", "an object is needed, not a string"),
    "a number for thinking": ({"thinking": 5}, "thinking", "an object is needed, not a number"),
}
OPENAI: dict[str, tuple[dict[str, Any], str, str]] = {
    "a part of a type that there isn't": (
        said({"type": "image", "source": {}}), "messages[1].content[0].type", "there is no 'image'; there are text, ",
    ),
    "an image without a URL": (
        said({"type": "image_url", "image_url": {}}), "messages[1].content[0].image_url.url", "is required",
    ),
    "a data URL without data": (
        said({"type": "image_url", "image_url": {"url": "data:image/png"}}),
        "messages[1].content[0].image_url",
        "a data URL has to be `data:<media type>;base64,<data>`",
    ),
    "a tool without a function": ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
    "a tool without a name": ({"tools": [{"function": {}}]}, "tools[0].function.name", "is required"),
    "a tool of Anthropic's": ({"tools": [{"name": "LS", "input_schema": {}}]}, "tools[0].function", "is required"),
    "a tool's schema in a string": (
        {"tools": [{"type": "function", "function": {"name": "LS", "parameters": "{}"}}]},
        "tools[0].function.parameters",
        "has to be an object",
    ),
    "a tool choice that there isn't": ({"tool_choice": "always"}, "tool_choice", 'has to be "auto"'),
    "a result without a call": (
        {"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id", "is required",
    ),
    "a call whose arguments are no JSON": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "not the text of a JSON object",
    ),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "use `tools`"),
    "two answers": ({"n": 2}, "n", "one answer"),
    "a format that there isn't": (
        {"response_format": {"type": "xml"}}, "response_format.type", "there is no 'xml'; there are text, json_object",
    ),
    "a list for stream_options": ({"stream_options": []}, "stream_options", "an object is needed, not a list"),
    "a number in stop": ({"stop": ["a", 5]}, "stop[1]", "a string is needed, not a number"),
}  # fmt: skip
ANTHROPIC: dict[str, tuple[dict[str, Any], str, str]] = {
    "a block of a type that there isn't": (said({"type": "image_url"}), "messages[1].content[0]", "type 'image_url'"),
    "an image without a source": (said({"type": "image"}), "messages[1].content[0].source", "is required"),
    "an image without data": (
        said({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}),
        "messages[1].content[0].source.data",
        "is required",
    ),
    "a role of OpenAI's": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "there is no 'tool'"),
    "a tool without a name": ({"tools": [{"input_schema": {}}]}, "tools[0].name", "is required"),
    "a tool without a schema": ({"tools": [{"name": "LS"}]}, "tools[0].input_schema", "is required"),
    "a tool of OpenAI's": ({"tools": [{"type": "function", "function": {"name": "LS"}}]}, "tools[0]", "OpenAI"),
    "a tool choice of OpenAI's": ({"tool_choice": "auto"}, "tool_choice", "an object is needed, not a string"),
    "a tool choice that there isn't": ({"tool_choice": {"type": "always"}}, "tool_choice.type", "there are auto, any"),
    "a tool choice without a name": ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "is required"),
    "a number for system": ({"system": 5}, "system", "a list is needed, not a number"),
    "a string for stop_sequences": ({"stop_sequences": "a"}, "stop_sequences", "a list is needed, not a string"),
}
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is empty"),
    "blanks": (b" \r\n", "it is empty"),
    "a list": (b'[{"model":"m"}]', "an object is needed, not a list"),
    "a string": (b'"hi"', "an object is needed, not a string"),
    "a comma too many": (b'{"model": "m", "messages": [],}', "trailing comma in object (line 1, column 31)"),
    "single quotes": (b"{'model': 'm'}", "names of fields stand in double quotes (line 1, column 2)"),
    "a value in single quotes": (b"{\"model\": 'm'}", "strings stand in double quotes"),
    "names without quotes": (b'{model: "m"}', "names of fields stand in double quotes"),
    "True": (b'{"model": "m",\n "stream": True}', "True is no JSON, true is (line 2, column 12)"),
    "None": (b'{"model": None}', "NaN and None are no JSON, null is"),
    "NaN": (b'{"temperature": NaN}', "NaN and None are no JSON, null is"),
    "a comment": (b'{"model": "m", // mine\n"messages": []}', "JSON has no comments"),
    "a line break in a string": (b'{"model": "m\nn"}', "has to be escaped"),
    "cut off": (b'{"model": "m", "mess', "it ends before it is complete"),
    "two objects": (b'{"model": "m"}{}', "something follows its end"),
    "a byte order mark": (b'\xef\xbb\xbf{"model": "m"}', "a byte order mark: leave that out"),
    "UTF-16": ('{"model": "m"}'.encode("utf-16"), "JSON is sent as UTF-8"),
    "UTF-16 without a mark": ('{"model": "m"}'.encode("utf-16-le"), "JSON is sent as UTF-8"),
    "Latin-1": ('{"model": "Grüße"}'.encode("latin-1"), "it is not valid UTF-8"),
    "gzip": (b"\x1f\x8b\x08\0\0\0\0\0", "compressed (gzip): send it as it is"),
    "a form": (b"model=m&messages=hi", "it is a form: send JSON"),
    "too deep": (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "it is nested too deep"),
}
PATHS: dict[str, tuple[str, str, int, str]] = {
    "Responses": ("POST", "/v1/responses", 404, "the Responses API is not offered here: use /v1/chat/completions"),
    "completions": (
        "POST",
        "/v1/completions",
        404,
        "the old completions are not offered here: use /v1/chat/completions",
    ),
    "embeddings": ("POST", "/v1/embeddings", 404, "embeddings are not offered here"),
    "images": ("POST", "/v1/images/generations", 404, "images are not made here"),
    "batches": ("POST", "/v1/messages/batches", 404, "batches are not offered here: send each request to /v1/messages"),
    "old text completions": ("POST", "/v1/complete", 404, "use /v1/messages"),
    "/v1 twice": ("POST", "/v1/v1/messages", 404, "/v1 is there twice: the base URL has one and the client adds one"),
    "/v1 twice, of an API that there isn't": ("POST", "/v1/v1/responses", 404, "the Responses API is not offered"),
    "a slash too many": ("POST", "//v1/messages", 404, "one slash is enough: /v1/messages"),
    "a slash too many inside": ("POST", "/v1//chat/completions", 404, "one slash is enough: /v1/chat/completions"),
    "a slash at the end": (
        "POST",
        "/v1/chat/completions/",
        404,
        "leave out the slash at the end: /v1/chat/completions",
    ),
    "capitals": ("POST", "/V1/Messages", 404, "paths are written small: /v1/messages"),
    "another gateway's prefix": (
        "POST",
        "/openai/v1/chat/completions",
        404,
        "/openai is too much: the path is /v1/chat/",
    ),
    "OpenRouter's prefix": ("POST", "/api/v1/messages", 404, "/api is too much: the path is /v1/messages"),
    "a misspelt path": ("POST", "/v1/chat/completion", 404, "did you mean /v1/chat/completions?"),
    "no path": ("POST", "/v1", 404, "try /v1/chat/completions, /v1/messages or /v1/models"),
    "GET for POST": ("GET", "/v1/chat/completions", 405, "/v1/chat/completions answers to POST, not to GET"),
    "PUT for POST": ("PUT", "/v1/messages", 405, "/v1/messages answers to POST, not to PUT"),
    "POST for GET": ("POST", "/v1/models", 405, "/v1/models answers to GET, HEAD, not to POST"),
    "a long path": ("GET", "/" + "x" * 5000, 404, "xxx… here; try"),
}
OF_THE_DIALECTS = {
    "openai": (CHAT, {**BOTH, **OPENAI}),
    "anthropic": (MESSAGES, {**BOTH, **ANTHROPIC}),
}


def check(dialect: str, head: Any, answer: bytes, status: int, param: str | None, part: str) -> None:
    told = json.loads(answer)
    error = told["error"]
    assert head.status == status, error
    assert head.headers["x-should-retry"] == "false"
    if param is not None:
        assert error["message"].startswith(f"`{param}`"), error["message"]
    assert part in error["message"], error["message"]
    if dialect == "anthropic":
        assert (told["type"], told["request_id"]) == ("error", head.headers["request-id"])
        assert set(error) == {"type", "message"}
    else:
        assert (error["param"], set(error)) == (param, {"message", "type", "param", "code"})


@pytest.fixture
async def there(upstream):
    async with serve_gateway(config(upstream)) as gateway:
        yield gateway


@pytest.mark.parametrize("dialect", OF_THE_DIALECTS)
async def test_mistakes_in_a_request(there, upstream, dialect):
    path, table = OF_THE_DIALECTS[dialect]
    client = await there.connect()
    for changes, param, part in table.values():
        await client.request("POST", path, body(dialect, changes))
        head, answer = await client.answer()
        check(dialect, head, answer, 400, param, part)
        assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert not upstream.requests, "a request that is wrong was asked of a provider"


@pytest.mark.parametrize("dialect", OF_THE_DIALECTS)
async def test_bodies_that_are_no_json(there, dialect):
    client = await there.connect()
    for sent, part in BODIES.values():
        for path in [OF_THE_DIALECTS[dialect][0], *(["/v1/messages/count_tokens"] if dialect == "anthropic" else [])]:
            await client.request("POST", path, sent)
            head, answer = await client.answer()
            check(dialect, head, answer, 400, None, part)
            assert "the body is not a JSON object" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("dialect", OF_THE_DIALECTS)
async def test_paths_and_methods(there, dialect):
    client = await there.connect()
    headers = {"anthropic_version": "2023-06-01"} if dialect == "anthropic" else {}
    for method, path, status, part in PATHS.values():
        if dialect == "openai" and "messages" in path:
            continue
        if dialect == "anthropic" and path == CHAT:
            continue
        await client.request(method, path, b"{}" if method == "POST" else None, **headers)
        head, answer = await client.answer()
        check(dialect, head, answer, status, None, part)


async def test_a_model_that_nobody_has(there):
    client = await there.connect()
    await client.request("POST", CHAT, body("openai", {"model": "gpt-9"}))
    head, answer = await client.answer()
    assert head.status == 404
    error = json.loads(answer)["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "there are: m, claude" in error["message"]
    await client.request("POST", MESSAGES, body("anthropic", {"model": "gpt-9"}))
    head, answer = await client.answer()
    assert (head.status, json.loads(answer)["error"]["message"][:30]) == (404, "model: gpt-9 does not exist he")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_wrong_content_type_is_no_mistake_that_matters(there, upstream, kind):
    """`curl -d` without `-H` says that it is a form."""
    client = await there.connect()
    await client.send(request_bytes("POST", CHAT, body("openai", {}), content_type=kind))
    head, _ = await client.answer()
    assert head.status != 400
    assert upstream.requests


@pytest.mark.parametrize("dialect", OF_THE_DIALECTS)
async def test_a_compressed_body(there, dialect):
    client = await there.connect()
    await client.send(request_bytes("POST", OF_THE_DIALECTS[dialect][0], b"\x1f\x8b", content_encoding="gzip"))
    head, answer = await client.answer()
    check(dialect, head, answer, 415, None, "is encoded (gzip): send it as it is, not compressed")
    assert head.headers["accept-encoding"] == "identity"
