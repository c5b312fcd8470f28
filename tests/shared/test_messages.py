import msgspec
import pytest
from fakes.streams import make_record, make_start
from hypothesis import given
from hypothesis import strategies as st

from shared.config import Config, Model, Provider
from shared.messages import (
    Ask,
    Beat,
    CancelStream,
    Configure,
    Conversation,
    Drain,
    KeepConversation,
    Progress,
    Ready,
    StreamEnded,
    StreamStarted,
    decode_down,
    decode_up,
    encode,
)
from shared.records import Tokens

CONFIG = Config(
    providers={"kimi": Provider(name="kimi", base_url="https://example.test/v1")},
    models=(Model(name="claude-*", provider="kimi", fallbacks=("kimi/other",)),),
)


@pytest.mark.parametrize(
    "message",
    [
        Ready(pid=7, generation=2),
        Beat(streams=1, connections=2, rss_bytes=3, lag=0.5, dropped=4, progress=[Progress("s1", 5, 600)]),
        StreamStarted(make_start(session="é\u2028")),
        Ask(1, Conversation("s", "1a2b")),
        Ask(2, KeepConversation("s", None, b"[\x00\xff]")),
        StreamEnded(make_record(completion=Tokens(3, "partial"), status="cancelled", error_type="admin")),
    ],
)
def test_up_messages_come_back_as_they_went(message):
    assert decode_up(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [Configure(CONFIG, {"kimi": "key"}), Drain("shutdown", 3.0), CancelStream("s1", "registry_new_stream")],
)
def test_down_messages_come_back_as_they_went(message):
    assert decode_down(encode(message)) == message


def test_directions_do_not_mix():
    with pytest.raises(msgspec.DecodeError):
        decode_up(encode(Drain("retire", 1.0)))
    with pytest.raises(msgspec.DecodeError):
        decode_down(encode(Ready(pid=7, generation=2)))


@given(st.binary(max_size=100))
def test_garbage_is_a_decode_error(payload):
    for decode in (decode_up, decode_down):
        with pytest.raises(msgspec.DecodeError):
            decode(payload)
