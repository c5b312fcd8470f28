"""What both dialects can say survives the way from either to the other and back.

The strategies make only that, in the form that our encoders give it; docs/translation.md lists the rest.
"""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from shared.config import Provider, Translation
from worker.dialects.anthropic import decode_request as from_anthropic
from worker.dialects.anthropic import encode_request as to_anthropic
from worker.dialects.openai import decode_request as from_openai
from worker.dialects.openai import encode_request as to_openai

MARK = {"type": "ephemeral", "ttl": "1h"}
ANTHROPIC = Provider(name="a", dialect="anthropic", translation=Translation(replay_thinking="thinking"))


def openai(**translation):
    """A provider that understands all that OpenAI's dialect can say, its extensions included."""
    all_of_it = {"thinking": "reasoning", "documents": "file", "cache_control": True, **translation}
    return Provider(name="o", translation=Translation(**all_of_it))


PROVIDERS = st.builds(
    openai,
    replay_thinking=st.sampled_from(["reasoning_content", "reasoning"]),
    max_tokens=st.sampled_from(["max_tokens", "max_completion_tokens"]),
)


def fields(body):
    return msgspec.json.decode(body, type=dict[str, Raw])


def by_openai(body, provider):
    """An Anthropic body that went through OpenAI's dialect."""
    there = to_openai.encode_request(from_anthropic.decode_request(fields(body)), provider, "m")
    return json.loads(to_anthropic.encode_request(from_openai.decode_request(fields(there)), ANTHROPIC, "m"))


def by_anthropic(body, provider):
    """An OpenAI body that went through Anthropic's dialect."""
    there = to_anthropic.encode_request(from_openai.decode_request(fields(body)), ANTHROPIC, "m")
    return json.loads(to_openai.encode_request(from_anthropic.decode_request(fields(there)), provider, "m"))


# --- what both can say

SAID = st.text(min_size=1, max_size=12).filter(str.strip)
WORDS = SAID.filter(lambda text: text == text.rstrip())
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=6)
DATA = st.text("abcXYZ019+/", min_size=4, max_size=8)
URLS = st.builds("https://example.org/{}".format, NAMES)
PICTURES = st.sampled_from(["image/png", "image/jpeg", "image/gif", "image/webp"])
LEAVES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=6)
OBJECTS = st.dictionaries(st.text(max_size=6), LEAVES | st.lists(LEAVES, max_size=2), max_size=3)
SCHEMAS = st.builds(lambda more: {**more, "type": "object"}, OBJECTS)
BUDGETS = st.integers(1024, 20_000)
# A mark keeps texts apart that OpenAI's dialect joins.
BLOCKS = st.builds(
    lambda one, other: [{"type": "text", "text": one, "cache_control": MARK}, {"type": "text", "text": other}],
    SAID,
    SAID,
)


def optional(draw, name, strategy):
    """`{name: …}`, or nothing."""
    return {name: draw(strategy)} if draw(st.booleans()) else {}


def calls_of(draw, ids):
    """Ids, names and inputs of a turn's calls; `ids` counts those of the conversation."""
    calls = []
    for _ in range(draw(st.integers(0, 2))):
        ids.append(f"{draw(NAMES)}-{len(ids)}")
        calls.append((ids[-1], draw(NAMES), draw(OBJECTS)))
    return calls


def wishes(draw, thinks):
    told = {"model": "m", **optional(draw, "stream", st.just(True))}
    if not thinks:
        told |= optional(draw, "temperature", st.floats(0, 1))
        told |= optional(draw, "top_p", st.floats(0, 0.9))
    return told


# --- in Anthropic's words


def marked(draw, block):
    return {**block, **optional(draw, "cache_control", st.just(MARK))}


def said_by_user(draw):
    match draw(st.sampled_from(["text", "image", "image_url", "document"])):
        case "text":
            block = {"type": "text", "text": draw(SAID)}
        case "image":
            source = {"type": "base64", "media_type": draw(PICTURES), "data": draw(DATA)}
            block = {"type": "image", "source": source}
        case "image_url":
            block = {"type": "image", "source": {"type": "url", "url": draw(URLS)}}
        case _:
            source = {"type": "base64", "media_type": "application/pdf", "data": draw(DATA)}
            block = {"type": "document", "source": source, "title": draw(SAID)}
    return marked(draw, block)


