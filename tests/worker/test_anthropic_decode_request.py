import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from shared.errors import DialectError
from worker.dialects.anthropic.decode_request import decode_request
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


def decode(body=None, **fields):
    if body is None:
        body = json.dumps({"messages": [], **fields}).encode()
    return decode_request(msgspec.json.decode(body, type=dict[str, Raw]))


def parts(content, role="user"):
    (message,) = decode(messages=[{"role": role, "content": content}]).messages
    assert message.role == role
    return message.parts


def answer(content):
    return parts(content, "assistant")


def test_a_plain_conversation():
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "how", "cache_control": MARK}]},
    ]
    assert decode(model="m", max_tokens=10, stream=True, system="be brief", messages=messages) == Request(
        system=(Text("be brief"),),
        messages=(
            Message("user", (Text("hi"),)),
            Message("assistant", (Text("hello"),)),
            Message("user", (Text("how", MARK),)),
        ),
        max_tokens=10,
        stream=True,
    )


def test_nothing_is_required():
    assert decode(b"{}") == Request()
    assert decode(messages=None, system=None, tools=None, tool_choice=None, thinking=None, metadata=None) == Request()


def test_a_system_prompt_in_blocks():
    system = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": MARK}]
    assert decode(system=system).system == (Text("a"), Text("b", MARK))


def test_a_system_message_before_the_first_turn_joins_the_system_prompt():
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "hi"}]
    request = decode(system="a", messages=messages)
    assert request.system == (Text("a"), Text("b"))
    assert request.messages == (Message("user", (Text("hi"),)),)


def test_a_system_message_in_the_course_of_a_conversation_stays_there():
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "assistant", "content": "ok"},
    ]
    assert [message.role for message in decode(messages=messages).messages] == ["user", "system", "assistant"]


def test_neighbours_of_one_role_are_one_turn_and_results_come_first():
    messages = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "LS", "input": {}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "b", "name": "LS", "input": {}}]},
        {"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "tool_result", "tool_use_id": "a"}]},
        {"role": "user", "content": [{"type": "text", "text": "2"}, {"type": "tool_result", "tool_use_id": "b"}]},
    ]
    assert decode(messages=messages).messages == (
        Message("assistant", (ToolCall("a", "LS", "{}"), ToolCall("b", "LS", "{}"))),
        Message("user", (ToolResult("a"), ToolResult("b"), Text("1"), Text("2"))),
    )


@pytest.mark.parametrize(
    ("source", "image"),
    [
        ({"type": "base64", "media_type": "image/png", "data": "QUJD"}, Image("image/png", "QUJD", cache_control=MARK)),
        ({"type": "url", "url": "https://x/a.png"}, Image(url="https://x/a.png", cache_control=MARK)),
    ],
)
def test_images(source, image):
    assert parts([{"type": "image", "source": source, "cache_control": MARK}]) == (image,)


@pytest.mark.parametrize(
    ("source", "document"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "abc"}, Document(text="abc")),
        ({"type": "base64", "media_type": "application/pdf", "data": "QUJD"}, Document("application/pdf", data="QUJD")),
        ({"type": "url", "url": "https://x/a.pdf"}, Document("application/pdf", url="https://x/a.pdf")),
        ({"type": "content", "content": "abc"}, Document(text="abc")),
    ],
)
def test_documents(source, document):
    assert parts([{"type": "document", "source": source}]) == (document,)
    about = {"title": "T", "context": "C", "cache_control": MARK, "citations": {"enabled": True}}
    told = msgspec.structs.replace(document, title="T", context="C", cache_control=MARK)
    assert parts([{"type": "document", "source": source, **about}]) == (told,)


def test_a_document_of_blocks_is_its_text_and_then_its_images():
    picture = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    content = [{"type": "text", "text": "a"}, picture, {"type": "text", "text": "b"}]
    found = parts([{"type": "document", "source": {"type": "content", "content": content}}])
    assert found == (Document(text="a\nb"), Image(url="https://x/a.png"))


