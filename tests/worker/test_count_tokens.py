import base64
import json
import struct

import pytest
import trio
from fakes.gateway import make_config, request_bytes, serve_gateway

from shared.errors import DialectError
from shared.tokenizer import load_encoding
from worker.endpoints import count_tokens
from worker.endpoints.count_tokens import count_text, input_tokens

PATH = "/v1/messages/count_tokens"
HELLO = {"role": "user", "content": "Hello there, how are you?"}
TOOL = {
    "name": "Read",
    "description": "Reads a file",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}},
}
ENCODING = load_encoding()


def png(width, height):
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return base64.b64encode(head + bytes(10_000)).decode()


def image(width, height):
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(width, height)}}


def count(*messages, **fields):
    value = {"model": "any", "messages": messages or [HELLO], **fields}
    return input_tokens(ENCODING, json.dumps(value).encode())


def turn(*blocks, role="user"):
    return {"role": role, "content": list(blocks)}


def test_text_counts_as_tiktoken_says():
    text = "The quick brown fox jumps over the lazy dog. " * 50
    exact = len(ENCODING.encode_ordinary(text))
    assert exact < count({"role": "user", "content": text}) <= exact + 10


@pytest.mark.parametrize(
    "more",
    [
        {"system": "You are brief."},
        {"system": [{"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}}]},
        {"tools": [TOOL]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ],
    ids=["system", "blocks", "tool", "server-tool"],
)
def test_all_that_the_model_reads_counts(more):
    assert count(**more) > count()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_result", "tool_use_id": "a", "content": "a result of some length"},
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "a result"}, image(300, 300)]},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a long document"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x" * 999}},
        image(20, 20),
    ],
    ids=["result", "blocks", "text", "pdf", "image"],
)
def test_blocks_count(block):
    assert count(HELLO, turn(block)) > count(HELLO, turn()) > 0


def test_tool_calls_and_thought_count():
    call = {"type": "tool_use", "id": "a", "name": "Read", "input": {"path": "/etc/hosts"}}
    thought = {"type": "thinking", "thinking": "I should read it.", "signature": "s" * 1000}
    assert count(HELLO, turn(thought, call, role="assistant")) > count(HELLO, turn(call, role="assistant")) > count()


def test_an_image_costs_what_its_size_tells_and_not_its_bytes():
    small, large = (count(turn(image(*size))) for size in ((200, 200), (1000, 1000)))
    assert small < 100
    assert 1200 < large < 1700
    assert count(turn({"type": "image", "source": {"type": "url", "url": "https://a.example/x.png"}})) > 1000


def test_what_is_not_empty_never_counts_nothing():
    for message in (HELLO, turn(), turn({"type": "text", "text": ""}), turn({"type": "unheard_of"}), 1):
        assert count(message) > 0


def test_unknown_blocks_count_as_the_text_in_them():
    block = {"type": "unheard_of", "content": "word " * 100}
    assert 90 < count(turn(block)) < 130


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": "m"}', b'{"messages": []}', b'{"model": "m", "messages": 1}'])
def test_what_is_no_request(body):
    with pytest.raises(DialectError):
        input_tokens(ENCODING, body)


def test_long_texts_are_judged_by_samples():
    texts = ["The quick brown fox jumps over the lazy dog. " * 500, "0123456789 " * 3000]
    exact = count_text(ENCODING, texts)
    assert count_text(ENCODING, texts, 10_000) == pytest.approx(exact, rel=0.05)
    assert count_text(ENCODING, ["a"], 0 + 64) == 1


@pytest.mark.parametrize("path", [PATH, "/messages/count_tokens", f"{PATH}?beta=true"])
async def test_the_endpoint(gateway, upstream, path):
    client = await gateway.connect()
    for value in ({"model": "nobody-has-it", "messages": [HELLO]}, {"model": "m", "messages": [HELLO] * 1000}):
        body = json.dumps(value).encode()
        await client.request("POST", path, body)
        head, answer = await client.answer()
        assert head.status == 200
        assert head.headers["request-id"] == head.headers["x-request-id"]
        assert json.loads(answer) == {"input_tokens": input_tokens(ENCODING, body)}
    assert upstream.requests == []
    assert gateway.started == []


async def test_a_bad_body_is_the_client_s_fault(gateway):
    client = await gateway.connect()
    for body in (b'{"model": "m"}', b'{"model": "m"}' + b" " * 100_000):
        await client.request("POST", PATH, body)
        head, answer = await client.answer()
        assert head.status == 400
        assert json.loads(answer)["error"]["type"] == "invalid_request_error"


async def test_a_count_keeps_nobody_waiting(gateway, monkeypatch):
    """While one is being counted in its thread, the loop serves others."""
    begun, go = trio.Event(), trio.Event()
    exactly = count_tokens.count_exactly

    def slow(encoding, texts):
        trio.from_thread.run_sync(begun.set)
        trio.from_thread.run(go.wait)
        return exactly(encoding, texts)

    monkeypatch.setattr(count_tokens, "count_exactly", slow)
    client, other = await gateway.connect(), await gateway.connect()
    await client.request("POST", PATH, json.dumps({"model": "m", "messages": [HELLO] * 1000}).encode())
    await begun.wait()
    assert (await other.get("/health"))[0].status == 200
    go.set()
    assert (await client.answer())[0].status == 200


async def test_the_size_has_a_bound(upstream):
    async with serve_gateway(make_config(upstream, server={"max_body_bytes": 1000})) as gateway:
        client = await gateway.connect()
        await client.send(request_bytes("POST", PATH, None, content_length="100000000000"))
        head, answer = await client.answer()
        assert head.status == 413
        assert json.loads(answer)["error"]["type"] == "request_too_large"
