import json
from itertools import groupby

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from shared.config import Provider, Translation
from shared.errors import DialectError
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
from worker.dialects.openai.decode_request import decode_request
from worker.dialects.openai.encode_request import encode_request
from worker.dialects.openai.request import parse_request

MARK = {"type": "ephemeral"}
IMAGE = Image("image/png", "AA==")
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
PDF = Document("application/pdf", data="JVBE", title="a.pdf")
SCHEMA = Raw(b'{"type": "object"}')
TOOL = Tool("f", SCHEMA)
SEARCH = ServerTool("web_search", "web_search_20250305", Raw(b"{}"))


def encode(request, ask_usage=True, **translation):
    provider = Provider(name="p", ask_usage=ask_usage, translation=Translation(**translation))
    return json.loads(encode_request(request, provider, "m"))


def messages(*turns, system=(), **translation):
    return encode(Request(system=system, messages=turns), **translation)["messages"]


def user(*parts):
    return Message("user", parts)


def assistant(*parts):
    return Message("assistant", parts)


def text(text, **more):
    return {"type": "text", "text": text, **more}


# --- the system


def test_the_system_is_one_text():
    assert messages(system=(Text("a", MARK), Text("b"), Text(""))) == [{"role": "system", "content": "a\n\nb"}]
    assert messages() == []


def test_cache_marks_of_the_system():
    content = [text("a", cache_control=MARK), text("b")]
    assert messages(system=(Text("a", MARK), Text("b")), cache_control=True) == [{"role": "system", "content": content}]
    assert messages(system=(Text("a"),), cache_control=True) == [{"role": "system", "content": "a"}]


def test_claude_code_s_billing_line_is_no_prompt():
    noise = "x-anthropic-billing-header: cc_version=2.1"
    assert messages(system=(Text(noise), Text("a"), Text(f"{noise}\n"), Text(f"{noise}\nb\nc"))) == [
        {"role": "system", "content": "a\n\nb\nc"}
    ]
    assert messages(system=(Text(noise),)) == []


def test_a_later_word_of_the_system():
    assert messages(user(Text("a")), Message("system", (Text("b"),))) == [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
    ]


# --- the user


def test_what_a_user_says():
    assert messages(user(Text("a", MARK))) == [{"role": "user", "content": "a"}]
    assert messages(user(Text("a"), Text(""), Text("b"))) == [{"role": "user", "content": [text("a"), text("b")]}]
    assert messages(user(Text(""))) == []
    assert messages(user(Text("a", MARK)), cache_control=True) == [
        {"role": "user", "content": [text("a", cache_control=MARK)]}
    ]


def test_what_a_user_shows():
    linked = Image(url="https://x/y.png", detail="low", cache_control=MARK)
    assert messages(user(IMAGE, linked, Text("a")), cache_control=True) == [
        {
            "role": "user",
            "content": [
                IMAGE_PART,
                {
                    "type": "image_url",
                    "image_url": {"url": "https://x/y.png", "detail": "low"},
                    "cache_control": MARK,
                },
                text("a"),
            ],
        }
    ]


def test_documents_as_text():
    told = [
        (Document(text="x"), "<document>\nx\n</document>"),
        (Document(text="x", title='a"b', context="c"), '<document title="a\'b">\nc\nx\n</document>'),
        (PDF, '<document title="a.pdf">\n[It is of the type application/pdf and can\'t be read here.]\n</document>'),
        (
            Document("application/pdf", url="https://x/y"),
            "<document>\n[It lies at https://x/y and can't be read here.]\n</document>",
        ),
    ]
    for document, words in told:
        assert messages(user(document)) == [{"role": "user", "content": [text(words)]}]


def test_documents_as_files():
    untitled = Document("application/pdf", data="JVBE", context="c")
    linked = Document("application/pdf", url="https://x/y")
    (message,) = messages(user(PDF, untitled, Document(text="x"), linked), documents="file")
    data = "data:application/pdf;base64,JVBE"
    assert message["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        text("c"),
        {"type": "file", "file": {"filename": "document.pdf", "file_data": data}},
        text("<document>\nx\n</document>"),
        text("<document>\n[It lies at https://x/y and can't be read here.]\n</document>"),
    ]


# --- the tools


def test_results_are_messages_of_their_own():
    turn = user(ToolResult("c1", (Text("a"), Text("b"))), ToolResult("c2"), Text("hi"))
    assert messages(turn) == [
        {"role": "tool", "tool_call_id": "c1", "content": "a\nb"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ((Text("boom"),), "Error: boom"),
        ((Text("ERROR 5"), Text("b")), "ERROR 5\nb"),
        ((Text("a"), Text("b")), "Error: a\nb"),
        ((), "Error:"),
    ],
)
def test_a_failed_tool(parts, content):
    (message,) = messages(user(ToolResult("c", parts, is_error=True)))
    assert message["content"] == content


