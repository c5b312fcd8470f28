"""What a run tells, in each format, over SSE and over a WebSocket."""

import json
from typing import Any

import msgspec
import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from worker.agent.frames import FORMATS, SSE, Format, Frames, make_frames
from worker.agent.presenter import CANCELLED, TIMEOUT, Presenter
from worker.dialects.codec import Reply
from worker.dialects.neutral import (
    Begin,
    Redacted,
    SignatureDelta,
    Stop,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStart,
    Usage,
    UsageTold,
)
from worker.endpoints.agent_socket import WIRE

REPLY = Reply(id="abc", model="m", created=7, wants_usage=False)
CONSTANT = {"id": "chatcmpl-abc", "object": "chat.completion.chunk", "created": 7, "model": "m"}


def run(frames: Presenter, error: str | None = None, stop: Stop | None = None) -> list[bytes]:
    """What goes out for a run with two turns, one of which calls two tools."""
    out = [frames.status_thinking(1)]
    out += [frames.event(event) for event in (ThinkingDelta("Hm."), SignatureDelta("s"), TextDelta("Let me look."))]
    out += [frames.status_executing(["Read", "LS"])]
    out += [frames.tool("Read", "start", 1, 2, None), frames.tool("LS", "start", 2, 2, None)]
    out += [frames.tool("LS", "end", 2, 2, 1.23456), frames.tool("Read", "end", 1, 2, 20)]
    out += [frames.status_thinking(2)]
    out += [frames.event(event) for event in (TextDelta('It says "hé'), TextDelta('llo".\u2028'))]
    out += [frames.checkpoint(50)]
    if stop is not None:
        out += [frames.event(stop), frames.event(UsageTold(Usage(completion_tokens=51)))]
    return [*out, frames.done(error)]


def payloads(format: Format, data: bytes) -> list[str]:
    """What an SSE client reads; comments are passed over."""
    assert data.endswith(b"\n\n")
    events = data.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith(("data: ", ": ")) and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events if event.startswith("data: ")]


def values(format: Format, data: bytes) -> list[Any]:
    return [text if text == "[DONE]" else json.loads(text) for text in payloads(format, data)]


def make(format: Format) -> Frames:
    return make_frames(format, SSE, REPLY)


def test_json_is_the_contract_s():
    assert values("json", b"".join(run(make("json")))) == [
        {"type": "status", "status": "thinking"},
        {"type": "delta", "content": "Let me look."},
        {"type": "status", "status": "executing", "tools": ["Read", "LS"]},
        {"type": "tool", "name": "Read", "state": "start", "index": 1, "of": 2, "ms": None},
        {"type": "tool", "name": "LS", "state": "start", "index": 2, "of": 2, "ms": None},
        {"type": "tool", "name": "LS", "state": "end", "index": 2, "of": 2, "ms": 1.2},
        {"type": "tool", "name": "Read", "state": "end", "index": 1, "of": 2, "ms": 20},
        {"type": "status", "status": "thinking"},
        {"type": "delta", "content": 'It says "hé'},
        {"type": "delta", "content": 'llo".\u2028'},
        {"type": "checkpoint", "tokens": 50},
        {"type": "done"},
    ]


@pytest.mark.parametrize("error", [CANCELLED, TIMEOUT, "provider one answered with status 500"])
def test_the_end_of_a_run_that_failed(error):
    assert values("json", make("json").done(error)) == [{"type": "done", "error": error}]
    assert values("t", make("t").done(error)) == [{"t": "", "type": "done", "error": error}]
    [said] = values("openai", make("openai").done(error))
    assert said["error"]["message"]
    assert said["error"]["code"] == (error if error in (CANCELLED, TIMEOUT) else None)


@pytest.mark.parametrize("key", ["token", "t"])
def test_every_frame_has_the_token(key):
    told = values(key, b"".join(run(make(key))))
    assert told == [
        {key: "Let me look."},
        {key: '\n\nIt says "hé'},
        {key: 'llo".\u2028'},
        {key: "", "type": "done"},
    ]


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**CONSTANT, "choices": [choice]}


@pytest.mark.parametrize(("stop", "reason"), [(None, "stop"), (Stop("end"), "stop"), (Stop("length"), "length")])
def test_openai_is_a_chat_completion(stop, reason):
    assert values("openai", b"".join(run(make("openai"), stop=stop))) == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Let me look."}),
        chunk({"content": '\n\nIt says "hé'}),
        chunk({"content": 'llo".\u2028'}),
        chunk({}, reason),
        "[DONE]",
    ]


def test_an_openai_stream_that_failed_has_no_done():
    assert "[DONE]" not in values("openai", b"".join(run(make("openai"), "the upstream broke")))


@pytest.mark.parametrize("format", FORMATS)
def test_something_is_heard_at_once(format):
    assert make(format).status_thinking(1)


@pytest.mark.parametrize("format", FORMATS)
def test_the_end_comes_once(format):
    frames = make(format)
    assert frames.done(CANCELLED)
    assert frames.done() == frames.done(CANCELLED) == b""


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_no_text_is_not_told(format):
    frames = make(format)
    frames.status_thinking(1)
    events = (Begin(), SignatureDelta("s"), Redacted("r"), ToolStart(0, "a", "LS"), ToolDelta(0, "{}"), Stop("tools"))
    assert [frames.event(event) for event in events] == [b""] * len(events)


@pytest.mark.parametrize("format", ["openai", "token", "t"])
def test_turns_are_parted_only_where_there_is_text_on_both_sides(format):
    frames = make(format)
    out = [frames.status_thinking(1), frames.event(TextDelta("\n")), frames.event(TextDelta(""))]
    out += [frames.status_executing(["LS"]), frames.status_thinking(2), frames.event(TextDelta("Yes"))]
    out += [frames.status_thinking(3), frames.event(TextDelta("")), frames.event(TextDelta("No"))]
    said = [
        value["choices"][0]["delta"].get("content", "") if format == "openai" else value[format]
        for value in values(format, b"".join(out))
    ]
    assert "".join(said) == "\nYes\n\nNo"


@pytest.mark.parametrize("error", [None, CANCELLED])
@pytest.mark.parametrize("format", FORMATS)
def test_a_websocket_says_the_same(format, error):
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(b"".join(run(make_frames(format, WIRE, REPLY), error)))
    heard = []
    for event in client.events():
        assert isinstance(event, TextMessage)
        assert event.message_finished
        heard.append(event.data)
    assert heard == payloads(format, b"".join(run(make(format), error)))


@pytest.mark.parametrize("wire", [SSE, WIRE])
@pytest.mark.parametrize("format", FORMATS)
def test_a_refusal(format, wire):
    frame = make_frames(format, wire, REPLY).refused("no", code="bad", param="model")
    told = msgspec.json.decode(frame[frame.index(b"{") :])
    error = told["error"] if format == "openai" else {**told, "message": told["error"]}
    assert (error["message"], error["code"], error["param"]) == ("no", "bad", "model")
