import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from shared.errors import DialectError
from worker.dialects.neutral import (
    Document,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from worker.dialects.openai.decode_request import decode_request
from worker.dialects.openai.request import parse_request

MARK = {"type": "ephemeral"}
PNG = "iVBORw0KGgo="


def decode(*messages, **fields):
    body = json.dumps({"model": "m", "messages": messages, **fields}).encode()
    return decode_request(parse_request(body).fields)


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(text):
    return {"type": "text", "text": text}


def call(id="c1", name="f", arguments="{}"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(content="ok", id="c1"):
    return {"role": "tool", "tool_call_id": id, "content": content}


def parts_of(*messages):
    """The parts of the one message that `messages` become."""
    (message,) = decode(*messages).messages
    return message.parts


# --- roles


def test_what_stands_before_the_first_turn_is_the_system_s():
    request = decode(
        {"role": "system", "content": "one"},
        {"role": "developer", "content": [text("two"), text(""), text("three")]},
        {"role": "system", "content": None},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "later"},
        {"role": "assistant", "content": "hello"},
    )
    assert request.system == (Text("one"), Text("two"), Text("three"))
    assert request.messages == (
        Message("user", (Text("hi"),)),
        Message("system", (Text("later"),)),
        Message("assistant", (Text("hello"),)),
    )


def test_neighbours_of_one_role_are_one_turn():
    request = decode(
        {"role": "user", "content": "a"},
        {"role": "user", "content": ""},
        user(text("b")),
        {"role": "assistant"},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d", "tool_calls": [call()]},
    )
    assert request.messages == (
        Message("user", (Text("a"), Text("b"))),
        Message("assistant", (Text("c"), Text("d"), ToolCall("c1", "f", "{}"))),
    )


def test_tool_results_stand_in_the_user_s_turn_before_what_he_says():
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    assert parts_of(
        result("one", "c1"),
        user(picture),
        result([text("two"), text("three")], "c2"),
        result(None, "c3"),
        user(text("hi")),
    ) == (
        ToolResult("c1", (Text("one"),)),
        ToolResult("c2", (Text("two"), Text("three"))),
        ToolResult("c3"),
        Image(url="https://x/y.png"),
        Text("hi"),
    )


def test_an_assistant_thinks_speaks_and_calls():
    message = {
        "role": "assistant",
        "content": [text("a"), {"type": "refusal", "refusal": "b"}],
        "refusal": "c",
        "reasoning": "hm",
        "tool_calls": [call("functions.Bash:0", "Bash", '{"x": 1}'), call("c2", "f", "")],
        "function_call": None,
        "audio": None,
        "name": "bob",
    }
    assert parts_of(message) == (
        Thinking("hm"),
        Text("a"),
        Text("b"),
        Text("c"),
        ToolCall("functions.Bash:0", "Bash", '{"x": 1}'),
        ToolCall("c2", "f", "{}"),
    )


def test_the_same_thought_under_two_names_is_one():
    message = {"role": "assistant", "content": "a", "reasoning_content": "hm", "reasoning": "hm"}
    assert parts_of(message) == (Thinking("hm"), Text("a"))


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [("", "{}"), (" ", "{}"), ("null", "{}"), ('""', "{}"), (None, "{}"), ({"a": 1}, '{"a": 1}'), ('"{}"', "{}")],
)
def test_arguments_are_an_object(arguments, meaning):
    message = {"role": "assistant", "tool_calls": [call(arguments=arguments)]}
    assert parts_of(message) == (ToolCall("c1", "f", meaning),)


# --- parts


def test_a_picture_lies_somewhere_or_in_the_request():
    assert parts_of(
        user(
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}, "cache_control": MARK},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": None}},
            {"type": "image_url", "image_url": f"DATA:image/jpg;name=x;BASE64,{PNG}"},
        )
    ) == (
        Image(url="https://x/y.png", detail="low", cache_control=MARK),
        Image("image/png", PNG),
        Image("image/jpeg", PNG),
    )