def result_of(draw, id):
    block = {"type": "tool_result", "tool_use_id": id}
    match draw(st.sampled_from(["nothing", "text", "marked"])):
        case "text":
            block["content"] = draw(SAID)
        case "marked":
            block["content"] = [{"type": "text", "text": draw(SAID), "cache_control": MARK}]
    return block


def answered(draw, ids, *, last):
    texts = WORDS if last else SAID
    content = []
    if draw(st.booleans()):
        content.append({"type": "thinking", "thinking": draw(SAID), "signature": ""})
    calls = [] if last else calls_of(draw, ids)
    if not calls or draw(st.booleans()):
        content.append(marked(draw, {"type": "text", "text": draw(texts)}))
        if "cache_control" in content[-1]:  # only then do borders between texts survive
            content.append({"type": "text", "text": draw(texts)})
    content += [{"type": "tool_use", "id": id, "name": name, "input": input} for id, name, input in calls]
    return content, [id for id, _, _ in calls]


def may_think(messages):
    """Whether Anthropic lets a model think that goes on with this conversation."""
    if len(messages) < 2:
        return True
    last = messages[-2]["content"]
    return last[0]["type"] == "thinking" or all(block["type"] != "tool_use" for block in last)


@st.composite
def anthropic_bodies(draw):
    ids, open_calls, messages = [], [], []
    turns = draw(st.integers(1, 4))
    for turn in range(turns):
        results = [result_of(draw, id) for id in open_calls]
        said = [said_by_user(draw) for _ in range(draw(st.integers(0 if results else 1, 2)))]
        messages.append({"role": "user", "content": results + said})
        if turn < turns - 1 or draw(st.integers(0, 3)) == 0:
            content, open_calls = answered(draw, ids, last=turn == turns - 1)
            messages.append({"role": "assistant", "content": content})
    tools = [
        marked(
            draw,
            {
                "name": draw(NAMES),
                "input_schema": draw(SCHEMAS),
                **optional(draw, "description", st.text(max_size=6)),
                **optional(draw, "strict", st.booleans()),
            },
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    choice = draw(st.sampled_from([None, "auto", "any", "tool", "none"])) if tools else None
    thinking = {}
    if messages[-1]["role"] == "user" and choice not in ("any", "tool") and may_think(messages):
        thinking = optional(
            draw, "thinking", st.builds(lambda budget: {"type": "enabled", "budget_tokens": budget}, BUDGETS)
        )
    thinking = thinking or optional(draw, "thinking", st.just({"type": "disabled"}))
    least = thinking.get("thinking", {}).get("budget_tokens", 0) + 1
    body = {
        **wishes(draw, least > 1),
        "max_tokens": draw(st.integers(least, 30_000)),
        "messages": messages,
        **thinking,
        **optional(draw, "system", SAID | BLOCKS),
        **optional(draw, "stop_sequences", st.lists(SAID, min_size=1, max_size=3)),
        **optional(draw, "metadata", st.builds(lambda user: {"user_id": user}, SAID)),
        **optional(
            draw,
            "output_config",
            st.builds(lambda schema: {"format": {"type": "json_schema", "schema": schema}}, SCHEMAS),
        ),
    }
    if tools:
        body["tools"] = tools
    if choice is not None:
        body["tool_choice"] = {"type": choice}
        if choice == "tool":
            body["tool_choice"]["name"] = tools[0]["name"]
        if choice != "none":
            body["tool_choice"] |= optional(draw, "disable_parallel_tool_use", st.just(True))
    return body


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(anthropic_bodies(), PROVIDERS)
def test_anthropic_by_way_of_openai(body, provider):
    assert by_openai(json.dumps(body).encode(), provider) == body


# --- in OpenAI's words


def openai_part(draw):
    match draw(st.sampled_from(["text", "image", "image_url", "file"])):
        case "text":
            part = {"type": "text", "text": draw(SAID)}
        case "image":
            part = {"type": "image_url", "image_url": {"url": f"data:{draw(PICTURES)};base64,{draw(DATA)}"}}
        case "image_url":
            part = {"type": "image_url", "image_url": {"url": draw(URLS)}}
        case _:
            held = {"filename": draw(SAID), "file_data": f"data:application/pdf;base64,{draw(DATA)}"}
            part = {"type": "file", "file": held}
    return marked(draw, part)


def openai_answer(draw, ids, thought_field, *, last):
    message = {"role": "assistant", "content": None, **optional(draw, thought_field, SAID)}
    calls = [] if last else calls_of(draw, ids)
    if not calls or draw(st.booleans()):
        message["content"] = draw(WORDS if last else SAID)
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(input)}}
            for id, name, input in calls
        ]
    return message, [id for id, _, _ in calls]


