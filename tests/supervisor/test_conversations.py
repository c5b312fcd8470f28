"""A real store and a real database behind it."""

import sqlite3
import time
from contextlib import closing

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from shared.config import Storage
from shared.messages import Conversation, KeepConversation, Told
from supervisor import conversations, store
from supervisor.conversations import Conversations
from supervisor.store import Store

PATIENCE = 20.0


class Worker:
    """Who asks."""

    def __init__(self):
        self.told = {}
        self.came = trio.Event()

    def send(self, message):
        assert isinstance(message, Told)
        assert message.number not in self.told
        self.told[message.number] = message
        self.came.set()
        self.came = trio.Event()

    async def answer(self, number):
        with trio.fail_after(PATIENCE):
            while number not in self.told:
                await self.came.wait()
        told = self.told[number]
        return told.status, told.body


class Scene:
    def __init__(self, path, keep):
        self.path = path
        self.clock = 1_000.0
        self.store = Store(path, Storage(), lambda: self.clock, keep_conversations=keep)
        self.conversations = Conversations(self.store, path, lambda: self.clock)
        self.worker = Worker()
        self.numbers = 0

    def keep(self, session, data, client=None):
        self.conversations.keep(KeepConversation(session, client, data))

    def ask(self, session, client=None):
        self.numbers += 1
        self.conversations.tell(self.worker, self.numbers, Conversation(session, client))
        return self.numbers

    async def told(self, session, client=None):
        return await self.worker.answer(self.ask(session, client))

    async def wait_written(self):
        with trio.fail_after(PATIENCE):
            while len(self.store._unwritten):  # noqa: ASYNC110 (the store's thread has no event for that)
                await trio.sleep(0.005)

    def rows(self):
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT session, client, data FROM conversations ORDER BY rowid").fetchall()


@pytest.fixture
def make_scene(tmp_path):
    scenes = []

    def make(keep=60.0, *, opened=True):
        scene = Scene(tmp_path / "sessions.db", keep)
        scenes.append(scene)
        if opened:
            scene.store.open()
        return scene

    yield make
    for scene in scenes:
        scene.store.close(0.0)


@pytest.fixture
async def scene(make_scene, nursery):
    scene = make_scene()
    nursery.start_soon(scene.conversations.run)
    return scene


UNKNOWN = (404, b'{"message":"nothing is known of this session"}')


async def test_what_was_kept_is_told(scene):
    scene.keep("s", b'["a"]')
    assert await scene.told("s") == (200, b'["a"]')
    await scene.wait_written()
    assert await scene.told("s") == (200, b'["a"]')
    scene.keep("s", b'["a","b"]')
    assert await scene.told("s") == (200, b'["a","b"]')
    await scene.wait_written()
    assert await scene.told("s") == (200, b'["a","b"]')
    assert scene.rows() == [("s", "", b'["a","b"]')]


async def test_a_conversation_is_its_client_s(scene):
    scene.keep("s", b'["mine"]', client="1a2b")
    scene.keep("s", b'["nobody\'s"]')
    for _ in range(2):
        assert await scene.told("s", "1a2b") == (200, b'["mine"]')
        assert await scene.told("s") == (200, b'["nobody\'s"]')
        assert await scene.told("s", "ffff") == UNKNOWN
        assert await scene.told("t", "1a2b") == UNKNOWN
        await scene.wait_written()


