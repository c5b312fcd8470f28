import json

import pytest
import trio

from shared.config import Provider
from shared.errors import UpstreamBroken
from worker.upstream.client import UpstreamClient

LIMIT = 1 << 20


def client():
    return UpstreamClient(Provider(name="echo", kind="echo"), None, read_size=4096)


async def ask(**body):
    response = await client().open(json.dumps(body).encode())
    return response, await response.read(LIMIT)


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize("text", ["hello big  world\n", "one", "", "   ", "naïve 日本語 🎉", "a\u2028b"])
async def test_a_stream(autojump_clock, text):
    response, body = await ask(model="m", messages=[user(text)], stream=True)
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream"
    *events, done, rest = body.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["model"] for chunk in chunks} == {"m"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == text


async def test_words_come_one_by_one(autojump_clock):
    response = await client().open(json.dumps({"messages": [user("one two three")], "stream": True}).encode())
    times = []
    while await response.receive():
        times.append(trio.current_time())
    assert times == sorted(set(times))


async def test_a_long_text_does_not_take_forever(autojump_clock):
    start = trio.current_time()
    await ask(messages=[user("word " * 3_000)], stream=True)
    assert trio.current_time() - start < 3


async def test_one_json_body(autojump_clock):
    response, body = await ask(model="echo", messages=[user("old"), {"role": "assistant", "content": "x"}, user("new")])
    assert response.headers["content-type"] == "application/json"
    completion = json.loads(body)
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == "new"
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in completion  # nobody counted


async def test_the_texts_of_parts_are_said(autojump_clock):
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}, 7]
    _, body = await ask(messages=[user(parts)])
    assert json.loads(body)["choices"][0]["message"]["content"] == "ab"


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[]", b"7", b"{}", b'{"messages": []}', b'{"messages": "x"}', b'{"messages": ["x"]}', b"\xff"],
)
async def test_bad_requests(body):
    response = await client().open(body)
    assert response.status == 400
    error = json.loads(await response.read(LIMIT))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_closing():
    response = await client().open(json.dumps({"messages": [user("a b c")], "stream": True}).encode())
    await response.receive()
    response.close_nowait()
    response.close_nowait()
    with pytest.raises(UpstreamBroken):
        await response.receive()
