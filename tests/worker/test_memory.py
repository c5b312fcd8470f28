import pytest
import trio
from fakes.conversations import KeptConversations
from fakes.gateway import make_config, serve_gateway
from structlog.testing import capture_logs

from shared.config import Agent
from shared.messages import Conversation, KeepConversation
from worker.agent import memory
from worker.agent.conversation import decode
from worker.agent.memory import keep, load
from worker.asgi import HttpError
from worker.dialects.neutral import Message, Text, ToolCall

SAID = (Message("user", (Text("hello"),)), Message("assistant", (Text("hi"),)))


@pytest.fixture
async def running():
    async with serve_gateway(make_config()) as running:
        yield running


@pytest.fixture
def kept(running):
    conversations = KeptConversations()
    running.answer = conversations.answer
    return conversations


async def test_what_was_kept_is_loaded_by_its_own_client_only(running, kept):
    gateway = running.gateway
    assert await load(gateway, "s", "1a2b") == ()
    await keep(gateway, "s", "1a2b", SAID)
    assert await load(gateway, "s", "1a2b") == SAID
    assert await load(gateway, "s", "ffff") == ()
    assert await load(gateway, "s", None) == ()
    assert await load(gateway, "t", "1a2b") == ()


async def test_a_later_run_takes_its_place(running, kept):
    gateway = running.gateway
    await keep(gateway, "s", None, SAID)
    await keep(gateway, "s", None, (*SAID, Message("user", (Text("more"),))))
    assert len(await load(gateway, "s", None)) == 3


async def test_a_cut_off_run_is_kept_legal(running, kept):
    gateway = running.gateway
    await keep(gateway, "s", None, (SAID[0], Message("assistant", (ToolCall("a", "Bash", '{"comma'),))))
    assert await load(gateway, "s", None) == SAID[:1]


async def test_without_a_session_nothing_is_asked(running, kept):
    assert await load(running.gateway, None, None) == ()
    await keep(running.gateway, None, None, SAID)
    assert running.asked == []


async def test_where_nothing_is_to_be_kept_nothing_is_asked():
    async with serve_gateway(make_config(agent=Agent(keep_conversations=0.0))) as running:
        await keep(running.gateway, "s", None, SAID)
        assert await load(running.gateway, "s", None) == ()
        assert running.asked == []


async def test_the_bound_is_the_configuration_s():
    async with serve_gateway(make_config(agent=Agent(max_conversation_bytes=1024))) as running:
        conversations = KeptConversations()
        running.answer = conversations.answer
        long = (Message("user", (Text("x" * 800),)), Message("assistant", (Text("y"),)))
        await keep(running.gateway, "s", None, (*SAID, *long))
        assert await load(running.gateway, "s", None) == long
        assert len(conversations.kept["s", None]) <= 1024
        await keep(running.gateway, "s", None, (Message("user", (Text("x" * 2000),)),))
        assert await load(running.gateway, "s", None) == ()


async def test_in_a_cancelled_scope_it_is_kept_all_the_same(running, kept):
    with trio.CancelScope() as scope:
        scope.cancel()
        await keep(running.gateway, "s", None, SAID)
    assert scope.cancelled_caught
    await running.wait(lambda: kept.kept)
    assert decode(kept.kept["s", None]) == SAID


async def test_an_answer_that_does_not_come_is_no_error(running, monkeypatch):
    monkeypatch.setattr(memory, "KEEP_TIMEOUT", 0.05)
    with capture_logs() as logs:
        await keep(running.gateway, "s", None, SAID)
    assert [(entry["event"], entry["session"]) for entry in logs] == [("conversation_unacknowledged", "s")]
    await running.wait(lambda: running.asked)
    assert isinstance(running.asked[0], KeepConversation)


async def test_what_can_t_be_read_is_503(running):
    running.answer = lambda question: (503, b'{"message":"the disk refused a read or a write"}')
    with pytest.raises(HttpError) as refused:
        await load(running.gateway, "s", None)
    assert refused.value.status == 503
    assert "try again" in refused.value.message
    assert (b"retry-after", b"1") in refused.value.headers
    assert running.asked == [Conversation("s", None)]


async def test_bytes_that_mean_nothing_are_a_new_conversation(running):
    running.answer = lambda question: (200, b"garbage")
    assert await load(running.gateway, "s", None) == ()