async def test_what_waits_for_the_database_is_told_from_memory(scene, monkeypatch):
    monkeypatch.setattr(store, "LAST_RETRY", 0.1)
    with closing(sqlite3.connect(scene.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        scene.keep("s", b"[1]")
        scene.keep("s", b"[2]")
        number = scene.ask("s")
        assert number in scene.worker.told  # at once, without the disk
        assert await scene.worker.answer(number) == (200, b"[2]")
        other.execute("ROLLBACK")
    await scene.wait_written()
    assert await scene.told("s") == (200, b"[2]")


async def test_it_survives_a_restart(scene, make_scene, nursery):
    scene.keep("s", b"[1]")
    assert scene.store.close(PATIENCE)
    again = make_scene()
    nursery.start_soon(again.conversations.run)
    assert await again.told("s") == (200, b"[1]")


async def test_after_its_time_it_is_not_told_and_deleted(scene):
    scene.keep("old", b"[1]")
    await scene.wait_written()
    scene.clock += 59
    assert await scene.told("old") == (200, b"[1]")
    scene.clock += 2
    assert await scene.told("old") == UNKNOWN
    scene.keep("new", b"[2]")
    await scene.wait_written()
    assert scene.rows() == [("new", "", b"[2]")]


async def test_a_shorter_time_holds_for_what_is_kept_already(scene):
    scene.keep("s", b"[1]")
    scene.clock += 5
    scene.store.keep_conversations = 3.0
    assert await scene.told("s") == UNKNOWN
    await scene.wait_written()
    assert await scene.told("s") == UNKNOWN


async def test_forgetting(scene):
    scene.keep("s", b"[1]")
    await scene.wait_written()
    scene.keep("s", b"")
    assert await scene.told("s") == UNKNOWN
    await scene.wait_written()
    assert await scene.told("s") == UNKNOWN
    assert scene.rows() == []


async def test_without_a_database_nothing_is_known(make_scene, nursery):
    scene = make_scene(opened=False)
    nursery.start_soon(scene.conversations.run)
    assert await scene.told("s") == UNKNOWN


async def test_a_database_that_can_t_be_read_is_503(make_scene, nursery):
    scene = make_scene(opened=False)
    scene.path.write_bytes(b"this is no database at all\n" * 400)
    nursery.start_soon(scene.conversations.run)
    status, body = await scene.told("s")
    assert status == 503
    assert "database" in msgspec.json.decode(body)["message"]


async def test_a_disk_that_does_not_answer_is_503(scene, monkeypatch):
    given_up = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(_path, _query, *, stopped):
        while not stopped():
            time.sleep(0.001)
        trio.from_thread.run_sync(given_up.set, trio_token=token)
        return [[]]

    monkeypatch.setattr(conversations, "read", hang)
    monkeypatch.setattr(conversations, "READ_TIMEOUT", 0.05)
    status, body = await scene.told("s")
    assert status == 503
    assert "does not answer" in msgspec.json.decode(body)["message"]
    with trio.fail_after(PATIENCE):
        await given_up.wait()


async def test_more_than_can_be_read_are_refused(make_scene, monkeypatch, nursery):
    monkeypatch.setattr(conversations, "MAX_WAITING", 2)
    scene = make_scene()
    for _ in range(3):  # nobody reads yet
        scene.ask("s")
    assert (await scene.worker.answer(3))[0] == 503
    nursery.start_soon(scene.conversations.run)
    assert [await scene.worker.answer(number) for number in (1, 2)] == [UNKNOWN] * 2


async def test_one_that_no_frame_takes_is_refused(scene, monkeypatch):
    monkeypatch.setattr(conversations, "MAX_BODY_BYTES", 8)
    scene.keep("s", b"[" + b" " * 8 + b"]")
    assert (await scene.told("s"))[0] == 503


async def test_cancellation_ends_a_read(make_scene, monkeypatch):
    scene = make_scene()
    reading = trio.Event()
    token = trio.lowlevel.current_trio_token()
    ended = trio.Event()

    def hang(_path, _query, *, stopped):
        trio.from_thread.run_sync(reading.set, trio_token=token)
        while not stopped():
            time.sleep(0.001)
        trio.from_thread.run_sync(ended.set, trio_token=token)
        return [[]]

    monkeypatch.setattr(conversations, "read", hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.conversations.run)
        scene.ask("s")
        with trio.fail_after(PATIENCE):
            await reading.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        await ended.wait()
    await wait_all_tasks_blocked()
    assert scene.worker.told == {}