def test_a_search_result_is_text():
    block = {
        "type": "search_result",
        "title": "Tides",
        "source": "https://x/tides",
        "content": [{"type": "text", "text": "They rise."}, {"type": "text", "text": "They fall."}],
        "cache_control": MARK,
    }
    assert parts([block]) == (Text("Tides\nhttps://x/tides\nThey rise.\nThey fall.", MARK),)


def test_what_an_assistant_says():
    content = [
        {"type": "thinking", "thinking": "hmm", "signature": "sig"},
        {"type": "thinking", "thinking": "unsigned"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "yes", "citations": None},
        {"type": "tool_use", "id": "t", "name": "LS", "input": {"a": 1}, "caller": {"type": "direct"}},
    ]
    assert answer(content) == (
        Thinking("hmm", "sig"),
        Thinking("unsigned"),
        RedactedThinking("secret"),
        Text("yes"),
        ToolCall("t", "LS", '{"a": 1}'),
    )


def test_a_tool_s_input_keeps_its_bytes():
    body = (
        b'{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"n",'
        b'"input": {"b" : 1.50, "a":"\\u00fc", "n":10000000000000000000000} }]}]}'
    )
    (call,) = decode(body).messages[0].parts
    assert call.arguments == '{"b" : 1.50, "a":"\\u00fc", "n":10000000000000000000000}'


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
            '[web_search was called with {"query":"x"}]',
        ),
        ({"type": "mcp_tool_use", "id": "s", "name": "find", "input": {}}, "[find was called with {}]"),
        (
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s",
                "content": [{"type": "web_search_result", "title": "X", "url": "https://x", "encrypted_content": "E"}],
            },
            '[web_search_tool_result: [{"type":"web_search_result","title":"X","url":"https://x"}]]',
        ),
        ({"type": "code_execution_tool_result", "tool_use_id": "s"}, "[code_execution_tool_result: {}]"),
    ],
)
def test_tools_that_the_provider_ran_are_told_as_text(block, text):
    assert answer([block]) == (Text(text),)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, ()),
        ({"content": None}, ()),
        ({"content": "abc"}, (Text("abc"),)),
        ({"content": [{"type": "text", "text": "abc"}]}, (Text("abc"),)),
        (
            {
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                    {"type": "document", "source": {"type": "text", "data": "abc"}},
                    {"type": "search_result", "title": "T", "source": "s", "content": []},
                ]
            },
            (Image("image/png", "QUJD"), Document(text="abc"), Text("T\ns")),
        ),
    ],
)
def test_tool_results(content, found):
    block = {"type": "tool_result", "tool_use_id": "t", **content}
    assert parts([block]) == (ToolResult("t", found),)
    assert parts([{**block, "is_error": True, "cache_control": MARK}]) == (ToolResult("t", found, True, MARK),)


def test_tools():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    request = decode(
        tools=[
            {"name": "LS", "input_schema": schema},
            {
                "type": "custom",
                "name": "Grep",
                "description": "finds",
                "input_schema": schema,
                "strict": True,
                "cache_control": MARK,
                "defer_loading": True,
            },
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
            {"type": "bash_20250124", "name": "bash"},
        ]
    )
    ls, grep, search, bash = request.tools
    assert isinstance(ls, Tool)
    assert json.loads(bytes(ls.schema)) == schema
    assert (ls.name, ls.description, ls.strict, ls.cache_control) == ("LS", None, None, None)
    assert (grep.name, grep.description, grep.strict, grep.cache_control) == ("Grep", "finds", True, MARK)
    assert isinstance(search, ServerTool)
    assert (search.name, search.type) == ("web_search", "web_search_20250305")
    assert json.loads(bytes(search.definition))["max_uses"] == 8
    assert (bash.name, bash.type) == ("bash", "bash_20250124")


def test_a_schema_keeps_its_bytes():
    (tool,) = decode(b'{"tools":[{"name":"LS","input_schema": {"type" : "object",  "maximum":1.0}}]}').tools
    assert bytes(tool.schema) == b'{"type" : "object",  "maximum":1.0}'


