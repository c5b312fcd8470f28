import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from shared.config import Provider, Translation
from shared.errors import DialectError
from worker.dialects.anthropic.encode_content import NO_OUTPUT
from worker.dialects.anthropic.encode_request import DEFAULT_MAX_TOKENS, encode_request
from worker.dialects.anthropic.thinking import BUDGETS
from worker.dialects.neutral import (
    Document,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    RedactedThinking,
    Request,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

MARK = {"type": "ephemeral"}
HI = Message("user", (Text("hi"),))
LS = Tool("LS", Raw(b'{"type":"object"}'))
SEARCH = ServerTool("web_search", "web_search", Raw(b'{"type":"web_search"}'))
CALLED = Message("assistant", (ToolCall("t", "LS", "{}"),))
RESULT = Message("user", (ToolResult("t", (Text("a.txt"),)),))


def sent(request, **translation):
    provider = Provider(name="p", dialect="anthropic", translation=Translation(**translation))
    return json.loads(encode_request(request, provider, "claude"))


def encode(*messages, translation=None, **fields):
    return sent(Request(messages=messages or (HI,), **fields), **(translation or {}))


def content(*parts, role="user", **translation):
    """What becomes of a turn's parts; another turn follows, as the last one is treated otherwise."""
    body = encode(Message(role, parts), Message("user" if role == "assistant" else "assistant", (Text("x"),)),
                  translation=translation)  # fmt: skip
    assert body["messages"][0]["role"] == role
    return body["messages"][0]["content"]


def test_a_plain_conversation():
    messages = (HI, Message("assistant", (Text("hello"),)), Message("user", (Text("how", MARK),)))
    assert encode(*messages, system=(Text("be brief"),), max_tokens=10, stream=True) == {
        "model": "claude",
        "max_tokens": 10,
        "system": "be brief",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
            {"role": "user", "content": [{"type": "text", "text": "how", "cache_control": MARK}]},
        ],
        "stream": True,
    }


def test_system_in_blocks():
    a, b = {"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": MARK}
    assert encode(system=(Text("a"), Text(" "), Text("b", MARK)))["system"] == [a, b]
    assert encode(system=(Text("b", MARK),))["system"] == [b]
    assert "system" not in encode(system=(Text("\n"),))


def test_later_instructions_join_the_system_prompt():
    later = Message("system", (Text("b"),))
    body = encode(HI, later, Message("user", (Text("ho"),)), system=(Text("a"),))
    assert [text["text"] for text in body["system"]] == ["a", "b"]
    (turn,) = body["messages"]
    assert [block["text"] for block in turn["content"]] == ["hi", "ho"]


def test_instructions_alone_are_what_the_user_says():
    body = sent(Request(system=(Text("a"),), messages=(Message("system", (Text("b"),)), Message("user", ()))))
    assert "system" not in body
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]


def test_what_says_nothing_is_left_out_and_turns_alternate():
    messages = (
        Message("user", (Text("1"), Text(""), Text(" \n"))),
        Message("assistant", (Text(" "), Thinking(""))),
        Message("user", (Text("2"),)),
    )
    (turn,) = encode(*messages)["messages"]
    assert [block["text"] for block in turn["content"]] == ["1", "2"]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            Image("image/png", "QUJD", detail="high"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
        ),
        (
            Image(url="https://x", cache_control=MARK),
            {"type": "image", "source": {"type": "url", "url": "https://x"}, "cache_control": MARK},
        ),
        (
            Document(text="abc", title="T", context="C", cache_control=MARK),
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
                "title": "T",
                "context": "C",
                "cache_control": MARK,
            },
        ),
        (
            Document("application/pdf", data="QUJD"),
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
        ),
        (
            Document("text/markdown", data=base64.b64encode("# ü".encode()).decode()),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "# ü"}},
        ),
        (
            Document("text/plain", data="/w=="),
            {"type": "document", "source": {"type": "base64", "media_type": "text/plain", "data": "/w=="}},
        ),
        (Document("application/pdf", url="https://x"), {"type": "document", "source": {"type": "url", "url": "https://x"}}),
    ],
)  # fmt: skip
def test_images_and_documents(part, block):
    assert content(part) == [block]


