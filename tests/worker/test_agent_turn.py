"""A turn: what a provider is asked, and what is gathered of its answer."""

import json

import pytest
from msgspec import Raw

from shared.config import Provider, Streaming, Translation
from shared.errors import DialectError
from worker.agent.turn import Hearing, Turn, tell_nobody
from worker.dialects.neutral import (
    Answer,
    Apart,
    Begin,
    Failed,
    Message,
    Redacted,
    RedactedThinking,
    Request,
    SignatureDelta,
    Stop,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    ToolStart,
    Usage,
    UsageTold,
)

OPENAI = Provider(name="one", base_url="http://one")
ANTHROPIC = Provider(name="two", base_url="http://two", dialect="anthropic")
LONG = "mcp__" + "x" * 80
ASKED = Request(
    messages=(
        Message("user", (Text("hi"),)),
        Message("assistant", (Thinking("let me see"), ToolCall("c1", "Read", '{"file_path":"a"}'))),
        Message("user", (ToolResult("c1", (Text("the file"),)),)),
    ),
    tools=(Tool("Read", Raw(b'{"type":"object"}')), Tool(LONG, Raw(b'{"type":"object"}'))),
    stream=True,
)


def heard(*events, tell=tell_nobody, taken=(), names=None):
    hearing = Hearing(tell)
    for event in events:
        hearing.send(event)
    return hearing.answer("x", taken, names or {})


def test_thought_is_replayed():
    turn = Turn(ASKED, Streaming(), id="x")
    sent = json.loads(turn.upstream_body(OPENAI, "m"))["messages"]
    assert sent[1]["reasoning_content"] == "let me see"
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == "c1"
    sent = json.loads(turn.upstream_body(ANTHROPIC, "m"))["messages"]
    assert [block["type"] for block in sent[1]["content"]] == ["thinking", "tool_use"]


def test_a_turn_is_counted_by_all_that_it_says():
    turn = Turn(ASKED, Streaming(), id="x")
    assert {"hi", "let me see", "the file", "Read", LONG} <= set(turn.prompt_texts())
    assert turn.body_bytes == len("".join(turn.prompt_texts()))


def test_an_answer_is_gathered():
    answer = heard(
        Begin(),
        ThinkingDelta("let "),
        ThinkingDelta("me"),
        SignatureDelta("sig"),
        ThinkingDelta("more"),
        Redacted("secret"),
        TextDelta("I "),
        TextDelta("look"),
        ToolStart(0, "c1", "Read"),
        ToolStart(1, "c2", "LS"),
        ToolDelta(1, '{"path'),
        ToolDelta(0, "{}"),
        ToolDelta(1, '":"."}'),
        TextDelta("one "),
        Apart(),
        TextDelta("two"),
        Stop("end"),
        UsageTold(Usage(prompt_tokens=3)),
        UsageTold(Usage(completion_tokens=4)),
    )
    assert answer == Answer(
        parts=(
            Thinking("let me", "sig"),
            Thinking("more"),
            RedactedThinking("secret"),
            Text("I look"),
            ToolCall("c1", "Read", "{}"),
            ToolCall("c2", "LS", '{"path":"."}'),
            Text("one "),
            Text("two"),
        ),
        stop="tools",
        usage=Usage(prompt_tokens=3, completion_tokens=4),
    )


def test_a_lone_signature_is_a_thought():
    assert heard(SignatureDelta("sig"), SignatureDelta(""), Stop("end")).parts == (Thinking("", "sig"),)


def test_ids_are_made_unique():
    answer = heard(
        *(ToolStart(index, id, "LS") for index, id in enumerate(["c1", "", "c2", "c2"])), taken={"c1"}, names={}
    )
    ids = [part.id for part in answer.parts]
    assert len(set(ids)) == 4
    assert ids[2] == "c2"
    assert "c1" not in ids
    assert "" not in ids


def test_long_names_come_back():
    turn = Turn(ASKED, Streaming(), id="x")
    short = json.loads(turn.upstream_body(OPENAI, "m"))["tools"][1]["function"]["name"]
    relay = turn.relay(OPENAI)
    call = {"index": 0, "id": "c2", "type": "function", "function": {"name": short, "arguments": "{}"}}
    for delta, finish in (({"tool_calls": [call]}, None), ({}, "tool_calls")):
        event = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        assert relay.receive(b"data: %b\n\n" % json.dumps(event).encode()) == b""
    relay.receive(b"data: [DONE]\n\n")
    assert turn.answer.parts == (ToolCall("c2", LONG, "{}"),)


def test_each_attempt_begins_anew():
    turn = Turn(ASKED, Streaming(), id="x")
    first = turn.relay(OPENAI)
    first.receive(b'data: {"choices":[{"index":0,"delta":{"content":"half"}}]}\n\n')
    assert turn.answer.parts == (Text("half"),)
    turn.relay(OPENAI)
    assert turn.answer.parts == ()


def test_the_provider_s_rules_hold():
    provider = Provider(name="one", base_url="http://one", normalise=("think", "model"))
    turn = Turn(ASKED, Streaming(), id="x")
    relay = turn.relay(provider)
    relay.receive(b'data: {"choices":[{"index":0,"delta":{"content":"<think>hm</think>yes"}}]}\n\n')
    relay.receive(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    assert turn.answer.parts == (Thinking("hm"), Text("yes"))


def test_what_is_told_of_it():
    told = []

    def tell(event):
        told.append(event)
        return b"+"

    hearing = Hearing(tell)
    loud = [Begin(), TextDelta("a"), ThinkingDelta("b"), SignatureDelta("c"), Redacted("d")]
    quiet = [ToolStart(0, "c1", "LS"), ToolDelta(0, "{}"), Failed("no"), Stop("end"), UsageTold(Usage())]
    assert [hearing.send(event) for event in loud] == [b"+"] * 5
    assert [hearing.send(event) for event in quiet] == [b""] * 5
    assert told == loud
    assert hearing.finish() == b""


def test_what_breaks_the_dialect():
    with pytest.raises(DialectError, match="has not begun"):
        Hearing(tell_nobody).send(ToolDelta(0, "{}"))
    with pytest.raises(DialectError, match="nothing told why"):
        Hearing(tell_nobody).finish()


def test_kimi_gets_thought_with_every_call():
    kimi = Provider(name="k", base_url="http://k", translation=Translation(needs_thinking=True))
    asked = Request(
        messages=(*ASKED.messages[:1], Message("assistant", ASKED.messages[1].parts[1:]), ASKED.messages[2])
    )
    sent = json.loads(Turn(asked, Streaming(), id="x").upstream_body(kimi, "m"))["messages"]
    assert sent[1]["reasoning_content"].strip() == "" != sent[1]["reasoning_content"]
