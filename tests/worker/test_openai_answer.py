import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DialectError, UpstreamBroken
from worker.dialects.codec import Reply
from worker.dialects.neutral import Answer, RedactedThinking, Text, Thinking, ToolCall, Usage
from worker.dialects.openai.answer import decode_answer, encode_answer

REPLY = Reply(id="f" * 32, model="claude-x", created=1700000000)


def completion(message, finish="stop", **choice):
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]}


def decode(body):
    return decode_answer(json.dumps(body).encode())


def said(message, finish="stop", **choice):
    return decode(completion(message, finish, **choice))


def encode(*parts, stop="end", reply=REPLY, **answer):
    return json.loads(encode_answer(Answer(parts=parts, stop=stop, **answer), reply))


def call(id="c", name="f", arguments="{}"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


# --- from an upstream


def test_text():
    answer = decode({**completion({"content": "hi"}), "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
    assert answer == Answer(parts=(Text("hi"),), stop="end", usage=Usage(prompt_tokens=3, completion_tokens=1))


def test_thought_text_and_calls():
    message = {
        "content": "hi",
        "reasoning_content": "hm",
        "reasoning": "hm",
        "tool_calls": [call("functions.f:0", arguments=' {"a": 1}'), call("c2", "g", "")],
    }
    parts = (Thinking("hm"), Text("hi"), ToolCall("functions.f:0", "f", ' {"a": 1}'), ToolCall("c2", "g", "{}"))
    assert said(message, "tool_calls") == Answer(parts=parts, stop="tools")
    assert said(message, "stop").stop == "tools"


def test_content_in_parts():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]}
    parts = [thought, {"type": "text", "text": "a"}, {"type": "audio"}, None, "b", {"type": "refusal", "refusal": "c"}]
    assert said({"content": parts}).parts == (Thinking("hm"), Text("a"), Text("b"), Text("c"))
    assert said({"content": [{"type": "thinking", "thinking": "hm"}]}).parts == (Thinking("hm"),)


@pytest.mark.parametrize("content", [None, "", [], 5, {}])
def test_an_answer_without_words(content):
    assert said({"content": content}) == Answer(parts=(), stop="end")


def test_a_refusal_is_text():
    assert said({"content": None, "refusal": "no"}) == Answer(parts=(Text("no"),), stop="refusal")
    assert said({"refusal": "no"}, "length").stop == "length"
    assert said({"content": "a"}, "content_filter").stop == "refusal"


def test_the_stop_sequence_that_vllm_tells():
    answer = said({"content": "a"}, stop_reason="END")
    assert (answer.stop, answer.stop_sequence) == ("sequence", "END")
    assert said({"content": "a"}, matched_stop="END") == answer
    for finish, word, stop in (("stop", 128009, "end"), ("stop", "", "end"), ("length", "END", "length")):
        answer = said({"content": "a"}, finish, stop_reason=word)
        assert (answer.stop, answer.stop_sequence) == (stop, None)


def test_ids_that_are_missing_or_repeated_are_none():
    calls = [call(None), call(""), call(7), call("c"), call("c")]
    assert [part.id for part in said({"tool_calls": calls}).parts] == ["", "", "", "c", ""]


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [(None, "{}"), ("null", "{}"), ('"{\\"a\\": 1}"', '{"a": 1}'), ({"a": [1]}, '{"a":[1]}')],
)
def test_arguments_are_an_object(arguments, meaning):
    assert said({"tool_calls": [call(arguments=arguments)]}).parts == (ToolCall("c", "f", meaning),)


def test_calls_that_were_cut_short():
    calls = [call(arguments='{"a":1}'), call("c2", arguments='{"a":'), {"id": "c3"}]
    parts = (ToolCall("c", "f", '{"a":1}'), ToolCall("c2", "f", "{}"))
    assert said({"tool_calls": calls}, "length") == Answer(parts=parts, stop="length")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not a chat completion"),
        (b'{"choices":[{"message":{"content":"\xff"}}]}', "not a chat completion"),
        (b"[]", "not a chat completion"),
        (b"{}", "holds no choices"),
        (b'{"choices":[{"index":0}]}', "holds no choices"),
        (b'{"choices":[{"message":5}]}', "holds no choices"),
        (b'{"error":{"message":"out of service"}}', "out of service"),
        (b'{"object":"error","message":"too long"}', "too long"),
        (b'{"base_resp":{"status_code":1004,"status_msg":"login fail"}}', "login fail"),
        (json.dumps(completion({"content": ""}, "MALFORMED_FUNCTION_CALL")).encode(), "gave up"),
        (json.dumps({**completion({"content": "a"}), "error": "half"}).encode(), "half"),
        (json.dumps(completion({"content": "a"}, "error")).encode(), "gave up"),
        (json.dumps(completion({"tool_calls": [call(name="")]})).encode(), "without a name"),
        (json.dumps(completion({"tool_calls": [{"id": "c"}]})).encode(), "without a name"),
        (json.dumps(completion({"tool_calls": [call(arguments="[]")]})).encode(), "tool 'f' are no JSON object"),
        (json.dumps(completion({"tool_calls": [call(arguments=5)]})).encode(), "tool 'f' are no JSON object"),
    ],
)
def test_what_is_no_answer(body, message):
    with pytest.raises(UpstreamBroken, match=message):
        decode_answer(body)