def file(data, name=None):
    return {"type": "file", "file": {"filename": name, "file_data": data}}


def test_a_file_is_a_document_or_a_picture():
    note = base64.b64encode("nötig".encode()).decode()
    assert parts_of(
        user(
            {**file("data:application/pdf;base64,JVBE", "a.pdf"), "cache_control": MARK},
            file("JVBE", "b.PDF"),
            file("https://x/c.pdf", "c.pdf"),
            file(f"data:text/markdown;charset=utf-8;base64,{note}", "d.md"),
            file(f"data:image/png;base64,{PNG}", "e.png"),
        )
    ) == (
        Document("application/pdf", data="JVBE", title="a.pdf", cache_control=MARK),
        Document("application/pdf", data="JVBE", title="b.PDF"),
        Document("application/pdf", url="https://x/c.pdf", title="c.pdf"),
        Document(text="nötig", title="d.md"),
        Image("image/png", PNG),
    )


def test_cache_marks_stay():
    request = decode(
        {"role": "system", "content": [{**text("s"), "cache_control": MARK}]},
        user({**text("u"), "cache_control": MARK}),
        {"role": "assistant", "content": [{**text("a"), "cache_control": MARK}]},
        tools=[{"type": "function", "function": {"name": "f"}, "cache_control": MARK}],
    )
    assert request.system == (Text("s", MARK),)
    assert [message.parts for message in request.messages] == [(Text("u", MARK),), (Text("a", MARK),)]
    assert request.tools[0].cache_control == MARK


# --- options


def test_tools():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    functions = [
        {"name": "f", "description": "does", "parameters": schema, "strict": True},
        {"name": "g", "parameters": None},
        {"name": "h"},
    ]
    served = {"type": "web_search", "name": "search", "max_uses": 3}
    tools = [{"type": "function", "function": function} for function in functions]
    request = decode(tools=[*tools, served, {"type": "code_interpreter"}])
    nothing = Raw(b'{"type":"object","properties":{}}')
    assert request.tools == (
        Tool("f", Raw(json.dumps(schema).encode()), "does", True),
        Tool("g", nothing),
        Tool("h", nothing),
        ServerTool("search", "web_search", Raw(json.dumps(served).encode())),
        ServerTool("code_interpreter", "code_interpreter", Raw(b'{"type": "code_interpreter"}')),
    )


@pytest.mark.parametrize(
    ("wire", "choice"),
    [
        (None, None),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f")),
    ],
)
def test_tool_choice(wire, choice):
    assert decode(tool_choice=wire).tool_choice == choice


def test_numbers_and_words():
    request = decode(
        max_tokens=5, temperature=1, top_p=0.5, top_k=7, stop="x", user="u", stream=True, parallel_tool_calls=False
    )
    assert (request.max_tokens, request.temperature, request.top_p, request.top_k) == (5, 1.0, 0.5, 7)
    assert (request.stop, request.user, request.stream, request.parallel_tool_calls) == (("x",), "u", True, False)


def test_null_is_absent():
    names = (
        "tools tool_choice parallel_tool_calls max_completion_tokens max_tokens temperature top_p top_k stop user "
        "safety_identifier reasoning_effort thinking reasoning response_format stream n modalities functions "
        "function_call"
    )
    assert decode(**dict.fromkeys(names.split())) == decode()


def test_one_thing_under_two_names():
    assert decode(max_tokens=5, max_completion_tokens=6).max_tokens == 6
    assert decode(user="u", safety_identifier="s").user == "u"
    assert decode(safety_identifier="s").user == "s"
    assert decode(stop=["a", "", "b"]).stop == ("a", "b")
    assert decode(top_k=-1).top_k is None
    assert decode(top_k=0).top_k is None