def test_an_empty_document_is_left_out():
    assert content(Text("a"), Document()) == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (ToolResult("t"), {}),
        (ToolResult("t", (Text(""),)), {}),
        (ToolResult("t", is_error=True), {"content": NO_OUTPUT, "is_error": True}),
        (ToolResult("t", (Text("a"),), is_error=True), {"content": "a", "is_error": True}),
        (ToolResult("t", (Text("a"),), cache_control=MARK), {"content": "a", "cache_control": MARK}),
        (ToolResult("t", (Text("a", MARK),)), {"content": [{"type": "text", "text": "a", "cache_control": MARK}]}),
        (
            ToolResult("t", (Text("a"), Text(""), Image(url="https://x"))),
            {"content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "url", "url": "https://x"}}]},
        ),
    ],
)  # fmt: skip
def test_tool_results(result, told):
    body = encode(CALLED, Message("user", (Text("b"), result)))
    assert body["messages"][1]["content"] == [
        {"type": "tool_result", "tool_use_id": "t", **told},
        {"type": "text", "text": "b"},
    ]


@pytest.mark.parametrize(
    ("arguments", "input"),
    [
        ("", {}),
        ("null", {}),
        ('{"a": 1}', {"a": 1}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('{"a"', {"arguments": '{"a"'}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_are_an_object(arguments, input):
    (block,) = content(ToolCall("t", "LS", arguments, MARK), role="assistant")
    assert block == {"type": "tool_use", "id": "t", "name": "LS", "input": input, "cache_control": MARK}


def ids(*messages):
    """Ids of calls and of results, in their order."""
    blocks = [block for message in encode(*messages)["messages"] for block in message["content"]]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return calls, [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


def called(*names):
    return (
        Message("assistant", tuple(ToolCall(name, "LS", "{}") for name in names)),
        Message("user", tuple(ToolResult(name, (Text("x"),)) for name in names)),
    )


def test_ids_are_clean_and_the_same_for_call_and_result():
    calls, results = ids(*called("functions.LS:0", "a-b_C9"))
    assert calls == results == ["functions_LS_0", "a-b_C9"]


@pytest.mark.parametrize("names", [("", ""), ("a", "a"), ("a.b", "a:b"), ("", "toolu_1"), ("é", "_")])
def test_ids_are_unique_within_a_turn_and_between_turns(names):
    calls, results = ids(*called(*names), *called(*names), *called(*names))
    assert calls == results
    assert len(set(calls)) == 6


def test_results_in_another_order_find_their_calls():
    calls = Message("assistant", (ToolCall("a.1", "LS", "{}"), ToolCall("b.1", "LS", "{}")))
    found = ids(calls, Message("user", (ToolResult("b.1"), ToolResult("a.1"))))
    assert found == (["a_1", "b_1"], ["b_1", "a_1"])


def test_a_result_without_a_call_goes_on_as_it_is():
    assert ids(HI, Message("assistant", (Text("x"),)), Message("user", (ToolResult("a.1"), ToolResult("")))) == (
        [],
        ["a_1", "toolu"],
    )


def test_thought_is_sent_back():
    parts = (Thinking("a", "sig"), Thinking("b"), RedactedThinking("c"), Text("d"))
    signed = [
        {"type": "thinking", "thinking": "a", "signature": "sig"},
        {"type": "redacted_thinking", "data": "c"},
        {"type": "text", "text": "d"},
    ]
    assert content(*parts, role="assistant", replay_thinking="off") == signed
    unsigned = {"type": "thinking", "thinking": "b", "signature": ""}
    assert content(*parts, role="assistant", replay_thinking="thinking") == [signed[0], unsigned, *signed[1:]]


def test_a_begun_answer_loses_its_last_white_space():
    begun = Message("assistant", (Text("one "), Text("two \n")))
    assert [block["text"] for block in encode(HI, begun)["messages"][1]["content"]] == ["one ", "two"]
    assert encode(HI, begun, HI)["messages"][1]["content"][1]["text"] == "two \n"


# --- tools


def test_tools():
    tool = Tool("Grep", Raw(b'{"type":"object","x":1.0}'), "finds", True, MARK)
    raw = b'{"type":"web_search_20250305","name":"web_search"}'
    body = encode(tools=(LS, tool, ServerTool("web_search", "web_search_20250305", Raw(raw)), SEARCH))
    assert body["tools"] == [
        {"name": "LS", "input_schema": {"type": "object"}},
        {
            "name": "Grep",
            "description": "finds",
            "input_schema": {"type": "object", "x": 1.0},
            "strict": True,
            "cache_control": MARK,
        },
        json.loads(raw),
    ]


@pytest.mark.parametrize(
    ("schema", "wire"),
    [
        (b"", {"type": "object", "properties": {}}),
        (b"null", {"type": "object", "properties": {}}),
        (b"{}", {"type": "object", "properties": {}}),
        (b'{"properties":{"a":{}}}', {"type": "object", "properties": {"a": {}}}),
        (b'{"type":"object","z":1}', {"type": "object", "z": 1}),
    ],
)
def test_schemas_have_a_type(schema, wire):
    assert encode(tools=(Tool("LS", Raw(schema)),))["tools"] == [{"name": "LS", "input_schema": wire}]


def test_a_schema_that_is_none():
    with pytest.raises(DialectError, match="'LS'"):
        encode(tools=(Tool("LS", Raw(b"[1]")),))


@pytest.mark.parametrize(
    ("choice", "parallel", "wire"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("required"), True, {"type": "any"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", "LS"), False, {"type": "tool", "name": "LS", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), False, {"type": "none"}),
    ],
)
def test_tool_choices(choice, parallel, wire):
    body = encode(tools=(LS,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body.get("tool_choice") == wire
    assert "tool_choice" not in encode(tool_choice=choice, parallel_tool_calls=parallel)


@pytest.mark.parametrize("choice", [ToolChoice("named", "web_search"), ToolChoice("required")])
def test_a_tool_that_only_another_provider_runs_can_t_be_forced(choice):
    with pytest.raises(DialectError, match="'web_search'"):
        encode(tools=(SEARCH,), tool_choice=choice)


def test_a_tool_that_only_another_provider_runs_is_left_out():
    assert "tools" not in encode(tools=(SEARCH,), tool_choice=ToolChoice("auto"))
    body = encode(tools=(LS, SEARCH), tool_choice=ToolChoice("required"))
    assert [tool["name"] for tool in body["tools"]] == ["LS"]


# --- how to answer


@pytest.mark.parametrize(
    ("asked", "most", "told"),
    [
        (None, None, DEFAULT_MAX_TOKENS),
        (None, 4096, 4096),
        (100, None, 100),
        (100, 4096, 100),
        (64_000, 4096, 4096),
    ],
)
def test_max_tokens(asked, most, told):
    assert encode(max_tokens=asked, translation={"max_output_tokens": most})["max_tokens"] == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"temperature": 1.7}, {"temperature": 1}),
        ({"temperature": -1.0}, {"temperature": 0}),
        ({"top_p": 0.5, "top_k": 4}, {"top_p": 0.5, "top_k": 4}),
        ({"top_p": 1.0}, {"top_p": 1}),
        ({"top_p": 1.0, "temperature": 0.5}, {"temperature": 0.5}),
        ({"stop": ("a", " ", "", "\n")}, {"stop_sequences": ["a"]}),
        ({"stop": ("\n",)}, {}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"output_format": OutputFormat()}, {}),
        (
            {"output_format": OutputFormat(Raw(b'{"type":"object"}'), "n", True)},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
    ],
)
def test_wishes(given, told):
    body = encode(**given)
    for name in ("model", "max_tokens", "messages"):
        del body[name]
    assert body == told


def test_a_model_with_a_temperature_of_its_own():
    wishes = encode(temperature=0.5, top_p=0.25, top_k=3, translation={"sampling": False})
    assert wishes == encode()


def test_a_provider_without_formats():
    given = OutputFormat(Raw(b"{}"))
    assert "output_config" not in encode(output_format=given, translation={"output_format": "off"})


# --- thinking


@pytest.mark.parametrize(
    ("given", "thinking"),
    [
        ({}, None),
        ({"reasoning": Reasoning("disabled")}, {"type": "disabled"}),
        ({"effort": "none"}, {"type": "disabled"}),
        ({"reasoning": Reasoning("adaptive")}, {"type": "adaptive"}),
        ({"reasoning": Reasoning("enabled", 5000)}, {"type": "enabled", "budget_tokens": 5000}),
        ({"reasoning": Reasoning("enabled", 5)}, {"type": "enabled", "budget_tokens": 1024}),
        ({"reasoning": Reasoning("enabled")}, {"type": "enabled", "budget_tokens": BUDGETS["medium"]}),
        ({"reasoning": Reasoning("enabled"), "effort": "low"}, {"type": "enabled", "budget_tokens": 2048}),
        ({"reasoning": Reasoning("enabled", 5000), "effort": "low"}, {"type": "enabled", "budget_tokens": 5000}),
        *(({"effort": word}, {"type": "enabled", "budget_tokens": budget}) for word, budget in BUDGETS.items()),
    ],
)
def test_thinking(given, thinking):
    body = encode(max_tokens=64_000, **given)
    assert body.get("thinking") == thinking
    assert "output_config" not in body


def test_adaptive_thinking_keeps_its_effort():
    body = encode(reasoning=Reasoning("adaptive"), effort="minimal")
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "low"})


@pytest.mark.parametrize(
    ("asked", "most", "budget", "told"),
    [
        (8000, None, 4000, (4000, 8000)),
        (4000, None, 4000, (4000, 8000)),
        (100, None, 4000, (4000, 4100)),
        (100, 6000, 4000, (4000, 4100)),
        (4000, 6000, 4000, (3000, 6000)),
        (4000, 4000, 4000, (2000, 4000)),
        (2000, 2000, 4000, (None, 2000)),
    ],
)
def test_thought_leaves_room_for_the_answer(asked, most, budget, told):
    body = encode(max_tokens=asked, reasoning=Reasoning("enabled", budget), translation={"max_output_tokens": most})
    assert (body.get("thinking", {}).get("budget_tokens"), body["max_tokens"]) == told


@pytest.mark.parametrize("reasoning", [Reasoning("enabled", 1024), Reasoning("adaptive")])
def test_a_model_that_thinks_has_its_own_sampling(reasoning):
    body = encode(reasoning=reasoning, temperature=0.5, top_p=0.5, top_k=4)
    assert not {"temperature", "top_p", "top_k"} & body.keys()
    assert encode(reasoning=reasoning, top_p=0.95)["top_p"] == 0.95


def test_a_forced_tool_goes_before_thought():
    thinking = Reasoning("enabled", 1024)
    for choice in (ToolChoice("required"), ToolChoice("named", "LS")):
        body = encode(tools=(LS,), tool_choice=choice, reasoning=thinking, temperature=0.5)
        assert "thinking" not in body
        assert body["temperature"] == 0.5
    for choice in (ToolChoice("auto"), ToolChoice("none")):
        assert "thinking" in encode(tools=(LS,), tool_choice=choice, reasoning=thinking)


def test_an_answer_that_has_begun_goes_before_thought():
    assert "thinking" not in encode(HI, Message("assistant", (Text("so"),)), reasoning=Reasoning("adaptive"))


THOUGHT = Thinking("hm", "sig")


@pytest.mark.parametrize(
    ("messages", "thinks"),
    [
        ((HI, CALLED, RESULT), False),
        ((HI, Message("assistant", (THOUGHT, *CALLED.parts)), RESULT), True),
        ((HI, Message("assistant", (RedactedThinking("x"), *CALLED.parts)), RESULT), True),
        ((HI, Message("assistant", (Thinking("hm"), *CALLED.parts)), RESULT), False),
        ((HI, Message("assistant", (Text("a"), THOUGHT, *CALLED.parts)), RESULT), False),
        ((HI, CALLED, RESULT, Message("assistant", (Text("a"),)), HI), True),
        ((HI, CALLED, RESULT, Message("assistant", (THOUGHT, *CALLED.parts)), RESULT), True),
    ],
)
def test_calls_without_thought_go_on_without_thought(messages, thinks):
    body = encode(*messages, reasoning=Reasoning("enabled", 1024), translation={"replay_thinking": "off"})
    assert ("thinking" in body) is thinks


def test_unsigned_thought_is_thought_to_those_who_take_it():
    messages = (HI, Message("assistant", (Thinking("hm"), *CALLED.parts)), RESULT)
    body = encode(*messages, reasoning=Reasoning("enabled", 1024), translation={"replay_thinking": "thinking"})
    assert "thinking" in body


# --- whatever comes

TEXTS = st.text(max_size=4) | st.sampled_from(["", " ", "a", "a.b", "{}", '{"a":1}', "null"])
MARKS = st.none() | st.just(MARK)
TEXT = st.builds(Text, TEXTS, MARKS)
SAID = TEXT | st.builds(Image, TEXTS, TEXTS, TEXTS) | st.builds(Document, st.just("text/x"), TEXTS, TEXTS, TEXTS)
OF_USER = SAID | st.builds(ToolResult, TEXTS, st.lists(SAID, max_size=2).map(tuple), st.booleans(), MARKS)
OF_ASSISTANT = (
    TEXT
    | st.builds(Thinking, TEXTS, TEXTS)
    | st.builds(RedactedThinking, TEXTS)
    | st.builds(ToolCall, TEXTS, TEXTS, TEXTS, MARKS)
)
MESSAGES = st.one_of(
    st.builds(Message, st.just(role), st.lists(parts, max_size=4).map(tuple))
    for role, parts in (("system", TEXT), ("user", OF_USER), ("assistant", OF_ASSISTANT))
)
REASONING = st.builds(Reasoning, st.sampled_from(["enabled", "adaptive"]), st.none() | st.integers(0, 9999))
REQUESTS = st.builds(
    Request,
    system=st.lists(TEXT, max_size=2).map(tuple),
    messages=st.lists(MESSAGES, max_size=5).map(tuple),
    tools=st.sampled_from([(), (LS,), (LS, SEARCH)]),
    tool_choice=st.sampled_from([None, ToolChoice("auto"), ToolChoice("named", "LS"), ToolChoice("none")]),
    parallel_tool_calls=st.sampled_from([None, True, False]),
    max_tokens=st.none() | st.integers(1, 50_000),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(TEXTS, max_size=3).map(tuple),
    reasoning=st.none() | REASONING,
    effort=st.sampled_from([None, "none", "low", "max"]),
)  # fmt: skip


def letters(block):
    return block.get("text", "x").strip()


@given(REQUESTS, st.sampled_from(["off", "thinking"]), st.none() | st.integers(1024, 9000))
def test_whatever_comes_anthropic_takes_it(request, replay, most):
    body = sent(request, replay_thinking=replay, max_output_tokens=most)
    turns = body["messages"]
    for one, other in itertools.pairwise(turns):
        assert one["role"] != other["role"]
    calls = [block["id"] for turn in turns for block in turn["content"] if block["type"] == "tool_use"]
    assert len(calls) == len(set(calls))
    for turn in turns:
        assert turn["content"]
        kinds = [block["type"] for block in turn["content"]]
        assert kinds == sorted(kinds, key=lambda kind: turn["role"] == "user" and kind != "tool_result")
        for block in turn["content"]:
            assert letters(block)
            id = block.get("id", block.get("tool_use_id", "x"))
            assert set(id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
            assert id
            if replay == "off" and block["type"] == "thinking":
                assert block["signature"]
            for inner in block["content"] if isinstance(block.get("content"), list) else ():
                assert letters(inner)
    if turns and turns[-1]["role"] == "assistant":
        last = turns[-1]["content"][-1]
        assert last.get("text", "x")[-1:].strip()
    assert most is None or body["max_tokens"] <= most
    if body.get("thinking", {}).get("type") == "enabled":
        assert 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]
        assert turns == [] or turns[-1]["role"] == "user"
