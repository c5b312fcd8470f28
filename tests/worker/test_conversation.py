import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.conversation import UNANSWERED, decode, encode, legal
from worker.dialects.arguments import object_text
from worker.dialects.neutral import (
    Document,
    Image,
    Message,
    RedactedThinking,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

PLENTY = 1 << 20


def user(*words):
    return Message("user", tuple(Text(word) for word in words))


def assistant(*words):
    return Message("assistant", tuple(Text(word) for word in words))


def calls(*ids, arguments="{}"):
    return Message("assistant", tuple(ToolCall(id, "Read", arguments) for id in ids))


def results(*ids, text="done"):
    return Message("user", tuple(ToolResult(id, (Text(text),)) for id in ids))


def unanswered(*ids):
    return Message("user", tuple(ToolResult(id, (Text(UNANSWERED),), is_error=True) for id in ids))


TURN = (user("list"), calls("a", "b"), results("a", "b"), assistant("two files"))
RICH = (
    Message("user", (Text("look", {"type": "ephemeral"}), Image("image/png", "aGk="), Document(text="é\u2028"))),
    Message(
        "assistant",
        (Thinking("hm", "sig"), RedactedThinking("x"), Text("I read."), ToolCall("a", "Read", '{"path": "x"}')),
    ),
    Message("user", (ToolResult("a", (Text("no such file"), Image(url="https://h/i.png")), is_error=True),)),
    assistant("It is not there."),
)


@pytest.mark.parametrize("messages", [TURN, RICH, TURN + RICH + TURN, (user("alone"),), ()])
def test_a_legal_conversation_comes_back_as_it_went(messages):
    assert decode(encode(messages, PLENTY)) == messages


def test_nothing_is_no_bytes():
    assert encode((), PLENTY) == b""
    assert decode(b"") == ()


@pytest.mark.parametrize("data", [b"garbage", b"[1]", b'{"version":2}', b'[{"role":"user","parts":[{"type":"New"}]}]'])
def test_what_another_version_wrote_is_nothing(data):
    assert decode(data) == ()


def test_only_whole_turns_are_left_out_the_oldest_first():
    turns = [tuple(msgspec.structs.replace(message) for message in TURN) for _ in range(4)]
    messages = tuple(message for turn in turns for message in turn)
    whole = len(encode(messages, PLENTY))
    one = len(encode(TURN, PLENTY))
    assert decode(encode(messages, whole)) == messages
    assert decode(encode(messages, whole - 1)) == messages[4:]
    assert decode(encode(messages, whole - one)) == messages[8:]
    assert decode(encode(messages, one)) == TURN


def test_of_a_turn_that_is_too_long_the_oldest_exchanges_are_left_out():
    turn = (user("go"), calls("a"), results("a", text="x" * 500), calls("b"), results("b"), assistant("end"))
    assert decode(encode((*TURN, *turn), 500)) == (turn[0], *turn[3:])
    assert decode(encode(turn, 180)) == (turn[0], turn[5])
    assert decode(encode(turn, 90)) == (turn[0],)
    assert encode(turn, 20) == b""


def test_words_that_are_too_long_by_themselves_are_not_kept():
    assert encode((*TURN, user("x" * 500), assistant("y")), 400) == b""


@pytest.mark.parametrize(
    ("aborted", "kept"),
    [
        ((user("go"), calls("a", "b")), (user("go"), calls("a", "b"), unanswered("a", "b"))),
        (
            (user("go"), calls("a", "b"), results("b")),
            (user("go"), calls("a", "b"), Message("user", (*unanswered("a").parts, *results("b").parts))),
        ),
        (
            (user("go"), calls("a"), user("never mind")),
            (user("go"), calls("a"), unanswered("a"), user("never mind")),
        ),
        (
            (user("go"), calls("a"), Message("user", (*results("a").parts, Text("and now?")))),
            (user("go"), calls("a"), results("a"), user("and now?")),
        ),
        (
            (user("go"), calls("a", "b"), results("b"), results("a"), assistant("end")),
            (user("go"), calls("a", "b"), results("a", "b"), assistant("end")),
        ),
        ((user("go"), calls("a", arguments='{"path": "x')), (user("go"),)),
        (
            (user("go"), calls("a", arguments='{"path": "x'), results("a")),
            (user("go"), calls("a", arguments='{"path": "x'), results("a")),
        ),
        ((user("go"), results("stray")), (user("go"),)),
        ((user("go"), calls("a"), results("a", "a", "stray")), (user("go"), calls("a"), results("a"))),
        ((user("go"), Message("assistant", (Thinking("hm"),))), (user("go"),)),
        ((user("go"), Message("assistant", (Text(""),))), (user("go"),)),
        ((user("go"), Message("assistant", ())), (user("go"),)),
        ((user("go"), assistant("I will", "")), (user("go"), assistant("I will"))),
        ((user("go"), user("")), (user("go"),)),
        ((user("go"), assistant("a"), calls("b")), (user("go"), assistant("a"), calls("b"), unanswered("b"))),
        ((Message("system", (Text("be brief"),)), user("go")), (Message("system", (Text("be brief"),)), user("go"))),
    ],
)
def test_a_run_that_was_cut_off_leaves_what_a_provider_takes(aborted, kept):
    assert legal(aborted) == kept
    assert legal(kept) == kept


def test_what_stands_before_the_first_words_is_not_kept():
    assert decode(encode((assistant("hello"), calls("a"), *TURN), PLENTY)) == TURN


def test_legal_messages_are_left_as_they_are():
    assert legal(TURN + RICH) == TURN + RICH


ids = st.sampled_from("abc")
texts = st.builds(Text, st.text("xé", max_size=20))
parts = st.one_of(
    texts,
    st.builds(Thinking, st.text(max_size=5)),
    st.builds(ToolCall, ids, st.just("Bash"), st.sampled_from(["{}", '{"a": 1}', '{"a', ""])),
    st.builds(ToolResult, ids, st.tuples(texts)),
)
user_parts = st.one_of(texts, st.builds(ToolResult, ids, st.tuples(texts)))
messages_of_runs = st.lists(
    st.one_of(
        st.builds(Message, st.just("user"), st.lists(user_parts, max_size=4).map(tuple)),
        st.builds(
            Message,
            st.just("assistant"),
            st.lists(parts.filter(lambda part: not isinstance(part, ToolResult)), max_size=4).map(tuple),
        ),
    ),
    max_size=12,
)


def assert_legal(messages):
    due = []
    for message in messages:
        assert message.parts
        told = [part.call_id for part in message.parts if isinstance(part, ToolResult)]
        if due:
            assert message.role == "user"
            assert len(told) == len(message.parts)
        assert told == due
        due = [part.id for part in message.parts if isinstance(part, ToolCall)]
    assert not due


@given(messages_of_runs, st.integers(0, 1500))
def test_whatever_runs_leave_is_kept_legal_and_within_the_bound(messages, max_bytes):
    assert_legal(legal(messages))
    assert legal(legal(messages)) == legal(messages)
    data = encode(messages, max_bytes)
    assert len(data) <= max_bytes
    kept = decode(data)
    assert_legal(kept)
    if kept:
        assert kept[0].role == "user"
        assert not isinstance(kept[0].parts[0], ToolResult)
    answered = {part.call_id for message in messages for part in message.parts if isinstance(part, ToolResult)}
    for message in kept:
        for part in message.parts:
            if isinstance(part, ToolCall):
                assert part.id in answered or object_text(part.arguments) is not None