def test_what_tools_show_stands_behind_all_results():
    turn = user(
        ToolResult("c1", (Text("a"), IMAGE)),
        ToolResult("c2", (Document(text="x"),)),
        ToolResult("c3", (PDF,)),
        Text("hi"),
    )
    assert messages(turn, documents="file") == [
        {"role": "tool", "tool_call_id": "c1", "content": "a"},
        {"role": "tool", "tool_call_id": "c2", "content": "<document>\nx\n</document>"},
        {"role": "tool", "tool_call_id": "c3", "content": "The result stands in the next message."},
        {
            "role": "user",
            "content": [
                text("From the result of the tool call c1:"),
                IMAGE_PART,
                text("From the result of the tool call c3:"),
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
                text("hi"),
            ],
        },
    ]


def test_cache_marks_of_results():
    marked = {"role": "tool", "tool_call_id": "c", "content": [text("a", cache_control=MARK)]}
    assert messages(user(ToolResult("c", (Text("a"),), cache_control=MARK)), cache_control=True) == [marked]
    assert messages(user(ToolResult("c", (Text("a", MARK),))), cache_control=True) == [marked]
    assert messages(user(ToolResult("c", cache_control=MARK)), cache_control=True) == [
        {"role": "tool", "tool_call_id": "c", "content": ""}
    ]


# --- the assistant


def test_an_answer_is_one_text_and_then_its_calls():
    turn = assistant(
        Text("a"),
        Text("b"),
        ToolCall("c1", "f", '{"x":1}'),
        RedactedThinking("?"),
        Text("c"),
        ToolCall("c2", "g", ""),
    )
    assert messages(turn) == [
        {
            "role": "assistant",
            "content": "ab\n\nc",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        }
    ]


def test_calls_alone():
    (message,) = messages(assistant(ToolCall("c", "f", "{}")))
    assert message["content"] is None


def test_cache_marks_of_answers():
    (message,) = messages(assistant(Text("a", MARK)), cache_control=True)
    assert message["content"] == [text("a", cache_control=MARK)]


@pytest.mark.parametrize(
    ("replay", "fields"),
    [
        ("reasoning_content", {"reasoning_content": "x\n\ny"}),
        ("thinking", {"reasoning_content": "x\n\ny"}),
        ("reasoning", {"reasoning": "x\n\ny"}),
        ("off", {}),
    ],
)
def test_where_thought_goes(replay, fields):
    turn = assistant(Thinking("x", "signed"), Thinking(""), Thinking("y"), Text("a"))
    assert messages(turn, replay_thinking=replay) == [{"role": "assistant", "content": "a", **fields}]


def test_a_thought_alone_is_no_message():
    assert messages(assistant(Thinking("x"), RedactedThinking("y"))) == []


def test_calls_that_need_a_thought():
    call = ToolCall("c", "f", "{}")
    turns = [
        assistant(call),
        user(ToolResult("c")),
        assistant(Thinking("x"), call),
        user(Text("a")),
        assistant(Text("b")),
    ]
    thoughts = [message.get("reasoning_content") for message in messages(*turns, needs_thinking=True)]
    assert thoughts == [" ", None, "x", None, None]
    assert "reasoning_content" not in messages(assistant(call))[0]


def test_calls_that_need_a_signature():
    (signed,) = messages(assistant(ToolCall("c", "f", "{}")), call_signatures=True)
    (plain,) = messages(assistant(ToolCall("c", "f", "{}")))
    (call,) = signed["tool_calls"]
    assert call.pop("extra_content") == {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert signed == plain


def test_an_answer_that_the_client_has_begun():
    begun = assistant(Text("a"))
    assert messages(begun, partial=True) == [{"role": "assistant", "content": "a", "partial": True}]
    for turns in ([begun], [begun, user(Text("b"))], [assistant(ToolCall("c", "f", "{}"))]):
        assert not any("partial" in message for message in messages(*turns, partial=len(turns) == 2))


# --- the tools that can be called


def test_tools():
    request = Request(
        tools=(Tool("f", SCHEMA, "does", True, MARK), TOOL, SEARCH),
        tool_choice=ToolChoice("named", "f"),
        parallel_tool_calls=False,
    )
    body = encode(request)
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"type": "object"}, "description": "does", "strict": True},
        },
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["parallel_tool_calls"] is False
    assert encode(request, cache_control=True)["tools"][0]["cache_control"] == MARK


@pytest.mark.parametrize("mode", ["auto", "required", "none"])
def test_tool_choice(mode):
    assert encode(Request(tools=(TOOL,), tool_choice=ToolChoice(mode)))["tool_choice"] == mode


def test_without_tools_there_is_nothing_to_choose():
    request = Request(tools=(SEARCH,), tool_choice=ToolChoice("auto"), parallel_tool_calls=True)
    assert encode(request) == {"model": "m", "messages": []}


