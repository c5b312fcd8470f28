"""What a client may ask the agent for, and what he is told of what he may not."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.message import BadMessage, Message, read_message, read_object
from worker.dialects.fault import field_in


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "hi"}', Message("hi")),
        (b'{"message": " hi\\n", "session_id": "s", "model": "m"}', Message(" hi\n", "s", "m")),
        (b'{"message": "hi", "session_id": null, "model": null}', Message("hi")),
        (b'{"message": "hi", "session_id": "", "model": ""}', Message("hi")),
        (b'{"message": "hi", "other": [1], "type": "message"}', Message("hi")),
        (b'{"message": "half \\ud83d"}', Message("half \ufffd")),
        ('{"message": "hé \u2028"}'.encode(), Message("hé \u2028")),
    ],
)
def test_messages(body, message):
    assert read_message(read_object(body)) == message


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"", None, "not JSON"),
        (b"hello", None, "not JSON"),
        (b'{"message": "hi"', None, "not JSON"),
        (b'{"message": "\xff"}', "message", "`message`"),
        (b"[1]", None, "not a JSON object"),
        (b'"hi"', None, "not a JSON object"),
        (b"null", None, "not a JSON object"),
        (b"[" * 100_000, None, "not"),
        (b"{}", "message", "`message` is required"),
        (b'{"message": null}', "message", "`message` is required"),
        (b'{"message": ""}', "message", "`message` is empty"),
        (b'{"message": " \\n"}', "message", "`message` is empty"),
        (b'{"message": 7}', "message", "`message`: a string is needed, not a number"),
        (b'{"message": [{"type": "text", "text": "hi"}]}', "message", "`message`: a string is needed, not a list"),
        (b'{"message": "hi", "session_id": 7}', "session_id", "`session_id`: a string is needed, not a number"),
        (b'{"message": "hi", "model": {}}', "model", "`model`: a string is needed, not an object"),
    ],
)
def test_what_is_wrong_is_named(body, param, said):
    with pytest.raises(BadMessage) as caught:
        read_message(read_object(body))
    assert field_in(str(caught.value)) == param
    assert said in str(caught.value)


@given(st.binary())
def test_anything_is_a_message_or_bad(body):
    with contextlib.suppress(BadMessage):
        assert read_message(read_object(body)).text