@pytest.mark.parametrize(
    ("choice", "neutral"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "LS"}, ToolChoice("named", "LS")),
    ],
)
def test_tool_choices(choice, neutral):
    request = decode(tool_choice=choice)
    assert (request.tool_choice, request.parallel_tool_calls) == (neutral, None)
    request = decode(tool_choice={**choice, "disable_parallel_tool_use": False})
    assert request.parallel_tool_calls is None
    request = decode(tool_choice={**choice, "disable_parallel_tool_use": True})
    assert (request.tool_choice, request.parallel_tool_calls) == (neutral, False)


@pytest.mark.parametrize(
    ("thinking", "reasoning"),
    [
        ({"type": "enabled", "budget_tokens": 2048}, Reasoning("enabled", 2048)),
        ({"type": "enabled"}, Reasoning("enabled")),
        ({"type": "adaptive", "display": "summarized"}, Reasoning("adaptive")),
        ({"type": "deep"}, Reasoning("adaptive")),
        ({"type": "disabled"}, Reasoning("disabled")),
    ],
)
def test_thinking(thinking, reasoning):
    assert decode(thinking=thinking).reasoning == reasoning


@pytest.mark.parametrize(("effort", "known"), [("low", "low"), ("max", "max"), ("galactic", None), (None, None)])
def test_effort(effort, known):
    assert decode(output_config={"effort": effort}).effort == known


@pytest.mark.parametrize("where", [("output_config", "format"), ("output_format",)])
def test_the_format_of_the_answer(where):
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    for name in reversed(where):
        wanted = {name: wanted}
    found = decode(json.dumps(wanted).encode()).output_format
    assert isinstance(found, OutputFormat)
    assert json.loads(bytes(found.schema)) == {"type": "object"}


def test_wishes():
    request = decode(
        temperature=0.5, top_p=1, top_k=40, stop_sequences=["a", " "], max_tokens=5, metadata={"user_id": "u"}
    )
    assert request == Request(
        temperature=0.5, top_p=1.0, top_k=40, stop=("a", " "), max_tokens=5, user="u"
    )  # fmt: skip


def test_unknown_fields_are_left_out():
    assert decode(context_management={"edits": []}, mcp_servers=[], service_tier="auto", container="c") == Request()


def user(*content):
    return {"messages": [{"role": "user", "content": list(content)}]}


def assistant(*content):
    return {"messages": [{"role": "assistant", "content": list(content)}]}