# --- to a client


def test_a_completion():
    answer = encode(Text("hi"), usage=Usage(prompt_tokens=3, completion_tokens=1, cache_read_tokens=2))
    assert answer == {
        "id": "chatcmpl-" + "f" * 32,
        "object": "chat.completion",
        "created": 1700000000,
        "model": "claude-x",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 1,
            "total_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def message(*parts, **answer):
    return encode(*parts, **answer)["choices"][0]["message"]


def test_thought_is_shown_to_those_who_want_it():
    parts = (Thinking("x", "signed"), RedactedThinking("?"), Thinking("y"), Text("a"))
    assert message(*parts)["reasoning_content"] == "x\n\ny"
    blind = Reply(id="f", model="m", created=0, shows_thinking=False)
    assert "reasoning_content" not in message(*parts, reply=blind)


def test_calls():
    parts = (
        Text("a"),
        ToolCall("toolu_1", "f", '{"a":1}'),
        Text("b"),
        ToolCall("", "g", ""),
        ToolCall("toolu_1", "h", "{}"),
    )
    made = "call_" + "f" * 32
    assert message(*parts, stop="tools") == {
        "role": "assistant",
        "content": "a\n\nb",
        "refusal": None,
        "tool_calls": [
            call("toolu_1", "f", '{"a":1}'),
            call(f"{made}_1", "g", "{}"),
            call(f"{made}_2", "h", "{}"),
        ],
    }
    assert message(parts[1], stop="tools")["content"] is None
    assert message()["content"] == ""


@pytest.mark.parametrize(
    ("stop", "word", "word_with_calls"),
    [
        ("end", "stop", "tool_calls"),
        ("sequence", "stop", "tool_calls"),
        ("pause", "stop", "tool_calls"),
        ("tools", "stop", "tool_calls"),
        ("length", "length", "length"),
        ("context", "length", "length"),
        ("refusal", "content_filter", "content_filter"),
    ],
)
def test_finish_reason(stop, word, word_with_calls):
    for parts, expected in (((Text("a"),), word), ((ToolCall("c", "f", "{}"),), word_with_calls)):
        assert encode(*parts, stop=stop)["choices"][0]["finish_reason"] == expected


def test_arguments_that_are_no_object():
    cut = ToolCall("c", "f", '{"a":')
    with pytest.raises(DialectError, match="tool 'f' are no JSON object"):
        encode(cut, stop="tools")
    assert message(cut, stop="length")["tool_calls"] == [call(arguments='{"a":')]


WORDS = st.text(min_size=1, max_size=8)
CALLS = st.builds(ToolCall, WORDS, WORDS, st.dictionaries(WORDS, st.integers(), max_size=2).map(json.dumps))
COUNTS = st.integers(0, 2**53)


@given(
    st.lists(st.builds(Thinking, WORDS), max_size=1),
    st.lists(st.builds(Text, WORDS), max_size=1),
    st.lists(CALLS, max_size=3, unique_by=lambda call: call.id),
    st.sampled_from(["end", "length", "refusal"]),
    st.builds(Usage, prompt_tokens=COUNTS, completion_tokens=COUNTS, cache_read_tokens=st.none() | COUNTS),
)
def test_there_and_back_nothing_is_lost(thoughts, texts, calls, stop, usage):
    stop = "tools" if calls and stop == "end" else stop
    answer = Answer(parts=(*thoughts, *texts, *calls), stop=stop, usage=usage)
    assert decode_answer(encode_answer(answer, REPLY)) == answer


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def odd(**fields):
    """Objects with some of `fields`, most of them as they should be."""
    return st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()})


BODIES = odd(
    error=odd(message=st.text()),
    usage=odd(prompt_tokens=st.integers(), prompt_tokens_details=odd(cached_tokens=st.integers())),
    choices=st.lists(
        odd(
            finish_reason=st.sampled_from(["stop", "tool_calls", "length", "error"]),
            stop_reason=st.text(),
            message=odd(
                content=st.text()
                | st.lists(odd(type=st.just("text"), text=st.text(), thinking=st.just([])), max_size=2),
                refusal=st.text(),
                reasoning=st.text(),
                tool_calls=st.lists(odd(id=st.text(), function=odd(name=st.text(), arguments=st.text())), max_size=2),
            ),
        ),
        max_size=2,
    ),
)


@given(BODIES.map(json.dumps).map(str.encode) | st.binary())
def test_garbage_is_an_answer_or_a_broken_upstream(body):
    with contextlib.suppress(UpstreamBroken):
        encode_answer(decode_answer(body), REPLY)