@pytest.mark.parametrize(
    ("fields", "reasoning", "effort"),
    [
        ({"reasoning_effort": "low"}, Reasoning("enabled"), "low"),
        ({"reasoning_effort": "none"}, Reasoning("disabled"), None),
        ({"thinking": {"type": "enabled"}}, Reasoning("enabled"), None),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, Reasoning("enabled", 9), None),
        ({"reasoning_effort": "default"}, None, None),
        ({"thinking": {"type": "auto"}}, Reasoning("adaptive"), None),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, Reasoning("disabled"), None),
        ({"thinking": {"type": "adaptive"}, "reasoning_effort": "high"}, Reasoning("adaptive"), "high"),
        ({"reasoning": {"effort": "high"}}, Reasoning("enabled"), "high"),
        ({"reasoning": {"effort": "none"}}, Reasoning("disabled"), None),
        ({"reasoning": {"max_tokens": 2000, "exclude": True}}, Reasoning("enabled", 2000), None),
        ({"reasoning": {"enabled": True}}, Reasoning("enabled"), None),
        ({"reasoning": {"enabled": False}}, Reasoning("disabled"), None),
        ({"reasoning": {}}, None, None),
    ],
)
def test_how_much_to_think(fields, reasoning, effort):
    request = decode(**fields)
    assert (request.reasoning, request.effort) == (reasoning, effort)


@pytest.mark.parametrize(
    ("wire", "wanted"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, OutputFormat()),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, OutputFormat(name="n")),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True}},
            OutputFormat(Raw(b'{"a": 1}'), "n", True),
        ),
    ],
)
def test_response_format(wire, wanted):
    assert decode(response_format=wire).output_format == wanted


# --- what is wrong

AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": "x"}, "`messages[1].role` is required"),
        ("x", "`messages[1]`: an object is needed"),
        (
            {"role": "robot"},
            "`messages[1].role`: there is no 'robot'; there are system, developer, user, assistant, tool, function",
        ),
        ({"role": "function", "name": "f", "content": "x"}, "`messages[1].role`: functions are no longer spoken"),
        ({"role": "user", "content": 5}, "`messages[1].content`: a string or a list is needed"),
        (
            user({"type": "smell"}),
            "`messages[1].content[0].type`: there is no 'smell'; there are text, image_url, ",
        ),
        (user(text("x"), text(5)), "`messages[1].content[1].text`: a string is needed"),
        (user(text("x"), AUDIO), "`messages[1].content[1]`: this model's provider takes no audio"),
        (user({"type": "video_url"}), "`messages[1].content[0]`: this model's provider takes no video"),
        (user({"type": "file", "file": {"file_id": "f"}}), "`messages[1].content[0].file`: uploaded files are unknown"),
        (user(file("JVBE", "x.doc")), "`messages[1].content[0].file.file_data`: not a data URL"),
        (user(file("data:text/plain;base64,A", "x")), "`messages[1].content[0].file.file_data`: not a text in base64"),
        (user(file("data:text/plain;base64,/w==", "x")), "`messages[1].content[0].file.file_data`: not a text in"),
        (
            user({"type": "image_url", "image_url": "data:,x"}),
            "`messages[1].content[0].image_url`: a data URL has to be",
        ),
        ({"role": "tool", "content": "x"}, "`messages[1].tool_call_id` is required"),
        (
            {"role": "assistant", "function_call": {}},
            "`messages[1].function_call`: function calls are no longer spoken",
        ),
        ({"role": "assistant", "audio": {"id": "a"}}, "`messages[1].audio`: "),
        (
            {"role": "assistant", "tool_calls": [{"id": "x", "type": "custom"}]},
            "`messages[1].tool_calls[0]`: only calls",
        ),
        (
            {"role": "assistant", "tool_calls": [call(arguments='{"a":')]},
            "`messages[1].tool_calls[0].function.arguments`: not the text of a JSON object",
        ),
        (
            {"role": "assistant", "tool_calls": [call(arguments=5)]},
            "`messages[1].tool_calls[0].function.arguments`: not",
        ),
    ],
)
def test_a_wrong_message(message, error):
    with pytest.raises(DialectError) as caught:
        decode({"role": "user", "content": "hi"}, message)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"max_tokens": 0}, "`max_tokens`: has to be at least 1"),
        ({"max_tokens": "5"}, "`max_tokens`: a whole number is needed, not a string"),
        ({"temperature": "hot"}, "`temperature`: a number is needed, not a string"),
        ({"stop": [1]}, "`stop[0]`: a string is needed, not a number"),
        ({"n": 2}, "`n`: "),
        ({"modalities": ["text", "audio"]}, "`modalities`: "),
        ({"functions": [{"name": "f"}]}, "`functions`: functions are no longer spoken; use `tools`"),
        ({"function_call": "auto"}, "`function_call`: functions are no longer spoken; use `tool_choice`"),
        ({"tools": {}}, "`tools`: a list is needed"),
        ({"tools": [5]}, "`tools[0]`: an object is needed"),
        ({"tools": [{"type": "function"}]}, "`tools[0].function` is required"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "`tools[0].type`: "),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "`tools[0].function.parameters`: a JSON schema has to be an object",
        ),
        ({"tool_choice": "maybe"}, "`tool_choice`: has to be"),
        ({"tool_choice": {"type": "allowed_tools"}}, "`tool_choice`: has to be"),
        ({"tool_choice": {"type": "function", "function": {}}}, "`tool_choice.function.name` is required"),
        ({"reasoning_effort": 5}, "`reasoning_effort`: a string is needed, not a number"),
        ({"thinking": {"type": 5}}, "`thinking.type`: a string is needed"),
        (
            {"response_format": {"type": "grammar"}},
            "`response_format.type`: there is no 'grammar'; there are text, json_object, json_schema",
        ),
        ({"response_format": {"type": "json_schema"}}, "`response_format.json_schema`: is required"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
            "`response_format.json_schema.schema`: a JSON schema has to be an object",
        ),
    ],
)
def test_a_wrong_field(fields, error):
    with pytest.raises(DialectError) as caught:
        decode({"role": "user", "content": "hi"}, **fields)
    assert str(caught.value).startswith(error)