def test_a_tool_that_a_search_found():
    found = {"type": "tool_reference", "tool_name": "LS"}
    request = decode(**user({"type": "tool_result", "tool_use_id": "t", "content": [found]}))
    assert request.messages[0].parts == (ToolResult("t", (Text("The tool LS can be called."),)),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": {}}, "`messages`: a list is needed"),
        ({"messages": ["hi"]}, "`messages[0]`: an object is needed"),
        ({"messages": [{"content": "hi"}]}, "`messages[0].role` is required"),
        (
            {"messages": [{"role": "tool", "content": "hi"}]},
            "`messages[0].role`: there is no 'tool'; there are system, user, assistant",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "`messages[0].content`: a list is needed"),
        (user("hi"), "`messages[0].content[0]`: an object is needed"),
        (user({"text": "hi"}), "`messages[0].content[0].type` is required"),
        (user({"type": "text"}), "`messages[0].content[0].text` is required"),
        (user({"type": "text", "text": 5}), "`messages[0].content[0].text`: a string is needed, not a number"),
        (user({"type": "text", "text": "", "cache_control": "x"}), "`messages[0].content[0].cache_control`"),
        (user({"type": "text", "text": "a"}, {"type": "container_upload"}), "`messages[0].content[1]`: blocks of type"),
        (user({"type": "tool_use", "id": "t", "name": "n", "input": {}}), "'tool_use' can't be translated in a turn"),
        (assistant({"type": "tool_result", "tool_use_id": "t"}), "'tool_result' can't be translated in a turn"),
        (assistant({"type": "image", "source": {}}), "'image' can't be translated in a turn of the assistant"),
        (assistant({"type": "tool_use", "id": "t", "input": {}}), "`messages[0].content[0].name` is required"),
        (assistant({"type": "tool_use", "name": "n", "input": "{}"}), "`messages[0].content[0].input`"),
        (user({"type": "image"}), "`messages[0].content[0].source` is required"),
        (user({"type": "image", "source": {"type": "base64", "data": ""}}), "source.media_type` is required"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "`messages[0].content[0].source.type`"),
        (user({"type": "document", "source": {"type": "file", "file_id": "f"}}), "sources of type 'file'"),
        (
            user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "hologram"}]}),
            "`messages[0].content[0].content[0]`: blocks of type 'hologram'",
        ),
        ({"system": [{"type": "image"}]}, "`system[0]`: blocks of type 'image'"),
        ({"system": 5}, "`system`: a list is needed"),
        ({"tools": [{"name": "LS"}]}, "`tools[0].input_schema` is required"),
        ({"tools": [{"input_schema": {}}]}, "`tools[0].name` is required"),
        ({"tools": [{"name": "LS", "input_schema": []}]}, "`tools[0].input_schema`: an object is needed"),
        ({"tool_choice": "auto"}, "`tool_choice`: an object is needed"),
        ({"tool_choice": {"type": "some"}}, "`tool_choice.type`: there is no 'some'; there are auto"),
        ({"tool_choice": {"type": "tool"}}, "`tool_choice.name` is required"),
        ({"thinking": {"type": 5}}, "`thinking.type`: a string is needed"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "`thinking.budget_tokens`"),
        (
            {"output_config": {"format": {"type": "xml"}}},
            "`output_config.format.type`: there is no 'xml'; there is json_schema",
        ),
        ({"output_format": {"type": "json_schema"}}, "`output_format.schema` is required"),
        ({"stop_sequences": ["a", 5]}, "`stop_sequences[1]`: a string is needed"),
        ({"max_tokens": "9"}, "`max_tokens`: a whole number is needed"),
        ({"temperature": "hot"}, "`temperature`: a number is needed"),
        ({"metadata": {"user_id": 5}}, "`metadata.user_id`: a string is needed"),
    ],
)
def test_what_can_t_be_understood_is_named(fields, message):
    with pytest.raises(DialectError) as error:
        decode(**fields)
    assert message in str(error.value)


def test_broken_utf8_is_named():
    body = b'{"messages":[{"role":"assistant","content":[{"type":"tool_use","name":"n","input":{"a":"\xff"}}]}]}'
    with pytest.raises(DialectError, match="input"):
        decode(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WHOLE = {
    "system": [{"type": "text", "text": "s", "cache_control": MARK}],
    "messages": [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                {"type": "document", "title": "t", "source": {"type": "content", "content": []}},
                {"type": "search_result", "title": "t", "source": "s", "content": []},
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": ""}],
                    "is_error": True,
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "redacted_thinking", "data": ""},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                {"type": "tool_use", "id": "t", "name": "n", "input": {}},
            ],
        },
    ],
    "tools": [{"type": "custom", "name": "n", "input_schema": {}, "strict": True}, {"type": "web_search_20250305"}],
    "tool_choice": {"type": "tool", "name": "n", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    "metadata": {"user_id": "u"},
    "max_tokens": 1,
    "temperature": 1,
    "top_p": 1,
    "top_k": 1,
    "stop_sequences": [""],
    "stream": True,
}


def paths(node, path=()):
    """Where everything in `node` lies."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def replaced(node, path, value):
    if not path:
        return value
    copy = node.copy()
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


@given(st.sampled_from([path for path in paths(WHOLE) if path]), JSON)
def test_any_json_anywhere_is_understood_or_a_dialect_error(path, value):
    assert decode(**WHOLE)
    try:
        request = decode(**replaced(WHOLE, path, value))
    except DialectError:
        return
    assert isinstance(request, Request)