@pytest.mark.parametrize("choice", [ToolChoice("named", "web_search"), ToolChoice("required")])
def test_a_tool_that_only_another_provider_runs(choice):
    with pytest.raises(DialectError, match="provider 'p' can't run the tool 'web_search'"):
        encode(Request(tools=(SEARCH,), tool_choice=choice))


def test_a_provider_s_tool_that_need_not_be_called():
    body = encode(Request(tools=(TOOL, SEARCH), tool_choice=ToolChoice("required")))
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"]


# --- how to answer


def test_numbers_and_words():
    request = Request(
        max_tokens=9, temperature=0.5, top_p=0.25, top_k=3, stop=("a", "b"), user="u", stream=True, effort="low"
    )
    assert encode(request) == {
        "model": "m",
        "messages": [],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.25,
        "stop": ["a", "b"],
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "stream_options" not in encode(request, ask_usage=False)


def test_a_model_with_a_temperature_of_its_own():
    body = encode(Request(max_tokens=9, temperature=0.5, top_p=0.25), sampling=False)
    assert body == {"model": "m", "messages": [], "max_tokens": 9}


def test_how_many_tokens():
    body = encode(Request(max_tokens=9), max_tokens="max_completion_tokens", max_output_tokens=5)
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body
    assert encode(Request(max_tokens=4), max_output_tokens=5)["max_tokens"] == 4


def test_a_long_user_is_told_by_a_digest():
    first, second = (encode(Request(user=name * 65))["user"] for name in "ab")
    assert len(first) == len(second) == 64
    assert first != second
    assert encode(Request(user="a" * 64))["user"] == "a" * 64


ENABLED, ADAPTIVE, DISABLED = Reasoning("enabled"), Reasoning("adaptive"), Reasoning("disabled")


@pytest.mark.parametrize(
    ("thinking", "reasoning", "effort", "fields"),
    [
        ("off", Reasoning("enabled", 9), "high", {}),
        ("thinking", ENABLED, "high", {"thinking": {"type": "enabled"}}),
        ("thinking", DISABLED, None, {"thinking": {"type": "disabled"}}),
        ("thinking", ADAPTIVE, "high", {}),
        ("thinking", None, "high", {}),
        ("effort", ENABLED, "max", {"reasoning_effort": "high"}),
        ("effort", ADAPTIVE, "xhigh", {"reasoning_effort": "high"}),
        ("effort", None, "low", {"reasoning_effort": "low"}),
        ("effort", Reasoning("enabled", 50000), "low", {"reasoning_effort": "low"}),
        ("effort", Reasoning("enabled", 4096), None, {"reasoning_effort": "low"}),
        ("effort", Reasoning("enabled", 16384), None, {"reasoning_effort": "medium"}),
        ("effort", Reasoning("enabled", 16385), None, {"reasoning_effort": "high"}),
        ("effort", ADAPTIVE, None, {}),
        ("effort", ENABLED, None, {}),
        ("effort", None, "none", {}),
        ("effort", DISABLED, "high", {}),
        ("reasoning", Reasoning("enabled", 9), "high", {"reasoning": {"max_tokens": 9}}),
        ("reasoning", ENABLED, "max", {"reasoning": {"effort": "high"}}),
        ("reasoning", ADAPTIVE, "low", {"reasoning": {"effort": "low"}}),
        ("reasoning", ENABLED, None, {"reasoning": {"enabled": True}}),
        ("reasoning", DISABLED, "high", {"reasoning": {"enabled": False}}),
        ("reasoning", ADAPTIVE, None, {}),
        ("reasoning", None, None, {}),
    ],
)
def test_how_much_to_think(thinking, reasoning, effort, fields):
    body = encode(Request(reasoning=reasoning, effort=effort), thinking=thinking)
    assert body == {"model": "m", "messages": [], **fields}


def test_output_format():
    request = Request(system=(Text("s"),), output_format=OutputFormat(SCHEMA))
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert encode(request)["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert "response_format" not in encode(request, output_format="off")
    body = encode(request, output_format="json_object")
    assert body["response_format"] == {"type": "json_object"}
    told = 's\n\nAnswer with one JSON object that fits this JSON schema: {"type": "object"}'
    assert body["messages"] == [{"role": "system", "content": told}]
    named = Request(output_format=OutputFormat(SCHEMA, "n", False))
    assert encode(named)["response_format"]["json_schema"] == {**schema, "name": "n", "strict": False}


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_any_json_object(kind):
    body = encode(Request(output_format=OutputFormat()), output_format=kind)
    assert body == {"model": "m", "messages": [], "response_format": {"type": "json_object"}}


# --- there and back

WORDS = st.text(min_size=1, max_size=8).filter(lambda text: not text.startswith("x-anthropic"))
OBJECTS = st.dictionaries(st.text(max_size=4), st.integers(-9, 9) | st.text(max_size=4), max_size=2)
RAW_OBJECTS = OBJECTS.map(lambda value: Raw(json.dumps(value).encode()))
BASE64 = st.binary(min_size=1, max_size=6).map(lambda data: msgspec.json.encode(data).decode().strip('"'))


def optional(strategy):
    return st.none() | strategy


@st.composite
def requests(draw, thinking, marks):
    """Requests that the dialect can say in full, each in the one form that a decoder gives it."""
    mark = optional(st.just(MARK)) if marks else st.none()
    texts = st.builds(Text, WORDS, mark)
    details = optional(st.sampled_from(["low", "high", "auto"]))
    pictures = st.builds(Image, st.just("image/png"), BASE64, detail=details, cache_control=mark)
    links = st.builds(Image, url=WORDS.map("https://{}".format), detail=details, cache_control=mark)
    papers = st.builds(Document, st.just("application/pdf"), data=BASE64, title=WORDS, cache_control=mark)
    results = st.builds(ToolResult, WORDS, st.lists(texts, max_size=1).map(tuple))
    arguments = OBJECTS.map(json.dumps)
    calls = st.builds(ToolCall, WORDS, WORDS, arguments)
    said = st.lists(texts | pictures | links | papers, max_size=3)
    users = st.tuples(st.lists(results, max_size=2), said).map(lambda both: user(*both[0], *both[1]))
    answers = st.tuples(st.lists(texts, max_size=1), st.lists(calls, max_size=2)).filter(any)
    thoughts = st.lists(st.builds(Thinking, WORDS), max_size=1)
    assistants = st.tuples(thoughts, answers).map(lambda both: assistant(*both[0], *both[1][0], *both[1][1]))
    systems = st.lists(texts, min_size=1, max_size=2).map(lambda parts: Message("system", tuple(parts)))
    turns = draw(st.lists(users.filter(lambda turn: turn.parts) | assistants | systems, max_size=5))
    turns = [next(run) for _, run in groupby(turns, key=lambda turn: turn.role)]
    if turns and turns[0].role == "system":
        turns.pop(0)
    system = draw(st.lists(texts, max_size=3))
    if not any(text.cache_control for text in system):
        system = system[:1]
    tools = draw(st.lists(st.builds(Tool, WORDS, RAW_OBJECTS, optional(st.text()), optional(st.booleans()), mark)))
    modes = st.sampled_from(["auto", "required", "none"]).map(ToolChoice)
    enabled = st.just(ENABLED)
    efforts = st.sampled_from(["minimal", "low", "medium", "high"])
    reasoning, effort = draw(
        {
            "off": st.just((None, None)),
            "thinking": st.tuples(optional(st.sampled_from([ENABLED, DISABLED])), st.none()),
            "effort": st.just((None, None)) | st.tuples(enabled, efforts),
            "reasoning": st.tuples(enabled, optional(efforts))
            | st.tuples(
                optional(st.just(DISABLED)) | st.builds(Reasoning, st.just("enabled"), st.integers(1, 2**53)), st.none()
            ),
        }[thinking]
    )
    formats = st.just(OutputFormat()) | st.builds(OutputFormat, RAW_OBJECTS, WORDS, optional(st.booleans()))
    return Request(
        system=tuple(system),
        messages=tuple(turns),
        tools=tuple(tools),
        tool_choice=draw(optional(modes | st.builds(ToolChoice, st.just("named"), WORDS))) if tools else None,
        parallel_tool_calls=draw(optional(st.booleans())) if tools else None,
        max_tokens=draw(optional(st.integers(1, 2**53))),
        temperature=draw(optional(st.floats(0, 2))),
        top_p=draw(optional(st.floats(0, 1))),
        stop=tuple(draw(st.lists(WORDS, max_size=2))),
        reasoning=reasoning,
        effort=effort,
        output_format=draw(optional(formats)),
        user=draw(optional(WORDS)),
        stream=draw(st.booleans()),
    )


@given(st.data())
def test_there_and_back_nothing_is_lost(data):
    thinking = data.draw(st.sampled_from(["off", "thinking", "effort", "reasoning"]))
    marks = data.draw(st.booleans())
    translation = Translation(
        thinking=thinking,
        replay_thinking=data.draw(st.sampled_from(["reasoning_content", "reasoning"])),
        documents="file",
        cache_control=marks,
        max_tokens=data.draw(st.sampled_from(["max_tokens", "max_completion_tokens"])),
        partial=data.draw(st.booleans()),
    )
    request = data.draw(requests(thinking, marks))
    body = encode_request(request, Provider(name="p", translation=translation), "m")
    assert decode_request(parse_request(body).fields) == request