def test_broken_utf8_and_deep_nests():
    for message in (
        b'{"role":"user","content":"\xff"}',
        b'{"role":"user","content":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ):
        with pytest.raises(DialectError, match=r"^`messages"):
            decode_request({"model": Raw(b'"m"'), "messages": Raw(b"[" + message + b"]")})
    arguments = b'{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":{"a":"\xff"}}}]}'
    with pytest.raises(DialectError, match=r"arguments`: 'utf-8'"):
        decode_request({"model": Raw(b'"m"'), "messages": Raw(b"[" + arguments + b"]")})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def odd(**fields):
    """Objects with some of `fields`, most of them as they should be."""
    return st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()})


PARTS = odd(
    type=st.sampled_from(["text", "image_url", "file", "refusal"]),
    text=st.just("x"),
    refusal=st.just("x"),
    image_url=odd(url=st.sampled_from(["data:image/png;base64,AA==", "data:", "x"])),
    file=odd(file_data=st.sampled_from(["data:text/plain;base64,AA==", "data:,", "AA=="]), filename=st.just("a.pdf")),
)
MESSAGES = odd(
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
    content=st.text(max_size=3) | st.lists(PARTS, max_size=2),
    reasoning=st.just("hm"),
    tool_call_id=st.just("c"),
    tool_calls=st.lists(odd(id=st.just("c"), function=odd(name=st.just("f"), arguments=st.just("{}"))), max_size=2),
)
BODIES = odd(
    tools=st.lists(odd(type=st.just("function"), function=odd(name=st.just("f"), parameters=st.just({})))),
    tool_choice=st.just("auto"),
    max_tokens=st.integers(),
    stop=st.just("x"),
    thinking=odd(type=st.just("enabled")),
    reasoning=odd(effort=st.just("low")),
    response_format=odd(type=st.just("json_schema"), json_schema=odd(schema=st.just({}))),
)


@given(st.lists(MESSAGES, max_size=4), BODIES)
def test_garbage_is_refused_in_words(messages, fields):
    with contextlib.suppress(DialectError):
        decode(*messages, **fields)