def may_reason(messages, thought_field):
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), {})
    return messages[-1]["role"] != "assistant" and (thought_field in last or "tool_calls" not in last)


@st.composite
def openai_bodies(draw, provider):
    thought_field = provider.translation.replay_thinking
    ids, open_calls, messages = [], [], []
    turns = draw(st.integers(1, 4))
    for turn in range(turns):
        messages += [{"role": "tool", "tool_call_id": id, "content": draw(st.just("") | SAID)} for id in open_calls]
        if not open_calls or draw(st.booleans()):
            parts = [openai_part(draw) for _ in range(draw(st.integers(1, 3)))]
            lone = len(parts) == 1 and parts[0].keys() == {"type", "text"}
            messages.append({"role": "user", "content": parts[0]["text"] if lone else parts})
        if turn < turns - 1 or draw(st.integers(0, 3)) == 0:
            message, open_calls = openai_answer(draw, ids, thought_field, last=turn == turns - 1)
            messages.append(message)
    tools = []
    for _ in range(draw(st.integers(0, 2))):
        function = {
            "name": draw(NAMES),
            "parameters": draw(SCHEMAS),
            **optional(draw, "description", st.text(max_size=6)),
            **optional(draw, "strict", st.booleans()),
        }
        tools.append(marked(draw, {"type": "function", "function": function}))
    choice = draw(st.sampled_from([None, "auto", "required", "named", "none"])) if tools else None
    budget = 0
    reasoning = optional(draw, "reasoning", st.just({"enabled": False}))
    if not reasoning and choice not in ("required", "named") and may_reason(messages, thought_field):
        reasoning = optional(draw, "reasoning", st.builds(lambda budget: {"max_tokens": budget}, BUDGETS))
        budget = reasoning.get("reasoning", {}).get("max_tokens", 0)
    schemas = st.builds(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}, SCHEMAS
    )
    body = {
        **wishes(draw, budget > 0),
        provider.translation.max_tokens: draw(st.integers(budget + 1, 30_000)),
        "messages": messages,
        **reasoning,
        **optional(draw, "stop", st.lists(SAID, min_size=1, max_size=3)),
        **optional(draw, "user", SAID),
        **optional(draw, "response_format", schemas),
    }
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(SAID)})
    if "stream" in body:
        body["stream_options"] = {"include_usage": True}
    if tools:
        body["tools"] = tools
    if choice is not None:
        named = {"type": "function", "function": {"name": tools[0]["function"]["name"]}} if tools else None
        body["tool_choice"] = named if choice == "named" else choice
        if choice != "none":
            body |= optional(draw, "parallel_tool_calls", st.just(False))
    return body


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(PROVIDERS.flatmap(lambda provider: st.tuples(st.just(provider), openai_bodies(provider))))
def test_openai_by_way_of_anthropic(made):
    provider, body = made
    assert by_anthropic(json.dumps(body).encode(), provider) == body


# --- what each says in its own way


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_an_effort_is_a_budget_and_an_effort_again(effort):
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 64_000,
        "reasoning_effort": effort,
    }
    assert by_anthropic(json.dumps(body).encode(), openai(thinking="effort")) == body


def test_arguments_keep_their_bytes():
    arguments = '{"b" : 1.50, "a":"\\u00fc", "n":10000000000000000000000}'
    call = {"id": "t", "type": "function", "function": {"name": "n", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "content": "x"},
    ]
    back = by_anthropic(json.dumps({"model": "m", "messages": messages, "max_tokens": 9}).encode(), openai())
    assert back["messages"] == messages
